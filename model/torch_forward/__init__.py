"""Each network once more, with PyTorch's functions on the tensors of a `.pth`, to prove a conversion.

Written apart from `model/networks/`, one file a family, so that the two can be held against each other. A
file has the literal NAME of its family and

    logits(tensors, clips, arguments)   -> logits [N, n_classes]

`tensors` maps the names that weights have here to torch's tensors; `arguments` are those of the
`NetworkSpec`, for what leaves no trace in tensors. Nothing else imports torch, except
`model/torch_checkpoint.py`.
"""
import torch

from run import registry
from run.console import UserError

FOLDER = "model/torch_forward"


def logits(state_dict, clips, spec):
    """Run clips, an array `[N, C, T, H, W]` float32, through a state dict; return the logits, an array."""
    if spec.name not in registry.modules(FOLDER):
        raise UserError(f"{FOLDER}/ has no file for {spec.name}; --no_verify leaves out the check")
    tensors = {name.removeprefix("module."): tensor for name, tensor in state_dict.items()}
    with torch.no_grad():
        forward = registry.load(FOLDER, spec.name).logits
        return forward(tensors, torch.as_tensor(clips), spec.arguments).numpy()
