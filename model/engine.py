"""The device, and how a network is evaluated on it: eager on a GPU, with oneDNN on a CPU."""
import contextlib
import copy
import os
import tempfile
import warnings
from pathlib import Path

import paddle
import paddle.inference
import paddle.nn as nn
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
    return _as_arrays(_Scores(net), n_sharing)


def clip_features(net, n_sharing=1):
    """Return a function from clips to their pooled vectors before fc, `[N, C]`; else as `class_scores`."""
    return _as_arrays(_Features(net), n_sharing)


def _as_arrays(layer, n_sharing):
    evaluate = evaluator(layer, n_sharing)
    return lambda clips: evaluate(clips).numpy()


def evaluator(layer, n_sharing=1):
    """Return a function from clips `[N, 3, T, H, W]` float32 Tensor to a layer's output in eval mode.

    The output is a Tensor without gradients. On a CPU the layer's weights are those of now.
    `n_sharing` processes share the cores of a CPU.
    """
    layer.eval()
    if paddle.get_device() == "cpu":
        return _onednn_evaluator(layer, max(1, n_cpu_threads() // n_sharing))

    @paddle.no_grad()
    def evaluate(clips):
        return layer(clips)

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


@paddle.no_grad()
def _folded(layer):
    """Return a copy of a layer, for eval mode, whose BatchNorms are part of the convolutions before them.

    Paddle 3 does not do that with a Conv3D by itself; a forward pass becomes a sixth shorter.
    """
    layer = copy.deepcopy(layer)
    for parent in layer.sublayers(include_self=True):
        children = list(parent.named_children())
        for (conv_name, conv), (norm_name, norm) in zip(children, children[1:]):
            if isinstance(conv, nn.Conv3D) and type(norm) is nn.BatchNorm3D:
                scale = norm.weight * paddle.rsqrt(norm._variance + norm._epsilon)
                out_channels, in_channels, *kernel = conv.weight.shape
                geometry = {"stride": conv._stride, "padding": conv._padding}
                both = nn.Conv3D(in_channels, out_channels, kernel, **geometry)
                both.weight.set_value(conv.weight * scale.reshape([-1, 1, 1, 1, 1]))
                both.bias.set_value(norm.bias - norm._mean * scale)
                parent.add_sublayer(conv_name, both)
                parent.add_sublayer(norm_name, nn.Identity())
    return layer


def _onednn_evaluator(layer, n_threads):
    """Compile a graph for oneDNN: many times the speed of eager Conv3D on a CPU."""
    with inference_model(_folded(layer)) as graph_path:
        run = load_inference_model(graph_path, n_threads)
    return lambda clips: paddle.to_tensor(run(clips.numpy()))
