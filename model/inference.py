"""How a network is evaluated: eager on a GPU, with oneDNN on a CPU."""
import collections
import contextlib
import copy
import os
import shutil
import tempfile
import warnings
from pathlib import Path

import paddle
import paddle.inference
import paddle.nn as nn
import paddle.nn.functional as F

from model.device import amp_here, autocast, explained, n_cpu_threads, normalise
from model.scorer import Scorer
from run.console import UserError, one_line

# Float32 sums in another order; 3e-6 is the most that was seen.
LARGEST_DIFFERENCE = 1e-4


def scorer(net, metadata, features=False, n_sharing=1):
    """Return the `Scorer` of a network and its `Metadata`: class scores, or the vectors before the head.

    It computes as the network was validated (`amp_of`). Its `score` raises UserError if the device fails.
    """
    evaluate = (clip_features if features else class_scores)(net, n_sharing)
    clip, amp = metadata.clip, amp_of(metadata)

    @explained("use a smaller --inference_batch_size")
    def score(clips_thwc):
        with autocast(amp):
            return evaluate(normalise(clips_thwc, clip))

    return Scorer(score, clip, metadata.class_names)


def amp_of(metadata):
    """Return the `--amp` that a network is evaluated with here: that of its validation, if the device can."""
    return "off" if metadata.recipe is None else amp_here(metadata.recipe.amp)


def class_scores(net, n_sharing=1):
    """Return a function from clips `[N, C, T, H, W]` float32 Tensor to scores `[N, n_classes]`.

    The scores are a float32 array and each row sums to 1. The network is put in eval mode.
    `n_sharing` processes share the cores of a CPU.
    """
    evaluate = evaluator(net, n_sharing, _Scores)
    return lambda clips: evaluate(clips).astype("float32").numpy()


def clip_features(net, n_sharing=1):
    """Return a function from clips to the vectors before the head, `[N, n_features]`, as `class_scores`."""
    evaluate = evaluator(net, n_sharing, _Features)
    return lambda clips: evaluate(clips).astype("float32").numpy()


class _Scores(nn.Layer):
    """The network and the softmax behind it, as one graph."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, clips):
        return F.softmax(self.net(clips), axis=1)


class _Features(_Scores):
    """The network without its head, as one graph."""

    def forward(self, clips):
        return self.net.features(clips)


def evaluator(layer, n_sharing=1, graph_of=lambda layer: layer):
    """Return a function from clips `[N, C, T, H, W]` float32 Tensor to a layer's output in eval mode.

    The output is a Tensor without gradients. On a CPU the layer's weights are those of now, and the first
    clips take a second more. `graph_of` makes what is evaluated of the layer. `n_sharing` processes share
    the cores of a CPU.
    """
    layer.eval()
    if paddle.get_device() == "cpu":
        return _OneDNN(copy.deepcopy(layer), graph_of, max(1, n_cpu_threads() // n_sharing))
    graph = graph_of(layer)
    graph.eval()

    @paddle.no_grad()
    def evaluate(clips):
        return graph(clips)

    return evaluate


class _OneDNN:
    """A layer compiled for oneDNN, by its first clips: many times the speed of eager Conv3D on a CPU."""

    def __init__(self, layer, graph_of, n_threads):
        self._layer, self._graph_of, self._n_threads = layer, graph_of, n_threads
        self._run = None

    def __call__(self, clips):
        if self._run is None:
            graph = self._graph_of(_folded(self._layer, clips[:1]))
            graph.eval()
            with inference_model(graph, clips.shape[1]) as graph_path:
                self._run = load_inference_model(graph_path, self._n_threads)
            self._layer = None
        return paddle.to_tensor(self._run(clips.numpy()))


@contextlib.contextmanager
def inference_model(layer, n_channels):
    """Write a layer that takes clips `[N, C, T, H, W]`, all but C free, as a Paddle Inference model.

    Gives the path of its graph, inference.json from Paddle 3 or inference.pdmodel from Paddle 2, beside
    which are the weights, inference.pdiparams, for as long as the context lasts.
    """
    with _scratch_folder() as folder:
        prefix = folder / "inference"
        shape = [None, n_channels, None, None, None]
        spec = paddle.static.InputSpec(shape, "float32", name="clips")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the graph's tensors, which are on no device
                paddle.jit.save(layer, str(prefix), input_spec=[spec])
        except (RuntimeError, OSError) as error:
            is_of_files = isinstance(error, OSError)
            reason = one_line(error) if is_of_files else str(error).strip().split("\n")[-1]
            way_out = "; TMPDIR names another" * is_of_files
            raise UserError(
                f"the network cannot be compiled in a temporary folder: {reason:.300}{way_out}"
            ) from None
        graph_path = prefix.with_suffix(".json")
        yield graph_path if graph_path.exists() else prefix.with_suffix(".pdmodel")


@contextlib.contextmanager
def _scratch_folder():
    """Give a temporary folder, which stands for the home as long as the context lasts.

    Paddle writes what it compiles to the home, which may be read-only, full or none at all.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="paddle_inference_")
    except OSError as error:
        raise UserError(
            f"compiling the network takes a temporary folder: {one_line(error)}; TMPDIR names one"
        ) from None
    home = os.environ.get("HOME")
    with folder as path:
        os.environ["HOME"] = path
        try:
            yield Path(path)
        finally:
            os.environ.pop("HOME")
            if home is not None:
                os.environ["HOME"] = home


def load_inference_model(graph_path, n_threads):
    """Return a function from a batch to the model's output, both arrays, computed by oneDNN on the CPU."""
    config = paddle.inference.Config(str(graph_path), str(graph_path.with_suffix(".pdiparams")))
    config.disable_gpu()
    config.enable_mkldnn()
    config.set_cpu_math_library_num_threads(n_threads)
    config.disable_glog_info()
    try:
        predictor = paddle.inference.create_predictor(config)
    except RuntimeError as error:  # Paddle does not notice that a full disk cut its files short
        free = shutil.disk_usage(graph_path.parent).free / 1e6
        raise UserError(
            f"the network, compiled in a folder with {free:,.0f} MB free, does not load again: "
            f"{str(error).strip():.200}; TMPDIR names another folder"
        ) from None
    input_handle = predictor.get_input_handle(predictor.get_input_names()[0])
    output_handle = predictor.get_output_handle(predictor.get_output_names()[0])

    def run(batch):
        input_handle.copy_from_cpu(batch)
        predictor.run()
        return output_handle.copy_to_cpu()

    return run


@paddle.no_grad()
def _folded(layer, clip):
    """Return a copy of a layer, in eval mode, whose BatchNorms are part of the convolutions that feed them.

    Paddle 3 does not do that with a Conv3D by itself; a forward pass becomes a sixth shorter. Who feeds whom
    is observed while a clip runs, one of the size that follows: Paddle's Conv3D writes outside its memory if
    a clip is too small. What a `forward` does between two layers is not observed: it may use the output of a
    convolution a second time, without the BatchNorm. So the copy is compared with the layer, and if they
    differ the layer itself is returned.
    """
    folded = copy.deepcopy(layer)
    pairs, expected = _pairs(folded, clip)
    for conv, norm in pairs:
        _fold(conv, norm)
    done = {id(norm) for _, norm in pairs}
    for parent in folded.sublayers(include_self=True):
        for name, child in list(parent._sub_layers.items()):
            if id(child) in done:
                parent.add_sublayer(name, nn.Identity())
    difference = (folded(clip) - expected).abs().max()
    return folded if difference <= LARGEST_DIFFERENCE * expected.abs().max() else layer


def _pairs(layer, clip):
    """Run a clip; return the pairs of a convolution and the BatchNorm that took its output, and the output.

    Only pairs that nothing else is seen to be a part of, each layer run once.
    """
    made, taken, runs = {}, [], collections.Counter()

    def after_conv(conv, _inputs, output):
        made[id(output)] = conv, output  # the output too, so that no other gets its id
        runs[id(conv)] += 1

    def before_norm(norm, inputs):
        taken.extend((*made[id(x)], norm) for x in inputs if id(x) in made)
        runs[id(norm)] += 1

    hooks = []
    for each in layer.sublayers(include_self=True):
        if isinstance(each, nn.Conv3D):
            hooks.append(each.register_forward_post_hook(after_conv))
        elif type(each) is nn.BatchNorm3D:
            hooks.append(each.register_forward_pre_hook(before_norm))
    output = layer(clip)
    for hook in hooks:
        hook.remove()
    n_takers = collections.Counter(id(conv) for conv, _, _ in taken)
    pairs = [(conv, norm) for conv, _, norm in taken if n_takers[id(conv)] == 1]
    return [(conv, norm) for conv, norm in pairs if runs[id(conv)] == runs[id(norm)] == 1], output


def _fold(conv, norm):
    """Let a convolution compute what the BatchNorm behind it makes of its output."""
    scale = paddle.rsqrt(norm._variance + norm._epsilon)
    scale = scale if norm.weight is None else norm.weight * scale
    mean = norm._mean if conv.bias is None else norm._mean - conv.bias
    bias = -mean * scale if norm.bias is None else norm.bias - mean * scale
    for name, values in (("weight", conv.weight * scale.reshape([-1, 1, 1, 1, 1])), ("bias", bias)):
        # A new parameter: the old one may be another layer's as well.
        parameter = conv.create_parameter(values.shape, default_initializer=nn.initializer.Constant())
        parameter.set_value(values)
        setattr(conv, name, parameter)
