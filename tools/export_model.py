"""Write a checkpoint of train.py, or converted weights, for other programs.

    python tools/export_model.py results/best.pdparams --to onnx

writes results/best.onnx, and prints the network that it found, the largest difference between the logits of
the two programs, and the size of what it wrote. `--to torch` writes results/best.pth for 3D-ResNets-PyTorch
and prints the options that it needs there; `--to inference` the folder results/best_inference/ for Paddle
Inference.
"""
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from opts import export_options
from run.console import UserError, about, run_script, working

if __name__ == "__main__":
    OPTIONS = export_options()  # before Paddle, so that --help answers at once
    with working("loading Paddle"):
        import model.device  # noqa: F401

from model import networks
from model.checkpoint import load_network
from model.device import prepare_device
from model.export import (
    card_of,
    compare,
    inference_files,
    onnx_model,
    reference_options,
    require_onnx_packages,
)
from model.weights import count_parameters
from run.files import atomic_folder, atomic_write

# What is written goes beside what was read, with this ending.
FORMATS = {
    "torch": (".pth", "PyTorch"),
    "onnx": (".onnx", "ONNX Runtime"),
    "inference": ("_inference", "Paddle Inference"),
}


def torch_content(net, metadata):
    """Return the content of a `.pth`, and a function that runs it on clips."""
    from model import torch_forward
    from model.torch_checkpoint import torch_checkpoint

    epochs = [state.epoch for state in (metadata.training, metadata.best) if state is not None]
    known = replace(metadata, training=None).to_json()
    content, state_dict = torch_checkpoint(net, epochs[0] if epochs else 0, known)
    return content, lambda clips: torch_forward.logits(state_dict, clips, metadata.network)


def exported(net, metadata, to):
    """Return what to write, bytes or the files of a folder, and a function that runs it on clips."""
    if to == "torch":
        return torch_content(net, metadata)
    card = card_of(metadata.network, metadata.clip, metadata.class_names)
    return (onnx_model if to == "onnx" else inference_files)(net, card)


def convert(source, to, is_verified):
    """Return what to write of a checkpoint, and its metadata; print what it is and how the two compare."""
    net, metadata = load_network(source)
    with about(source):
        print(
            f"{source}: {networks.describe(metadata.network)}, {metadata.network.arguments['n_classes']} "
            f"classes, {len(net.state_dict())} tensors, {count_parameters(net):,} parameters"
        )
        with working(f"converting to {FORMATS[to][1]}"):
            content, logits_of = exported(net, metadata, to)
        if is_verified:
            line, is_equal = compare(net, logits_of, metadata.clip, f"Paddle to {FORMATS[to][1]}")
            print(line)
            if not is_equal:
                raise UserError("the networks differ, nothing was written")
    return content, metadata


def main(options):
    source, to = options.source_path, options.to
    target = options.target_path or source.with_name(source.stem + FORMATS[to][0])
    if target == source:
        raise UserError(f"{target}: would overwrite the checkpoint it is made from")
    if to == "onnx":
        require_onnx_packages(not options.no_verify)
    prepare_device(on_cpu=True)  # newer GPUs convolve in TF32, which differs by 1e-3
    content, metadata = convert(source, to, not options.no_verify)
    write = atomic_folder if to == "inference" else atomic_write
    write(target, content)
    if to == "torch":
        print(f"options of 3D-ResNets-PyTorch: {reference_options(metadata.network, metadata.clip)}")
    files = [path for path in (target, *target.glob("*")) if path.is_file()]
    print(f"{target}: {sum(path.stat().st_size for path in files) / 1e6:,.0f} MB")


if __name__ == "__main__":
    run_script(main, OPTIONS)
