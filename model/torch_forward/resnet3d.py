"""ResNet3D with PyTorch's functions."""
import torch.nn.functional as F

from model.torch_forward._layers import Layers

NAME = "resnet"


def logits(tensors, clips, arguments):
    """Return the logits; depth, widths and shortcut follow from the tensors."""
    layers = Layers(tensors)

    def block(x, name, stride):
        n_convs = 3 if f"{name}.conv3" in layers else 2
        strided = 2 if n_convs == 3 else 1
        out = x
        for i in range(1, n_convs + 1):
            out = layers.conv(out, f"{name}.conv{i}", stride if i == strided else 1)
            out = layers.norm(out, f"{name}.bn{i}")
            out = F.relu(out) if i < n_convs else out
        return F.relu(out + layers.shortcut(x, name, stride, out))

    x = layers.stem(clips, "conv1", "bn1", arguments)
    return layers.linear(layers.stages(x, block), "fc")
