"""R(2+1)D: each convolution over time and space is one over space and one over time, with a ReLU between.

Reference: kenshohara/3D-ResNets-PyTorch, `models/resnet2p1d.py` (2020), whose names and channels these are.
Differs from the paper (Tran et al., CVPR 2018, arXiv:1711.11248), whose stem has 45 channels in the middle.
"""
import paddle.nn as nn
import paddle.nn.functional as F

from model.layers import BLOCKS, STAGE_CHANNELS, ResidualNetwork
from model.networks._tables import common_arguments, shape

NAME = "resnet2p1d"
TITLE = "R(2+1)D"
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


def middle(in_channels, channels):
    """Return the channels between a convolution over space and one over time.

    As many as make both together as large as the 3x3x3 convolution in whose place they stand.
    """
    return 27 * in_channels * channels // (9 * in_channels + 3 * channels)


def over_space(in_channels, channels, stride=1):
    """Return a 1x3x3 convolution."""
    return nn.Conv3D(in_channels, channels, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias_attr=False)


def over_time(in_channels, channels, stride=1):
    """Return a 3x1x1 convolution."""
    return nn.Conv3D(in_channels, channels, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias_attr=False)


class BasicBlock(nn.Layer):
    """Two split convolutions and a shortcut: the block of depths 10, 18 and 34."""

    expansion = 1

    def __init__(self, in_channels, channels, stride, downsample):
        super().__init__()
        middle1, middle2 = middle(in_channels, channels), middle(channels, channels)
        self.conv1_s = over_space(in_channels, middle1, stride)
        self.bn1_s = nn.BatchNorm3D(middle1)
        self.conv1_t = over_time(middle1, channels, stride)
        self.bn1_t = nn.BatchNorm3D(channels)
        self.conv2_s = over_space(channels, middle2)
        self.bn2_s = nn.BatchNorm3D(middle2)
        self.conv2_t = over_time(middle2, channels)
        self.bn2_t = nn.BatchNorm3D(channels)
        self.downsample = downsample

    def forward(self, x):
        out = F.relu(self.bn1_s(self.conv1_s(x)))
        out = F.relu(self.bn1_t(self.conv1_t(out)))
        out = F.relu(self.bn2_s(self.conv2_s(out)))
        out = self.bn2_t(self.conv2_t(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Layer):
    """1x1x1, split 3x3x3 (carries the stride) and 1x1x1 convolutions and a shortcut: depths 50 and more."""

    expansion = 4

    def __init__(self, in_channels, channels, stride, downsample):
        super().__init__()
        middle2 = middle(channels, channels)
        self.conv1 = nn.Conv3D(in_channels, channels, 1, bias_attr=False)
        self.bn1 = nn.BatchNorm3D(channels)
        self.conv2_s = over_space(channels, middle2, stride)
        self.bn2_s = nn.BatchNorm3D(middle2)
        self.conv2_t = over_time(middle2, channels, stride)
        self.bn2_t = nn.BatchNorm3D(channels)
        self.conv3 = nn.Conv3D(channels, channels * self.expansion, 1, bias_attr=False)
        self.bn3 = nn.BatchNorm3D(channels * self.expansion)
        self.downsample = downsample

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2_s(self.conv2_s(out)))
        out = F.relu(self.bn2_t(self.conv2_t(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet2p1D(ResidualNetwork):
    """Map clips `[N, C, T, H, W]` float32, normalised, to logits `[N, n_classes]` float32.

    The arguments are those of `ResNet3D`. Depth 18 has 33,267,777 parameters with 101 classes, depth 50 has
    46,422,731.
    """

    def __init__(self, model_depth, resnet_widen_factor, **rest):
        super().__init__(
            BasicBlock if model_depth < 50 else Bottleneck,
            BLOCKS[model_depth],
            [int(channels * resnet_widen_factor) for channels in STAGE_CHANNELS],
            **rest,
        )

    def add_stem(self, n_input_channels, width, t_size, t_stride):
        # Reference: 110 for width 64. The 3 is that of RGB, for any number of input channels.
        mid = 3 * width * t_size * 49 // (3 * 49 + t_size * width)
        self.conv1_s = nn.Conv3D(n_input_channels, mid, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias_attr=False)
        self.bn1_s = nn.BatchNorm3D(mid)  # [N, 110, 16, 56, 56]
        kernel, stride, padding = (t_size, 1, 1), (t_stride, 1, 1), (t_size // 2, 0, 0)
        self.conv1_t = nn.Conv3D(mid, width, kernel, stride, padding, bias_attr=False)
        self.bn1_t = nn.BatchNorm3D(width)  # [N, 64, 16, 56, 56]

    def stem_stages(self):
        return {
            "conv1_s": [self.conv1_s],
            "bn1_s": [self.bn1_s, self.relu],
            "conv1_t": [self.conv1_t],
            "bn1_t": [self.bn1_t, self.relu, self.maxpool],
        }


def arguments_of(shapes):
    """Read the arguments off the names and shapes of weights; None if these are another network's.

    `conv1_t_stride` and `no_max_pool` leave no trace in weights. Raises Mismatch for what is nearly an
    R(2+1)D.
    """
    if "conv1_s.weight" not in shapes and "conv1_t.weight" not in shapes:
        return None
    width, _, t_size, *_ = shape(shapes, "conv1_t")
    is_bottleneck = "layer1.0.conv3.weight" in shapes
    factor = shape(shapes, f"layer4.0.conv1{'' if is_bottleneck else '_t'}")[0] / STAGE_CHANNELS[-1]
    return {
        **common_arguments(shapes),
        "n_input_channels": shape(shapes, "conv1_s")[1],
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
