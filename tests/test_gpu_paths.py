"""What only a GPU does, with stand-ins for it on a CPU: float16, crossings, speedups, its failures."""
import contextlib
import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import paddle
import paddle.amp.grad_scaler as grad_scaler
import pytest
from conftest import ROOT, network
from paddle.nn import BatchNorm3D

from model import device
from model.checkpoint import Metadata
from model.device import explained, normalise, require_amp
from model.inference import scorer
from model.training.distributed import RankLost, Ranks
from model.training.run_folder import remedy
from model.training.sync_batchnorm import SyncBatchNorm3D
from model.training.trainer import NotFinite, Trainer
from model.weights import load_weights, weights_of
from run import console
from run.console import UserError
from run.spec import ClipSpec, Recipe

CLIP = ClipSpec(sample_size=32, sample_duration=8)
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 8, 32, 32, 3), np.uint8)
CLASSES = np.array([0, 1, 2, 0, 1])


@pytest.fixture
def float16_scaler(monkeypatch):
    """Let Paddle's GradScaler take the CPU for a GPU, whose tensors autocast then leaves in float32."""
    place = SimpleNamespace(is_gpu_place=lambda: True)
    monkeypatch.setattr(grad_scaler, "_dygraph_tracer", lambda: SimpleNamespace(_expected_place=place))
    monkeypatch.setenv("FLAGS_conv_workspace_size_limit", "512")  # a flag that a CPU's Paddle does not have
    console.note.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def gpu_normalise(monkeypatch):
    """Let `normalise` go a GPU's way."""
    device._scale_and_shift.cache_clear()
    monkeypatch.setattr(device.paddle, "get_device", lambda: "gpu:0")
    yield
    device._scale_and_shift.cache_clear()


def trainer(net=None, ranks=None, speedups=(), **recipe):
    """Return a trainer of a small network."""
    paddle.seed(1)
    net = net or network(resnet_widen_factor=0.125, conv1_t_size=3)
    recipe = Recipe(**{"ft_begin_module": "", "batch_size": 5, **recipe})
    made = Trainer(net, recipe, CLIP, ranks or Ranks(), speedups)
    made.begin()
    made.train_mode()
    return made


def step(of, epoch=1):
    return of.step(PIXELS, CLASSES, 5, [1, epoch, 1])


# AMP -----------------------------------------------------------------------------------------


def test_a_step_whose_gradients_overflow_is_skipped_and_the_scale_survives_a_resume(float16_scaler, capsys):
    ours = trainer(amp="O1")
    ours.scaler.load_state_dict({**ours.scaler.state_dict(), "scale": np.array([3e38], np.float32)})
    parameters = {name: parameter.numpy() for name, parameter in ours.trained.items()}
    assert step(ours).n_skipped == 1
    for name, parameter in ours.trained.items():
        np.testing.assert_array_equal(parameter.numpy(), parameters[name])
    out, err = capsys.readouterr()
    assert out == "" and "skipped" in err and "--amp O1" in err
    state = json.loads(json.dumps(ours.states()["scaler"]))
    assert state["scale"] == [pytest.approx(1.5e38)]

    again = trainer(amp="O1")
    again.load(ours.groups(), ours.states()["scheduler"], state)
    for _ in range(20):
        first, second = step(ours), step(again)
        assert first == second and ours.states() == again.states()
    assert first.n_skipped == 0
    assert any(not np.array_equal(p.numpy(), parameters[name]) for name, p in ours.trained.items())
    for name, parameter in again.trained.items():
        np.testing.assert_array_equal(parameter.numpy(), ours.trained[name].numpy())


def test_the_first_step_is_not_dampened_although_an_overflow_came_before_it(float16_scaler):
    ours, fresh = trainer(amp="O1", dampening=0.9), trainer(amp="O1", dampening=0.9)
    fresh.load(ours.groups(), ours.states()["scheduler"], ours.states()["scaler"])
    for scale in (3e38, 1024.0):
        ours.scaler.load_state_dict({**ours.scaler.state_dict(), "scale": np.array([scale], np.float32)})
        skipped = step(ours).n_skipped
    assert skipped == 0 and ours.scaler.n_skipped == 1
    fresh.scaler.load_state_dict({**fresh.scaler.state_dict(), "scale": np.array([1024.0], np.float32)})
    assert step(fresh).n_skipped == 0
    for name, parameter in fresh.trained.items():
        np.testing.assert_array_equal(parameter.numpy(), ours.trained[name].numpy(), err_msg=name)


def test_gradients_that_no_scale_saves_end_the_run_instead_of_skipping_for_ever(float16_scaler):
    ours = trainer(amp="O1")
    ours.scaler.load_state_dict({**ours.scaler.state_dict(), "scale": np.array([1.5], np.float32)})
    ours._backward = lambda *_: overflow(ours)
    with pytest.raises(UserError, match="overflow float16 .*--amp bf16"):
        step(ours)


def overflow(of):
    for parameter in of.trained.values():
        parameter.grad = paddle.full_like(parameter, np.inf)
    return 1.0, 0


@pytest.mark.parametrize("amp, dtype", [("off", None), ("O1", "float16"), ("bf16", "bfloat16")])
def test_steps_validation_and_test_compute_alike(amp, dtype, monkeypatch, float16_scaler):
    asked = []

    @contextlib.contextmanager
    def auto_cast(**given):
        asked.append((given["level"], given["dtype"], "conv3d" in given["custom_white_list"]))
        yield

    monkeypatch.setattr(paddle.amp, "auto_cast", auto_cast)
    monkeypatch.setattr(device, "_why_no_amp", lambda amp: "")
    ours = trainer(amp=amp)
    assert ours.scaler.is_enable() == (amp == "O1")
    grad_scaler.amp_global_state().amp_dtype = "float16"
    step(ours)
    ours.validate((PIXELS, CLASSES))
    scores = scorer(ours.net, Metadata(ours.net.spec, CLIP, recipe=ours.recipe)).score(PIXELS)
    assert scores.dtype == np.float32
    assert asked == ([] if dtype is None else [("O1", dtype, True)] * 3)


def test_a_checkpoint_that_was_validated_in_float16_is_scored_in_float32_on_a_cpu(capsys):
    console.note.cache_clear()
    net = network(resnet_widen_factor=0.125, conv1_t_size=3)
    metadata = Metadata(net.spec, CLIP, recipe=Recipe(amp="O1"))
    scores = scorer(net, metadata).score(PIXELS)
    assert "validated in float16, which needs a GPU: computing in float32" in capsys.readouterr().err
    expected = scorer(net, replace(metadata, recipe=Recipe())).score(PIXELS)
    np.testing.assert_array_equal(scores, expected)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "amp, capability, message",
    [
        ("bf16", (7, 0), "--amp bf16 computes in bfloat16, which needs a card of .* 8.0 or more"),
        ("O1", (6, 1), "--amp O1 computes in float16, .* 7.0 or more, and this one has 6.1"),
        ("O1", (7, 0), None),
        ("bf16", (9, 0), None),
    ],
)
def test_a_card_that_lacks_the_numbers_is_refused_not_replaced(amp, capability, message, monkeypatch):
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    monkeypatch.setattr(paddle.device.cuda, "get_device_capability", lambda: capability)
    with pytest.raises(UserError, match=message) if message else contextlib.nullcontext():
        require_amp(amp)


def test_float16_gets_room_for_its_copies_unless_the_user_has_set_the_limit(monkeypatch):
    flags = []
    monkeypatch.setattr(paddle, "set_flags", flags.append)
    monkeypatch.delenv("FLAGS_conv_workspace_size_limit", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for amp in ("off", "O1"):
            with device.autocast(amp):
                pass
        monkeypatch.setenv("FLAGS_conv_workspace_size_limit", "512")
        with device.autocast("O1"):
            pass
    assert flags == [{"FLAGS_conv_workspace_size_limit": 4096}]


def test_numbers_that_are_not_finite_name_amp_where_it_may_be_the_cause():
    assert "--amp bf16" in remedy(Recipe(amp="O1"))
    assert "--amp" not in remedy(Recipe()) + remedy(Recipe(amp="bf16"))


# Time ----------------------------------------------------------------------------------------


def count_crossings(monkeypatch, do):
    """Return how often a function goes from the host to the device or back, by what it calls."""
    crossings, inside = [], []

    def counted(owner, name):
        real = getattr(owner, name)

        def call(*arguments, **keywords):
            if not inside:
                crossings.append(name)
            inside.append(name)
            try:
                return real(*arguments, **keywords)
            finally:
                inside.pop()

        monkeypatch.setattr(owner, name, call)

    counted(paddle, "to_tensor")
    for name in ("numpy", "item", "tolist", "__float__", "__int__", "__bool__", "__array__"):
        counted(paddle.Tensor, name)
    do()
    monkeypatch.undo()
    return crossings


@pytest.mark.parametrize("amp, most", [("off", 3), ("O1", 4)])
def test_a_step_crosses_to_the_device_and_back_a_few_times_only(
    amp, most, monkeypatch, gpu_normalise, float16_scaler
):
    ours = trainer(amp=amp)
    step(ours)  # scale and shift go to the device once
    crossings = count_crossings(monkeypatch, lambda: step(ours))
    assert crossings.count("to_tensor") == 2 and len(crossings) <= most, crossings


def test_a_validation_batch_crosses_three_times(monkeypatch, gpu_normalise):
    ours = trainer()
    ours.validate((PIXELS, CLASSES))
    crossings = count_crossings(monkeypatch, lambda: ours.validate((PIXELS, CLASSES)))
    assert len(crossings) <= 3, crossings


@pytest.mark.parametrize("pinned", [False, True])
def test_a_gpu_normalises_to_the_bits_of_a_cpu(pinned, monkeypatch, gpu_normalise):
    copied = []

    def to_gpu(tensor, blocking):
        copied.append(blocking)
        return tensor

    monkeypatch.setattr(paddle, "CUDAPinnedPlace", paddle.CPUPlace)
    monkeypatch.setattr(paddle.Tensor, "cuda", to_gpu)
    found = normalise(PIXELS, CLIP, pinned).numpy()
    assert copied == [False] * pinned
    monkeypatch.setattr(device.paddle, "get_device", lambda: "cpu")
    np.testing.assert_array_equal(found, normalise(PIXELS, CLIP).numpy())


def test_one_kernel_for_many_parameters_steps_and_resumes_to_the_same_bits():
    ours, other = trainer(), trainer(speedups=("multi_tensor",))
    for _ in range(2):
        assert step(ours) == step(other)
    again = trainer(speedups=("multi_tensor",))
    again.load(other.groups(), other.states()["scheduler"], {})
    assert step(again) == step(ours)
    for name, expected in ours.groups()["velocity"].items():
        np.testing.assert_array_equal(again.groups()["velocity"][name], expected)
    for name, expected in weights_of(ours.net).items():
        np.testing.assert_array_equal(weights_of(again.net)[name], expected)


class OneOfOne:
    """Ranks that take this process for all of several."""

    n = 1

    def gather(self, tensor):
        return [tensor]

    def sum(self, tensor):
        return tensor


def test_paddles_own_synchronised_batchnorm_takes_even_parts_and_ours_the_others(monkeypatch):
    asked = []

    def kernel(own, x):
        asked.append(own)
        return paddle.nn.functional.batch_norm(
            x, own._mean, own._variance, own.weight, own.bias, True, own._momentum, own._epsilon
        )

    monkeypatch.setattr(paddle.nn.SyncBatchNorm, "forward", kernel)
    found, norms = [], []
    for is_even in (False, True):
        paddle.seed(1)
        norm = SyncBatchNorm3D(BatchNorm3D(4), OneOfOne(), paddles_own=True)
        norms.append(norm)
        norm.is_even = is_even
        x = paddle.rand([2, 4, 3, 5, 5])
        x.stop_gradient = False
        norm(x).square().sum().backward()
        found.append([each.numpy() for each in (x.grad, norm.weight.grad, norm._mean, norm._variance)])
    assert len(asked) == 1 and set(norms[0].state_dict()) == {"weight", "bias", "_mean", "_variance"}
    for a, b in zip(*found):
        np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-4)  # sums of 150 values in another order
    norm.eval()
    norm(x)
    assert len(asked) == 1


def test_an_epoch_without_validation_does_not_count_for_the_plateau():
    ours = trainer(plateau_patience=1, learning_rate=0.1)
    for loss in (1.0, None, None, None, 2.0, None, None):
        ours.end_epoch(loss)
    assert ours.learning_rate == 0.1
    ours.end_epoch(2.0)
    assert ours.learning_rate == pytest.approx(0.01)


# Memory --------------------------------------------------------------------------------------


def test_the_gradients_of_a_batch_in_parts_are_those_of_the_whole_batch():
    # Only fc is trained and BatchNorm frozen: what a BatchNorm sees of a batch would differ by design.
    alike = {"ft_begin_module": "fc", "freeze_bn": True, "weight_decay": 0.0}
    start = weights_of(network(resnet_widen_factor=0.125, conv1_t_size=3))
    found = []
    for accumulate in (1, 3, 8):  # 8 of 5 clips: a clip a part
        net = network(resnet_widen_factor=0.125, conv1_t_size=3)
        load_weights(net, start)
        ours = trainer(net, accumulate=accumulate, **alike)
        sums = step(ours)
        found.append((sums, ours.groups()["velocity"]))
    for sums, velocity in found[1:]:
        assert sums.loss == pytest.approx(found[0][0].loss, rel=1e-5)
        assert sums.n_correct == found[0][0].n_correct
        for name, expected in found[0][1].items():
            np.testing.assert_allclose(velocity[name], expected, rtol=1e-4, atol=1e-6)


def test_all_ranks_compute_as_many_parts_and_one_clip_alone_is_refused():
    ranks = Ranks()
    ranks.n = 2
    ranks.broadcast = lambda tensors: None
    ours = trainer(ranks=ranks, accumulate=3)
    assert [ours.n_parts(n) for n in (16, 5, 2)] == [3, 2, 1]  # shares of 3 and 2 clips: two parts each
    alone = trainer(accumulate=5)
    with pytest.raises(UserError, match="fewer parts \\(--accumulate 5\\)"):
        alone.require_batchnorms(20)
    trainer(accumulate=2).require_batchnorms(20)


# Failures ------------------------------------------------------------------------------------

OUT_OF_MEMORY = """

--------------------------------------
C++ Traceback (most recent call last):
--------------------------------------
0   paddle::memory::allocation::CUDAAllocator::AllocateImpl(unsigned long)

----------------------
Error Message Summary:
----------------------
ResourceExhaustedError:

Out of memory error on GPU 0. Cannot allocate 1.530273GB memory on GPU 0, 14.9GB memory has been \
allocated and available memory is only 321.5MB.

Please check whether there is any other process using GPU 0.
"""


@pytest.mark.parametrize(
    "error, words",
    [
        (MemoryError(OUT_OF_MEMORY), ["Cannot allocate 1.530273GB", "only 321.5MB: use less"]),
        (OSError("(External) CUDA error(2), out of memory. \n  [Hint: ..."), ["CUDA error(2)", "use less"]),
        (
            RuntimeError(
                "(PreconditionNotMet) The third-party dynamic library (libcudnn.so) that Paddle depends on "
                "is not configured correctly. (error code is libcudnn.so: cannot open shared object file)"
            ),
            ["libcudnn.so", "docs/gpu.md"],
        ),
        (OSError("(External) CUDA error(209), no kernel image is available"), ["no code for this card"]),
        (RuntimeError("(Unimplemented) Unsupported GPU architecture [sm_90]"), ["no code for this card"]),
        (OSError("(External) CUDA error(35), CUDA driver version is insufficient"), ["driver is too old"]),
        (OSError("(External) NCCL error(2), unhandled system error."), ["NCCL_DEBUG=INFO"]),
        (OSError("(External) CUDNN error(8), CUDNN_STATUS_EXECUTION_FAILED."), ["tools/gpu_check.py"]),
    ],
)
def test_a_failure_that_only_a_gpu_has_is_one_line_with_a_way_out(error, words):
    with pytest.raises(UserError) as found, explained("use less"):
        raise error
    assert "\n" not in str(found.value) and len(str(found.value)) < 400
    assert all(word in str(found.value) for word in words), str(found.value)
    assert "C++ Traceback" not in str(found.value)


def test_what_paddle_raises_when_memory_ends_is_one_line_too():
    with pytest.raises(UserError, match="Fail to alloc memory of .*: use less"), explained("use less"):
        paddle.zeros([1 << 45])


@pytest.mark.parametrize("error", [FileNotFoundError(2, "NCCL"), RuntimeError("a bug"), NotFinite(1.0)])
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)), explained("use less"):
        raise error


def test_an_error_of_nccl_is_not_told_as_a_killed_process(monkeypatch):
    ranks = Ranks()
    ranks.n, ranks._store = 2, SimpleNamespace(add=lambda *_: 0)
    clock = iter(range(0, 100, 2))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    monkeypatch.setattr("time.sleep", lambda seconds: None)

    def exchange(*_):
        raise OSError("(External) NCCL error(5), invalid usage.")

    with pytest.raises(UserError, match="NCCL error.5., invalid usage: .*NCCL_DEBUG"), ranks_failing(ranks):
        ranks._exchange(exchange)
    with pytest.raises(UserError, match="another rank is gone without a word"), ranks_failing(ranks):
        raise RankLost("connection reset")


@contextlib.contextmanager
def ranks_failing(ranks):
    """A `Ranks` context without what starts one."""
    try:
        yield
    except Exception as error:
        ranks.__exit__(type(error), error, None)
        raise


@pytest.mark.parametrize(
    "package, shown, level",
    [("paddlepaddle", "0", "2"), ("paddlepaddle-gpu", "0", "1"), ("paddlepaddle-gpu", "", "2")],
)
def test_paddles_own_warnings_are_hidden_on_a_cpu_only(package, shown, level, tmp_path):
    folder = tmp_path / f"{package.replace('-', '_')}-9.9.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 9.9\n")
    # And -S: without the packages of this Python, which has a Paddle.
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "CUDA_VISIBLE_DEVICES": shown}
    environment.pop("GLOG_minloglevel", None)
    found = subprocess.run(
        [sys.executable, "-S", "-c", "import os, model; print(os.environ['GLOG_minloglevel'])"],
        env=environment, capture_output=True, text=True, cwd=tmp_path,
    )
    assert found.stdout.strip() == level, found.stderr
