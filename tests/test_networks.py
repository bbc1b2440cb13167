"""The networks against the reference's logits, names, shapes and numbers of parameters."""
import math

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from conftest import golden, network
from golden_networks import (
    cases,
    difference,
    golden_network,
    of_2018,
    own,
    paddle_shapes,
    spec_of_key,
    torch_shapes,
)

from model import networks
from model.layers import BLOCKS
from model.training.optimization import train_from
from model.weights import count_parameters, learnable, load_weights, weights_of
from run import registry
from run.console import UserError
from run.spec import NetworkSpec

SHAPES = {**golden("state_dict_shapes.json"), **golden("family_state_dict_shapes.json")}
HERE = [key for key in SHAPES if spec_of_key(key, 400)]
NARROW = {
    "resnet": {"resnet_widen_factor": 0.125},
    "resnet2p1d": {"resnet_widen_factor": 0.125},
    "wideresnet": {"wide_resnet_k": 1, "model_depth": 50},
    "preresnet": {},
    "resnext": {"resnext_cardinality": 2, "model_depth": 50},
}


# Of the largest logit: float32 sums in another order are about a fifth of it (`make parity`).
LOGITS_BOUND = 1e-5


def logits_difference(net, clips, expected):
    """Return how far a golden network's logits are from the reference's, over the largest."""
    with paddle.no_grad():
        return difference(net(paddle.to_tensor(clips)).numpy(), expected)


@pytest.fixture(scope="module", params=cases())
def case(request):
    """A golden network, which is built once for all that is asked of it."""
    return (cases()[request.param][1], *golden_network(request.param))


def test_logits_equal_the_references(case):
    facts, net, _, clips, expected = case
    assert count_parameters(net) == facts["n_params"]
    assert logits_difference(net, clips, expected) < LOGITS_BOUND


def test_logits_of_the_independent_forward_equal_the_references(case):
    torch = pytest.importorskip("torch")
    from model import torch_forward

    _, net, state_dict, clips, expected = case
    tensors = {f"module.{name}": torch.from_numpy(array) for name, array in own(state_dict).items()}
    assert difference(torch_forward.logits(tensors, clips, net.spec), expected) < 1e-5


def test_the_weights_of_a_golden_network_are_recognised_as_its_own(case):
    _, net, *_ = case
    found = networks.recognise({name: tuple(tensor.shape) for name, tensor in net.state_dict().items()})
    free = {"conv1_t_stride": 1, "no_max_pool": False}  # leave no trace
    assert found == NetworkSpec(net.spec.name, {**net.spec.arguments, **free})


def other_shapes(key):
    """Return the names of weights whose shape is not the reference's, or that only one of the two has."""
    expected = {name: s for name, s in SHAPES[key].items() if not name.endswith("num_batches_tracked")}
    n_classes = expected.get("fc.bias", expected.get("classifier.bias"))[0]
    found = torch_shapes(spec_of_key(key, n_classes), "2018" if key.endswith("_2018") else "2020")
    return [name for name in {**found, **expected} if found.get(name) != expected.get(name)]


@pytest.mark.parametrize("key", HERE)
def test_every_depth_has_the_references_names_and_shapes(key):
    assert other_shapes(key) == []


COUNTS = [
    (spec_of_key(key, int(n_classes)), n)
    for key, counts in golden("parameter_counts.json").items()
    for n_classes, n in counts.items()
    if spec_of_key(key, int(n_classes))
]


@pytest.mark.parametrize("spec, n", COUNTS, ids=str)
def test_every_depth_has_the_references_number_of_parameters(spec, n):
    learnt = (s for name, s in torch_shapes(spec).items() if ".running_" not in name)
    assert sum(map(math.prod, learnt)) == n


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("key", SHAPES)
def test_one_family_claims_a_table_whoever_is_asked_first(key, backwards, monkeypatch):
    families = registry.modules(networks.FOLDER)
    order = dict(reversed(families.items())) if backwards else families
    monkeypatch.setattr(networks.registry, "modules", lambda folder: order)
    shapes = paddle_shapes(SHAPES[key])
    n_classes = shapes.get("fc.bias", shapes.get("classifier.bias"))[0]
    expected = spec_of_key(key, n_classes)
    if expected:
        assert networks.recognise(shapes) == expected
    else:
        with pytest.raises(UserError, match="^not the weights of a "):
            networks.recognise(shapes)


def test_the_options_of_a_family_are_its_blocks():
    for family, path in registry.modules(networks.FOLDER).items():
        kinds = registry.option_kinds(path)
        assert family not in NARROW or set(kinds["model_depth"][1].choices) <= set(BLOCKS), family
        assert {"n_classes", "n_input_channels"} <= set(kinds)


@pytest.mark.parametrize("n_classes, n", [(101, 46_405_925), (1039, 48_327_887)])
def test_depth_50_has_the_published_number_of_parameters(n_classes, n):
    spec = NetworkSpec("resnet", {"model_depth": 50, "n_classes": n_classes})
    assert count_parameters(networks.empty(spec)) == n


def test_initial_weights_have_the_references_spread():
    paddle.seed(3)
    weights = weights_of(network(18, 101))
    fan_out = 512 * 27
    # 2.4 million and 51,200 draws: the standard error of the spread is far below 1 %.
    assert weights["layer4.0.conv1.weight"].std() == pytest.approx((2 / fan_out) ** 0.5, rel=0.01)
    fc = weights["fc.weight"]
    assert np.abs(fc).max() <= 1 / 512**0.5
    assert fc.std() == pytest.approx(1 / 512**0.5 / 3**0.5, rel=0.02)
    assert np.abs(weights["fc.bias"]).max() > 0
    assert (weights["bn1.weight"] == 1).all() and (weights["bn1.bias"] == 0).all()


@pytest.mark.parametrize(
    "arguments, bias",
    [
        ({"model_depth": 50, "n_classes": 101}, [-0.01104662, -0.01023836]),
        (
            {"model_depth": 10, "n_classes": 7, "resnet_widen_factor": 0.125, "conv1_t_size": 3},
            [0.12207219, -0.1233419],
        ),
    ],
)
def test_a_seed_gives_the_initial_weights_that_it_always_gave(arguments, bias):
    paddle.seed(3)
    # The last numbers drawn, which depend on how many were drawn before them.
    assert weights_of(network(**arguments))["fc.bias"][:2] == pytest.approx(np.float32(bias), rel=1e-5)


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("resnet", {"model_depth": 20}, "model_depth is 20, expected one of 10, 18"),
        ("resnet", {"resnet_shortcut": "C"}, "resnet_shortcut is 'C', expected one of A, B"),
        ("resnet", {"wide_resnet_k": 2}, "resnet has no wide_resnet_k, only wideresnet"),
        ("resnet", {"x": 2}, "resnet has no x$"),
        ("resnet", {"n_classes": True}, "n_classes is True, expected a whole number, at least 1"),
        ("resnet", {"n_classes": 10**30}, "n_classes is 10+, expected a whole number"),
        ("resnet", {"resnet_widen_factor": 0.01}, "resnet_widen_factor is 0.01, expected a number, at least"),
        ("wideresnet", {"model_depth": 18}, "model_depth is 18, expected one of 50, 101"),
        ("vgg", {}, "no network is called 'vgg', only .*resnet"),
        (
            "resnet",
            {"model_depth": 10, "resnet_shortcut": "A", "conv1_width": 65},
            "resnet_shortcut A adds channels, and cannot make 64 of 65",
        ),
    ],
)
def test_what_no_network_has_is_refused(name, arguments, message):
    with pytest.raises(UserError, match=message):
        networks.build(NetworkSpec(name, arguments))


def small(name="resnet", **arguments):
    return network(**{"name": name, "n_classes": 5, **NARROW[name], **arguments})


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"no_max_pool": True},
        {"name": "resnet2p1d"},
        {"name": "wideresnet", "conv1_width": 8, "n_input_channels": 2},
        {"name": "preresnet", "resnet_shortcut": "A"},
        {"name": "resnext", "conv1_width": 8},
    ],
)
def test_a_split_network_computes_the_same_bits(arguments):
    net = small(**arguments)
    clips = paddle.randn((2, net.n_input_channels, 8, 32, 32))
    expected, features = net(clips).numpy(), net.features(clips)
    assert features.shape[1] == net.n_features
    np.testing.assert_array_equal(net.fc(features).numpy(), expected)
    for begin in net.stages():
        before, after = net.split(begin)
        np.testing.assert_array_equal(after(before(clips)).numpy(), expected)
        stages = [net.stage_of(name) for name in net.state_dict()]
        n_before = len(before.state_dict())
        assert begin not in stages[:n_before] and set(stages[n_before:]) == set(
            list(net.stages())[list(net.stages()).index(begin) :]
        )


def test_a_layer_without_weights_goes_with_the_stage_before_it():
    net = small()
    before, _ = net.split("layer1")
    # After ReLU and max pool: nothing negative, half the size.
    x = before(paddle.randn((1, 3, 8, 32, 32)))
    assert x.shape == [1, 8, 4, 8, 8] and x.min().item() >= 0


@pytest.mark.parametrize("family", ["resnet", "resnet2p1d", "preresnet", "resnext"])
def test_an_empty_network_takes_weights_and_trains_as_a_drawn_one(family):
    drawn = small(family)
    empty = networks.empty(drawn.spec)
    load_weights(empty, weights_of(drawn))
    clips = paddle.randn((2, 3, 8, 32, 32))
    for net in (drawn, empty):
        net.train()
        net(clips).square().sum().backward()
    ours, theirs = learnable(empty), learnable(drawn)
    assert ours.keys() == theirs.keys()
    for name, parameter in theirs.items():
        np.testing.assert_array_equal(ours[name].grad.numpy(), parameter.grad.numpy(), err_msg=name)
    for name, array in weights_of(drawn).items():  # the statistics too
        np.testing.assert_array_equal(weights_of(empty)[name], array, err_msg=name)


@pytest.mark.parametrize("family", NARROW)
def test_a_step_from_any_stage_on_trains_that_stage_and_what_follows(family):
    paddle.seed(4)
    net = small(family)
    clips = paddle.randn((2, 3, 16, 32, 32))
    stages = list(net.stages())
    for begin in stages:
        net.train()
        before = {name: tensor.numpy() for name, tensor in learnable(net).items()}
        trained = train_from(net, begin)
        optimizer = paddle.optimizer.Momentum(0.001, parameters=list(trained.values()))
        F.cross_entropy(net(clips), paddle.to_tensor([0, 4])).backward()
        optimizer.step()
        optimizer.clear_grad()
        after = {name: tensor.numpy() for name, tensor in learnable(net).items()}
        moved = {net.stage_of(name) for name in after if not np.array_equal(after[name], before[name])}
        assert moved == set(stages[stages.index(begin) :])
        assert all(np.isfinite(array).all() for array in after.values())


@pytest.fixture(scope="module")
def densenet():
    paddle.seed(5)
    return network(name="densenet", model_depth=121, n_classes=5, conv1_t_size=3, no_max_pool=True)


@pytest.mark.parametrize("begin", ["conv1", "transition1", "norm5", "classifier"])
def test_a_densenet_trains_from_a_stage_on(densenet, begin):
    stages = list(densenet.stages())
    trained = train_from(densenet, begin)
    assert {densenet.stage_of(name) for name in trained} == set(stages[stages.index(begin) :])
    densenet.train()
    F.cross_entropy(densenet(paddle.randn((2, 3, 8, 32, 32))), paddle.to_tensor([0, 4])).backward()
    for name, parameter in learnable(densenet).items():
        assert (parameter.grad is not None) == (name in trained), name
        parameter.clear_gradient(False)


def test_a_densenet_starts_as_the_references(densenet):
    weights = weights_of(densenet)
    assert not weights["classifier.bias"].any()
    bound = 1 / 1024**0.5
    assert 0.9 * bound < np.abs(weights["classifier.weight"]).max() <= bound
    kernel = weights["denseblock1.denselayer1.conv2.weight"]
    assert kernel.std() == pytest.approx((2 / (32 * 27)) ** 0.5, rel=0.02)


def test_a_split_densenet_computes_the_same_bits(densenet):
    densenet.eval()
    clips = paddle.randn((2, 3, 8, 32, 32))
    expected = densenet(clips).numpy()
    for begin in densenet.stages():
        before, after = densenet.split(begin)
        np.testing.assert_array_equal(after(before(clips)).numpy(), expected)


def test_clips_too_small_for_a_densenet_are_refused(densenet):
    with pytest.raises(UserError, match="clips of 16 frames and 32 pixels or more"):
        densenet(paddle.randn((2, 3, 4, 32, 32)))


def test_the_names_of_2018_and_of_2020_become_one():
    for name in ("features.conv1.weight", "features.denseblock2.denselayer11.norm2.bias", "classifier.bias"):
        own_name = networks.own_name(name)
        assert networks.own_name(of_2018(name)) == own_name and "features" not in own_name
        assert networks.reference_name(NetworkSpec("densenet", {}), own_name) == name
    assert networks.own_name("layer1.0.conv1.weight") == "layer1.0.conv1.weight"


def test_networks_are_described_in_words():
    spec = networks.checked(NetworkSpec("resnet", {}), "here")
    assert networks.describe(spec) == "ResNet3D-50, shortcut B, widen factor 1"
    assert networks.title(spec) == "ResNet3D-50"
    assert networks.title(NetworkSpec("resnet2p1d", {"model_depth": 18})) == "R(2+1)D-18"
    wide = NetworkSpec("wideresnet", {"conv1_width": 64})
    assert networks.describe(wide) == "Wide ResNet3D-50, shortcut B, k 2, conv1 64 wide"
    grouped = NetworkSpec("resnext", {"model_depth": 101, "conv1_width": 64})
    assert networks.describe(grouped) == "ResNeXt3D-101, shortcut B, cardinality 32, conv1 64 wide"
    before = NetworkSpec("preresnet", {"model_depth": 200, "resnet_shortcut": "A"})
    assert networks.describe(before) == "Pre-activation ResNet3D-200, shortcut A"


def table(family):
    """Return the names and shapes of a small network."""
    arguments = {"model_depth": 10, "n_classes": 5, **NARROW[family]}
    return networks.shapes_of(NetworkSpec(family, arguments))


TITLES = {
    "resnet": "ResNet3D",
    "resnet2p1d": "R\\(2\\+1\\)D",
    "wideresnet": "Wide ResNet3D",
    "preresnet": "Pre-activation ResNet3D",
    "resnext": "ResNeXt3D",
}


@pytest.mark.parametrize("family", NARROW)
@pytest.mark.parametrize(
    "last, change, message",
    [
        ("layer3.0.bn", lambda s: None, "{name} is missing"),
        ("layer4.0.conv2", lambda s: (*s[:4], s[4] + 7), "{name} is .*, not "),
        ("fc.bias", lambda s: (6,), r"fc.bias is \[6\], not \[5\]"),
        ("fc.weight", lambda s: (s[0] - 1, s[1]), "fc.weight is .*, not"),
        ("fc.weight", lambda s: (s[0], 10**6), r"fc.bias is \[5\], not \[1000000\]"),
        ("fc.weight", lambda s: (s[0], 0), "fc.weight has shape .*0]"),
        ("fc.weight", lambda s: s[:1], "fc.weight has shape"),
        ("layer1.0.downsample.0", lambda s: (), None),
    ],
)
def test_what_is_nearly_a_networks_is_refused_by_what_does_not_fit(family, last, change, message):
    shapes = table(family)
    names = [name for name in shapes if name.startswith(last)]
    if not names:
        pytest.skip("the network has no such layer")
    name = names[0]
    shape = change(shapes[name])
    if shape is None:
        del shapes[name]
    else:
        shapes[name] = shape
    expected = (message or "{name} is .*, not ").format(name=name)
    with pytest.raises(UserError, match=f"^not the weights of a {TITLES[family]}: .*{expected}"):
        networks.recognise(shapes)


@pytest.mark.parametrize("family", NARROW)
def test_no_weight_of_any_shape_makes_a_network_larger_than_its_table(family, monkeypatch):
    monkeypatch.setattr(networks, "build", None)  # nothing is built to recognise a table
    rng = np.random.default_rng(0)
    whole = table(family)
    names = list(whole)
    for _ in range(60):
        shapes = dict(whole)
        for name in rng.choice(names, 2):
            shape = [int(n * 10 ** rng.integers(0, 9)) for n in shapes[name]]
            shapes[name] = tuple(shape[: rng.integers(0, 6)]) if rng.random() < 0.3 else tuple(shape)
        try:
            found = networks.recognise(shapes)
        except UserError as error:
            assert len(str(error)) < 1000
        else:
            assert networks.shapes_of(found) == shapes


@pytest.mark.parametrize(
    "shapes",
    [
        {},
        {"x" * 10**6: (1,)},
        {f"layer1.{i}.conv1.weight": (1,) * 5 for i in range(1000)},
        {"conv1.weight": (), "layer1.0.conv1.weight": ()},
        {"conv1_s.weight": (1, 2, 3)},
        {"conv1.weight": (8, 3, 7, 7, 10**5), "layer1.0.conv1.weight": (8, 8, 3, 3, 3)},
    ],
)
def test_tables_of_nothing_are_refused_in_a_short_line(shapes):
    with pytest.raises(UserError, match="^not the weights of a ") as error:
        networks.recognise(shapes)
    assert len(str(error.value)) < 400 and "\n" not in str(error.value)


def test_two_files_that_claim_the_same_weights_are_named(tmp_path, monkeypatch):
    path = registry.modules(networks.FOLDER)["resnet"]
    monkeypatch.setattr(networks.registry, "modules", lambda folder: {"resnet": path, "copy": path})
    module = networks.registry.load(networks.FOLDER, "resnet")
    monkeypatch.setattr(networks.registry, "load", lambda folder, name: module)
    with pytest.raises(UserError, match="^the weights of more than one network: ResNet3D-10,.* ResNet3D-10"):
        networks.recognise(table("resnet"))
