"""Checkpoints: one `.pdparams` file with the weights, the facts about them and, in mid-training,
the state of the training.

    {"conv1.weight": array, ..., "fc.bias": array,        the weights, under the network's own names
     "facts@@": '{"model": {"model_depth": 50, ...}, "class_names": [...], ...}',
     "velocity@@": {"fc.weight": array, ...}}             only where a training can be resumed

`net.set_state_dict(paddle.load(path))` reads it too; keys with @@ are Paddle's own convention for
what is not a tensor. Paddle's loader runs whatever code a pickle asks for; the one here reads
arrays, numbers, text and containers, and refuses the rest.
"""
import io
import json
import pickle
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model.weights import architecture_of
from opts import UserError, write_file

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
        content = _DataUnpickler(io.BytesIO(Path(path).read_bytes())).load()
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
    facts_json, velocity = content.pop(FACTS, None), content.pop(VELOCITY, None)
    content.pop("StructuredToParameterName@@", None)  # what paddle.save adds
    weights = {name: _array(path, name, value) for name, value in content.items()}
    if velocity is not None:
        if not isinstance(velocity, dict):
            raise UserError(f"{path}: {VELOCITY} is not a dictionary of arrays")
        velocity = {name: _array(path, name, value) for name, value in velocity.items()}
    try:
        facts = json.loads(facts_json) if facts_json else {}
        facts.setdefault("model", architecture_of(weights))
        facts.setdefault("input", DEFAULT_INPUT)
        facts.setdefault("class_names", None)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: {FACTS} is broken: {error}") from None
    return Checkpoint(weights, facts, velocity)


def epoch_of(path):
    """Return the epoch in a `save_<epoch>.pdparams` name, None for any other name."""
    match = re.fullmatch(r"save_(\d+)\.pdparams", Path(path).name)
    return int(match[1]) if match else None


def saved_checkpoints(result_path):
    """Return the `save_<epoch>.pdparams` files of a folder, oldest epoch first."""
    paths = [path for path in Path(result_path).glob("save_*.pdparams") if epoch_of(path) is not None]
    return sorted(paths, key=epoch_of)


def newest_checkpoint(path):
    """Return the path itself, or where it is a folder the checkpoint of its last epoch."""
    path = Path(path)
    if not path.is_dir():
        return path
    saved = saved_checkpoints(path)
    if not saved:
        raise UserError(f"{path}: no save_<epoch>.pdparams to resume from")
    return saved[-1]


def _array(path, name, value):
    # paddle.save stores a parameter of a plain dictionary as the pair (its name, its array).
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        value = value[1]
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        raise UserError(f"{path}: {name} is not an array of floating-point numbers")
    return value


class _DataUnpickler(pickle.Unpickler):
    """Reads the few names that pickled arrays need, under numpy 1's and numpy 2's module names."""

    def find_class(self, module, name):
        module = module.replace("numpy._core", "numpy.core")
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return _reconstruct
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if (module, name) == ("numpy.core.multiarray", "scalar"):
            return lambda dtype, data: np.frombuffer(data, dtype)[0]
        # paddle.save wraps each tensor as a call of `tuple`.
        if (module, name) == ("builtins", "tuple"):
            return tuple
        raise UserError(f"holds {module}.{name}, which is code and not data; it was not run")


def _reconstruct(subtype, shape, dtype):
    if subtype is not np.ndarray:
        raise UserError("holds an array of an unknown kind")
    return np.empty(0, np.int8)
