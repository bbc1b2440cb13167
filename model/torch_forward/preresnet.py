"""Pre-activation ResNet3D with PyTorch's functions."""
import torch.nn.functional as F

from model.torch_forward._layers import Layers

NAME = "preresnet"


def logits(tensors, clips, arguments):
    """Return the logits; depth, widths and shortcut follow from the tensors."""
    layers = Layers(tensors)

    def block(x, name, stride):
        n_convs = 3 if f"{name}.conv3" in layers else 2
        out = x
        for i in range(1, n_convs + 1):
            activated = F.relu(layers.norm(out, f"{name}.bn{i}"))
            out = layers.conv(activated, f"{name}.conv{i}", stride if i == n_convs - 1 else 1)
        return out + layers.shortcut(x, name, stride, out)

    x = layers.stem(clips, "conv1", "bn1", arguments)
    return layers.linear(layers.stages(x, block), "fc")
