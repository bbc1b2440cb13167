"""The device, and how a network is evaluated on it: eager on a GPU, with oneDNN on a CPU."""
import contextlib
import os
import tempfile
import warnings
from pathlib import Path

import paddle
import paddle.inference
import paddle.nn.functional as F

from opts import UserError, n_cpu_threads


def prepare_device(n_sharing=1):
    """Set up the device that Paddle chose; return its name, "cpu" or "gpu:0".

    `n_sharing` processes share the cores of a CPU.
    """
    device = paddle.get_device()
    if device == "cpu":
        # Paddle computes on one thread unless told otherwise.
        paddle.base.core.set_num_threads(max(1, n_cpu_threads() // n_sharing))
    elif os.environ.get("FLAGS_cudnn_deterministic", "0").lower() in ("0", "false"):
        # Let cuDNN time its Conv3D algorithms and keep the fastest.
        paddle.set_flags({"FLAGS_cudnn_exhaustive_search": True})
    return device


class _Scores(paddle.nn.Layer):
    """The network and the softmax behind it, as one graph."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, clips):
        return F.softmax(self.net(clips), axis=1)


class _Features(paddle.nn.Layer):
    """The network without its fc, as one graph."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, clips):
        return self.net.features(clips)


def class_scores(net, n_sharing=1):
    """Return a function from clips `[N, 3, T, H, W]` float32 Tensor to scores `[N, n_classes]`.

    The scores are a float32 array and each row sums to 1. The network is put in eval mode.
    `n_sharing` processes share the cores of a CPU.
    """
    return _evaluator(_Scores(net), n_sharing)


def clip_features(net, n_sharing=1):
    """Return a function from clips to their pooled vectors before fc, `[N, C]`; else as `class_scores`."""
    return _evaluator(_Features(net), n_sharing)


def _evaluator(layer, n_sharing):
    layer.eval()
    if paddle.get_device() == "cpu":
        return _onednn_evaluator(layer, max(1, n_cpu_threads() // n_sharing))

    def evaluate(clips):
        with paddle.no_grad():
            return layer(clips).numpy()

    return evaluate


@contextlib.contextmanager
def inference_model(layer):
    """Write a layer that takes clips `[N, 3, T, H, W]`, all but 3 free, as a Paddle Inference model.

    Gives the path of its graph, inference.json from Paddle 3 or inference.pdmodel from Paddle 2, beside
    which are the weights, inference.pdiparams, for as long as the context lasts.
    """
    with tempfile.TemporaryDirectory(prefix="paddle_inference_") as folder:
        prefix = Path(folder) / "inference"
        spec = paddle.static.InputSpec([None, 3, None, None, None], "float32", name="clips")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the graph's tensors, which are on no device
                paddle.jit.save(layer, str(prefix), input_spec=[spec])
            graph_path = prefix.with_suffix(".json")
            yield graph_path if graph_path.exists() else prefix.with_suffix(".pdmodel")
        except (RuntimeError, OSError) as error:
            reason = str(error).strip().split("\n")[-1]
            raise UserError(
                f"{folder}: the network cannot be compiled there ({reason:.200}); "
                "is that disk full? TMPDIR names another one"
            ) from None


def load_inference_model(graph_path, n_threads):
    """Return a function from a batch to the model's output, both arrays, computed by oneDNN on the CPU."""
    config = paddle.inference.Config(str(graph_path), str(graph_path.with_suffix(".pdiparams")))
    config.disable_gpu()
    config.enable_mkldnn()
    config.set_cpu_math_library_num_threads(n_threads)
    config.disable_glog_info()
    predictor = paddle.inference.create_predictor(config)
    input_handle = predictor.get_input_handle(predictor.get_input_names()[0])
    output_handle = predictor.get_output_handle(predictor.get_output_names()[0])

    def run(batch):
        input_handle.copy_from_cpu(batch)
        predictor.run()
        return output_handle.copy_to_cpu()

    return run


def _onednn_evaluator(layer, n_threads):
    """Compile a graph for oneDNN: many times the speed of eager Conv3D on a CPU."""
    with inference_model(layer) as graph_path:
        run = load_inference_model(graph_path, n_threads)
    return lambda clips: run(clips.numpy())
