"""ResNeXt3D: a ResNet3D of bottlenecks whose 3x3x3 convolution is in groups.

Paper: arXiv:1711.09577, table 1. Reference: kenshohara/3D-ResNets-PyTorch, `models/resnext.py`. Its releases
of 2018, such as resnext-101-kinetics.pth, have a first convolution of 64 channels (`conv1_width`); its
code of 2020, which does not construct, means that to be as wide as the first stage, 128.
Differs: with another cardinality than 32 the reference's `fc` does not fit its stages; here it does.
"""
from model.layers import BLOCKS, Bottleneck, ResidualNetwork
from model.networks._tables import common_arguments, groups, shape

NAME = "resnext"
TITLE = "ResNeXt3D"
OPTIONS = {
    "model_depth": {"choices": [50, 101, 152, 200]},
    "n_classes": {},
    "n_input_channels": {},
    "resnet_shortcut": {},
    "resnext_cardinality": {
        "type": "int",
        "default": 32,
        "low": 2,
        "high": 1000,
        "help": "groups of the convolutions in groups",
    },
    "conv1_t_size": {},
    "conv1_t_stride": {},
    "no_max_pool": {},
    "conv1_width": {},
}
NOT_THE_REFERENCES = ["conv1_width"]

CHANNELS = (128, 256, 512, 1024)  # of the four stages, before a block's expansion
EXPANSION = 2


def block_of(cardinality):
    """Return the block of that many groups, each with a 32nd of a stage's channels."""

    class GroupedBottleneck(Bottleneck):
        """A bottleneck whose 3x3x3 convolution is in groups."""

        expansion = EXPANSION

        def __init__(self, in_channels, channels, stride, downsample):
            width = cardinality * channels // 32
            super().__init__(in_channels, channels, stride, downsample, width, cardinality)

    return GroupedBottleneck


class ResNeXt3D(ResidualNetwork):
    """Map clips `[N, C, T, H, W]` float32, normalised, to logits `[N, n_classes]` float32.

    The arguments bear the reference's option names; `conv1_width` is the number of channels of the first
    convolution. Depth 101 has 48,340,816 parameters with 400 classes and the stem of 2018.
    """

    def __init__(self, model_depth, resnext_cardinality, **rest):
        super().__init__(block_of(resnext_cardinality), BLOCKS[model_depth], CHANNELS, **rest)


def arguments_of(shapes):
    """Read the arguments off the names and shapes of weights; None if these are another network's.

    `conv1_t_stride` and `no_max_pool` leave no trace in weights. Raises Mismatch for what is nearly a
    ResNeXt3D.
    """
    if "conv1.weight" not in shapes or (groups(shapes) or 1) == 1:
        return None
    width, n_input_channels, t_size, *_ = shape(shapes, "conv1")
    return {
        **common_arguments(shapes),
        "n_input_channels": n_input_channels,
        "resnext_cardinality": groups(shapes),
        "conv1_t_size": t_size,
        "conv1_width": None if width == CHANNELS[0] else width,
    }


def describe(arguments):
    """Return the network in words; the part before the comma is its title."""
    width = arguments["conv1_width"]
    return (
        f"{TITLE}-{arguments['model_depth']}, shortcut {arguments['resnet_shortcut']}, "
        f"cardinality {arguments['resnext_cardinality']}" + (f", conv1 {width} wide" if width else "")
    )
