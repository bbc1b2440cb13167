"""What the networks are made of: the row of stages that each is, and the parts of the residual ones.

A network is an ordered table of stages by the name of their weights. Its forward pass, its features, its
cut in two parts and what fine-tuning freezes are all read off that one table.
"""
import math

import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from run.console import UserError

# Residual blocks in each of the four stages. Paper: arXiv:1711.09577, table 1.
BLOCKS = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
# Channels of the four stages before a block's expansion, at widen factor 1.
STAGE_CHANNELS = (64, 128, 256, 512)


class StagedNetwork(nn.Layer):
    """A row of stages that maps clips `[N, C, T, H, W]` float32 to logits `[N, n_classes]`.

    A subclass gives `stages`. `head` is the stage that fine-tuning replaces, a linear layer of that name;
    `fine_tune_from` the first stage that it trains if nobody says otherwise. `spec` is the `NetworkSpec`
    that `networks.build` built the network from.
    """

    head = "fc"
    fine_tune_from = "layer4"
    spec = None

    def __init__(self, n_input_channels):
        super().__init__()
        self.n_input_channels = n_input_channels

    def stages(self):
        """Return the layers of each stage, `{name: [layers]}`, in the order in which they run.

        The weights of a stage are called `<name>.<rest>`; layers without weights belong to the stage before.
        """
        raise NotImplementedError

    @property
    def n_features(self):
        """The length of the vectors that the head takes."""
        return getattr(self, self.head).weight.shape[0]

    def _cut(self, begin):
        """Return the layers before a stage, and those from it on."""
        before, after = [], []
        for name, layers in self.stages().items():
            (after if after or name == begin else before).extend(layers)
        return before, after

    def features(self, clips):
        """Return the pooled vectors before the head, `[N, n_features]` float32."""
        x = clips
        for layer in self._cut(self.head)[0]:
            x = layer(x)
        return x

    def forward(self, clips):
        x = self.features(clips)
        for layer in self._cut(self.head)[1]:
            x = layer(x)
        return x

    def split(self, begin):
        """Return the network before a stage and from it on, as two layers that share its own.

        `after(before(clips))` is `net(clips)`.
        """
        before, after = self._cut(begin)
        return nn.Sequential(*before), nn.Sequential(*after)

    def stage_of(self, name):
        """Return the stage that a weight belongs to."""
        return next(stage for stage in self.stages() if name.startswith(f"{stage}."))

    def initialise(self):
        """Draw the initial weights as the reference does, which is not Paddle's default.

        Convolutions: Kaiming normal over fan_out. Linear layers: uniform within 1/sqrt(fan_in), weight
        and bias (torch's default). BatchNorm: weight 1, bias 0.
        """
        for layer in self.sublayers():
            if isinstance(layer, nn.Conv3D):
                out_channels, _, *kernel = layer.weight.shape
                std = math.sqrt(2.0 / (out_channels * math.prod(kernel)))
                layer.weight.set_value(paddle.normal(0.0, std, layer.weight.shape))
            elif isinstance(layer, nn.Linear):
                bound = 1.0 / math.sqrt(layer.weight.shape[0])
                for parameter in (layer.weight, layer.bias):
                    parameter.set_value(paddle.uniform(parameter.shape, min=-bound, max=bound))


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
    """1x1x1, 3x3x3 (carries the stride) and 1x1x1 convolutions and a shortcut: depths 50 and more.

    The 3x3x3 convolution has `width` channels (None: `channels`) in `groups` groups.
    """

    expansion = 4

    def __init__(self, in_channels, channels, stride, downsample, width=None, groups=1):
        super().__init__()
        width = width or channels
        self.conv1 = nn.Conv3D(in_channels, width, 1, bias_attr=False)
        self.bn1 = nn.BatchNorm3D(width)
        self.conv2 = nn.Conv3D(width, width, 3, stride=stride, padding=1, groups=groups, bias_attr=False)
        self.bn2 = nn.BatchNorm3D(width)
        self.conv3 = nn.Conv3D(width, channels * self.expansion, 1, bias_attr=False)
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


def stage(block, in_channels, channels, n_blocks, stride, shortcut_type):
    """Build one stage of blocks; the first carries the stride and the projection."""
    out_channels = channels * block.expansion
    downsample = None
    if shortcut_type == "A" and in_channels > out_channels:
        raise UserError(f"resnet_shortcut A adds channels, and cannot make {out_channels} of {in_channels}")
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


class ResidualNetwork(StagedNetwork):
    """A stem, four stages of residual blocks, the average over time and space, one linear layer.

    `n_blocks` and `channels` have a number for each stage; `conv1_width` is the width of the stem, that
    of the first stage if None. The other arguments bear the reference's option names.
    """

    def __init__(
        self,
        block,
        n_blocks,
        channels,
        n_classes,
        n_input_channels,
        resnet_shortcut,
        conv1_width,
        conv1_t_size,
        conv1_t_stride,
        no_max_pool,
    ):
        super().__init__(n_input_channels)
        n1, n2, n3, n4 = n_blocks
        c1, c2, c3, c4 = channels
        c0, e = conv1_width or c1, block.expansion
        self.relu = nn.ReLU()
        # Shapes for clips [N, 3, 16, 112, 112], ResNet3D-50.
        self.add_stem(n_input_channels, c0, conv1_t_size, conv1_t_stride)  # [N, 64, 16, 56, 56]
        self.maxpool = nn.Identity() if no_max_pool else nn.MaxPool3D(3, 2, 1)  # [N, 64, 8, 28, 28]
        self.layer1 = stage(block, c0, c1, n1, 1, resnet_shortcut)  # [N, 256, 8, 28, 28]
        self.layer2 = stage(block, c1 * e, c2, n2, 2, resnet_shortcut)  # [N, 512, 4, 14, 14]
        self.layer3 = stage(block, c2 * e, c3, n3, 2, resnet_shortcut)  # [N, 1024, 2, 7, 7]
        self.layer4 = stage(block, c3 * e, c4, n4, 2, resnet_shortcut)  # [N, 2048, 1, 4, 4]
        self.avgpool = nn.AdaptiveAvgPool3D(1)  # [N, 2048, 1, 1, 1]
        self.flatten = nn.Flatten()  # [N, 2048]
        self.fc = nn.Linear(c4 * e, n_classes)  # [N, n_classes]

    def add_stem(self, n_input_channels, width, t_size, t_stride):
        """Add the layers before the max pool: here [N, 64, 16, 56, 56]."""
        self.conv1 = nn.Conv3D(
            n_input_channels,
            width,
            (t_size, 7, 7),
            stride=(t_stride, 2, 2),
            padding=(t_size // 2, 3, 3),
            bias_attr=False,
        )
        self.bn1 = nn.BatchNorm3D(width)

    def stem_stages(self):
        """Return the stages of the stem, the max pool included."""
        return {"conv1": [self.conv1], "bn1": [self.bn1, self.relu, self.maxpool]}

    def stages(self):
        return {
            **self.stem_stages(),
            "layer1": [self.layer1],
            "layer2": [self.layer2],
            "layer3": [self.layer3],
            "layer4": [self.layer4, self.avgpool, self.flatten],
            "fc": [self.fc],
        }
