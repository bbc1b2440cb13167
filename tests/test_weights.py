"""Names, shapes and the strict copying of weights."""
import numpy as np
import pytest
from conftest import golden

from model.resnet3d import BLOCKS, ResNet3D
from model.weights import architecture_of, from_torch, load_weights, to_torch, weights_of
from opts import UserError


def zeros(shapes):
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def small_network(**options):
    return ResNet3D(**{"model_depth": 10, "n_classes": 3, "resnet_widen_factor": 0.125, **options})


@pytest.mark.parametrize("depth", BLOCKS)
def test_the_architecture_is_read_off_the_tensors(depth):
    shapes = golden("state_dict_shapes.json")[f"resnet{depth}"]
    model = architecture_of(from_torch(zeros(shapes)))
    assert model == {
        "model_depth": depth,
        "n_classes": shapes["fc.bias"][0],
        "resnet_shortcut": "B",
        "resnet_widen_factor": 1.0,
        "conv1_t_size": 7,
        "conv1_t_stride": 1,
        "no_max_pool": False,
    }


@pytest.mark.parametrize("depth", BLOCKS)
def test_the_way_back_gives_the_references_names_in_its_order(depth):
    shapes = golden("state_dict_shapes.json")[f"resnet{depth}"]
    back = to_torch(from_torch(zeros(shapes)))
    assert [(name, list(array.shape)) for name, array in back.items()] == list(shapes.items())


@pytest.mark.parametrize(
    "options",
    [
        {"resnet_shortcut": "A"},
        {"conv1_t_size": 3},
        {"resnet_widen_factor": 0.3},  # no multiple of a channel
        {"resnet_widen_factor": 0.25, "model_depth": 50, "n_classes": 101},
    ],
)
def test_a_network_built_from_its_weights_takes_them(options):
    weights = weights_of(small_network(**options))
    net = ResNet3D(**architecture_of(weights))
    load_weights(net, weights)
    for name, array in weights_of(net).items():
        np.testing.assert_array_equal(array, weights[name])


def test_weights_of_another_network_name_what_is_wrong():
    shapes = golden("state_dict_shapes.json")["resnet2p1d18"]
    with pytest.raises(UserError, match="not the weights of a ResNet3D"):
        architecture_of(from_torch(zeros(shapes)))
    with pytest.raises(UserError, match="not the weights of a ResNet3D"):
        architecture_of({})


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
    weights[name] = np.zeros(shape, np.float32)
    with pytest.raises(UserError, match="not the weights of a ResNet3D"):
        architecture_of(weights)


@pytest.mark.parametrize("dtype", ["i4", "c8", "?", object, "U3"])
def test_tensors_of_other_than_floating_point_numbers_are_refused(dtype):
    with pytest.raises(UserError, match="'fc.bias' holds .*, expected floating-point"):
        from_torch({"fc.bias": np.zeros(3).astype(dtype)})


def test_the_head_alone_can_be_left_out():
    net, other = small_network(n_classes=3), small_network(n_classes=7)
    head = weights_of(net)["fc.weight"]
    load_weights(net, weights_of(other), except_fc=True)
    np.testing.assert_array_equal(weights_of(net)["fc.weight"], head)
    np.testing.assert_array_equal(weights_of(net)["conv1.weight"], weights_of(other)["conv1.weight"])


def test_a_name_of_any_length_is_told_in_a_short_line():
    weights = {**weights_of(small_network()), "x" * 10**6: np.zeros(1, np.float32)}
    with pytest.raises(UserError, match="xxx is not the network's") as error:
        load_weights(small_network(), weights)
    assert len(str(error.value)) < 500


def test_two_names_that_become_one_are_refused():
    with pytest.raises(UserError, match="two tensors"):
        from_torch({"fc.bias": np.zeros(1), "module.fc.bias": np.zeros(1)})
