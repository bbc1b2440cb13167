"""Names, shapes and the strict copying of weights."""
import numpy as np
import pytest
from conftest import golden, network
from golden_networks import of_2018, own, spec_of_key

from model import networks
from model.weights import from_torch, load_weights, to_torch, weights_of
from run.console import UserError

SHAPES = {**golden("state_dict_shapes.json"), **golden("family_state_dict_shapes.json")}


def zeros(shapes):
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def shapes_of(weights):
    return {name: array.shape for name, array in weights.items()}


def small_network(**options):
    return network(**{"resnet_widen_factor": 0.125, **options})


@pytest.mark.parametrize("key", [key for key in SHAPES if spec_of_key(key, 400)])
def test_the_way_back_gives_the_references_names_in_its_order(key):
    shapes = SHAPES[key]
    # One number a tensor is enough: shapes are told in full, and 2 GB stay free.
    arrays = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    back = to_torch(from_torch(own(arrays)))
    spec, is_old = spec_of_key(key, 400), key.endswith("_2018")
    names = [networks.reference_name(spec, name) for name in back]
    names = [of_2018(name) if is_old else name for name in names]
    assert list(zip(names, (list(array.shape) for array in back.values()))) == list(shapes.items())


@pytest.mark.parametrize(
    "options",
    [
        {"resnet_shortcut": "A"},
        {"conv1_t_size": 3},
        {"resnet_widen_factor": 0.3},  # no multiple of a channel
        {"resnet_widen_factor": 0.25, "model_depth": 50, "n_classes": 101},
        {"n_input_channels": 2, "conv1_width": 12},
        {"name": "resnet2p1d", "resnet_widen_factor": 0.3, "conv1_width": 12, "n_input_channels": 2},
        {"name": "resnet2p1d", "model_depth": 50, "resnet_shortcut": "A", "conv1_t_size": 3},
    ],
)
def test_a_network_built_from_its_weights_takes_them(options):
    weights = weights_of(small_network(**options))
    net = networks.build(networks.recognise(shapes_of(weights)))
    load_weights(net, weights)
    for name, array in weights_of(net).items():
        np.testing.assert_array_equal(array, weights[name])


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda w: w.pop("layer2.0.bn1._mean"), "layer2.0.bn1._mean is missing"),
        (lambda w: w.update(extra=np.zeros(1)), "extra is not the network's"),
        (lambda w: w.update({"bn1.weight": np.zeros(9)}), r"bn1.weight is \[9\], not \[8\]"),
        (lambda w: w["fc.bias"].fill(np.nan), "fc.bias is not finite"),
        (lambda w: w.update({"fc.bias": np.full(3, 1e39)}), "fc.bias is not finite"),  # as a float32
    ],
)
def test_a_tensor_that_does_not_fit_is_refused_by_name(change, message):
    net = small_network()
    weights = weights_of(net)
    before = weights_of(net)
    change(weights)
    with pytest.raises(UserError, match=message):
        load_weights(net, weights)
    for name, array in weights_of(net).items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    "name, shape",
    [
        ("layer4.0.conv1.weight", (10**6, 1, 1, 1, 1)),
        ("layer4.0.conv2.weight", (64, 64, 3, 3, 1)),
        ("fc.weight", (64, 10**6)),
        ("fc.weight", (63, 3)),
        ("fc.weight", (64, 0)),
        ("conv1.weight", (8, 3, 7, 7, 10**5)),
    ],
)
def test_a_shape_that_asks_for_a_network_larger_than_its_weights_is_refused(name, shape):
    weights = weights_of(small_network())
    with pytest.raises(UserError, match="not the weights of a ResNet3D"):
        networks.recognise({**shapes_of(weights), name: shape})


@pytest.mark.parametrize("dtype", ["i4", "c8", "?", object, "U3"])
def test_tensors_of_other_than_floating_point_numbers_are_refused(dtype):
    with pytest.raises(UserError, match="'fc.bias' holds .*, expected floating-point"):
        from_torch({"fc.bias": np.zeros(3).astype(dtype)})


def test_all_that_has_two_axes_is_a_linear_weight_whatever_its_name():
    state_dict = zeros({"classifier.weight": (5, 7), "classifier.bias": (5,), "table": (5, 7)})
    weights = from_torch(state_dict)
    assert shapes_of(weights) == {"classifier.weight": (7, 5), "classifier.bias": (5,), "table": (5, 7)}
    assert shapes_of(to_torch(weights)) == shapes_of(state_dict)


@pytest.mark.parametrize("head", ["fc", "layer4"])
def test_the_head_alone_can_be_left_out(head):
    net, other = small_network(n_classes=3), small_network(n_classes=3 if head == "layer4" else 7)
    net.head = head
    before, others = weights_of(net), weights_of(other)
    load_weights(net, others, except_head=True)
    for name, array in weights_of(net).items():
        expected = before if name.startswith(f"{head}.") else others
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_a_name_of_any_length_is_reported_in_a_short_line():
    weights = {**weights_of(small_network()), "x" * 10**6: np.zeros(1, np.float32)}
    with pytest.raises(UserError, match="xxx is not the network's") as error:
        load_weights(small_network(), weights)
    assert len(str(error.value)) < 500


def test_two_names_that_become_one_are_refused():
    with pytest.raises(UserError, match="two tensors"):
        from_torch({"fc.bias": np.zeros(1), "module.fc.bias": np.zeros(1)})
