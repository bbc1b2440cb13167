# make reproduce                               a small run on generated videos, in minutes
# make reproduce VIDEOS=UCF-101 WEIGHTS=r3d50_KM_200ep.pth     the real one, on a GPU
#     SPLITS=1,2,3 SEEDS=1,2    one run for each split and seed, and their mean; the same command continues
# make gpu-check                               what this GPU does and costs, before a run; five minutes
# make weights/r3d50_KM_200ep.pdparams         convert weights/r3d50_KM_200ep.pth
# make test                                    all tests; PADDLE=2.6.2 on that version
# make faults                                  kill and break every stage, count what is lost
# make parity                                  print how far the numbers are from the reference's
# make torture                                 odd, damaged and cut videos, against ffmpeg's own frames
# make bench                                   compare speeds with the reference's ways: docs/bench.json
#
# Python packages go to $(VENV), inside the checkout; tools/install_paddle.py says which Paddle is taken.

PYTHON ?= python3
PADDLE ?=
VENV ?= .venv$(PADDLE)
PY = $(VENV)/bin/python

# Nothing is left outside the checkout; Paddle makes folders in the home when it is imported.
RUN = HOME="$(CURDIR)/.cache" $(PY)
export PIP_CACHE_DIR := $(CURDIR)/.cache/pip
export TMPDIR := $(CURDIR)/.cache/tmp
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONDONTWRITEBYTECODE := 1

.PHONY: reproduce gpu-check test parity faults torture bench lint clean
.DELETE_ON_ERROR:
.NOTPARALLEL:

# "GPU" if there is one that is not hidden. Asked once: nvidia-smi may take seconds.
HAS_GPU := $(if $(filter -1,$(CUDA_VISIBLE_DEVICES))$(and $(findstring environment,$(origin CUDA_VISIBLE_DEVICES)),$(if $(CUDA_VISIBLE_DEVICES),,hidden)),,$(findstring GPU,$(shell nvidia-smi -L 2>/dev/null)))
# PyTorch shares no environment with a Paddle for GPUs: stage 2 then has one of its own, for the CPU.
CONVERT_VENV = $(if $(HAS_GPU),.venv-convert,$(VENV))
CONVERT = HOME="$(CURDIR)/.cache" $(CONVERT_VENV)/bin/python convert_to_paddle.py

MAKE_VENV = mkdir -p .cache/tmp && { \
	$(PYTHON) -m venv --clear $(@D) 2>/dev/null || { \
		$(PYTHON) -m pip install -q --target .cache/virtualenv virtualenv && \
		VIRTUALENV_OVERRIDE_APP_DATA=.cache/virtualenv-data PYTHONPATH=.cache/virtualenv $(PYTHON) -m virtualenv -q --clear $(@D); }; }
INSTALL = HOME="$(CURDIR)/.cache" $(@D)/bin/python tools/install_paddle.py

$(VENV)/ready: requirements.txt requirements-cpu.txt
	$(MAKE_VENV)
	$(INSTALL) $(if $(PADDLE),--paddle $(PADDLE),--active $(PYTHON))
	touch $@

.venv-convert/ready: requirements-cpu.txt
	$(MAKE_VENV)
	$(INSTALL) --cpu
	touch $@

$(VENV)/ready-to-test: $(VENV)/ready
	$(PY) -m pip install -q "pytest>=8" "pytest-xdist>=3" safetensors "hypothesis>=6.100" "ruff>=0.6"
	$(PY) -m pip install -q $$($(RUN) -c "from model.export import ONNX_PACKAGES as p; print(p)") \
		|| echo "the packages for ONNX do not install; its tests will skip"
	touch $@

# One run into results/, or one for each of SPLITS and SEEDS, into results/split1_seed1/, ...
comma := ,
listed = $(subst $(comma), ,$(1))
MANY = $(strip $(SPLITS)$(SEEDS))
folder = results/split$(1)_seed$(2)
resumed = $(if $(wildcard $(1)/save_*.pdparams),--resume_path $(1))
RUNS = $(foreach split,$(call listed,$(or $(SPLITS),1)),$(foreach seed,$(call listed,$(or $(SEEDS),1)),$(call $(1),$(split),$(seed))))

ifdef VIDEOS
reproduce: $(VENV)/ready $(CONVERT_VENV)/ready
	$(if $(WEIGHTS),,$(error VIDEOS needs WEIGHTS too: the path of r3d50_KM_200ep.pth))
	$(if $(HAS_GPU),$(RUN) tools/gpu_check.py --quick)
	$(RUN) generate_video_jpgs.py "$(VIDEOS)" dataset/UCF-101-jpg ucf101
	$(CONVERT) "$(WEIGHTS)" weights/r3d50_KM_200ep.pdparams
	$(stages_3_to_5)
else
NOTICE = "EMBEDDED RUN: generated videos of moving shapes and untrained weights, not UCF-101;" \
	"see README.md for VIDEOS and WEIGHTS"
ROOT = --root_path demo
THREADS = --n_threads 2
TRAINING = --ft_begin_module '' --n_epochs 20 --batch_size 8 \
	--learning_rate 0.03 --lr_scheduler multistep --multistep_milestones 14 \
	--sample_size 40 --train_crop_min_scale 0.6 --n_val_samples 2
resumed =
.PHONY: notice
notice:
	@echo $(NOTICE)
reproduce: notice $(VENV)/ready
	rm -rf demo
	$(RUN) tests/moving_shapes.py demo/dataset/UCF-101 demo/weights/r3d50_KM_200ep.pth
	$(RUN) generate_video_jpgs.py $(ROOT) --size 60
	$(RUN) convert_to_paddle.py $(ROOT)
	$(stages_3_to_5)
	@echo $(NOTICE)
endif

ifeq ($(MANY),)
define stages_3_to_5
	$(RUN) train.py $(ROOT) $(or $(call resumed,results),$(TRAINING)) $(THREADS)
	$(RUN) test.py $(ROOT) $(THREADS)
	$(RUN) eval_accuracy.py $(ROOT)
endef
else
# $(1): the split, $(2): the seed
define one_run
	$(RUN) train.py $(ROOT) --annotation_path dataset/ucf101_0$(1).json --result_path $(folder) $(THREADS) \
		$(or $(call resumed,$(folder)),--manual_seed $(2) $(TRAINING))
	$(RUN) test.py $(ROOT) --annotation_path dataset/ucf101_0$(1).json --result_path $(folder) $(THREADS) \
		--resume_path $(folder)/best.pdparams
	$(RUN) eval_accuracy.py $(ROOT) dataset/ucf101_0$(1).json $(folder)/val.json

endef
define stages_3_to_5
	$(call RUNS,one_run)$(RUN) tools/summarise_runs.py $(ROOT) $(call RUNS,folder)
endef
endif

gpu-check: $(VENV)/ready
	$(RUN) tools/gpu_check.py

%.pdparams: %.pth $(CONVERT_VENV)/ready
	$(CONVERT) "$<" "$@"

# One thread for each of two test processes: more get in each other's way on two cores.
test: $(VENV)/ready-to-test
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2

# With CLIPS_PATH and REFERENCE_PATH the rows on real videos too.
parity: $(VENV)/ready-to-test
	$(RUN) benchmarks/parity.py

faults: $(VENV)/ready-to-test
	$(RUN) benchmarks/faults.py --out docs/faults.txt

# OpenCV comes with the requirements; the others are compared if they install.
torture: $(VENV)/ready-to-test
	-$(PY) -m pip install -q decord torchcodec imageio imageio-ffmpeg
	$(RUN) benchmarks/torture.py --out docs/torture.txt

bench: $(VENV)/ready-to-test
	$(RUN) benchmarks/paired.py --out docs/bench.json

lint: $(VENV)/ready-to-test
	$(RUN) -m ruff check .

clean:
	rm -rf .venv* .cache demo
