# make reproduce                               a small run on generated videos, in minutes
# make reproduce VIDEOS=UCF-101 WEIGHTS=r3d50_KM_200ep.pth     the real one, on a GPU
# make test                                    all tests; PADDLE=2.6.2 on that version
# make faults                                  kill and break every stage, count what is lost
# make bench                                   compare speeds with the reference's ways: docs/bench.json
#
# Python packages go to $(VENV), inside the checkout. Where the active Python has Paddle already
# (AI Studio), that one is used and only what it lacks is added.

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

.PHONY: reproduce test faults bench lint clean
.DELETE_ON_ERROR:
.NOTPARALLEL:

HAS_GPU = nvidia-smi -L 2>/dev/null | grep -q GPU
CPU_TORCH = https://download.pytorch.org/whl/cpu

$(VENV)/ready: requirements.txt requirements-cpu.txt
	mkdir -p .cache/tmp
	$(PYTHON) -m venv --clear $(VENV) 2>/dev/null || { \
		$(PYTHON) -m pip install -q --target .cache/virtualenv virtualenv && \
		VIRTUALENV_OVERRIDE_APP_DATA=.cache/virtualenv-data PYTHONPATH=.cache/virtualenv $(PYTHON) -m virtualenv -q --clear $(VENV); }
	@# An active Python with Paddle lends its packages.
	@if [ -z "$(PADDLE)" ]; then $(PYTHON) -c "import importlib.util as u, pathlib as p; \
		s = u.find_spec('paddle'); print(p.Path(s.origin).parent.parent if s else '')" \
		> $$($(PY) -c "import sysconfig as s; print(s.get_path('purelib'))")/active.pth; fi
	if $(HAS_GPU); then grep -v '^torch' requirements.txt; else grep -v '^torch' requirements-cpu.txt; fi \
		> .cache/requirements.txt
	@# Another version in the same package, GPU or CPU; numpy 1 goes with Paddle 2.
	@if [ -n "$(PADDLE)" ]; then sed -i -E -e 's/^(paddlepaddle(-gpu)?)[>=].*/\1==$(PADDLE)/' \
		-e 's/^numpy.*/numpy<$(if $(filter 2.%,$(PADDLE)),2,3)/' .cache/requirements.txt; \
	elif $(PY) -c "import importlib.util as u; exit(u.find_spec('paddle') is None)"; then \
		sed -i '/^paddlepaddle/d; s/^numpy.*/numpy/' .cache/requirements.txt; fi
	$(PY) -m pip install -q -r .cache/requirements.txt
	@# The CPU build of torch spares gigabytes of CUDA: from its own index, or a local wheel.
	@$(PY) -c "import torch" 2>/dev/null \
		|| $(PY) -m pip install -q --retries 0 --index-url $(CPU_TORCH) torch 2>/dev/null \
		|| $(PY) -m pip install -q torch==2.13.0 || $(PY) -m pip install -q torch
	touch $@

$(VENV)/ready-to-test: $(VENV)/ready
	$(PY) -m pip install -q "pytest>=8" "pytest-xdist>=3" "hypothesis>=6.100" "ruff>=0.6"
	$(PY) -m pip install -q $$($(RUN) -c "from model.export import ONNX_PACKAGES as p; print(p)") \
		|| echo "the packages for ONNX do not install; its tests will skip"
	touch $@

ifdef VIDEOS
reproduce: $(VENV)/ready
	$(if $(WEIGHTS),,$(error VIDEOS needs WEIGHTS too: the path of r3d50_KM_200ep.pth))
	$(RUN) generate_video_jpgs.py "$(VIDEOS)" dataset/UCF-101-jpg ucf101
	$(RUN) convert_to_paddle.py "$(WEIGHTS)" weights/r3d50_KM_200ep.pdparams
	$(RUN) train.py $(if $(wildcard results/save_*.pdparams),--resume_path results)
	$(RUN) test.py
	$(RUN) eval_accuracy.py
else
NOTICE = "EMBEDDED RUN: generated videos of moving shapes and untrained weights, not UCF-101;" \
	"see README.md for VIDEOS and WEIGHTS"
.PHONY: notice
notice:
	@echo $(NOTICE)
reproduce: notice $(VENV)/ready
	rm -rf demo
	$(RUN) tests/moving_shapes.py demo/dataset/UCF-101 demo/weights/r3d50_KM_200ep.pth
	$(RUN) generate_video_jpgs.py --root_path demo --size 60
	$(RUN) convert_to_paddle.py --root_path demo
	$(RUN) train.py --root_path demo --ft_begin_module '' --n_epochs 20 --batch_size 8 --n_threads 2 \
		--learning_rate 0.03 --lr_scheduler multistep --multistep_milestones 14 \
		--sample_size 40 --train_crop_min_scale 0.6 --n_val_samples 2
	$(RUN) test.py --root_path demo --n_threads 2
	$(RUN) eval_accuracy.py --root_path demo
	@echo $(NOTICE)
endif

# One thread for each of two test processes: more get in each other's way on two cores.
test: $(VENV)/ready-to-test
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2

faults: $(VENV)/ready-to-test
	$(RUN) benchmarks/faults.py --out docs/faults.txt

bench: $(VENV)/ready-to-test
	$(RUN) benchmarks/paired.py --out docs/bench.json

lint: $(VENV)/ready-to-test
	$(RUN) -m ruff check .

clean:
	rm -rf .venv* .cache demo
