"""Items 1 to 3 of the check: what the machine is, whether its libraries work, whether it computes right."""
import contextlib
import os
import platform
import re
import shutil

import numpy as np
import paddle
import paddle.nn.functional as F

from model import networks
from model.device import explained, normalise
from model.gpu_check import Finding
from run.console import UserError
from run.machine import n_cores, nvidia_smi, version_numbers
from run.spec import ClipSpec, NetworkSpec

# Compute capabilities that PyPI's paddlepaddle-gpu 2.6.2 has code for; Paddle 3 tells its own.
CARDS_OF_2_6 = (61, 70, 75, 80, 86)
# cuDNN versions whose Conv3D is slow in float16, see docs/gpu.md.
SLOW_CUDNN = (9800, 91500)
LARGEST_FP32, LARGEST_TF32 = 1e-4, 5e-3  # of the largest logit


def environment():
    """Return the `Finding` on versions, card, driver and what else is on the card."""
    cuda = paddle.device.cuda
    capability = cuda.get_device_capability()
    rows = nvidia_smi("--query-gpu=name,driver_version,memory.total,memory.free") or [[]]
    cudnn = paddle.device.get_cudnn_version() or 0
    figures = {
        "python": platform.python_version(),
        "paddle": paddle.__version__,
        "numpy": np.__version__,
        "cuda": paddle.version.cuda(),
        "cudnn": cudnn,
        "cards": rows,
        "capability": list(capability),
        "n_cores": n_cores(),
        "shared_memory_mb": _free_mb("/dev/shm"),
        "disk_mb": _free_mb("."),
    }
    name = rows[0][0] if rows[0] else cuda.get_device_name()
    text = (
        f"{name}, {len(rows)} here, compute capability {capability[0]}.{capability[1]}; Paddle "
        f"{paddle.__version__}, CUDA {figures['cuda']}, cuDNN {cudnn}; numpy {np.__version__}; "
        f"{figures['n_cores']} cores"
    )
    problem = problem_of(paddle.__version__, np.__version__, capability, _archs(), _others_on_the_card())
    if problem:
        return Finding("FAIL", f"{text}: {problem}", figures)
    if SLOW_CUDNN[0] <= cudnn < SLOW_CUDNN[1]:
        text += "; cuDNN 9.8 to 9.14 is slow at Conv3D in float16: compare with a Paddle of the index cu126"
        return Finding("slow", text, figures)
    return Finding("ok", text, figures)


def problem_of(paddle_version, numpy_version, capability, archs, others):
    """Return what is wrong with versions, card and neighbours, "" for nothing.

    `archs` are the compute capabilities, 80 for 8.0, that this Paddle has code for, () if it does not tell;
    `others` are the processes that use the card beside this one.
    """
    version = version_numbers(paddle_version)
    if version < (2, 6, 2) and version != (0, 0, 0):  # which is a build of the day
        return "Paddle 2.6.2 or newer is needed; docs/gpu.md says how to install it"
    if version[0] == 2 and int(numpy_version.split(".")[0]) >= 2:
        return "Paddle 2 is built against numpy 1: pip install 'numpy<2'"
    major, minor = capability
    if archs and not any(arch // 10 == major and arch % 10 <= minor for arch in archs):
        known = " ".join(f"{arch // 10}.{arch % 10}" for arch in archs)
        return f"this Paddle has code for {known} only; docs/gpu.md says which has code for this card"
    if others:
        return f"the card is in use by {', '.join(others)}: end that first, or all times are wrong"
    return ""


def _archs():
    tell = getattr(paddle.version, "cuda_archs", None)
    return tuple(sorted(map(int, tell()))) if tell else CARDS_OF_2_6


def _others_on_the_card():
    """Return the processes that use the card beside this one.

    In a container nvidia-smi gives the numbers of the machine outside: then one of the rows is this process.
    """
    with contextlib.suppress(Exception):  # what is wrong is the next item's to say
        paddle.ones([1]).numpy()  # now this process is on the card too
    rows = [row for row in nvidia_smi("--query-compute-apps=pid,process_name") or [] if row]
    others = [row for row in rows if row[0] != str(os.getpid())]
    own = next((row for row in others if "python" in row[-1]), None)
    if len(others) == len(rows) and own:
        others.remove(own)
    return [" ".join(row) for row in others]


def _free_mb(path):
    try:
        return shutil.disk_usage(path).free // 1_000_000
    except OSError:
        return None


def libraries():
    """Return the `Finding` on cuBLAS and cuDNN: one call of each, and the files that were loaded."""
    try:
        with explained("nvidia-smi shows what is on the card"):
            ones = paddle.ones([64, 64])
            product = paddle.matmul(ones, ones).sum().item()
            cube = paddle.to_tensor(np.ones((1, 1, 3, 3, 3), np.float32))
            total = F.conv3d(cube, cube).sum().item()
    except UserError as error:
        return Finding("FAIL", str(error))
    if (product, total) != (64**3, 27):
        found = f"a product of ones is {product} in place of {64**3}, a convolution {total} in place of 27"
        return Finding("FAIL", f"{found}; numpy and Paddle do not go together, see docs/gpu.md")
    files = sorted(set(re.findall(r"\S+/(lib(?:cudnn|cublas|nccl)[\w.]*\.so[\d.]*)", _maps())))
    return Finding(
        "ok", f"matmul and conv3d compute; {' '.join(files) or 'no library is named'}", {"files": files}
    )


def _maps():
    with open("/proc/self/maps") as file:
        return file.read()


def numbers(n_bytes=77_000_000):
    """Return the `Finding` on what is computed: a small network and `normalise` against the CPU.

    An array of `n_bytes` has to reach the device whole although it is overwritten right after the call.
    """
    device = paddle.get_device()
    figures = {name: _logit_difference(device, exact) for name, exact in (("fp32", True), ("tf32", False))}
    figures["normalise"] = _normalise_difference(device)
    figures["variance"] = running_variance()
    source = np.arange(n_bytes, dtype=np.uint64).astype(np.uint8)
    expected = int(source.sum(dtype=np.int64))
    copy = paddle.to_tensor(source)
    source[:] = 0
    is_whole = int(copy.astype("int64").sum().item()) == expected
    text = (
        f"logits differ from the CPU's by {figures['fp32']:.1e} of the largest, {figures['tf32']:.1e} in "
        f"TF32; running variance is {figures['variance']}"
    )
    wrong = [
        f"{name} is {figures[name]:.1e} off"
        for name, most in (("fp32", LARGEST_FP32), ("tf32", LARGEST_TF32), ("normalise", 1e-5))
        if not figures[name] <= most
    ]
    wrong += [] if is_whole else ["a copy to the device changed with its source"]
    if wrong:
        advice = "do not train on this machine; try another driver or another Paddle (docs/gpu.md)"
        return Finding("FAIL", f"{text}; {', '.join(wrong)}: {advice}", figures)
    return Finding("ok", text, figures)


def _logit_difference(device, is_exact):
    """Return by how much a ResNet3D-10's logits on the device differ from the CPU's, of the largest."""
    switch = getattr(paddle.base.core, "set_cudnn_switch", None)  # of TF32
    if switch and device != "cpu":
        switch(not is_exact)
    paddle.seed(1)
    clips = np.random.default_rng(1).normal(size=(2, 3, 16, 56, 56)).astype(np.float32)
    net = networks.build(NetworkSpec("resnet", {"model_depth": 10, "n_classes": 11}))
    net.eval()
    weights = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    with paddle.no_grad():
        found = net(paddle.to_tensor(clips)).numpy()
        paddle.set_device("cpu")
        other = networks.build(net.spec)
        other.eval()
        other.set_state_dict(weights)
        expected = other(paddle.to_tensor(clips)).numpy()
    paddle.set_device(device)
    if switch and device != "cpu":
        switch(True)
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _normalise_difference(device):
    clip = ClipSpec()
    pixels = np.random.default_rng(2).integers(0, 256, (2, 4, 8, 8, 3), np.uint8)
    expected = (pixels / clip.scale - np.array(clip.mean)) / np.array(clip.std)
    return float(np.abs(normalise(pixels, clip).numpy() - expected.transpose(0, 4, 1, 2, 3)).max())


def running_variance():
    """Return "biased" or "unbiased": which variance of a batch BatchNorm keeps here. torch's is unbiased."""
    values = np.array([1.0, 3.0], np.float32).reshape(2, 1, 1, 1, 1)
    norm = paddle.nn.BatchNorm3D(1, momentum=0.0)
    norm.train()
    norm(paddle.to_tensor(values))
    return "unbiased" if norm._variance.item() > 1.5 else "biased"
