"""ResNet3D: the 3D ResNets of Hara, Kataoka and Satoh, with the names of the reference's checkpoints.

Paper: "Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet?", CVPR 2018,
arXiv:1711.09577, table 1. Reference: kenshohara/3D-ResNets-PyTorch, `models/resnet.py`.
"""
from model.layers import BLOCKS, STAGE_CHANNELS, BasicBlock, Bottleneck, ResidualNetwork
from model.networks._tables import common_arguments, expansion, groups, is_preactivated, shape

NAME = "resnet"
TITLE = "ResNet3D"
OPTIONS = {
    "model_depth": {"choices": [10, 18, 34, 50, 101, 152, 200]},
    "n_classes": {},
    "n_input_channels": {},
    "resnet_shortcut": {},
    "resnet_widen_factor": {},
    "conv1_t_size": {},
    "conv1_t_stride": {},
    "no_max_pool": {},
    "conv1_width": {},
}
NOT_THE_REFERENCES = ["conv1_width"]


class ResNet3D(ResidualNetwork):
    """Map clips `[N, C, T, H, W]` float32, normalised, to logits `[N, n_classes]` float32.

    The arguments bear the reference's option names; `conv1_width` is the number of channels of the first
    convolution. Depth 50 has 46,405,925 parameters with 101 classes and 48,327,887 with 1,039.
    """

    def __init__(self, model_depth, resnet_widen_factor, **rest):
        super().__init__(
            BasicBlock if model_depth < 50 else Bottleneck,
            BLOCKS[model_depth],
            [int(channels * resnet_widen_factor) for channels in STAGE_CHANNELS],
            **rest,
        )


def arguments_of(shapes):
    """Read the arguments off the names and shapes of weights; None if these are another network's.

    `conv1_t_stride` and `no_max_pool` leave no trace in weights. Raises Mismatch for what is nearly a
    ResNet3D.
    """
    if "conv1.weight" not in shapes or "layer1.0.conv1.weight" not in shapes:
        return None
    if is_preactivated(shapes) or (groups(shapes) or 1) > 1:
        return None
    if expansion(shapes) not in (BasicBlock.expansion, Bottleneck.expansion):
        return None
    width, n_input_channels, t_size, *_ = shape(shapes, "conv1")
    factor = shape(shapes, "layer4.0.conv1")[0] / STAGE_CHANNELS[-1]
    return {
        **common_arguments(shapes),
        "n_input_channels": n_input_channels,
        "resnet_widen_factor": factor,
        "conv1_t_size": t_size,
        "conv1_width": None if width == int(STAGE_CHANNELS[0] * factor) else width,
    }


def describe(arguments):
    """Return the network in words; the part before the comma is its title."""
    width = arguments["conv1_width"]
    return (
        f"{TITLE}-{arguments['model_depth']}, shortcut {arguments['resnet_shortcut']}, "
        f"widen factor {arguments['resnet_widen_factor']:g}"
        + (f", conv1 {width} wide" if width else "")
    )
