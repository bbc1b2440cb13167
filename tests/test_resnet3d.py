"""The network against the reference's logits, names and shapes."""
import numpy as np
import paddle
import pytest
import seeded
from conftest import GOLDEN, golden

from model.resnet3d import BLOCKS, ResNet3D
from model.weights import count_parameters, from_torch, load_weights, weights_of

PLAIN = {name: spec for name, spec in golden("logits.json").items() if spec["kind"] == "resnet"}
OPTION_NAMES = {"shortcut_type": "resnet_shortcut", "widen_factor": "resnet_widen_factor"}


def torch_shapes(net):
    """Return the reference's names and shapes for a network's weights, without the counters."""
    names = {"_mean": "running_mean", "_variance": "running_var"}
    shapes = {}
    for name, array in weights_of(net).items():
        stem, _, last = name.rpartition(".")
        shape = list(array.shape)
        shapes[f"{stem}.{names.get(last, last)}"] = shape[::-1] if name == "fc.weight" else shape
    return shapes


def seeded_network(depth, n_classes, seed, **options):
    net = ResNet3D(depth, n_classes, **options)
    shapes = torch_shapes(net)
    state_dict = {name: seeded.tensor(name, shape, seed) for name, shape in shapes.items()}
    load_weights(net, from_torch(state_dict))
    return net


@pytest.mark.parametrize("name", PLAIN)
def test_logits_equal_the_references(name):
    spec = PLAIN[name]
    options = {OPTION_NAMES.get(key, key): value for key, value in spec["options"].items()}
    net = seeded_network(spec["depth"], spec["n_classes"], spec["seed"], **options)
    assert count_parameters(net) == spec["n_params"]
    net.eval()
    with paddle.no_grad():
        clips = paddle.to_tensor(seeded.clips(spec["input_seed"], *spec["clips"][:4]))
        logits = net(clips).numpy()
    expected = np.load(GOLDEN / "logits.npz")[name]
    # 1.6e-6 was the largest seen: float32 sums in another order.
    assert np.abs(logits - expected).max() / np.abs(expected).max() < 1e-5


@pytest.mark.parametrize("depth", BLOCKS)
def test_every_depth_has_the_references_names_and_shapes(depth):
    expected = {
        name: shape
        for name, shape in golden("state_dict_shapes.json")[f"resnet{depth}"].items()
        if not name.endswith("num_batches_tracked")
    }
    n_classes = expected["fc.bias"][0]
    assert torch_shapes(ResNet3D(depth, n_classes)) == expected


def test_depth_50_has_the_published_number_of_parameters():
    assert count_parameters(ResNet3D(50, 101)) == 46_405_925
    assert count_parameters(ResNet3D(50, 1039)) == 48_327_887


def test_initial_weights_have_the_references_spread():
    paddle.seed(3)
    weights = weights_of(ResNet3D(18, 101))
    fan_out = 512 * 27
    # 2.4 million and 51,200 draws: the standard error of the spread is far below 1 %.
    assert weights["layer4.0.conv1.weight"].std() == pytest.approx((2 / fan_out) ** 0.5, rel=0.01)
    fc = weights["fc.weight"]
    assert np.abs(fc).max() <= 1 / 512**0.5
    assert fc.std() == pytest.approx(1 / 512**0.5 / 3**0.5, rel=0.02)
    assert np.abs(weights["fc.bias"]).max() > 0
    assert (weights["bn1.weight"] == 1).all() and (weights["bn1.bias"] == 0).all()


@pytest.mark.parametrize("options", [{"model_depth": 20}, {"resnet_shortcut": "C"}])
def test_an_unknown_depth_or_shortcut_is_refused(options):
    with pytest.raises(ValueError, match="not (20|C)"):
        ResNet3D(**options)


@pytest.mark.parametrize("options", [{"model_depth": 10}, {"model_depth": 10, "no_max_pool": True}])
def test_a_split_network_computes_the_same_bits(options):
    net = ResNet3D(n_classes=5, resnet_widen_factor=0.125, **options)
    clips = paddle.randn((2, 3, 8, 32, 32))
    expected = net(clips).numpy()
    for begin in ("conv1", "bn1", "layer1", "layer3", "layer4", "fc"):
        before, after = net.split(begin)
        np.testing.assert_array_equal(after(before(clips)).numpy(), expected)
