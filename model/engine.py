"""The device, and how a network is evaluated on it: eager on a GPU, with oneDNN on a CPU."""
import os
import tempfile
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


def class_scores(net, n_sharing=1):
    """Return a function from clips `[N, 3, T, H, W]` float32 Tensor to scores `[N, n_classes]`.

    The scores are a float32 array and each row sums to 1. The network is put in eval mode.
    `n_sharing` processes share the cores of a CPU.
    """
    evaluate = evaluator(_Scores(net), n_sharing)
    return lambda clips: evaluate(clips).numpy()


def evaluator(layer, n_sharing=1):
    """Return a function from clips `[N, 3, T, H, W]` float32 Tensor to a layer's output in eval mode.

    The output is a Tensor without gradients. On a CPU the layer's weights are those of now.
    `n_sharing` processes share the cores of a CPU.
    """
    layer.eval()
    if paddle.get_device() == "cpu":
        return _onednn(layer, max(1, n_cpu_threads() // n_sharing))

    @paddle.no_grad()
    def evaluate(clips):
        return layer(clips)

    return evaluate


def _predictor(folder, prefix, n_threads):
    # Paddle 3 writes the graph as .json, Paddle 2 as .pdmodel.
    graph = next(Path(folder).glob("net.json"), Path(prefix + ".pdmodel"))
    config = paddle.inference.Config(str(graph), prefix + ".pdiparams")
    config.disable_gpu()
    config.enable_mkldnn()
    config.set_cpu_math_library_num_threads(n_threads)
    config.disable_glog_info()
    return paddle.inference.create_predictor(config)


def _onednn(layer, n_threads):
    """Compile a layer for oneDNN: many times the speed of eager Conv3D on a CPU."""
    with tempfile.TemporaryDirectory(prefix="paddle_inference_") as folder:
        prefix = str(Path(folder) / "net")
        spec = paddle.static.InputSpec([None, 3, None, None, None], "float32")
        try:
            paddle.jit.save(layer, prefix, input_spec=[spec])
            predictor = _predictor(folder, prefix, n_threads)
        except (RuntimeError, OSError) as error:
            reason = str(error).strip().split("\n")[-1]
            raise UserError(
                f"{folder}: the network cannot be written there for oneDNN ({reason:.200}); "
                "is that disk full? TMPDIR names another one"
            ) from None
    clips_handle = predictor.get_input_handle(predictor.get_input_names()[0])
    output_handle = predictor.get_output_handle(predictor.get_output_names()[0])

    def evaluate(clips):
        clips_handle.copy_from_cpu(clips.numpy())
        predictor.run()
        return paddle.to_tensor(output_handle.copy_to_cpu())

    return evaluate
