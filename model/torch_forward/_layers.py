"""Layers as functions of tensors that are found by name."""
import torch.nn.functional as F


class Layers:
    """The layers of a state dict: each takes a tensor and the layer's name."""

    def __init__(self, tensors):
        self.tensors = tensors

    def __contains__(self, name):
        return f"{name}.weight" in self.tensors

    def conv(self, x, name, stride=1):
        """Convolve without a bias, in as many groups as the kernel tells; stride 1 keeps the size."""
        kernel = self.tensors[f"{name}.weight"]
        groups = x.shape[1] // kernel.shape[1]
        padding = [size // 2 for size in kernel.shape[2:]]
        return F.conv3d(x, kernel, stride=stride, padding=padding, groups=groups)

    def norm(self, x, name):
        """Normalise with the running statistics."""
        values = (self.tensors[f"{name}.{v}"] for v in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *values)

    def stem(self, clips, conv, norm, arguments):
        """Run clips through the first convolution, its norm and, unless it is left out, the max pool."""
        x = F.relu(self.norm(self.conv(clips, conv, (arguments["conv1_t_stride"], 2, 2)), norm))
        return x if arguments["no_max_pool"] else F.max_pool3d(x, 3, 2, 1)

    def linear(self, x, name):
        """Apply a linear layer."""
        return F.linear(x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    def shortcut(self, x, name, stride, like):
        """Return a block's input in the shape of its output: projected if it has weights for that."""
        if f"{name}.downsample.0" in self:
            return self.norm(self.conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
        if like.shape == x.shape:
            return x
        x = x[:, :, ::stride, ::stride, ::stride]
        return F.pad(x, (0, 0, 0, 0, 0, 0, 0, like.shape[1] - x.shape[1]))

    def stages(self, x, block):
        """Run the blocks of four stages, `block(x, name, stride)`; return the average of their output."""
        for stage in (1, 2, 3, 4):
            i = 0
            while any(name.startswith(f"layer{stage}.{i}.") for name in self.tensors):
                x = block(x, f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1)
                i += 1
        return x.mean((2, 3, 4))
