"""Wide ResNet3D: a ResNet3D of bottlenecks whose stages are k times as wide and widen by 2, not 4.

Reference: kenshohara/3D-ResNets-PyTorch, `models/wide_resnet.py`. Its releases of 2018, such as
wideresnet-50-kinetics.pth, have a first convolution of 64 channels (`conv1_width`); its code of 2020 makes
that as wide as the first stage, 128.
"""
from model.layers import BLOCKS, STAGE_CHANNELS, Bottleneck, ResidualNetwork
from model.networks._tables import Mismatch, common_arguments, expansion, groups, shape

NAME = "wideresnet"
TITLE = "Wide ResNet3D"
OPTIONS = {
    "model_depth": {"choices": [50, 101, 152, 200]},
    "n_classes": {},
    "n_input_channels": {},
    "resnet_shortcut": {},
    "wide_resnet_k": {"type": "int", "default": 2, "low": 1, "high": 1000, "help": "factor on all channels"},
    "conv1_t_size": {},
    "conv1_t_stride": {},
    "no_max_pool": {},
    "conv1_width": {},
}
NOT_THE_REFERENCES = ["conv1_width"]


class WideBottleneck(Bottleneck):
    """A bottleneck whose last convolution has twice the channels of the others."""

    expansion = 2


class WideResNet3D(ResidualNetwork):
    """Map clips `[N, C, T, H, W]` float32, normalised, to logits `[N, n_classes]` float32.

    The arguments bear the reference's option names; `conv1_width` is the number of channels of the first
    convolution. Depth 50 has 157,726,181 parameters with 101 classes, 157,635,621 with the stem of 2018.
    """

    def __init__(self, model_depth, wide_resnet_k, **rest):
        super().__init__(
            WideBottleneck,
            BLOCKS[model_depth],
            [channels * wide_resnet_k for channels in STAGE_CHANNELS],
            **rest,
        )


def arguments_of(shapes):
    """Read the arguments off the names and shapes of weights; None if these are another network's.

    `conv1_t_stride` and `no_max_pool` leave no trace in weights. Raises Mismatch for what is nearly a wide
    ResNet3D.
    """
    if "conv1.weight" not in shapes or "layer1.0.conv1.weight" not in shapes:
        return None
    if expansion(shapes) != WideBottleneck.expansion or (groups(shapes) or 1) > 1:
        return None
    width, n_input_channels, t_size, *_ = shape(shapes, "conv1")
    k, rest = divmod(shape(shapes, "layer4.0.conv1")[0], STAGE_CHANNELS[-1])
    if rest:
        raise Mismatch(f"layer4.0.conv1.weight has shape {list(shapes['layer4.0.conv1.weight'])}")
    return {
        **common_arguments(shapes),
        "n_input_channels": n_input_channels,
        "wide_resnet_k": k,
        "conv1_t_size": t_size,
        "conv1_width": None if width == STAGE_CHANNELS[0] * k else width,
    }


def describe(arguments):
    """Return the network in words; the part before the comma is its title."""
    width = arguments["conv1_width"]
    return (
        f"{TITLE}-{arguments['model_depth']}, shortcut {arguments['resnet_shortcut']}, "
        f"k {arguments['wide_resnet_k']}" + (f", conv1 {width} wide" if width else "")
    )
