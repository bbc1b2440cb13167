"""R(2+1)D with PyTorch's functions."""
import torch.nn.functional as F

from model.torch_forward._layers import Layers

NAME = "resnet2p1d"


def logits(tensors, clips, arguments):
    """Return the logits; depth, widths and shortcut follow from the tensors."""
    layers = Layers(tensors)

    def split(x, name, of, stride=(1, 1, 1)):
        """Convolve over space, then over time, each with its norm; `stride` is of time, height, width."""
        t, *hw = stride
        x = layers.norm(layers.conv(x, f"{name}conv{of}_s", (1, *hw)), f"{name}bn{of}_s")
        return layers.norm(layers.conv(F.relu(x), f"{name}conv{of}_t", (t, 1, 1)), f"{name}bn{of}_t")

    def block(x, name, stride):
        strides = (stride, stride, stride)
        if f"{name}.conv3" in layers:
            out = F.relu(layers.norm(layers.conv(x, f"{name}.conv1"), f"{name}.bn1"))
            out = F.relu(split(out, f"{name}.", 2, strides))
            out = layers.norm(layers.conv(out, f"{name}.conv3"), f"{name}.bn3")
        else:
            out = split(F.relu(split(x, f"{name}.", 1, strides)), f"{name}.", 2)
        return F.relu(out + layers.shortcut(x, name, stride, out))

    x = F.relu(split(clips, "", 1, (arguments["conv1_t_stride"], 2, 2)))
    x = x if arguments["no_max_pool"] else F.max_pool3d(x, 3, 2, 1)
    return layers.linear(layers.stages(x, block), "fc")
