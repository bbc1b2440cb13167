"""Stage 2: a checkpoint of 3D-ResNets-PyTorch to Paddle weights, or Paddle weights to other formats.

    python convert_to_paddle.py weights/r3d50_KM_200ep.pth

writes weights/r3d50_KM_200ep.pdparams, and prints the network that it found and the largest
difference between the logits of the two frameworks. The other way, from a checkpoint of train.py or
converted weights, `--to` torch, onnx or inference writes results/best.pth, results/best.onnx or
results/best_inference/ from results/best.pdparams, and prints the same. The only script that needs
torch, and this only where a .pth is read or written.
"""
import io
import warnings
import zipfile

from opts import UserError, convert_options, run

if __name__ == "__main__":
    OPTIONS = convert_options()  # before Paddle, so that --help answers at once

import numpy as np
import paddle

from datasets.clips import MEANS
from disk import DiskFull, write_file, write_folder
from model.checkpoint import DEFAULT_INPUT, load_network, save_checkpoint
from model.engine import prepare_device
from model.export import card_of, inference_files, onnx_model, reference_options, require_onnx_packages
from model.resnet3d import BLOCKS, ResNet3D
from model.weights import architecture_of, count_parameters, from_torch, load_weights, to_torch, weights_of

# Float32 sums in another order; 1.6e-6 is the most that any depth showed.
LARGEST_DIFFERENCE = 1e-4
# Where what is written goes beside what was read, and what it is called.
FORMATS = {
    "paddle": (".pdparams", "Paddle"),
    "torch": (".pth", "PyTorch"),
    "onnx": (".onnx", "ONNX Runtime"),
    "inference": ("_inference", "Paddle Inference"),
}


def read_torch_checkpoint(path):
    """Return the state dict of a `.pth` as `{name: tensor}`; runs no code from the file.

    Reads the reference's `{"epoch", "arch", "state_dict", ...}` and bare state dicts.
    """
    import torch

    try:
        _refuse_zip_bomb(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old pickle protocols
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint; README.md says where the released ones are") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder, expected a .pth file") from None
    except (PermissionError, UserError):
        raise
    except Exception as error:  # a broken pickle raises nearly anything
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        raise UserError(f"{path}: not a checkpoint of PyTorch, or a broken one ({reason:.200})") from None
    state_dict = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state_dict, dict) or not state_dict:
        raise UserError(f"{path}: holds no state dict")
    for name, tensor in state_dict.items():
        if not isinstance(name, str) or not name.isprintable() or not isinstance(tensor, torch.Tensor):
            raise UserError(f"{path}: {name!r:.80} in its state dict is not a tensor")
        is_plain = tensor.layout is torch.strided and tensor.device.type == "cpu"
        # A tensor can claim any shape by strides of 0.
        if not is_plain or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise UserError(f"{path}: {name} is not a plain tensor with all its numbers")
        if not tensor.is_floating_point() and not name.endswith("num_batches_tracked"):
            raise UserError(f"{path}: {name} holds {tensor.dtype}, expected floating-point numbers")
    return state_dict


def _refuse_zip_bomb(path):
    """Raise UserError for a zip that unpacks to more than its size; torch.save does not compress."""
    with open(path, "rb") as file:
        n_bytes = file.seek(0, 2)
        if zipfile.is_zipfile(file):
            n_unpacked = sum(entry.file_size for entry in zipfile.ZipFile(file).infolist())
            if n_unpacked > n_bytes:
                raise UserError(
                    f"{path}: {n_bytes:,} bytes that unpack to {n_unpacked:,}; not a file of torch.save"
                )


def torch_logits(state_dict, clips, model):
    """Run clips through the tensors with `torch.nn.functional` alone; return the logits.

    `model` holds the arguments of `ResNet3D`, for what leaves no trace in the tensors.

    Written apart from `model/`, so that the two can be held against each other.
    """
    import torch
    import torch.nn.functional as F

    depth = model["model_depth"]
    tensors = {name[7:] if name.startswith("module.") else name: t for name, t in state_dict.items()}

    def conv(x, name, stride=1):
        kernel = tensors[f"{name}.weight"]
        return F.conv3d(x, kernel, stride=stride, padding=[size // 2 for size in kernel.shape[2:]])

    def norm(x, name):
        mean, variance = tensors[f"{name}.running_mean"], tensors[f"{name}.running_var"]
        return F.batch_norm(x, mean, variance, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    def block(x, name, stride):
        n_convs = 3 if depth >= 50 else 2
        strided = 2 if depth >= 50 else 1
        out = x
        for i in range(1, n_convs + 1):
            out = norm(conv(out, f"{name}.conv{i}", stride if i == strided else 1), f"{name}.bn{i}")
            out = F.relu(out) if i < n_convs else out
        if f"{name}.downsample.0.weight" in tensors:
            x = norm(conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
        elif out.shape != x.shape:
            x = x[:, :, ::stride, ::stride, ::stride]
            x = F.pad(x, (0, 0, 0, 0, 0, 0, 0, out.shape[1] - x.shape[1]))
        return F.relu(out + x)

    with torch.no_grad():
        x = conv(torch.from_numpy(clips), "conv1", (model["conv1_t_stride"], 2, 2))
        x = F.relu(norm(x, "bn1"))
        x = x if model["no_max_pool"] else F.max_pool3d(x, 3, 2, 1)
        for stage, n_blocks in enumerate(BLOCKS[depth], start=1):
            for i in range(n_blocks):
                x = block(x, f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1)
        return F.linear(x.mean((2, 3, 4)), tensors["fc.weight"], tensors["fc.bias"]).numpy()


def check(logits_of, net, facts, other):
    """Print the largest difference of two networks' logits, and raise UserError where it is too large.

    `logits_of` runs clips, an array, through the other one: one clip and two, as any batch has to do.
    """
    size, duration = facts["input"]["sample_size"], facts["input"]["sample_duration"]
    clips = np.random.default_rng(0).standard_normal((2, 3, duration, size, size), np.float32)
    net.eval()
    with paddle.no_grad():
        expected = net(paddle.to_tensor(clips)).numpy()
    found = np.concatenate([logits_of(clips), logits_of(clips[:1])])
    difference = np.abs(found - expected[[0, 1, 0]]).max() / np.abs(expected).max()
    print(f"largest difference of the logits, {other}: {difference:.1e} of the largest logit")
    if not difference <= LARGEST_DIFFERENCE:
        raise UserError("the networks differ, nothing was written")


def torch_checkpoint(net, facts):
    """Return the bytes of a checkpoint that 3D-ResNets-PyTorch can start from or resume, and a function
    that runs it on clips.

    Its loaders compare `arch` and go on after `epoch`; the states of optimizer and scheduler, which are
    not written, they start afresh.
    """
    import torch

    entries = (facts.get(key) for key in ("run", "best"))
    epochs = [entry["epoch"] for entry in entries if isinstance(entry, dict) and "epoch" in entry]
    weights = to_torch(weights_of(net))
    content = {
        "epoch": epochs[0] if epochs and type(epochs[0]) is int else 0,
        "arch": f"resnet-{facts['model']['model_depth']}",
        "state_dict": {name: torch.from_numpy(array) for name, array in weights.items()},
    }
    file = io.BytesIO()
    torch.save(content, file)
    written = torch.load(io.BytesIO(file.getvalue()), weights_only=True)["state_dict"]
    return file.getvalue(), lambda clips: torch_logits(written, clips, facts["model"])


def describe(path, model, net, n_tensors):
    """Print what network a file holds."""
    print(
        f"{path}: ResNet3D-{model['model_depth']}, shortcut {model['resnet_shortcut']}, widen "
        f"factor {model['resnet_widen_factor']:g}, {model['n_classes']} classes, "
        f"{n_tensors} tensors, {count_parameters(net):,} parameters"
    )


def to_paddle(torch_path, paddle_path, is_verified):
    """Convert a `.pth` to a `.pdparams`."""
    state_dict = {name: tensor.float() for name, tensor in read_torch_checkpoint(torch_path).items()}
    weights = from_torch({name: tensor.numpy() for name, tensor in state_dict.items()})
    facts = {"model": architecture_of(weights), "input": DEFAULT_INPUT, "class_names": None}
    net = ResNet3D(**facts["model"])
    load_weights(net, weights)
    describe(torch_path, facts["model"], net, len(state_dict))
    if is_verified:
        check(lambda clips: torch_logits(state_dict, clips, facts["model"]), net, facts, "PyTorch to Paddle")
    save_checkpoint(paddle_path, weights_of(net), facts)


def from_paddle(to, paddle_path, path, is_verified):
    """Write a `.pdparams` in another format, which is checked before it gets its name."""
    net, facts = load_network(paddle_path)
    # A checkpoint need not tell what is at its default.
    model = {**architecture_of(weights_of(net)), **facts["model"]}
    facts, mean_dataset = {**facts, "model": model}, facts["input"]["mean_dataset"]
    if mean_dataset not in MEANS:
        raise UserError(f"mean_dataset {mean_dataset!r:.80} is not one of {', '.join(MEANS)}")
    card = card_of(facts, *MEANS[mean_dataset])
    describe(paddle_path, model, net, len(net.state_dict()))
    if to == "torch":
        content, logits_of = torch_checkpoint(net, facts)
    elif to == "onnx":
        content, logits_of = onnx_model(net, card)
    else:
        content, logits_of = inference_files(net, card)
    if is_verified:
        check(logits_of, net, facts, f"Paddle to {FORMATS[to][1]}")
    write = write_folder if to == "inference" else write_file
    write(path, content)
    if to == "torch":
        print(f"options of 3D-ResNets-PyTorch: {reference_options(facts)}")


def main(options):
    default = "weights/r3d50_KM_200ep.pth" if options.to == "paddle" else "results/best.pdparams"
    source = options.source_path or options.root_path / default
    target = options.target_path or source.with_name(source.stem + FORMATS[options.to][0])
    if target == source:
        raise UserError(f"{target}: would overwrite the checkpoint it is made from")
    if options.to == "onnx":
        require_onnx_packages(not options.no_verify)
    paddle.set_device("cpu")  # newer GPUs convolve in TF32, which differs from PyTorch by 1e-3
    prepare_device()
    try:
        if options.to == "paddle":
            to_paddle(source, target, not options.no_verify)
        else:
            from_paddle(options.to, source, target, not options.no_verify)
    except UserError as error:
        if isinstance(error, DiskFull) or str(error).startswith((str(source), str(target))):
            raise
        raise UserError(f"{source}: {error}") from None
    files = [path for path in (target, *target.glob("*")) if path.is_file()]
    print(f"{target}: {sum(path.stat().st_size for path in files) / 1e6:,.0f} MB")


if __name__ == "__main__":
    run(main, OPTIONS)
