"""The compiled network of the CPU against the eager one, and which BatchNorms it folds."""
import numpy as np
import paddle
import paddle.nn as nn
import paddle.nn.functional as F
import pytest
from conftest import network

from model.checkpoint import Metadata
from model.device import normalise
from model.inference import _folded, class_scores, clip_features, evaluator, scorer
from run.spec import ClipSpec

# The largest, for depth 50 at full width, is about a third of it (`make parity`): another order of sums.
ENGINE_BOUND = 1e-5


def engine_difference(net, shapes):
    """Return the largest difference of a score, the compiled network to the eager one, for random clips of
    the shapes `(number, frames, height, width)`.
    """
    scores_of, differences = class_scores(net), []
    for n, *shape in shapes:
        clips = paddle.randn((n, net.n_input_channels, *shape))
        with paddle.no_grad():
            expected = F.softmax(net(clips), axis=1).numpy()
        scores = scores_of(clips)
        np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)
        differences.append(np.abs(scores - expected).max())
    return max(differences)


@pytest.mark.parametrize(
    "options",
    [
        {"model_depth": 10},
        {"model_depth": 18, "resnet_shortcut": "A"},
        {"model_depth": 50, "no_max_pool": True, "conv1_t_stride": 2},
        {"model_depth": 18, "name": "resnet2p1d"},
        {"model_depth": 10, "n_input_channels": 2, "conv1_width": 24},
    ],
)
def test_scores_equal_the_eager_networks_for_any_batch_and_size(options):
    paddle.seed(5)
    net = network(n_classes=6, resnet_widen_factor=0.25, **options)
    net.train()  # so that the test sees that the engine evaluates
    shapes = [(4, 16, 56, 56), (1, 16, 56, 56), (2, 16, 56, 80), (4, 8, 56, 56)]
    assert engine_difference(net, shapes) < ENGINE_BOUND


def test_features_are_the_vectors_before_the_head():
    paddle.seed(6)
    net = network(18, 6, resnet_widen_factor=0.25)
    clips = paddle.randn((3, 3, 8, 40, 40))
    features = clip_features(net)(clips)
    assert not net.training and features.shape == (3, 128)
    with paddle.no_grad():
        logits = net(clips).numpy()
    # Another order of sums, as above; these are not bounded by 1.
    np.testing.assert_allclose(
        features @ net.fc.weight.numpy() + net.fc.bias.numpy(), logits, atol=1e-5 * np.abs(logits).max()
    )


@pytest.mark.parametrize("begin", ["layer1", "layer4", "fc"])
def test_a_frozen_trunk_gives_the_eager_ones_features_and_leaves_its_statistics(begin):
    paddle.seed(5)
    net = network(10, 6, resnet_widen_factor=0.25)
    clips = paddle.randn((3, 3, 16, 56, 56))
    net.train()
    net(clips)  # so that the running statistics are not those of a new network
    trunk, head = net.split(begin)
    before = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    features = evaluator(trunk)(clips)
    assert features.stop_gradient
    with paddle.no_grad():
        expected = trunk(clips).numpy()
    # Relative to the largest: 1e-6 was seen, another order of sums.
    assert np.abs(features.numpy() - expected).max() < 1e-5 * np.abs(expected).max()
    for name, tensor in net.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[name], err_msg=name)
    head(features).sum().backward()
    assert net.fc.weight.grad is not None and net.conv1.weight.grad is None


def test_a_scorer_takes_the_pixels_of_clips():
    paddle.seed(7)
    net = network(10, 4, resnet_widen_factor=0.125)
    clip = ClipSpec(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), scale=127.5)
    names = ["a", "b", "c", "d"]
    metadata = Metadata(net.spec, clip, class_names=names)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 32, 40, 3), np.uint8)
    scored = scorer(net, metadata)
    assert (scored.clip, scored.class_names) == (clip, names)
    expected = class_scores(net)(normalise(pixels, clip))
    np.testing.assert_array_equal(scored.score(pixels), expected)
    features = scorer(net, metadata, features=True).score(pixels)
    np.testing.assert_array_equal(features, clip_features(net)(normalise(pixels, clip)))
    assert features.shape == (2, net.n_features)


class Toy(nn.Layer):
    """Layers for `forward`, with statistics that are not those of new ones, for clips of four channels."""

    def __init__(self, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        rng = np.random.default_rng(0)
        for name, tensor in self.state_dict().items():
            if "conv" not in name:
                tensor.set_value(rng.uniform(0.5, 1.5, tensor.shape).astype(np.float32))


def conv(n_in=4, n_out=4, **options):
    return nn.Conv3D(n_in, n_out, 3, padding=1, **{"bias_attr": False, **options})


class Reordered(Toy):
    """Children that are registered in another order than they run in."""

    def __init__(self):
        super().__init__(norm2=nn.BatchNorm3D(4), conv1=conv(), norm1=nn.BatchNorm3D(4), conv2=conv())

    def forward(self, x):
        return self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))


class Crossed(Toy):
    """Each norm is registered behind the convolution that feeds the other one."""

    def __init__(self):
        super().__init__(conv1=conv(), norm2=nn.BatchNorm3D(4), conv2=conv(), norm1=nn.BatchNorm3D(4))

    forward = Reordered.forward


class Geometry(Toy):
    """A grouped, dilated, strided convolution without zero padding, that has a bias of its own."""

    def __init__(self):
        options = {"groups": 2, "dilation": 2, "stride": (1, 2, 1), "padding_mode": "replicate"}
        super().__init__(conv=conv(4, 6, bias_attr=None, **options), norm=nn.BatchNorm3D(6))
        self.conv.bias.set_value(paddle.to_tensor(np.linspace(-1, 1, 6, dtype=np.float32)))

    def forward(self, x):
        return self.norm(self.conv(x))


class PreActivation(Toy):
    """A norm before each convolution; the second one takes the output of the first convolution."""

    def __init__(self):
        layers = {"norm1": nn.BatchNorm3D(4), "conv1": conv(), "norm2": nn.BatchNorm3D(4), "conv2": conv()}
        super().__init__(**layers)

    def forward(self, x):
        return self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x)))))) + x


class Shared(Toy):
    """A convolution whose output two norms take."""

    def __init__(self):
        super().__init__(conv=conv(), norm1=nn.BatchNorm3D(4), norm2=nn.BatchNorm3D(4))

    def forward(self, x):
        x = self.conv(x)
        return self.norm1(x) - 2 * self.norm2(x)


class Repeated(Toy):
    """A convolution that runs twice, and a norm that does."""

    def __init__(self):
        super().__init__(conv=conv(), norm1=nn.BatchNorm3D(4), conv2=conv(), norm2=nn.BatchNorm3D(4))

    def forward(self, x):
        x = self.conv(self.norm1(self.conv(x)))
        return self.norm2(self.conv2(self.norm2(x)))


class Tied(Toy):
    """Two convolutions with one weight, each before a norm of its own."""

    def __init__(self):
        layers = {"conv1": conv(), "norm1": nn.BatchNorm3D(4), "conv2": conv(), "norm2": nn.BatchNorm3D(4)}
        super().__init__(**layers)
        self.conv2.weight = self.conv1.weight

    forward = Reordered.forward


class Bare(Toy):
    """A norm without weight and bias."""

    def __init__(self):
        super().__init__(conv=conv(), norm=nn.BatchNorm3D(4, weight_attr=False, bias_attr=False))

    forward = Geometry.forward


class UsedTwice(Toy):
    """A convolution whose output is also used without the norm, which no hook sees."""

    def __init__(self):
        super().__init__(conv=conv(), norm=nn.BatchNorm3D(4))

    def forward(self, x):
        x = self.conv(x)
        return self.norm(x) + x


class Wide(Toy):
    """A network for large clips only: Paddle's Conv3D writes outside its memory if one is too small."""

    def __init__(self):
        super().__init__(conv=conv(), norm=nn.BatchNorm3D(4), conv2=nn.Conv3D(4, 2, (1, 40, 40)))

    def forward(self, x):
        return self.conv2(self.norm(self.conv(x)))


@pytest.mark.parametrize(
    "toy, n_left",
    [
        (Reordered, 0),
        (Crossed, 0),
        (Geometry, 0),
        (PreActivation, 1),
        (Shared, 2),
        (Repeated, 2),
        (Tied, 0),
        (Bare, 0),
        (UsedTwice, 1),
        (Wide, 0),
    ],
)
def test_a_batchnorm_is_folded_into_the_convolution_that_feeds_it_or_left(toy, n_left):
    paddle.seed(8)
    layer = toy()
    layer.eval()
    folded = _folded(layer, paddle.randn((1, 4, 8, 48, 56)))
    assert sum(type(each) is nn.BatchNorm3D for each in folded.sublayers()) == n_left
    before = {name: tensor.numpy() for name, tensor in layer.state_dict().items()}
    evaluate = evaluator(layer)
    for shape in [(2, 4, 8, 48, 56), (1, 4, 5, 60, 41)]:
        clips = paddle.randn(shape)
        with paddle.no_grad():
            expected = layer(clips).numpy()
        # 4e-7 was seen: another order of sums.
        assert np.abs(evaluate(clips).numpy() - expected).max() < 1e-5 * np.abs(expected).max()
    for name, tensor in layer.state_dict().items():  # folding is of a copy
        np.testing.assert_array_equal(tensor.numpy(), before[name], err_msg=name)


DENSE_NORMS = []
for block, n_layers in enumerate((6, 12, 24, 16), start=1):
    DENSE_NORMS += [f"denseblock{block}.denselayer{i + 1}.norm1" for i in range(n_layers)]
    DENSE_NORMS += [f"transition{block}.norm" if block < 4 else "norm5"]


@pytest.mark.parametrize(
    "name, arguments, left",
    [
        ("resnet", {"resnet_widen_factor": 0.25}, []),
        ("resnet2p1d", {"resnet_widen_factor": 0.25}, []),
        ("wideresnet", {"wide_resnet_k": 1, "model_depth": 50}, []),
        ("resnext", {"resnext_cardinality": 2, "model_depth": 50}, []),
        # What follows an addition has no convolution before it that could take it up.
        ("preresnet", {}, [f"layer{stage}.0.bn1" for stage in (1, 2, 3, 4)]),
        # What follows a concatenation or a pool, the same.
        ("densenet", {"model_depth": 121}, DENSE_NORMS),
    ],
)
def test_no_batchnorm_of_a_family_that_a_convolution_feeds_is_left(name, arguments, left):
    net = network(name=name, **arguments)
    net.eval()
    folded = _folded(net, paddle.randn((1, 3, 16, 32, 32)))
    found = [name for name, each in folded.named_sublayers() if isinstance(each, nn.BatchNorm3D)]
    assert found == left


def test_making_an_evaluator_draws_no_random_numbers():
    net = network(10, 3, resnet_widen_factor=0.125)
    paddle.seed(9)
    expected = paddle.randn([3]).numpy()
    paddle.seed(9)
    evaluator(net)(paddle.ones((1, 3, 8, 32, 32)))
    np.testing.assert_array_equal(paddle.randn([3]).numpy(), expected)


def test_an_evaluator_has_the_weights_of_its_time():
    net = network(10, 3, resnet_widen_factor=0.125)
    clips = paddle.randn((2, 3, 8, 32, 32))
    evaluate = evaluator(net)
    with paddle.no_grad():
        expected = net(clips).numpy()
    net.fc.bias.set_value(net.fc.bias + 1)  # before and after it has compiled
    for _ in range(2):
        np.testing.assert_allclose(evaluate(clips).numpy(), expected, atol=1e-5)
