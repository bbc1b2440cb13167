"""Checkpoints of 3D-ResNets-PyTorch, `.pth`, and what other programs save of such networks:

    {"epoch": 200, "arch": "resnet-50", "state_dict": {"conv1.weight": tensor, ...},
     "optimizer": {...}, "scheduler": {...}, "metadata": '{"version": 2, ...}'}

`metadata` is ours: what a `.pth` cannot tell else (`Metadata` in `model/checkpoint.py`), as JSON text. Errors
do not name the file; who knows its path does.
"""
import io
import json
import re
import warnings
import zipfile
from typing import NamedTuple, Optional

from model import networks
from model.weights import to_torch, weights_of
from run.console import UserError, first_names, note, shown

# What programs keep beside their tensors, and what it is made of: read as nothing, and named.
_SKIPPED = ("argparse.Namespace", "numpy.dtype", "_codecs.encode") + tuple(
    f"{package}.multiarray.scalar" for package in ("numpy.core", "numpy._core")
)
_SKIPPED += tuple(f"numpy.dtypes.{name}DType" for name in ("Float64", "Float32", "Int64", "Int32", "Bool"))


class TorchCheckpoint(NamedTuple):
    """`state_dict` maps names to tensors, as they are called here and without a wrapper's prefix; `metadata`
    is JSON text or None.
    """

    state_dict: dict
    metadata: Optional[str]


def _stand_ins(met):
    """Return a class for each of `_SKIPPED`, as torch takes it: made of anything, it holds nothing.

    The names of those that a file makes are added to `met`, a set.
    """

    def stand_in(full_name):
        class Skipped:
            def __init__(self, *_, **__):
                met.add(full_name)

            def __setstate__(self, state):
                met.add(full_name)

        return Skipped, full_name

    return [stand_in(name) for name in _SKIPPED]


def read_torch_checkpoint(path, key=None):
    """Read a `.pth` or `.safetensors`; runs no code from the file.

    `key` names the state dict in it, None for the only one there is. Wrappers' prefixes, such as the
    `module.` of DataParallel, are taken off, with a note for any other.
    """
    try:
        refuse_other_files(path)
        content = _load(path)
    except FileNotFoundError:
        raise UserError("no such checkpoint; README.md says where the released ones are") from None
    except IsADirectoryError:
        raise UserError("a folder, expected a .pth file") from None
    state_dict = _state_dict_of(content, key)
    for name, tensor in state_dict.items():
        _require_plain_tensor(name, tensor)
    metadata = content.get("metadata")
    state_dict = _with_own_names(_without_prefix(state_dict))
    return TorchCheckpoint(state_dict, metadata if isinstance(metadata, str) else None)


def _load(path):
    """Return what a file holds; what is not data is refused, or skipped if it is known to be harmless."""
    if str(path).endswith(".safetensors"):
        return _load_safetensors(path)
    import torch

    met = set()
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_stand_ins(met)):
            warnings.simplefilter("ignore")  # of old pickle protocols
            content = torch.load(path, map_location="cpu", weights_only=True)
        if met:
            note(f"{first_names(sorted(met))} beside the tensors: not read")
        return content
    except (PermissionError, UserError):
        raise
    except Exception as error:  # a broken pickle raises nearly anything
        found = re.search(r"(?:GLOBAL|global|class|function) ([a-z_]\w*(?:\.\w+)+)", str(error))
        if found:
            raise UserError(
                f"holds {found[1]}, which is code and not data; it was not run. Save the tensors "
                "alone: torch.save({'state_dict': net.state_dict()}, path)"
            ) from None
        reason = re.sub(r"\x1b\[\d*m", "", f"{type(error).__name__}: {error}".split("\n")[0])
        raise UserError(f"not a checkpoint of PyTorch, or a broken one ({reason:.200})") from None


def _load_safetensors(path):
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise UserError("needs the package safetensors: pip install safetensors") from None
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"not a .safetensors file, or a broken one ({error!s:.200})") from None


def refuse_other_files(path):
    """Raise UserError for what a download or a mix-up puts instead of a checkpoint."""
    with open(path, "rb") as file:
        head = file.read(512)
        n_bytes = file.seek(0, 2)
        text = head.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
        if text.startswith((b"<!doctype", b"<html")):
            raise UserError("a web page and no checkpoint; download the file itself")
        if head.startswith(b"version https://git-lfs"):
            raise UserError("a pointer of Git LFS and no checkpoint; git lfs pull brings the file")
        if head.startswith((b"\x80\x04", b"\x80\x05")):
            raise UserError(
                "not a checkpoint of PyTorch: it begins as Paddle's files do, which need no conversion; "
                "train.py takes those as --pretrain_path"
            )
        if not str(path).endswith(".safetensors") and zipfile.is_zipfile(file):
            n_unpacked = sum(entry.file_size for entry in zipfile.ZipFile(file).infolist())
            if n_unpacked > n_bytes:  # torch.save does not compress
                raise UserError(f"{n_bytes:,} bytes that unpack to {n_unpacked:,}; not a file of torch.save")


def _state_dict_of(content, key):
    """Return the state dict in what a file holds: itself, or the one entry that is one."""
    if not isinstance(content, dict) or not content:
        raise UserError("holds no state dict")
    if key is not None:
        if not isinstance(content.get(key), dict):
            raise UserError(f"holds no {shown(key)}; there are {_keys(content)}")
        return content[key]
    found = [name for name, entry in content.items() if _is_state_dict(entry)]
    if len(found) > 1:
        raise UserError(f"holds {len(found)} state dicts, {_keys(found)}; name one with --key")
    if found:
        if found[0] != "state_dict":
            note(f"the state dict is taken from the key {shown(str(found[0]))}")
        return content[found[0]]
    if isinstance(content.get("state_dict"), dict):
        return content["state_dict"]  # one that is damaged; what is wrong with it is reported
    if any(isinstance(entry, dict) for entry in content.values()):
        raise UserError(f"holds no state dict; its keys are {_keys(content)}")
    return content


def _keys(names):
    return first_names([str(name)[:40] for name in names], 8)


def _is_state_dict(entry):
    import torch

    is_dict = isinstance(entry, dict) and len(entry) > 0
    return is_dict and all(isinstance(n, str) and isinstance(t, torch.Tensor) for n, t in entry.items())


def _without_prefix(state_dict):
    """Return tensors under their names without what all of them begin with, such as `_orig_mod.module.`."""
    prefix = ""
    names = list(state_dict)
    while all("." in name for name in names) and len({name.split(".")[0] for name in names}) == 1:
        prefix += names[0].split(".")[0] + "."
        names = [name.split(".", 1)[1] for name in names]
    if prefix not in ("", "module."):
        note(f"all names begin with {shown(prefix)}, which is taken off")
    return {name[len(prefix) :]: tensor.detach() for name, tensor in state_dict.items()}


def _with_own_names(state_dict):
    found = {networks.own_name(name): tensor for name, tensor in state_dict.items()}
    if len(found) < len(state_dict):
        raise UserError("holds the same weights under the names of 2018 and of 2020")
    return found


def _require_plain_tensor(name, tensor):
    import torch

    if not isinstance(name, str) or not name.isprintable() or not isinstance(tensor, torch.Tensor):
        raise UserError(f"{name!r:.80} in its state dict is not a tensor")
    is_plain = tensor.layout is torch.strided and tensor.device.type == "cpu"
    # A tensor can claim any shape by strides of 0.
    if not is_plain or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise UserError(f"{name} is not a plain tensor with all its numbers")
    if not tensor.is_floating_point() and not name.endswith("num_batches_tracked"):
        raise UserError(f"{name} holds {tensor.dtype}, expected floating-point numbers")


def torch_checkpoint(net, epoch, metadata):
    """Return the bytes of a checkpoint that 3D-ResNets-PyTorch can start from or resume, and the state dict
    that was read back of it, with the names that weights have here.

    Its loaders compare `arch` and continue after `epoch`; they start optimizer and scheduler, whose states
    are not written, again. `metadata` is what `Metadata.to_json` gives.
    """
    import torch

    depth = net.spec.arguments.get("model_depth")
    state_dict = {
        networks.reference_name(net.spec, name): torch.from_numpy(array)
        for name, array in to_torch(weights_of(net)).items()
    }
    content = {
        "epoch": epoch,
        "arch": f"{net.spec.name}-{depth}" if depth else net.spec.name,
        "state_dict": state_dict,
        "metadata": json.dumps(metadata),
    }
    file = io.BytesIO()
    torch.save(content, file)
    written = torch.load(io.BytesIO(file.getvalue()), weights_only=True)["state_dict"]
    return file.getvalue(), _with_own_names(written)
