"""Checkpoints: one `.pdparams` file with the weights, the facts about them and, in mid-training,
the state of the training.

    {"conv1.weight": array, ..., "fc.bias": array,        the weights, under the network's own names
     "facts@@": '{"model": {"model_depth": 50, ...}, "class_names": [...], ...}',
     "velocity@@": {"fc.weight": array, ...}}             only where a training can be resumed

`load_network(path)` gives the network. `net.set_state_dict(paddle.load(path))` reads the file too;
keys with @@ are Paddle's own convention for what is not a tensor. Paddle's loader runs whatever code
a pickle asks for; the one here reads arrays, numbers, text and containers, and refuses the rest.
"""
import inspect
import json
import math
import pickle
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from disk import write_file
from model.data_pickle import Built, DataReader
from model.resnet3d import STAGE_CHANNELS, ResNet3D
from model.weights import architecture_of, load_weights
from opts import UserError

FACTS, VELOCITY = "facts@@", "velocity@@"
# What the released weights were trained on, and so what weights without facts are taken for.
DEFAULT_INPUT = {
    "sample_size": 112,
    "sample_duration": 16,
    "sample_t_stride": 1,
    "mean_dataset": "kinetics",
}


class Checkpoint(NamedTuple):
    """`weights` and `velocity` map names to float32 arrays; `facts` is what JSON can hold.

    `facts["model"]` holds the arguments of `ResNet3D`, `facts["input"]` those of `DEFAULT_INPUT`,
    `facts["class_names"]` the labels, None for weights that came without.
    """

    weights: dict
    facts: dict
    velocity: dict


def save_checkpoint(path, weights, facts, velocity=None):
    """Write a checkpoint file, whole or not at all."""
    content = {**weights, FACTS: json.dumps(facts)}
    if velocity is not None:
        content[VELOCITY] = velocity
    # Protocol 4 keeps array data as plain bytes; Python's default of 4 to 5 depends on the version.
    write_file(path, pickle.dumps(content, protocol=4))


def load_checkpoint(path):
    """Read a checkpoint or bare weights (as `convert_to_paddle.py` or `paddle.save` writes them).

    Raises UserError for a file that is missing, cut short, holds anything but data, or no network.
    """
    try:
        content = DataReader(Path(path).read_bytes()).read()
    except FileNotFoundError:
        raise UserError(f"{path}: no such weights") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder, expected a .pdparams file") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except OSError:
        raise
    except Exception as error:  # a broken pickle raises nearly anything
        raise UserError(f"{path}: not a .pdparams file, or a broken one ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a dictionary of arrays, found {type(content).__name__}")
    if "LR_Scheduler" in content or any("_velocity_" in name for name in content):
        raise UserError(f"{path}: an optimizer's state; give the .pdparams file beside it")
    facts_json, velocity = content.pop(FACTS, "{}"), content.pop(VELOCITY, None)
    content.pop("StructuredToParameterName@@", None)  # what paddle.save adds
    weights = {name: _array(path, name, value) for name, value in content.items()}
    if velocity is not None:
        if not isinstance(velocity, dict):
            raise UserError(f"{path}: {VELOCITY} is not a dictionary of arrays")
        velocity = {name: _array(path, name, value) for name, value in velocity.items()}
    try:
        return Checkpoint(weights, _facts_of(facts_json, architecture_of(weights)), velocity)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def load_network(path):
    """Return `(net, facts)` of a checkpoint or of bare weights: a `ResNet3D` in eval mode, and the facts
    of `Checkpoint`, which say what it expects of a clip (`input`) and what its outputs are (`class_names`).

    Raises UserError as `load_checkpoint` does, and where the tensors are not all the network's.
    """
    weights, facts, _ = load_checkpoint(path)
    net = ResNet3D(**facts["model"])
    try:
        load_weights(net, weights)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    net.eval()
    return net, facts


def position_of(path):
    """Return `(epoch, step)` of a checkpoint's name, None for any other name.

    `save_3.pdparams` is the end of epoch 3, `save_3_20.pdparams` came before it, after 20 steps.
    """
    match = re.fullmatch(r"save_(\d+)(?:_(\d+))?\.pdparams", Path(path).name)
    return match and (int(match[1]), int(match[2]) if match[2] else math.inf)


def saved_checkpoints(result_path):
    """Return the checkpoints of a folder that a training can be resumed from, oldest first."""
    return sorted(filter(position_of, Path(result_path).glob("save_*.pdparams")), key=position_of)


def newest_checkpoint(path):
    """Return the path itself, or where it is a folder the newest checkpoint in it."""
    path = Path(path)
    if not path.is_dir():
        return path
    saved = saved_checkpoints(path)
    if not saved:
        raise UserError(f"{path}: no save_<epoch>.pdparams to resume from")
    return saved[-1]


def prune_checkpoints(result_path, keep):
    """Delete all but the last `keep` ends of epochs, and what was saved inside an epoch before the newest."""
    saved = saved_checkpoints(result_path)
    ends = [path for path in saved if position_of(path)[1] == math.inf]
    inside = [path for path in saved[:-1] if path not in ends]
    for path in ends[:-keep] + inside:
        path.unlink()


def _facts_of(facts_json, found):
    """Parse the facts, whose network has to be the one that was `found` in the weights."""
    try:
        facts = json.loads(facts_json)
        model = {**_DEFAULT_MODEL, **facts.setdefault("model", found)}
        inputs = facts.setdefault("input", DEFAULT_INPUT)
        class_names = facts.setdefault("class_names", None)
        # These two leave no trace in the weights.
        free = {"conv1_t_stride": model["conv1_t_stride"], "no_max_pool": model["no_max_pool"]}
        kinds = {key: type(value) for key, value in inputs.items()}
        sizes = [value for value in inputs.values() if type(value) is int]
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise UserError(f"{FACTS} is broken: {error!r:.200}") from None
    is_free = type(free["no_max_pool"]) is bool and type(free["conv1_t_stride"]) is int
    if not is_free or not 1 <= free["conv1_t_stride"] <= 1000 or not _same_model(model, {**found, **free}):
        raise UserError(f"{FACTS} is of another network than the weights")
    if kinds != {key: type(value) for key, value in DEFAULT_INPUT.items()} or not all(
        1 <= size <= 10_000 for size in sizes
    ):
        raise UserError(f"{FACTS} is broken: input is not like {DEFAULT_INPUT}")
    if class_names is not None:
        is_names = type(class_names) is list and all(type(name) is str for name in class_names)
        if not is_names or len(class_names) != found["n_classes"]:
            raise UserError(f"{FACTS} is broken: class_names are not {found['n_classes']} names")
    return facts


# ResNet3D's own defaults: the facts hold the arguments that it was built with.
_DEFAULT_MODEL = {
    name: argument.default
    for name, argument in inspect.signature(ResNet3D.__init__).parameters.items()
    if name != "self"
}


def _same_model(model, found):
    """Compare two networks' arguments; factors may differ where they give the same channels."""
    same = model.keys() == found.keys() and type(model["resnet_widen_factor"]) in (int, float)
    if not same or not 0 < model["resnet_widen_factor"] < 1e6:
        return False
    channels = [[int(n * each["resnet_widen_factor"]) for n in STAGE_CHANNELS] for each in (model, found)]
    rest = [{key: each[key] for key in found if key != "resnet_widen_factor"} for each in (model, found)]
    # Depths 34 and 50 differ by their blocks, which `found` has from the weights.
    return channels[0] == channels[1] and rest[0] == rest[1]


def _array(path, name, value):
    # paddle.save stores a parameter of a plain dictionary as the pair (its name, its array).
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        value = value[1]
    array = value.content if isinstance(value, Built) else None
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path}: {name!r:.80} is not an array of floating-point numbers")
    return array
