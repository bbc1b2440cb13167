"""The network for other programs: as a model of Paddle Inference or ONNX, and in the reference's options.

Both models take normalised clips `[N, C, T, H, W]` float32 (N, T, H and W are free) and give the
logits `[N, n_classes]` float32. `card_of` holds what their user has to know beside that.
"""
import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import paddle

from model import networks
from model.device import n_cpu_threads
from model.inference import LARGEST_DIFFERENCE, inference_model, load_inference_model
from run import registry
from run.console import UserError, working
from run.spec import MEANS_OF_THE_REFERENCE, ClipSpec

# Shortcut A's strided slices need 10.
ONNX_OPSET = 10
# paddle2onnx reads the graphs of one generation of Paddle only.
ONNX_PACKAGES = (
    "paddle2onnx==1.3.1 onnx==1.17.0 onnxruntime"
    if paddle.__version__.startswith("2.")
    else "paddle2onnx==2.1.0 onnxruntime"
)
CHANNELS = {"rgb": "RGB", "flow": "horizontal and vertical optical flow"}


def card_of(network, clip, class_names):
    """Return what a user of the exported network has to know, as JSON can hold it.

    `network` and `clip` are specs; what is in the latter stands under its own names.
    """
    return {
        "network": networks.title(network),
        "input": f"clips [N, {clip.n_channels}, T, H, W] float32, {CHANNELS[clip.modality]}: "
        f"(pixel / {clip.scale:g} - mean) / std",
        "output": "logits [N, n_classes] float32; softmax makes scores of them, those of a video are the "
        "average over its clips",
        **{name: value for name, value in clip.to_json().items() if name != "version"},
        "class_names": class_names,
    }


def compare(net, logits_of, clip, names):
    """Run random clips through a network and another program's copy of it, and compare the logits.

    `logits_of` runs clips, an array, through the copy: one clip and two, as any batch has to do. `names` are
    those of the two programs. Returns the result as a line, and whether the two are equal up to rounding.
    """
    shape = (2, clip.n_channels, clip.sample_duration, clip.sample_size, clip.sample_size)
    clips = np.random.default_rng(0).standard_normal(shape, np.float32)
    net.eval()
    with working("running clips through both networks"), paddle.no_grad():
        expected = net(paddle.to_tensor(clips)).numpy()
        found = np.concatenate([logits_of(clips), logits_of(clips[:1])])
    difference = np.abs(found - expected[[0, 1, 0]]).max() / np.abs(expected).max()
    line = f"largest difference of the logits, {names}: {difference:.1e} of the largest logit"
    return line, difference <= LARGEST_DIFFERENCE


def inference_files(net, card):
    """Return the files of a Paddle Inference model, `{name: bytes or text}`, and a function that runs it
    on a batch, both arrays.
    """
    with inference_model(net, net.n_input_channels) as graph_path:
        run = load_inference_model(graph_path, n_cpu_threads())
        paths = (graph_path, graph_path.with_suffix(".pdiparams"))
        files = {path.name: path.read_bytes() for path in paths}
    return {**files, "card.json": json.dumps(card, indent=1)}, run


def require_onnx_packages(is_verified):
    """Raise UserError if a package is missing that `onnx_model` needs, or the check of its model."""
    needed = ["paddle2onnx", "onnx"] + ["onnxruntime"] * is_verified
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        hint = "; --no_verify leaves out the check, which needs it" if missing == ["onnxruntime"] else ""
        raise UserError(f"ONNX needs {' and '.join(missing)}: pip install {ONNX_PACKAGES}{hint}")


def onnx_model(net, card):
    """Return the bytes of an ONNX model, with the card as JSON in its metadata, and a function that runs
    it on a batch, both arrays.
    """
    import onnx

    with inference_model(net, net.n_input_channels) as graph_path:
        paths = (graph_path, graph_path.with_suffix(".pdiparams"), graph_path.with_suffix(".onnx"))
        # In a process of its own, which it may abort, and prints to. zlib: see model/__init__.py.
        code = "import zlib, sys, paddle2onnx as p; p.export(*sys.argv[1:4], opset_version=int(sys.argv[4]))"
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, (*paths, ONNX_OPSET))],
            cwd=graph_path.parent,
            env={**os.environ, "TMPDIR": str(graph_path.parent)},
            capture_output=True,
            text=True,
        )
        if done.returncode or not paths[-1].exists():
            reasons = [line for line in done.stderr.splitlines() if "Error" in line]
            raise UserError(
                f"paddle2onnx fails ({(reasons or ['without a reason'])[-1]:.200}); "
                f"this Paddle needs: pip install {ONNX_PACKAGES}"
            )
        model = onnx.load(paths[-1])
    _name_ends(model.graph)
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in card.items()})
    content = model.SerializeToString()
    return content, lambda clips: _run_onnx(content, clips)


def _name_ends(graph):
    """Call the ends clips [N, C, T, H, W] and logits [N, n_classes], as no version of paddle2onnx does."""
    (before,) = (output.name for output in graph.output)
    graph.output[0].name = "logits"
    for node in graph.node:
        node.output[:] = ["logits" if name == before else name for name in node.output]
    clips, logits = (value.type.tensor_type.shape.dim for value in (graph.input[0], graph.output[0]))
    for axis, name in zip((*clips[:1], *clips[2:], logits[0]), "NTHWN"):
        axis.dim_param = name


def _run_onnx(content, clips):
    import onnxruntime

    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 3  # not what it could leave out of the graph
    session = onnxruntime.InferenceSession(content, quiet, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"clips": clips})[0]


def reference_options(network, clip):
    """Return the options with which 3D-ResNets-PyTorch builds a network and makes its clips.

    Only those that are not at their default; what it has no option for is named behind them.
    """
    path = registry.modules(networks.FOLDER)[network.name]
    values = {"model": network.name}
    for name, (default, kind) in registry.option_kinds(path).items():
        value, is_named = network.arguments[name], name in ("model_depth", "n_classes")
        if is_named or (kind.help and value != default):
            values[name] = value
    usual = ClipSpec()
    for name, kind in ClipSpec.kinds().items():
        if kind.help and getattr(clip, name) != getattr(usual, name):
            values[name] = getattr(clip, name)
    if clip.modality != usual.modality:
        values["input_type"] = clip.modality
    own = registry.literal(path, "NOT_THE_REFERENCES", ())
    unknown = {name: values.pop(name) for name in own if name in values}
    if clip.mean_dataset not in MEANS_OF_THE_REFERENCE:
        unknown.update(mean=clip.mean, std=clip.std, scale=clip.scale)
    elif clip.mean_dataset != usual.mean_dataset:
        values["mean_dataset"] = clip.mean_dataset
    words = " ".join(f"--{name}" if value is True else f"--{name} {value}" for name, value in values.items())
    without = ", ".join(f"{name} {value}" for name, value in unknown.items())
    return words + (f"; it has no option for {without}" if without else "")
