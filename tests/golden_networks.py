"""The golden networks of the families that are here, built with the weights that `seeded.py` gives them.

    net, state_dict, clips, expected = golden_network("resnet50_c1039_seed4")
    difference(net(clips), expected)  ->  8.5e-07
"""
import re

import numpy as np
import seeded
from conftest import GOLDEN, golden

from model import networks
from model.weights import from_torch, load_weights
from run import registry
from run.spec import NetworkSpec

OPTIONS = {
    "shortcut_type": "resnet_shortcut",
    "widen_factor": "resnet_widen_factor",
    "k": "wide_resnet_k",
    "cardinality": "resnext_cardinality",
}


def is_here(family):
    return family in registry.modules(networks.FOLDER)


def cases():
    """Return the golden networks of all families that are here, `{key: (file, case)}`."""
    files = ("logits", "family_logits")
    return {
        key: (file, case)
        for file in files
        for key, case in golden(f"{file}.json").items()
        if is_here(case["kind"])
    }


def spec_of(kind, depth, n_classes, code="2020", **options):
    """Return the spec of a network of the reference; in 2018 the first convolution had 64 channels."""
    arguments = {OPTIONS.get(name, name): value for name, value in options.items()}
    if kind in ("wideresnet", "resnext") and code == "2018":
        arguments["conv1_width"] = 64
    arguments.update(model_depth=depth, n_classes=n_classes)
    return networks.checked(NetworkSpec(kind, arguments), "golden")


def spec_of_key(key, n_classes):
    """Return the spec of a key like wideresnet50_2018 or resnet18_A, None if its family is not here."""
    kind, depth, code, shortcut = re.fullmatch(r"([a-z]+(?:2p1d)?)(\d*)_?(20\d\d|work)?_?(A)?", key).groups()
    options = {"shortcut_type": shortcut} if shortcut else {}
    return spec_of(kind, int(depth), n_classes, code, **options) if is_here(kind) else None


def of_2018(name):
    """Return what 2018 called a weight that has this name in 2020: DenseNet's differ."""
    name = re.sub(r"^features\.(conv|norm)1\.", r"features.\g<1>0.", name)
    return re.sub(r"(denselayer\d+\.(?:conv|norm))([12])\.", r"\1.\2.", name)


def torch_shapes(spec, code="2020"):
    """Return the reference's names and shapes for a network's weights, without the counters."""
    names = {"_mean": "running_mean", "_variance": "running_var"}
    shapes = {}
    for name, shape in networks.shapes_of(spec).items():
        stem, _, last = name.rpartition(".")
        name = networks.reference_name(spec, f"{stem}.{names.get(last, last)}")
        shapes[of_2018(name) if code == "2018" else name] = list(shape[::-1] if len(shape) == 2 else shape)
    return shapes


def own(tensors):
    """Return tensors of the reference under the names that they have here."""
    return {networks.own_name(name): tensor for name, tensor in tensors.items()}


def paddle_shapes(torch_shapes):
    """Return the names and shapes that weights of the reference have here."""
    zeros = {name: np.broadcast_to(np.float32(0), shape) for name, shape in torch_shapes.items()}
    return {name: array.shape for name, array in from_torch(own(zeros)).items()}


def golden_network(key):
    """Return a golden network, its state dict of the reference, clips and the logits that are expected."""
    file, case = cases()[key]
    spec = spec_of(
        case["kind"], case["depth"], case["n_classes"], case.get("code", "2020"), **case["options"]
    )
    factor = np.float32(case.get("conv_scale", 1))
    state_dict = {}
    for name, shape in torch_shapes(spec, case.get("code", "2020")).items():
        array = seeded.tensor(name, shape, case["seed"])
        state_dict[name] = array * factor if len(shape) == 5 else array
    net = networks.empty(spec)
    load_weights(net, from_torch(own(state_dict)))
    net.eval()
    clips = seeded.clips(case["input_seed"], *case["clips"][:4])
    return net, state_dict, clips, np.load(GOLDEN / f"{file}.npz")[key]


def difference(found, expected):
    """Return the largest difference of two arrays over the largest value expected."""
    return np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()
