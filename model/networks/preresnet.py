"""Pre-activation ResNet3D: in a block, BatchNorm and ReLU stand before each convolution.

Paper: arXiv:1711.09577, table 1, after He et al., arXiv:1603.05027. Reference: kenshohara/3D-ResNets-PyTorch,
`models/pre_act_resnet.py`, whose code of 2018 runs; that of 2020 does not construct.
Differs from He et al. as the reference does: a projection has a BatchNorm and takes a block's input before
its first BatchNorm, and neither BatchNorm nor ReLU follows the last block.
"""
import paddle.nn as nn
import paddle.nn.functional as F

from model.layers import BLOCKS, STAGE_CHANNELS, ResidualNetwork
from model.networks._tables import common_arguments, is_preactivated, shape

NAME = "preresnet"
TITLE = "Pre-activation ResNet3D"
OPTIONS = {
    "model_depth": {"choices": [10, 18, 34, 50, 101, 152, 200]},
    "n_classes": {},
    "n_input_channels": {},
    "resnet_shortcut": {},
    "conv1_t_size": {},
    "conv1_t_stride": {},
    "no_max_pool": {},
}


class BasicBlock(nn.Layer):
    """Two 3x3x3 convolutions and a shortcut: the block of depths 10, 18 and 34."""

    expansion = 1

    def __init__(self, in_channels, channels, stride, downsample):
        super().__init__()
        self.bn1 = nn.BatchNorm3D(in_channels)
        self.conv1 = nn.Conv3D(in_channels, channels, 3, stride=stride, padding=1, bias_attr=False)
        self.bn2 = nn.BatchNorm3D(channels)
        self.conv2 = nn.Conv3D(channels, channels, 3, padding=1, bias_attr=False)
        self.downsample = downsample

    def forward(self, x):
        out = self.conv1(F.relu(self.bn1(x)))
        out = self.conv2(F.relu(self.bn2(out)))
        return out + (x if self.downsample is None else self.downsample(x))


class Bottleneck(nn.Layer):
    """1x1x1, 3x3x3 (carries the stride) and 1x1x1 convolutions and a shortcut: depths 50 and more."""

    expansion = 4

    def __init__(self, in_channels, channels, stride, downsample):
        super().__init__()
        self.bn1 = nn.BatchNorm3D(in_channels)
        self.conv1 = nn.Conv3D(in_channels, channels, 1, bias_attr=False)
        self.bn2 = nn.BatchNorm3D(channels)
        self.conv2 = nn.Conv3D(channels, channels, 3, stride=stride, padding=1, bias_attr=False)
        self.bn3 = nn.BatchNorm3D(channels)
        self.conv3 = nn.Conv3D(channels, channels * self.expansion, 1, bias_attr=False)
        self.downsample = downsample

    def forward(self, x):
        out = self.conv1(F.relu(self.bn1(x)))
        out = self.conv2(F.relu(self.bn2(out)))
        out = self.conv3(F.relu(self.bn3(out)))
        return out + (x if self.downsample is None else self.downsample(x))


class PreActivationResNet3D(ResidualNetwork):
    """Map clips `[N, C, T, H, W]` float32, normalised, to logits `[N, n_classes]` float32.

    The arguments bear the reference's option names. Depth 18 has 33,254,821 parameters with 101 classes.
    """

    def __init__(self, model_depth, **rest):
        block = BasicBlock if model_depth < 50 else Bottleneck
        super().__init__(block, BLOCKS[model_depth], STAGE_CHANNELS, conv1_width=None, **rest)


def arguments_of(shapes):
    """Read the arguments off the names and shapes of weights; None if these are another network's.

    `conv1_t_stride` and `no_max_pool` leave no trace in weights. Raises Mismatch for what is nearly a
    pre-activation ResNet3D.
    """
    if "conv1.weight" not in shapes or not is_preactivated(shapes):
        return None
    _, n_input_channels, t_size, *_ = shape(shapes, "conv1")
    return {**common_arguments(shapes), "n_input_channels": n_input_channels, "conv1_t_size": t_size}


def describe(arguments):
    """Return the network in words; the part before the comma is its title."""
    return f"{TITLE}-{arguments['model_depth']}, shortcut {arguments['resnet_shortcut']}"
