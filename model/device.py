"""The device: which one computes, on how many threads, how exactly, how clips get there, how it fails."""
import contextlib
import functools
import os
import re

import paddle

from model.scorer import normalised, scale_and_shift
from run.console import UserError, note
from run.machine import n_cores

# What `--amp` computes in, and the compute capability of the first cards that can (V100, A100).
AMP_DTYPES = {"off": "float32", "O1": "float16", "bf16": "bfloat16"}
CAPABILITIES = {"O1": (7, 0), "bf16": (8, 0)}


def _as_started(name):
    """Return a variable of the environment that the user started the program with, "" if there is none.

    Not the present one: Paddle sets OMP_NUM_THREADS to 1 when it is imported, and its launcher passes
    that on to the processes that it starts. Linux keeps what each process began with.
    """
    is_launched = "PADDLE_TRAINER_ENDPOINTS" in os.environ
    try:
        with open(f"/proc/{os.getppid() if is_launched else 'self'}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        return ""
    prefix = f"{name}=".encode()
    return next((v[len(prefix) :].decode() for v in variables if v.startswith(prefix)), "")


def n_cpu_threads():
    """Return how many threads compute on a CPU: the user's OMP_NUM_THREADS, else all cores allowed."""
    text = _as_started("OMP_NUM_THREADS")
    return int(text) if text.isdigit() and int(text) > 0 else n_cores()


def prepare_device(n_sharing=1, on_cpu=False):
    """Set up the device that Paddle chose, or the CPU; return its name, "cpu" or "gpu:0".

    `n_sharing` processes share the cores of a CPU.
    """
    if on_cpu:
        paddle.set_device("cpu")
    device = paddle.get_device()
    if device == "cpu":
        if paddle.is_compiled_with_cuda() and not on_cpu and "CUDA_VISIBLE_DEVICES" not in os.environ:
            note("Paddle sees no GPU, so the CPU computes; nvidia-smi shows whether the driver sees one")
        # Paddle computes on one thread by itself.
        paddle.base.core.set_num_threads(max(1, n_cpu_threads() // n_sharing))
    elif os.environ.get("FLAGS_cudnn_deterministic", "0").lower() in ("0", "false"):
        # Let cuDNN time its Conv3D algorithms and keep the fastest.
        paddle.set_flags({"FLAGS_cudnn_exhaustive_search": True})
    return device


def _why_no_amp(amp):
    """Return why this device does not compute as `--amp` says, "" if it does."""
    if amp == "off":
        return ""
    if paddle.get_device() == "cpu":
        return "needs a GPU"
    found, least = paddle.device.cuda.get_device_capability(), CAPABILITIES[amp]
    if tuple(found) < least:
        text = "needs a card of compute capability {}.{} or more, and this one has {}.{}"
        return text.format(*least, *found)
    return ""


def require_amp(amp):
    """Raise UserError if this device does not compute as `--amp` says, "off", "O1" or "bf16"."""
    reason = _why_no_amp(amp)
    if reason:
        raise UserError(f"--amp {amp} computes in {AMP_DTYPES[amp]}, which {reason}; leave it off")


def amp_here(amp):
    """Return the `amp` of a checkpoint if this device computes so, else "off", with a note."""
    reason = _why_no_amp(amp)
    if reason:
        note(f"the checkpoint was validated in {AMP_DTYPES[amp]}, which {reason}: computing in float32")
    return "off" if reason else amp


@contextlib.contextmanager
def autocast(amp):
    """Let the network compute as `--amp` says as long as this context lasts.

    Conv3D is not in Paddle's own list of what float16 is good for, and would stay in float32.
    """
    if amp == "off":
        yield
        return
    if "FLAGS_conv_workspace_size_limit" not in os.environ:
        # Tensor cores work on copies in another layout, which at 128 clips do not fit into Paddle's 512 MB.
        paddle.set_flags({"FLAGS_conv_workspace_size_limit": 4096})
    with paddle.amp.auto_cast(custom_white_list={"conv3d"}, level="O1", dtype=AMP_DTYPES[amp]):
        yield


@functools.lru_cache(maxsize=8)
def _scale_and_shift(clip, device):
    """Return `scale_and_shift` as Tensors `[1, C, 1, 1, 1]` that stay on a GPU."""
    return [paddle.to_tensor(each).reshape([1, -1, 1, 1, 1]) for each in scale_and_shift(clip)]


def normalise(clips_thwc, clip, pinned=False):
    """Turn an array `[N, T, H, W, C] uint8` into a Tensor `[N, C, T, H, W] float32`, on Paddle's device.

    `clip` is the `ClipSpec` with the mean, standard deviation and scale of the channels. `pinned` copies to a
    GPU through memory that it reads by itself.
    """
    device = paddle.get_device()
    if device == "cpu":  # Paddle's own operators take five times as long there
        return paddle.to_tensor(normalised(clips_thwc, clip))
    scale, shift = _scale_and_shift(clip, device)
    if pinned:
        clips = paddle.to_tensor(clips_thwc, place=paddle.CUDAPinnedPlace()).cuda(blocking=False)
    else:
        clips = paddle.to_tensor(clips_thwc)
    return clips.astype("float32").transpose([0, 4, 1, 2, 3]) * scale - shift


# What Paddle says if a device fails, and what to do. The first that is found counts.
_FAILURES = {
    r"Out of memory error on GPU|CUDA error\(2\)|\w+_ALLOC_FAILED|Fail to alloc memory": "{less_memory}",
    r"third-party dynamic library": "docs/gpu.md says how to install it",
    r"Unsupported GPU architecture|CUDA error\(209\)|no kernel image": "this Paddle has no code for this "
    "card; docs/gpu.md says which one has",
    r"CUDA error\((35|803|804)\)|CUDA driver version": "the driver is too old for this Paddle; docs/gpu.md "
    "says which one goes with it",
    r"NCCL": "the GPUs do not reach each other; NCCL_DEBUG=INFO in the environment says more, "
    "docs/distributed.md what they need",
    r"CUDNN_STATUS|CUBLAS_STATUS|CUDNN error|CUBLAS error|CUDA error": "the GPU failed; "
    "python tools/gpu_check.py says what works",
}


def failure(error, less_memory):
    """Return in one line what Paddle said and what to do, None for an error that is not a device's.

    `less_memory` says how to need less of it.
    """
    text = " ".join(str(error).split())
    for pattern, advice in _FAILURES.items():
        found = re.search(pattern, text)
        if found:  # in front of it is Paddle's own stack, behind it what was expected
            said = re.split(r" \[Hint| Please | \(at /", text[found.start() :])[0].rstrip(".")
            return f"{said:.200}: {advice.format(less_memory=less_memory)}"
    return None


@contextlib.contextmanager
def explained(less_memory):
    """Let a device's failures in this context be UserErrors; `less_memory` says how to need less of it.

    Paddle raises whatever its own errors are mapped to: MemoryError if memory is short, OSError for CUDA's
    and NCCL's errors, RuntimeError for a library that is missing.
    """
    try:
        yield
    except (RuntimeError, OSError, MemoryError, SystemError) as error:
        reason = None if getattr(error, "errno", None) is not None else failure(error, less_memory)
        if reason is None:
            raise
        raise UserError(reason) from None
