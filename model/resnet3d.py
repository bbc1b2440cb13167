"""ResNet3D: the 3D ResNets of Hara, Kataoka and Satoh, with the names of the reference's checkpoints.

Paper: "Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet?", CVPR 2018,
arXiv:1711.09577, table 1. Reference: kenshohara/3D-ResNets-PyTorch, `models/resnet.py`.
"""
import math

import paddle
import paddle.nn as nn
import paddle.nn.functional as F

# Residual blocks in each of the four stages.
BLOCKS = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
# Channels of the four stages before the bottleneck's expansion, at widen factor 1.
STAGE_CHANNELS = (64, 128, 256, 512)


class BasicBlock(nn.Layer):
    """Two 3x3x3 convolutions and a shortcut: the block of depths 10, 18 and 34."""

    expansion = 1

    def __init__(self, in_channels, channels, stride, downsample):
        super().__init__()
        self.conv1 = nn.Conv3D(in_channels, channels, 3, stride=stride, padding=1, bias_attr=False)
        self.bn1 = nn.BatchNorm3D(channels)
        self.conv2 = nn.Conv3D(channels, channels, 3, padding=1, bias_attr=False)
        self.bn2 = nn.BatchNorm3D(channels)
        self.downsample = downsample

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Layer):
    """1x1x1, 3x3x3 (carries the stride) and 1x1x1 convolutions and a shortcut: depths 50 and more."""

    expansion = 4

    def __init__(self, in_channels, channels, stride, downsample):
        super().__init__()
        self.conv1 = nn.Conv3D(in_channels, channels, 1, bias_attr=False)
        self.bn1 = nn.BatchNorm3D(channels)
        self.conv2 = nn.Conv3D(channels, channels, 3, stride=stride, padding=1, bias_attr=False)
        self.bn2 = nn.BatchNorm3D(channels)
        self.conv3 = nn.Conv3D(channels, channels * self.expansion, 1, bias_attr=False)
        self.bn3 = nn.BatchNorm3D(channels * self.expansion)
        self.downsample = downsample

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class ShortcutA(nn.Layer):
    """Subsample with the stride and pad the missing channels with zeros; has no parameters.

    Reference: an average pool of kernel size 1, which is plain subsampling.
    """

    def __init__(self, n_added_channels, stride):
        super().__init__()
        self.n_added_channels = n_added_channels
        self.stride = stride

    def forward(self, x):
        s = self.stride
        x = x[:, :, ::s, ::s, ::s]
        # Not F.pad: oneDNN's crashes on five axes (Paddle 2.6.2 and 3.3.1).
        zeros = paddle.zeros_like(x[:, :1]).expand([-1, self.n_added_channels, -1, -1, -1])
        return paddle.concat([x, zeros], axis=1)


def _stage(block, in_channels, channels, n_blocks, stride, shortcut_type):
    """Build one stage; its first block carries the stride and the projection."""
    out_channels = channels * block.expansion
    downsample = None
    if stride != 1 or in_channels != out_channels:
        if shortcut_type == "A":
            downsample = ShortcutA(out_channels - in_channels, stride)
        else:
            downsample = nn.Sequential(
                nn.Conv3D(in_channels, out_channels, 1, stride=stride, bias_attr=False),
                nn.BatchNorm3D(out_channels),
            )
    blocks = [block(in_channels, channels, stride, downsample)]
    blocks += [block(out_channels, channels, 1, None) for _ in range(n_blocks - 1)]
    return nn.Sequential(*blocks)


class ResNet3D(nn.Layer):
    """Map clips `[N, 3, T, H, W]` float32, normalised RGB, to logits `[N, n_classes]` float32.

    The arguments bear the reference's option names. Depth 50 has 46,405,925 parameters with 101
    classes and 48,327,887 with 1,039.

    Raises ValueError for a depth or a shortcut type that the paper does not have.
    """

    def __init__(
        self,
        model_depth=50,
        n_classes=101,
        resnet_shortcut="B",
        resnet_widen_factor=1.0,
        conv1_t_size=7,
        conv1_t_stride=1,
        no_max_pool=False,
    ):
        super().__init__()
        if model_depth not in BLOCKS:
            raise ValueError(f"model_depth is one of {sorted(BLOCKS)}, not {model_depth}")
        if resnet_shortcut not in ("A", "B"):
            raise ValueError(f"resnet_shortcut is A or B, not {resnet_shortcut}")
        block = BasicBlock if model_depth < 50 else Bottleneck
        self.model_depth = model_depth
        n1, n2, n3, n4 = BLOCKS[model_depth]
        c1, c2, c3, c4 = (int(channels * resnet_widen_factor) for channels in STAGE_CHANNELS)
        e = block.expansion
        # Shapes for clips [N, 3, 16, 112, 112], depth 50.           [N, 3, 16, 112, 112]
        self.conv1 = nn.Conv3D(
            3,
            c1,
            (conv1_t_size, 7, 7),
            stride=(conv1_t_stride, 2, 2),
            padding=(conv1_t_size // 2, 3, 3),
            bias_attr=False,
        )
        self.bn1 = nn.BatchNorm3D(c1)  #                               [N, 64, 16, 56, 56]
        self.maxpool = None if no_max_pool else nn.MaxPool3D(3, 2, 1)  # [N, 64, 8, 28, 28]
        self.layer1 = _stage(block, c1, c1, n1, 1, resnet_shortcut)  # [N, 256, 8, 28, 28]
        self.layer2 = _stage(block, c1 * e, c2, n2, 2, resnet_shortcut)  # [N, 512, 4, 14, 14]
        self.layer3 = _stage(block, c2 * e, c3, n3, 2, resnet_shortcut)  # [N, 1024, 2, 7, 7]
        self.layer4 = _stage(block, c3 * e, c4, n4, 2, resnet_shortcut)  # [N, 2048, 1, 4, 4]
        self.avgpool = nn.AdaptiveAvgPool3D(1)  #                      [N, 2048, 1, 1, 1]
        self.fc = nn.Linear(c4 * e, n_classes)  #                      [N, n_classes]
        _initialise(self)

    def features(self, clips):
        """Return the pooled vectors before `fc`, `[N, C]` float32 (C = 2048 at depth 50)."""
        x = F.relu(self.bn1(self.conv1(clips)))
        if self.maxpool is not None:
            x = self.maxpool(x)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.avgpool(x).flatten(1)

    def forward(self, clips):
        return self.fc(self.features(clips))

    def split(self, begin):
        """Return the network before the module `begin` and from it on, as two layers that share its own.

        `after(before(clips))` is `net(clips)`.
        """
        modules = {
            "conv1": [self.conv1],
            "bn1": [self.bn1, nn.ReLU(), *([] if self.maxpool is None else [self.maxpool])],
            "layer1": [self.layer1],
            "layer2": [self.layer2],
            "layer3": [self.layer3],
            "layer4": [self.layer4, self.avgpool, nn.Flatten()],
            "fc": [self.fc],
        }
        before, after = [], []
        for name, layers in modules.items():
            (after if after or name == begin else before).extend(layers)
        return nn.Sequential(*before), nn.Sequential(*after)


def _initialise(net):
    """Draw the initial weights as the reference does, which is not Paddle's default.

    Convolutions: Kaiming normal over fan_out. fc: uniform within 1/sqrt(fan_in), weight and bias
    (torch's default for a linear layer). BatchNorm: weight 1, bias 0.
    """
    for layer in net.sublayers():
        if isinstance(layer, nn.Conv3D):
            out_channels, _, *kernel = layer.weight.shape
            std = math.sqrt(2.0 / (out_channels * math.prod(kernel)))
            layer.weight.set_value(paddle.normal(0.0, std, layer.weight.shape))
        elif isinstance(layer, nn.Linear):
            bound = 1.0 / math.sqrt(layer.weight.shape[0])
            for parameter in (layer.weight, layer.bias):
                parameter.set_value(paddle.uniform(parameter.shape, min=-bound, max=bound))
