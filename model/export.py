"""The network for other programs: as a model of Paddle Inference or ONNX, and in the reference's options.

Both models take normalised clips `[N, 3, T, H, W]` float32, where N, T, H and W are free, and give the
logits `[N, n_classes]` float32. `card_of` holds what their user has to know beside that.
"""
import importlib.util
import json
import os
import subprocess
import sys

import paddle

from model.checkpoint import DEFAULT_INPUT
from model.engine import inference_model, load_inference_model
from opts import UserError, n_cpu_threads

# Shortcut A's strided slices need 10.
ONNX_OPSET = 10
# paddle2onnx reads the graphs of one generation of Paddle only.
ONNX_PACKAGES = (
    "paddle2onnx==1.3.1 onnx==1.17.0 onnxruntime"
    if paddle.__version__.startswith("2.")
    else "paddle2onnx==2.1.0 onnxruntime"
)


def card_of(facts, mean, std):
    """Return what a user of the exported network has to know, as JSON can hold it.

    `mean` and `std` are those of R, G and B.
    """
    inputs = facts["input"]
    return {
        "network": f"ResNet3D-{facts['model']['model_depth']}",
        "input": "clips [N, 3, T, H, W] float32, RGB: (pixel / 255 - mean) / std",
        "output": "logits [N, n_classes] float32; softmax makes scores of them, those of a video are the "
        "average over its clips",
        "mean": list(mean),
        "std": list(std),
        **{name: inputs[name] for name in ("sample_size", "sample_duration", "sample_t_stride")},
        "class_names": facts["class_names"],
    }


def inference_files(net, card):
    """Return the files of a Paddle Inference model, `{name: bytes or text}`, and a function that runs it
    on a batch, both arrays.
    """
    with inference_model(net) as graph_path:
        run = load_inference_model(graph_path, n_cpu_threads())
        paths = (graph_path, graph_path.with_suffix(".pdiparams"))
        files = {path.name: path.read_bytes() for path in paths}
    return {**files, "card.json": json.dumps(card, indent=1)}, run


def require_onnx_packages(is_verified):
    """Raise UserError where a package is missing that `onnx_model` needs, or the check of its model."""
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

    with inference_model(net) as graph_path:
        paths = (graph_path, graph_path.with_suffix(".pdiparams"), graph_path.with_suffix(".onnx"))
        # In a process of its own, which it may abort, and prints to. zlib: see opts.py.
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
    """Call the ends clips [N, 3, T, H, W] and logits [N, n_classes], as no version of paddle2onnx does."""
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


def reference_options(facts):
    """Return the options with which 3D-ResNets-PyTorch builds the network and makes its clips."""
    model, inputs = facts["model"], facts["input"]
    words = f"--model resnet --model_depth {model['model_depth']} --n_classes {model['n_classes']}"
    defaults = {"resnet_shortcut": "B", "resnet_widen_factor": 1.0, "conv1_t_size": 7, "conv1_t_stride": 1}
    for name, default in {**defaults, **DEFAULT_INPUT}.items():
        value = {**model, **inputs}[name]
        words += f" --{name} {value}" if value != default else ""
    return words + (" --no_max_pool" if model["no_max_pool"] else "")
