"""DenseNet3D with PyTorch's functions."""
import torch
import torch.nn.functional as F

from model.torch_forward._layers import Layers

NAME = "densenet"


def logits(tensors, clips, arguments):
    """Return the logits; depth and widths follow from the tensors."""
    layers = Layers(tensors)
    x = layers.stem(clips, "conv1", "norm1", arguments)
    for block in (1, 2, 3, 4):
        i = 1
        while f"denseblock{block}.denselayer{i}.norm1" in layers:
            name, out = f"denseblock{block}.denselayer{i}", x
            for part in (1, 2):
                out = F.relu(layers.norm(out, f"{name}.norm{part}"))
                out = layers.conv(out, f"{name}.conv{part}")
            x = torch.cat((x, out), 1)
            i += 1
        if block < 4:
            x = F.relu(layers.norm(x, f"transition{block}.norm"))
            x = F.avg_pool3d(layers.conv(x, f"transition{block}.conv"), 2, 2)
    x = F.relu(layers.norm(x, "norm5")).mean((2, 3, 4))
    return layers.linear(x, "classifier")
