"""DenseNet3D: in a block, every layer takes the outputs of all layers before it.

Paper: arXiv:1711.09577, table 1, after Huang et al., arXiv:1608.06993 (DenseNet-BC, growth 32). Reference:
kenshohara/3D-ResNets-PyTorch, `models/densenet.py`, whose code constructs neither of 2018 nor of 2020.
Weights have its names of 2020 without `features.`, which it leaves out of --ft_begin_module, too.
"""
import re

import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from model.layers import StagedNetwork
from model.networks._tables import Mismatch, shape
from run.console import UserError

NAME = "densenet"
TITLE = "DenseNet3D"
OPTIONS = {
    "model_depth": {"default": 121, "choices": [121, 169, 201, 264]},
    "n_classes": {},
    "n_input_channels": {},
    "conv1_t_size": {},
    "conv1_t_stride": {},
    "no_max_pool": {},
}

GROWTH = 32  # channels that a layer adds
# Layers in each of the four blocks.
LAYERS = {
    121: (6, 12, 24, 16),
    169: (6, 12, 32, 32),
    201: (6, 12, 48, 32),
    264: (6, 12, 64, 48),
}


class DenseLayer(nn.Layer):
    """Append `GROWTH` channels to those that come in: BatchNorm, ReLU and convolution, 1x1x1 and 3x3x3."""

    def __init__(self, in_channels):
        super().__init__()
        self.norm1 = nn.BatchNorm3D(in_channels)
        self.conv1 = nn.Conv3D(in_channels, 4 * GROWTH, 1, bias_attr=False)
        self.norm2 = nn.BatchNorm3D(4 * GROWTH)
        self.conv2 = nn.Conv3D(4 * GROWTH, GROWTH, 3, padding=1, bias_attr=False)

    def forward(self, x):
        out = self.conv1(F.relu(self.norm1(x)))
        out = self.conv2(F.relu(self.norm2(out)))
        return paddle.concat([x, out], axis=1)


class Transition(nn.Layer):
    """Halve the channels, the frames and the sides; what is odd loses its last."""

    def __init__(self, in_channels):
        super().__init__()
        self.norm = nn.BatchNorm3D(in_channels)
        self.conv = nn.Conv3D(in_channels, in_channels // 2, 1, bias_attr=False)
        self.pool = nn.AvgPool3D(2, 2)

    def forward(self, x):
        if paddle.in_dynamic_mode():
            _require_halves(x.shape[2:])
        return self.pool(self.conv(F.relu(self.norm(x))))


def _require_halves(sizes):
    """Raise UserError if frames or sides cannot be halved: torch's pool refuses these, Paddle's does not."""
    if 1 in sizes:
        raise UserError(
            "clips too small for a DenseNet3D, which halves them four and five times; give clips of 16 "
            "frames and 32 pixels or more"
        )


class DenseNet3D(StagedNetwork):
    """Map clips `[N, C, T, H, W]` float32, normalised, to logits `[N, n_classes]` float32.

    Clips have at least 16 frames and 32 pixels, as each is halved four and five times. The arguments bear the
    reference's option names. Depth 121 has 11,390,053 parameters with 101 classes.
    """

    head = "classifier"
    fine_tune_from = "denseblock4"

    def __init__(self, model_depth, n_classes, n_input_channels, conv1_t_size, conv1_t_stride, no_max_pool):
        super().__init__(n_input_channels)
        kernel, stride, padding = (conv1_t_size, 7, 7), (conv1_t_stride, 2, 2), (conv1_t_size // 2, 3, 3)
        channels = 2 * GROWTH
        self.conv1 = nn.Conv3D(n_input_channels, channels, kernel, stride, padding, bias_attr=False)
        self.norm1 = nn.BatchNorm3D(channels)
        self.relu = nn.ReLU()
        self.maxpool = nn.Identity() if no_max_pool else nn.MaxPool3D(3, 2, 1)
        for i, n_layers in enumerate(LAYERS[model_depth], start=1):
            layers = [(f"denselayer{j + 1}", DenseLayer(channels + j * GROWTH)) for j in range(n_layers)]
            self.add_sublayer(f"denseblock{i}", nn.Sequential(*layers))
            channels += n_layers * GROWTH
            if i < 4:
                self.add_sublayer(f"transition{i}", Transition(channels))
                channels //= 2
        self.norm5 = nn.BatchNorm3D(channels)
        self.avgpool, self.flatten = nn.AdaptiveAvgPool3D(1), nn.Flatten()
        self.classifier = nn.Linear(channels, n_classes)

    def stages(self):
        blocks = (f"{kind}{i}" for i in (1, 2, 3, 4) for kind in ("denseblock", "transition"))
        return {
            "conv1": [self.conv1],
            "norm1": [self.norm1, self.relu, self.maxpool],
            **{name: [getattr(self, name)] for name in blocks if name != "transition4"},
            "norm5": [self.norm5, self.relu, self.avgpool, self.flatten],
            "classifier": [self.classifier],
        }

    def initialise(self):
        """Draw the initial weights as the reference does: the classifier's bias is 0."""
        super().initialise()
        self.classifier.bias.set_value(paddle.zeros_like(self.classifier.bias))


def own_name(name):
    """Return the name here of a weight of the reference, of 2020 or of 2018; others stay as they are."""
    if not name.startswith("features."):
        return name
    name = re.sub(r"^(conv|norm)0\.", r"\g<1>1.", name[len("features.") :])
    return re.sub(r"(\.denselayer\d+\.(?:conv|norm))\.([12])\.", r"\1\2.", name)


def reference_name(name):
    """Return the reference's name of 2020 for a weight."""
    return name if name.startswith("classifier.") else f"features.{name}"


def arguments_of(shapes):
    """Read the arguments off the names and shapes of weights; None if these are another network's.

    `conv1_t_stride` and `no_max_pool` leave no trace in weights. Raises Mismatch for what is nearly a
    DenseNet3D.
    """
    if not any(name.startswith("denseblock1.denselayer1.") for name in shapes):
        return None
    found = {m.groups() for m in (re.match(r"denseblock([1-4])\.denselayer(\d+)\.", n) for n in shapes) if m}
    counts = tuple(sum(block == n for block, _ in found) for n in "1234")
    depths = [depth for depth in LAYERS if LAYERS[depth] == counts]
    if not depths:
        raise Mismatch(f"no depth has {list(counts)} layers in its blocks")
    _, n_input_channels, t_size, *_ = shape(shapes, "conv1")
    return {
        "model_depth": depths[0],
        "n_classes": shape(shapes, "classifier", 2)[1],
        "n_input_channels": n_input_channels,
        "conv1_t_size": t_size,
    }


def describe(arguments):
    """Return the network in words; the part before the comma is its title."""
    return f"{TITLE}-{arguments['model_depth']}"
