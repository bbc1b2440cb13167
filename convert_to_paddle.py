"""Stage 2: a checkpoint of 3D-ResNets-PyTorch to Paddle weights. The only script that needs torch.

    python convert_to_paddle.py weights/r3d50_KM_200ep.pth

writes weights/r3d50_KM_200ep.pdparams, and prints the network that it found and the largest
difference between the logits of the two frameworks on one random clip.
"""
import warnings
import zipfile

from opts import UserError, convert_options, run, working

if __name__ == "__main__":
    OPTIONS = convert_options()  # before Paddle, so that --help answers at once
    with working("loading Paddle"):
        import paddle

import numpy as np
import paddle

from model.checkpoint import DEFAULT_INPUT, save_checkpoint
from model.engine import prepare_device
from model.resnet3d import BLOCKS, ResNet3D
from model.weights import architecture_of, count_parameters, from_torch, load_weights, weights_of

# Float32 sums in another order; 1.6e-6 is the most that any depth showed.
LARGEST_DIFFERENCE = 1e-4


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


def torch_logits(state_dict, clip, depth):
    """Run a clip through the tensors with `torch.nn.functional` alone; return the logits.

    Written apart from `model/`, so that the two can be held against each other.
    """
    import torch
    import torch.nn.functional as F

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
        x = F.relu(norm(conv(torch.from_numpy(clip), "conv1", (1, 2, 2)), "bn1"))
        x = F.max_pool3d(x, 3, 2, 1)
        for stage, n_blocks in enumerate(BLOCKS[depth], start=1):
            for i in range(n_blocks):
                x = block(x, f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1)
        return F.linear(x.mean((2, 3, 4)), tensors["fc.weight"], tensors["fc.bias"]).numpy()


def largest_difference(state_dict, net, depth):
    """Return the largest difference of the two networks' logits, relative to the largest logit."""
    clip = np.random.default_rng(0).standard_normal((1, 3, 16, 112, 112), np.float32)
    expected = torch_logits(state_dict, clip, depth)
    net.eval()
    with paddle.no_grad():
        found = net(paddle.to_tensor(clip)).numpy()
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def main(options):
    torch_path = options.torch_path
    paddle_path = options.paddle_path or torch_path.with_suffix(".pdparams")
    if paddle_path == torch_path:
        raise UserError(f"{paddle_path}: would overwrite the checkpoint it is made from")
    with working(f"reading {torch_path.name}"):
        state_dict = {name: tensor.float() for name, tensor in read_torch_checkpoint(torch_path).items()}
    paddle.set_device("cpu")  # newer GPUs convolve in TF32, which differs from PyTorch by 1e-3
    prepare_device()
    try:
        with working("building the network"):
            weights = from_torch({name: tensor.numpy() for name, tensor in state_dict.items()})
            model = architecture_of(weights)
            net = ResNet3D(**model)
            load_weights(net, weights)
    except UserError as error:
        raise UserError(f"{torch_path}: {error}") from None
    print(
        f"{torch_path}: ResNet3D-{model['model_depth']}, shortcut {model['resnet_shortcut']}, widen "
        f"factor {model['resnet_widen_factor']:g}, {model['n_classes']} classes, "
        f"{len(state_dict)} tensors, {count_parameters(net):,} parameters"
    )
    if not options.no_verify:
        with working("running a clip through both networks"):
            difference = largest_difference(state_dict, net, model["model_depth"])
        print(f"largest difference of the logits, PyTorch to Paddle: {difference:.1e} of the largest logit")
        if not difference <= LARGEST_DIFFERENCE:
            raise UserError(f"{torch_path}: the networks differ, nothing was written")
    facts = {"model": model, "input": DEFAULT_INPUT, "class_names": None}
    with working(f"writing {paddle_path.name}"):
        save_checkpoint(paddle_path, weights_of(net), facts)
    print(f"{paddle_path}: {paddle_path.stat().st_size / 1e6:,.0f} MB")


if __name__ == "__main__":
    run(main, OPTIONS)
