"""Weights as `{name: array}`: the reference's names and layouts to Paddle's, and into a network.

Names are the reference checkpoint's (`layer1.0.bn2.weight`), except for BatchNorm's statistics, which
Paddle calls `_mean` and `_variance`. Linear weights, which are all that have two axes, are (in, out) in
Paddle, (out, in) in torch.
"""
import math

import numpy as np

from run.console import UserError

_RENAMED = {"running_mean": "_mean", "running_var": "_variance"}


def from_torch(state_dict):
    """Rename and transpose a reference state dict of arrays; return Paddle weights, float32.

    Strips the `module.` of DataParallel. `num_batches_tracked` counters are left out: with a fixed
    momentum nothing reads them. Raises UserError if two names become one.
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
        weights[name] = _transposed(name, array)
    return weights


def to_torch(weights):
    """Undo `from_torch`: return the reference's names and layouts, in the order of the weights.

    torch also counts the batches that each BatchNorm has seen, and reads the counts nowhere while its
    momentum is fixed; they are int64 zeros here.
    """
    renamed = {name: torch_name for torch_name, name in _RENAMED.items()}
    state_dict = {}
    for name, array in weights.items():
        stem, dot, last = name.rpartition(".")
        state_dict[f"{stem}{dot}{renamed.get(last, last)}"] = _transposed(name, array)
        if last == "_variance":
            state_dict[f"{stem}.num_batches_tracked"] = np.zeros((), np.int64)
    return state_dict


def _transposed(name, array):
    """Return a linear layer's weight in the other layout, any other array as it is."""
    is_linear = array.ndim == 2 and name.endswith(".weight")
    return np.ascontiguousarray(array.T) if is_linear else array


def misfit(own, shapes):
    """Return how many names and shapes, `{name: shape}`, are not a network's `own`, and that in words."""
    problems = [f"{name} is missing" for name in own if name not in shapes]
    problems += [f"{name:.80} is not the network's" for name in shapes if name not in own]
    for name, shape in own.items():
        if name in shapes and list(shapes[name]) != list(shape):
            problems.append(f"{name} is {list(shapes[name])}, not {list(shape)}")
    return len(problems), _not_fitting(problems, own)


def _not_fitting(problems, own):
    more = "; ..." if len(problems) > 3 else ""
    return f"{len(problems)} of {len(own)} tensors do not fit: {'; '.join(problems[:3])}{more}"


def load_weights(net, weights, except_head=False):
    """Copy weights into the network, every tensor exactly once.

    `except_head` leaves the network's own head as it is: the layer that fine-tuning replaces.
    Raises UserError, naming them, for tensors that are missing, left over or of another shape
    (Paddle's `set_state_dict` only warns), or not finite.
    """
    own = net.state_dict()
    if except_head:
        own, weights = (
            {name: each[name] for name in each if not name.startswith(f"{net.head}.")}
            for each in (own, weights)
        )
    n_misfits, text = misfit(*({name: a.shape for name, a in each.items()} for each in (own, weights)))
    if n_misfits:
        raise UserError(text)
    problems = [f"{name} is not finite" for name in own if not _is_finite_float32(weights[name])]
    if problems:
        raise UserError(_not_fitting(problems, own))
    for name, tensor in own.items():
        tensor.set_value(np.asarray(weights[name], np.float32))


def adapt_input(weights, shapes):
    """Let the first convolution take another number of channels: each is the mean over those that it had.

    `shapes` are those of the network's own weights, `{name: shape}`; what reads the input is what differs
    from them in the second axis alone. Returns the weights, and the names of those that were changed.
    Paper: arXiv:1608.00859, section 3.2.1, cross-modality pre-training.
    """
    weights, changed = dict(weights), []
    for name, shape in shapes.items():
        array = weights.get(name)
        is_other = array is not None and array.ndim == len(shape) == 5 and array.shape[1] != shape[1]
        if is_other and (array.shape[0], *array.shape[2:]) == (shape[0], *shape[2:]):
            weights[name] = np.repeat(array.mean(axis=1, keepdims=True), shape[1], axis=1)
            changed.append(name)
    return weights, changed


def _is_finite_float32(array):
    with np.errstate(over="ignore"):  # a float64 can be finite and too large for a float32
        return np.asarray(array).dtype.kind == "f" and np.isfinite(np.asarray(array, np.float32)).all()


def weights_of(net):
    """Return the network's weights as `{name: float32 array}`, BatchNorm's statistics included."""
    return {name: tensor.numpy() for name, tensor in net.state_dict().items()}


def count_parameters(net):
    """Return the number of learnable values; Paddle also lists BatchNorm's statistics as parameters."""
    return sum(math.prod(tensor.shape) for tensor in learnable(net).values())


def learnable(net):
    """Return the learnable parameters by name, in the order of the stages."""
    return {
        name: parameter
        for name, parameter in net.named_parameters()
        if not name.endswith(("._mean", "._variance"))
    }
