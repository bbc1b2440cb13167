"""The entry point of Paddle's hub, which imports this file from a copy of the repository:

    net = paddle.hub.load("<its folder>", "resnet3d", source="local", checkpoint="results/best.pdparams")
"""
from model.checkpoint import load_network

dependencies = ["paddle", "numpy"]


def resnet3d(checkpoint):
    """Return the network of a `.pdparams` file in eval mode: clips `[N, 3, T, H, W]` to logits.

    Its `facts` say how a clip is made (`facts["input"]`) and what the outputs are (`facts["class_names"]`).
    """
    net, net.facts = load_network(checkpoint)
    return net
