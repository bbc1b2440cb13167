"""How a network's file reads its arguments off a table of names and shapes: what residual ones share."""
import re

from model.layers import BLOCKS

# Arguments that several families share: an entry of their OPTIONS holds only what differs from these.
SHARED = {
    "model_depth": {"type": "int", "default": 50, "help": "layers"},
    "n_classes": {"type": "int", "default": 101, "low": 1, "high": 1_000_000},
    "n_input_channels": {"type": "int", "default": 3, "low": 1, "high": 10_000},
    "resnet_shortcut": {
        "type": "str",
        "default": "B",
        "choices": ["A", "B"],
        "help": "shortcut where a block changes shape: A subsamples and pads with zeros, B convolves",
    },
    "resnet_widen_factor": {
        "type": "float",
        "default": 1.0,
        "low": 0.015625,
        "high": 1000,
        "help": "factor on the channels of all stages",
    },
    "conv1_t_size": {"type": "int", "default": 7, "low": 1, "high": 1000, "help": "frames in conv1's kernel"},
    "conv1_t_stride": {
        "type": "int",
        "default": 1,
        "low": 1,
        "high": 1000,
        "help": "stride of conv1 in time",
    },
    "no_max_pool": {"type": "bool", "default": False, "help": "leave out the max pool after conv1"},
    "conv1_width": {
        "type": "int",
        "low": 1,
        "high": 1_000_000,
        "help": "channels of conv1; default: those of the first stage, 64 in the wide ResNets of 2018",
    },
}


# Those that leave no trace in the weights.
UNTRACED = ("conv1_t_stride", "no_max_pool")


class Mismatch(Exception):
    """Why a table that looks like a network's is not its own. Takes one string."""


def shape(shapes, name, n_axes=5):
    """Return the shape of the weight of a layer; Mismatch if it is missing or has other axes."""
    name = f"{name}.weight"
    if name not in shapes:
        raise Mismatch(f"{name} is missing")
    if len(shapes[name]) != n_axes or 0 in shapes[name]:
        raise Mismatch(f"{name} has shape {list(shapes[name])}")
    return shapes[name]


def expansion(shapes):
    """Return by how much a block widens its channels, 1 for a basic block; None if that is no factor."""
    kernel = shapes.get("layer4.0.conv3.weight")
    if kernel is None:
        return 1
    whole = len(kernel) == 5 and kernel[1] > 0 and kernel[0] % kernel[1] == 0
    return kernel[0] // kernel[1] if whole else None


def groups(shapes):
    """Return the groups of a bottleneck's middle convolution; None if that is no whole number."""
    if "layer4.0.conv3.weight" not in shapes:
        return 1  # basic blocks have no groups
    before, kernel = (shapes.get(f"layer4.0.conv{i}.weight") for i in (1, 2))
    if not before or not kernel or len(kernel) != 5 or not kernel[1] or before[0] % kernel[1]:
        return None
    return before[0] // kernel[1]


def is_preactivated(shapes):
    """Tell whether the norms of a block stand before its convolutions: then they have other widths."""
    last = 3 if "layer2.0.conv3.weight" in shapes else 1
    kernel, norm = (shapes.get(f"layer2.0.{layer}{last}.weight") for layer in ("conv", "bn"))
    return bool(kernel and norm) and tuple(norm) == tuple(kernel[1:2]) != tuple(kernel[:1])


def common_arguments(shapes):
    """Return the arguments that every residual network has, as its blocks and its head show them."""
    blocks = (re.match(r"layer([1-4])\.(\d+)\.", name) for name in shapes)
    found = {match.groups() for match in blocks if match}
    counts = tuple(sum(stage == n for stage, _ in found) for n in "1234")
    is_bottleneck = "layer1.0.conv3.weight" in shapes
    depths = [n for n in BLOCKS if BLOCKS[n] == counts and (n >= 50) == is_bottleneck]
    if not depths:
        raise Mismatch(f"no depth has {list(counts)} blocks in its stages")
    return {
        "model_depth": depths[0],
        "n_classes": shape(shapes, "fc", 2)[1],
        "resnet_shortcut": "B" if "layer2.0.downsample.0.weight" in shapes else "A",
    }
