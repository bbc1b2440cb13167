"""All that imports Paddle: the networks, their weights, training and inference."""
import importlib.metadata
import os
import warnings
import zlib  # noqa: F401  before Paddle 2.6, whose own copy of it crashes Python's if it comes first


def _may_use_gpus():
    """Tell whether Paddle is built for GPUs, which are not hidden from it, without importing it."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip()
    if not shown or shown.startswith("-1"):
        return False
    try:
        importlib.metadata.distribution("paddlepaddle-gpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


# Paddle's C++ notes on its own working: on a CPU none; on a GPU its warnings, which say what is wrong with
# the driver, the libraries or the card before an error does.
os.environ.setdefault("GLOG_minloglevel", "1" if _may_use_gpus() else "2")
# Paddle sets this to 1 if it is unset, and warns in three lines if it is anything else. How many threads
# compute is decided in model/device.py, from the environment that the program was started with.
os.environ["OMP_NUM_THREADS"] = "1"
for _noise in (
    "No ccache found",
    "You are using GPU version Paddle, but your CUDA device is not set",  # model/device.py says that
    "When training, we now always track global mean",
    "This process .* is multi-threaded, use of fork",  # the readers use none of its threads
):
    warnings.filterwarnings("ignore", message=_noise)
