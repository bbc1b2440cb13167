"""Checkpoints: one `.pdparams` file with the weights, what is known of them and, in mid-training, the state
of the training.

    {"conv1.weight": array, ..., "fc.bias": array,       the weights, under the network's own names
     "metadata@@": '{"version": 2, ...}',                JSON, see `Metadata`
     "velocity@@": {"fc.weight": array, ...}}            more groups of tensors, only to resume a training

`load_network(path)` gives the network. `net.set_state_dict(paddle.load(path))` reads the file too; keys with
@@ are Paddle's own convention for what is not a tensor. Paddle's loader runs whatever code a pickle asks
for; the one here reads arrays, numbers, text and containers, and refuses the rest.
"""
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model import networks
from model.data_pickle import DataReader, array_of
from model.weights import load_weights
from run.console import UserError
from run.files import atomic_write
from run.fingerprints import Fingerprints
from run.kinds import Spec, field, require_object, versioned
from run.spec import MEANS, MEANS_OF_THE_REFERENCE, ClipSpec, NetworkSpec, Published, Recipe

METADATA, METADATA_V1 = "metadata@@", "facts@@"


@dataclass(frozen=True)
class Best(Spec):
    """The epoch with the highest validation clip accuracy so far, the lower loss deciding a tie."""

    epoch: int = field(1, low=1)
    val_clip_accuracy: float = field(0.0, low=0, high=1)
    val_loss: float = field(0.0)

    def is_better_than(self, other):
        """Tell whether this epoch is better than another, or there is no other."""
        order = lambda best: (best.val_clip_accuracy, -best.val_loss)
        return other is None or order(self) > order(other)


@dataclass(frozen=True)
class TrainingState(Spec):
    """Where a training is: `epoch` finished epochs, `step` steps of the next one and their `sums`.

    `n_videos` and `data` are the number of training videos and the checksum of the annotation (None: not
    known, as version 1 did not keep it), `n_ranks` the number of processes; `scheduler` and `scaler` are
    the states of Paddle's learning rate scheduler and gradient scaler.
    """

    epoch: int = field(0, low=0)
    step: int = field(0, low=0)
    sums: dict = field({}, type=dict)
    n_ranks: int = field(1, low=1)
    n_videos: int = field(1, low=1)
    data: int = field(None, type=int, optional=True)
    scheduler: dict = field({}, type=dict)
    scaler: dict = field({}, type=dict)


@dataclass(frozen=True)
class Metadata:
    """What is known of weights; JSON of version 2:

        {"version": 2,
         "network": {"name": "resnet", "arguments": {"model_depth": 50, "n_classes": 101, ...}},
         "clip": {"sample_size": 112, "mean": [...], "frame_rates": [25, 25, 29.97], ...},
         "class_names": ["ApplyEyeMakeup", ...],    null for weights that came without
         "recipe": {...}, "recipe_name": "paper2_finetune",    null for converted weights
         "published": {...},    the accuracy that was published for the recipe, or null
         "best": {"epoch": 12, "val_clip_accuracy": 0.89, "val_loss": 0.41},    or null
         "training": {"epoch": 20, "step": 0, ...},    `TrainingState`, null if nothing can be resumed
         "training_videos": "3q2+78r+..."}    `Fingerprints` of the videos trained on; null if unknown
    """

    network: NetworkSpec
    clip: ClipSpec = ClipSpec()
    class_names: list = None
    recipe: Recipe = None
    recipe_name: str = None
    published: Published = None
    best: Best = None
    training: TrainingState = None
    training_videos: Fingerprints = None

    def to_json(self):
        """Return what JSON can hold; `from_json` reads it."""
        content = {name: getattr(self, name) for name in self.__dataclass_fields__}
        parts = {k: v.to_json() if hasattr(v, "to_json") else v for k, v in content.items()}
        return {"version": 2, **parts}

    @classmethod
    def from_json(cls, content, where):
        """Return the metadata that `to_json` described. Raises UserError, which names the field."""
        content = versioned(require_object(content, where), 2, where)
        unknown = set(content) - set(cls.__dataclass_fields__)
        if unknown or content.get("network") is None:
            raise UserError(f"{where}: {f'unknown field {min(unknown)!r:.80}' if unknown else 'no network'}")
        for name, spec in _PARTS.items():
            if content.get(name) is not None:
                content[name] = spec.from_json(content[name], f"{where}: {name}")
        content["network"] = networks.checked(content["network"], f"{where}: network")
        if content.get("clip") is None:
            content["clip"] = ClipSpec()
        metadata = cls(**content)
        names, n_classes = metadata.class_names, metadata.network.arguments["n_classes"]
        is_names = type(names) is list and all(type(name) is str for name in names)
        if names is not None and (not is_names or len(names) != n_classes):
            raise UserError(f"{where}: class_names are not {n_classes} names")
        if type(metadata.recipe_name) not in (str, type(None)):
            raise UserError(f"{where}: recipe_name is not text")
        return metadata


_PARTS = {
    "network": NetworkSpec,
    "clip": ClipSpec,
    "recipe": Recipe,
    "published": Published,
    "best": Best,
    "training": TrainingState,
    "training_videos": Fingerprints,
}


class Checkpoint(NamedTuple):
    """`groups` maps "weights", and if a training can be resumed "velocity", to `{name: float array}`."""

    groups: dict
    metadata: Metadata


def save_checkpoint(path, groups, metadata):
    """Write a checkpoint file, whole or not at all."""
    content = {**groups["weights"], METADATA: json.dumps(metadata.to_json())}
    content.update({f"{name}@@": group for name, group in groups.items() if name != "weights"})
    # Protocol 4 keeps array data as plain bytes; Python's default of 4 to 5 depends on the version.
    atomic_write(path, pickle.dumps(content, protocol=4))


def load_checkpoint(path):
    """Read a checkpoint or bare weights (as `convert_to_paddle.py` or `paddle.save` writes them).

    Raises UserError for a file that is missing, cut short, holds anything but data, or no network.
    """
    try:
        content = DataReader(Path(path).read_bytes()).read()
        return _checkpoint_of(content)
    except FileNotFoundError:
        raise UserError(f"{path}: no such weights") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder, expected a .pdparams file") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except OSError:
        raise
    except Exception as error:  # a broken pickle raises nearly anything
        raise UserError(f"{path}: not a .pdparams file, or a broken one ({error!s:.200})") from None


def _checkpoint_of(content):
    if not isinstance(content, dict):
        raise UserError(f"expected a dictionary of arrays, found {type(content).__name__}")
    if "LR_Scheduler" in content or any("_velocity_" in name for name in content):
        raise UserError("an optimizer's state; give the .pdparams file beside it")
    texts = {name: content.pop(name) for name in (METADATA, METADATA_V1) if name in content}
    content.pop("StructuredToParameterName@@", None)  # what paddle.save adds
    groups = {name[:-2]: content.pop(name) for name in [n for n in content if n.endswith("@@")]}
    for name, group in groups.items():
        if not isinstance(group, dict):
            raise UserError(f"{name}@@ is not a dictionary of arrays")
    groups = {name: _arrays(group) for name, group in {**groups, "weights": content}.items()}
    shapes = {name: tuple(array.shape) for name, array in groups["weights"].items()}
    found = networks.recognise(shapes)
    if not texts:
        return Checkpoint(groups, Metadata(found))
    (name, text), *_ = texts.items()
    metadata = metadata_of(text, name, found)
    if networks.shapes_of(metadata.network) != shapes:  # so no larger network is built than the weights are
        raise UserError(f"{name}: of another network than the weights")
    return Checkpoint(groups, metadata)


def metadata_of(text, name, found=None):
    """Return the metadata in JSON text, which stands under a name; `found` is the network of version 1."""
    try:
        described = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{name} is broken: {error!s:.200}") from None
    if name == METADATA_V1:
        described = _upgraded(described, found, name)
    return Metadata.from_json(described, name)


def _arrays(group):
    return {name: array_of(name, value) for name, value in group.items()}


def _upgraded(facts, found, where):
    """Return metadata of version 1 in today's form.

    Version 1 knew one network, kept the normalisation by the name of its data set, and the recipe as the
    options that the run was started with, in `run`.
    """
    facts = dict(require_object(facts, where))
    clip, run = facts.get("input"), facts.get("run")
    content = {
        "version": 2,
        "network": {"name": "resnet", "arguments": facts.get("model", found.arguments)},
        "class_names": facts.get("class_names"),
        "best": _upgraded_best(facts.get("best"), where),
    }
    if clip is not None:
        clip = dict(require_object(clip, f"{where}: input"))
        name = clip.pop("mean_dataset", "kinetics")
        if type(name) is not str or name not in MEANS_OF_THE_REFERENCE:
            known = ", ".join(MEANS_OF_THE_REFERENCE)
            raise UserError(f"{where}: input: mean_dataset is {name!r:.80}, expected {known}")
        content["clip"] = {**clip, "mean": MEANS[name].mean, "std": MEANS[name].std}
    if run is None:  # the best epoch of a run came without its recipe
        return content
    run = require_object(run, f"{where}: run")
    options = require_object(run.get("options"), f"{where}: run: options")
    content["recipe"] = {name: options[name] for name in Recipe.kinds() if name in options}
    names = ("epoch", "step", "sums", "n_ranks", "n_videos", "scheduler", "scaler")
    missing = [name for name in (*names, "ft_begin_module", "best") if name not in run]
    if missing:
        raise UserError(f"{where}: run: no {missing[0]}")
    content["recipe"]["ft_begin_module"] = run["ft_begin_module"]
    content["best"] = _upgraded_best(run["best"], where)
    content["training"] = {name: run[name] for name in names}
    return content


def _upgraded_best(best, where):
    """Return the best epoch of version 1, where epoch 0 stood for none."""
    return best if best is None or require_object(best, f"{where}: best").get("epoch") != 0 else None


def load_network(path):
    """Return `(net, metadata)` of a checkpoint or of bare weights, the network in eval mode.

    Raises UserError as `load_checkpoint` does, and if the tensors are not all the network's.
    """
    groups, metadata = load_checkpoint(path)
    net = networks.empty(metadata.network)
    try:
        load_weights(net, groups["weights"])
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    net.eval()
    return net, metadata


def not_finite(numbers):
    """Return the names of arrays, `{name: array}`, that hold a number that is not finite."""
    return [name for name, array in numbers.items() if not np.isfinite(array).all()]
