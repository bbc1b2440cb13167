"""An exported model at work: what `tools/export_model.py` wrote, and nothing of the training code.

An `.onnx` file needs ONNX Runtime and no Paddle, a folder for Paddle Inference needs Paddle.
"""
import json

import numpy as np

from model.scorer import Scorer, normalised
from run.console import UserError
from run.kinds import require_object
from run.machine import n_cores
from run.spec import ClipSpec
from run.text import read_text


def is_exported(path):
    """Tell whether a path is an exported model's: an `.onnx`, or a folder."""
    return path.suffix == ".onnx" or path.is_dir()


def exported_scorer(path):
    """Return the `Scorer` of an exported model; it computes on a CPU.

    Raises UserError for what is no model, or one without the card that says how its clips are made.
    """
    run, card = (_onnx if path.suffix == ".onnx" else _paddle_inference)(path)
    names = ClipSpec.kinds()
    clip = {name: value for name, value in require_object(card, path).items() if name in names}
    class_names = card.get("class_names")
    is_names = type(class_names) is list and all(type(name) is str for name in class_names)
    if not clip.keys() >= {"mean", "std", "sample_size", "sample_duration"}:
        raise UserError(f"{path}: does not say how its clips are made; export it with tools/export_model.py")
    if class_names is not None and not is_names:
        raise UserError(f"{path}: class_names are not names")
    clip = ClipSpec.from_json(clip, path)
    return Scorer(lambda clips: _softmax(run(normalised(clips, clip))), clip, class_names)


def _onnx(path):
    """Return a function from a batch to logits, and the card."""
    try:
        import onnxruntime
    except ImportError:
        raise UserError(f"{path}: needs the package onnxruntime: pip install onnxruntime") from None
    if not path.is_file():
        raise UserError(f"{path}: no such model")
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level, settings.intra_op_num_threads = 4, n_cores()  # only what is fatal
    try:
        session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        texts = session.get_modelmeta().custom_metadata_map
    except Exception as error:  # each kind of fault has a class of its own
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not an ONNX model, or a broken one ({reason:.200})") from None
    return lambda batch: session.run(["logits"], {"clips": batch})[0], _card(path, texts)


def _card(path, texts):
    try:
        return {name: json.loads(text) for name, text in texts.items()}
    except ValueError:
        raise UserError(f"{path}: its metadata are not those of tools/export_model.py") from None


def _paddle_inference(path):
    """Return a function from a batch to logits, and the card."""
    from model.device import n_cpu_threads, prepare_device
    from model.inference import load_inference_model

    graphs = [path / f"inference{suffix}" for suffix in (".json", ".pdmodel")]
    found = [graph for graph in graphs if graph.is_file() and graph.with_suffix(".pdiparams").is_file()]
    if not found or not (path / "card.json").is_file():
        raise UserError(
            f"{path}: a folder without inference.json (or .pdmodel), inference.pdiparams and card.json; "
            "tools/export_model.py --to inference writes one"
        )
    card = _card(path, {"card": read_text(path / "card.json")})["card"]
    prepare_device(on_cpu=True)
    return load_inference_model(found[0], n_cpu_threads()), card


def _softmax(logits):
    """Return scores, each row of which sums to 1."""
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    return scores / scores.sum(axis=1, keepdims=True)
