"""The networks: one file a family, found because it lies here. No other file knows one by name.

A family's file has

    NAME = "resnet"               literal: its `--model`, the reference's word; `NetworkSpec.name`
    TITLE = "ResNet3D"            literal: its name in messages
    OPTIONS = {...}               literal: every argument of its class, as `registry.option_kinds` reads it
    NOT_THE_REFERENCES = [...]    literal: those of them that 3D-ResNets-PyTorch has no option for
    class ResNet3D(StagedNetwork) the one such class in it; takes all arguments of OPTIONS by name
    arguments_of(shapes)          the arguments, read off the names and shapes of weights; None if these are
                                  another family's; raises `Mismatch` for what is nearly its own
    describe(arguments)           the network in words; the part before the first comma is its title

where its weights are called otherwise than the reference's also

    own_name(name)                the name here of a weight of the reference; any other name as it is
    reference_name(name)          the way back

and the file of the same NAME in `model/torch_forward/` computes the same with PyTorch's functions.
"""
import math

import paddle

from model.layers import StagedNetwork
from model.networks._tables import Mismatch
from model.weights import misfit
from run import registry
from run.console import UserError, first_names, shown
from run.spec import NetworkSpec

FOLDER = "model/networks"


def checked(spec, where):
    """Return the spec with every argument, checked by its family's OPTIONS. Raises UserError: `where`."""
    families = registry.modules(FOLDER)
    if spec.name not in families:
        raise UserError(f"{where}: no network is called {spec.name!r:.80}, only {', '.join(families)}")
    kinds = registry.option_kinds(families[spec.name])
    for name in spec.arguments:
        if name not in kinds:
            owners = [family for family, path in families.items() if name in registry.option_kinds(path)]
            of = f", only {' and '.join(owners)}" if owners else ""
            raise UserError(f"{where}: {spec.name} has no {shown(name):.80}{of}")
    arguments = {}
    for name, (default, kind) in kinds.items():
        value = spec.arguments.get(name, default)
        try:
            arguments[name] = kind.parsed(value)
        except ValueError as error:
            raise UserError(f"{where}: {name} is {value!r:.80}, expected {error}") from None
    return NetworkSpec(spec.name, arguments)


def build(spec):
    """Return the network of a spec with freshly drawn weights; its `spec` has every argument filled in."""
    net = _constructed(spec)
    net.initialise()
    return net


def empty(spec):
    """Return the network of a spec without weights, for `load_weights`: no time goes into drawing them."""
    with paddle.LazyGuard():
        return _constructed(spec)


def shapes_of(spec):
    """Return the names and shapes of a network's weights, `{name: shape}`.

    Two specs have the same exactly if the weights of one fit the other.
    """
    return {name: tuple(tensor.shape) for name, tensor in empty(spec).state_dict().items()}


def recognise(shapes):
    """Return the spec of the network that weights with these names and shapes are of.

    Every name and every shape has to be the network's, so that it is no larger than the weights. What
    leaves no trace in weights is at its default. Raises UserError, which says what does not fit.
    """
    found, near = [], []
    for name in registry.modules(FOLDER):
        family = registry.load(FOLDER, name)
        try:
            arguments = family.arguments_of(shapes)
            if arguments is None:
                continue
            spec = checked(NetworkSpec(name, arguments), name)
            expected = shapes_of(spec)
        except (Mismatch, UserError) as error:
            near.append((math.inf, f"not the weights of a {family.TITLE}: {error}"))
            continue
        n_misfits, text = misfit(expected, shapes)
        if n_misfits:
            near.append((n_misfits, f"not the weights of a {family.TITLE}: {text}"))
        else:
            found.append(spec)
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"the weights of more than one network: {', '.join(map(describe, found))}")
    if near:
        raise UserError(min(near)[1])
    raise UserError(
        f"not the weights of a network known here ({', '.join(registry.modules(FOLDER))}); "
        f"they have {first_names([name[:80] for name in shapes]) or 'no names'}"
    )


def own_name(name):
    """Return what a weight of the reference, of whatever family, is called here."""
    for family in registry.modules(FOLDER):
        module = registry.load(FOLDER, family)
        name = module.own_name(name) if hasattr(module, "own_name") else name
    return name


def reference_name(spec, name):
    """Return what the reference calls a weight of a network, `own_name` turned around."""
    module = registry.load(FOLDER, spec.name)
    return module.reference_name(name) if hasattr(module, "reference_name") else name


def describe(spec):
    """Return a network in words: "ResNet3D-50, shortcut B, widen factor 1"."""
    return registry.load(FOLDER, spec.name).describe(checked(spec, "network").arguments)


def title(spec):
    """Return a network's name in messages: "ResNet3D-50"."""
    return describe(spec).split(",")[0]


def _constructed(spec):
    """Construct the one `StagedNetwork` in the family's file."""
    spec = checked(spec, "network")
    module = registry.load(FOLDER, spec.name)
    classes = [each for each in vars(module).values() if getattr(each, "__module__", "") == module.__name__]
    (network,) = (each for each in classes if isinstance(each, type) and issubclass(each, StagedNetwork))
    net = network(**spec.arguments)
    net.spec = spec
    return net
