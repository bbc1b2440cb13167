"""The device, and how a network is evaluated on it: eager on a GPU, with oneDNN on a CPU."""
import os
import tempfile
from pathlib import Path

import paddle
import paddle.inference
import paddle.nn.functional as F

from opts import n_cpu_threads


def prepare_device():
    """Set up the device that Paddle chose; return its name, "cpu" or "gpu:0"."""
    device = paddle.get_device()
    if device == "cpu":
        # Paddle computes on one thread unless told otherwise.
        paddle.base.core.set_num_threads(n_cpu_threads())
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


def class_scores(net):
    """Return a function from clips `[N, 3, T, H, W]` float32 Tensor to scores `[N, n_classes]`.

    The scores are a float32 array and each row sums to 1. The network is put in eval mode.
    """
    net.eval()
    if paddle.get_device() == "cpu":
        return _onednn_scores(net)

    def scores(clips):
        with paddle.no_grad():
            return F.softmax(net(clips), axis=1).numpy()

    return scores


def _onednn_scores(net):
    """Compile the network for oneDNN: many times the speed of eager Conv3D on a CPU."""
    with tempfile.TemporaryDirectory(prefix="paddle_inference_") as folder:
        prefix = str(Path(folder) / "net")
        spec = paddle.static.InputSpec([None, 3, None, None, None], "float32")
        paddle.jit.save(_Scores(net), prefix, input_spec=[spec])
        # Paddle 3 writes the graph as .json, Paddle 2 as .pdmodel.
        graph = next(Path(folder).glob("net.json"), Path(prefix + ".pdmodel"))
        config = paddle.inference.Config(str(graph), prefix + ".pdiparams")
        config.disable_gpu()
        config.enable_mkldnn()
        config.set_cpu_math_library_num_threads(n_cpu_threads())
        config.disable_glog_info()
        predictor = paddle.inference.create_predictor(config)
    clips_handle = predictor.get_input_handle(predictor.get_input_names()[0])
    scores_handle = predictor.get_output_handle(predictor.get_output_names()[0])

    def scores(clips):
        clips_handle.copy_from_cpu(clips.numpy())
        predictor.run()
        return scores_handle.copy_to_cpu()

    return scores
