"""The entry points of Paddle's hub, which imports this file from a copy of the repository:

    net = paddle.hub.load("<its folder>", "network", source="local", checkpoint="results/best.pdparams")
"""
from model.checkpoint import load_network

dependencies = ["paddle", "numpy"]


def network(checkpoint):
    """Return the network of a `.pdparams` file in eval mode: clips `[N, C, T, H, W]` to logits.

    Its `metadata` says how a clip is made (`metadata.clip`) and what the outputs are
    (`metadata.class_names`).
    """
    net, net.metadata = load_network(checkpoint)
    return net


resnet3d = network  # what the entry point was called while there was one family
