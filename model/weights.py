"""Weights as `{name: array}`: the reference's names and layouts to Paddle's, and into a network.

Names are the reference checkpoint's (`layer1.0.bn2.weight`), but for BatchNorm's statistics, which
Paddle calls `_mean` and `_variance`. Linear weights are (in, out) in Paddle, (out, in) in torch.
"""
import re

import numpy as np

from model.resnet3d import BLOCKS, STAGE_CHANNELS
from opts import UserError

_RENAMED = {"running_mean": "_mean", "running_var": "_variance"}


def from_torch(state_dict):
    """Rename and transpose a reference state dict of arrays; return Paddle weights, float32.

    Strips the `module.` of DataParallel. `num_batches_tracked` counters are left out: with a fixed
    momentum nothing reads them. Raises UserError where two names become one.
    """
    weights = {}
    for torch_name, array in state_dict.items():
        name = torch_name[len("module.") :] if torch_name.startswith("module.") else torch_name
        stem, _, last = name.rpartition(".")
        if last == "num_batches_tracked":
            continue
        if last in _RENAMED.values():
            raise UserError(f"{name!r:.80} is a name of Paddle's; these weights were converted before")
        if np.asarray(array).dtype.kind != "f":
            raise UserError(f"{name!r:.80} holds {np.asarray(array).dtype}, expected floating-point numbers")
        name = f"{stem}.{_RENAMED[last]}" if last in _RENAMED else name
        if name in weights:
            raise UserError(f"two tensors are called {name}, one of them with module. before it")
        with np.errstate(over="ignore"):  # load_weights refuses what is too large
            array = np.asarray(array, np.float32)
        weights[name] = np.ascontiguousarray(array.T) if name == "fc.weight" else array
    return weights


def to_torch(weights):
    """Undo `from_torch`: return the reference's names and layouts, in the order of the weights.

    torch also counts the batches that each BatchNorm has seen, and reads the counts nowhere while its
    momentum is fixed; they are int64 zeros here.
    """
    renamed = {name: torch_name for torch_name, name in _RENAMED.items()}
    state_dict = {}
    for name, array in weights.items():
        stem, _, last = name.rpartition(".")
        array = np.ascontiguousarray(array.T) if name == "fc.weight" else array
        state_dict[f"{stem}.{renamed.get(last, last)}"] = array
        if last == "_variance":
            state_dict[f"{stem}.num_batches_tracked"] = np.zeros((), np.int64)
    return state_dict


def architecture_of(weights):
    """Read the arguments of `ResNet3D` off the names and shapes of Paddle weights.

    What leaves no trace in the weights, `conv1_t_stride` and `no_max_pool`, is at its default.
    Raises UserError for weights that are no ResNet3D's.
    """

    def shape(name, n_axes):
        array = weights.get(name)
        if array is None or len(array.shape) != n_axes or 0 in array.shape:
            found = "is missing" if array is None else f"has shape {list(array.shape)}"
            raise UserError(f"not the weights of a ResNet3D: {name} {found}")
        return array.shape

    counts = []
    for stage in (1, 2, 3, 4):
        matches = (re.match(rf"layer{stage}\.(\d+)\.conv1\.weight$", name) for name in weights)
        counts.append(len({match[1] for match in matches if match}))
    is_bottleneck = "layer1.0.conv3.weight" in weights
    depths = [
        depth
        for depth, blocks in BLOCKS.items()
        if blocks == tuple(counts) and (depth >= 50) == is_bottleneck
    ]
    if not depths:
        raise UserError(f"not the weights of a ResNet3D: no depth has {counts} blocks in its stages")
    n_channels, n_features = shape("layer4.0.conv1.weight", 5)[0], shape("fc.weight", 2)[0]
    # The largest layers, so that a network of this size is no larger than what the weights hold.
    kernel = tuple(shape("layer4.0.conv2.weight", 5))
    if kernel != (n_channels, n_channels, 3, 3, 3):
        raise UserError(f"not the weights of a ResNet3D: layer4.0.conv2.weight has shape {list(kernel)}")
    if n_features != n_channels * (4 if is_bottleneck else 1):
        raise UserError(f"not the weights of a ResNet3D: fc.weight takes {n_features} features")
    if tuple(shape("fc.bias", 1)) != (shape("fc.weight", 2)[1],):
        raise UserError("not the weights of a ResNet3D: fc.bias and fc.weight differ in their classes")
    if shape("conv1.weight", 5)[1] != 3 or tuple(shape("conv1.weight", 5)[3:]) != (7, 7):
        found = list(shape("conv1.weight", 5))
        raise UserError(f"not the weights of a ResNet3D: conv1.weight has shape {found}")
    return {
        "model_depth": depths[0],
        "n_classes": shape("fc.weight", 2)[1],
        "resnet_shortcut": "B" if "layer2.0.downsample.0.weight" in weights else "A",
        "resnet_widen_factor": n_channels / STAGE_CHANNELS[-1],
        "conv1_t_size": shape("conv1.weight", 5)[2],
        "conv1_t_stride": 1,
        "no_max_pool": False,
    }


def load_weights(net, weights, except_fc=False):
    """Copy weights into the network, every tensor exactly once.

    `except_fc` leaves the network's own `fc` as it is: the head that fine-tuning replaces.
    Raises UserError, naming them, for tensors that are missing, left over or of another shape
    (Paddle's `set_state_dict` only warns), or not finite.
    """
    own = net.state_dict()
    if except_fc:
        own = {name: tensor for name, tensor in own.items() if not name.startswith("fc.")}
        weights = {name: array for name, array in weights.items() if not name.startswith("fc.")}
    problems = [f"{name} is missing" for name in own if name not in weights]
    problems += [f"{name:.80} is not the network's" for name in weights if name not in own]
    for name, tensor in own.items():
        if name in weights:
            array = weights[name]
            if list(array.shape) != list(tensor.shape):
                problems.append(f"{name} is {list(array.shape)}, not {list(tensor.shape)}")
            elif not _is_finite_float32(array):
                problems.append(f"{name} is not finite")
    if problems:
        raise UserError(
            f"{len(problems)} of {len(own)} tensors do not fit: {'; '.join(problems[:3])}"
            f"{'; ...' if len(problems) > 3 else ''}"
        )
    for name, tensor in own.items():
        tensor.set_value(np.asarray(weights[name], np.float32))


def _is_finite_float32(array):
    with np.errstate(over="ignore"):  # a float64 can be finite and too large for a float32
        return np.asarray(array).dtype.kind == "f" and np.isfinite(np.asarray(array, np.float32)).all()


def weights_of(net):
    """Return the network's weights as `{name: float32 array}`, BatchNorm's statistics included."""
    return {name: tensor.numpy() for name, tensor in net.state_dict().items()}


def count_parameters(net):
    """Return the number of learnable values; Paddle also lists BatchNorm's statistics as parameters."""
    return sum(tensor.numel().item() for tensor in learnable(net).values())


def learnable(net):
    """Return the learnable parameters by name, in the order from `conv1` to `fc`."""
    return {
        name: parameter
        for name, parameter in net.named_parameters()
        if not name.endswith(("._mean", "._variance"))
    }
