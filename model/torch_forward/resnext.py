"""ResNeXt3D with PyTorch's functions: a ResNet3D, whose widths and groups follow from the tensors."""
from model.torch_forward.resnet3d import logits  # noqa: F401

NAME = "resnext"
