"""What a process of its own measures for the check: training steps, and the scores of `test.py`.

A process each, since cuDNN's choices and the memory of the card outlive a measurement.
"""
import statistics
import time
import zlib

import numpy as np
import paddle

from model import networks
from model.checkpoint import Metadata
from model.device import autocast, explained, normalise, prepare_device
from model.gpu_check import LARGE_SCALE
from model.inference import scorer
from model.training.distributed import Ranks
from model.training.optimization import training_loss
from model.training.trainer import Trainer
from model.weights import weights_of
from run.console import UserError
from run.spec import ClipSpec, NetworkSpec, Recipe


def measured(task):
    """Return what a task measures as a dictionary, `{"error": text}` if the device refuses.

    {"what": "training", "network": {...}, "clip": {...}, "recipe": {...}, "speedups": [...],
     "n_steps": 10, "exhaustive": true, "overflow": false}
    {"what": "scores", "network": {...}, "clip": {...}, "batch_sizes": [32, 128, 256]}
    {"what": "exchange", "n_bytes": 186000000}
    """
    try:
        with explained("it does not fit"):
            return {"training": training, "scores": scores, "exchange": exchange}[task["what"]](task)
    except UserError as error:
        return {"error": str(error)}


def _prepared_device():
    """Prepare the device; return its name and a function that waits for it."""
    device = prepare_device()
    return device, paddle.device.synchronize if device != "cpu" else lambda: None


def _prepared(task):
    """Return a seeded network, its clip spec and a function that waits for the device."""
    device, wait = _prepared_device()
    if device != "cpu" and not task.get("exhaustive", True):
        paddle.set_flags({"FLAGS_cudnn_exhaustive_search": False})
    paddle.seed(0)
    net = networks.build(NetworkSpec("resnet", task["network"]))
    return net, ClipSpec.of(task["clip"]), wait


def _pixels(n, clip):
    rng = np.random.default_rng(3)
    shape = (n, clip.sample_duration, clip.sample_size, clip.sample_size, clip.n_channels)
    return rng.integers(0, 256, shape, np.uint8), rng.integers(0, 101, n)


def training(task):
    """Take steps on one batch again and again; return their times, losses and memory, see `measured`."""
    with Ranks() as ranks:
        net, clip, wait = _prepared(task)
        recipe = Recipe.of(task["recipe"])
        n = recipe.batch_size // ranks.n
        pixels, classes = _pixels(recipe.batch_size, clip)
        pixels, classes = (each[ranks.rank * n :][:n] for each in (pixels, classes))
        trainer = Trainer(net, recipe, clip, ranks, tuple(task.get("speedups", ())))
        trainer.begin()
        trainer.train_mode()
        if task.get("overflow"):
            trainer.scaler._scale = paddle.full([1], LARGE_SCALE)
        seconds, losses, n_skipped = [], [], 0
        for number in range(task["n_steps"] + 1):
            wait()
            begin = time.perf_counter()
            sums = trainer.step(pixels, classes, recipe.batch_size, [number])
            wait()
            seconds.append(time.perf_counter() - begin)
            losses.append(sums.loss / recipe.batch_size)
            n_skipped += sums.n_skipped
        step, scale = statistics.median(seconds[1:]), trainer.scaler.state_dict().get("scale")
        digest = 0
        for array in weights_of(net).values():
            digest = zlib.crc32(np.ascontiguousarray(array).tobytes(), digest)
        return {
            "batch_size": recipe.batch_size,
            "first_step_s": seconds[0],
            "step_s": step,
            "clips_per_second": recipe.batch_size / step,
            "losses": losses,
            "n_skipped": n_skipped,
            "scale": None if scale is None else float(np.asarray(scale).item()),
            "digest": digest,
            **_memory(),
            **_parts_of_a_step(trainer, pixels, classes, wait),  # changes the weights
        }


def _parts_of_a_step(trainer, pixels, classes, wait):
    """Return the seconds of each part of a step, the device waited for in between, and the dtypes of layers.

    The exchange between ranks is no part of it. The parts take longer than the step, where they overlap.
    """

    def timed(function):
        wait()
        begin = time.perf_counter()
        result = function()
        wait()
        return time.perf_counter() - begin, result

    copy_s, _ = timed(lambda: paddle.to_tensor(pixels))
    both_s, clips = timed(lambda: normalise(pixels, trainer.clip))
    with autocast(trainer.recipe.amp):
        forward_s, logits = timed(lambda: trainer.logits(clips))
        with paddle.no_grad():
            conv = paddle.nn.functional.conv3d(clips[:2], trainer.net.conv1.weight, padding=3)
            norm = trainer.net.bn1(conv)
    targets = paddle.to_tensor(classes)
    loss = trainer.scaler.scale(training_loss(logits.astype("float32"), targets, 0.0))
    backward_s, _ = timed(loss.backward)
    update_s, _ = timed(lambda: trainer.scaler.take_step(trainer.optimizer))
    return {
        "copy_s": copy_s,
        "copy_gb_per_second": pixels.nbytes / copy_s / 1e9,
        "normalise_s": max(0.0, both_s - copy_s),
        "forward_s": forward_s,
        "backward_s": backward_s,
        "update_s": update_s,
        "conv3d_dtype": str(conv.dtype).rpartition(".")[2],
        "batch_norm_dtype": str(norm.dtype).rpartition(".")[2],
    }


def exchange(task):
    """Sum float32 numbers over the ranks, as a step does with its gradients; return the GB a second."""
    with Ranks() as ranks:
        _, wait = _prepared_device()
        numbers, seconds = paddle.zeros([task["n_bytes"] // 4]), []
        for _ in range(6):
            wait()
            begin = time.perf_counter()
            ranks.sum(numbers)
            wait()
            seconds.append(time.perf_counter() - begin)
        return {"gb_per_second": task["n_bytes"] / statistics.median(seconds[1:]) / 1e9}


def _memory():
    if paddle.get_device() == "cpu":
        return {"peak_mb": None, "reserved_mb": None}
    cuda = paddle.device.cuda
    return {
        "peak_mb": cuda.max_memory_allocated() // 1_000_000,
        "reserved_mb": cuda.max_memory_reserved() // 1_000_000,
    }


def scores(task):
    """Score batches as `test.py` does; return the clips a second of each batch size that fits."""
    net, clip, _ = _prepared(task)
    score = scorer(net, Metadata(net.spec, clip)).score
    found = {}
    for size in task["batch_sizes"]:
        pixels, _ = _pixels(size, clip)
        try:
            with explained("it does not fit"):
                score(pixels)  # cuDNN searches
                begin = time.perf_counter()
                for _ in range(3):
                    score(pixels)
        except UserError as error:
            found[str(size)] = {"error": str(error)}
            break
        found[str(size)] = {"clips_per_second": 3 * size / (time.perf_counter() - begin), **_memory()}
    return found
