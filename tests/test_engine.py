"""The compiled network of the CPU against the eager one."""
import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from model.engine import class_scores, clip_features
from model.resnet3d import ResNet3D


@pytest.mark.parametrize(
    "options",
    [
        {"model_depth": 10},
        {"model_depth": 18, "resnet_shortcut": "A"},
        {"model_depth": 50, "no_max_pool": True, "conv1_t_stride": 2},
    ],
)
def test_scores_equal_the_eager_networks_for_any_batch_and_size(options):
    paddle.seed(5)
    net = ResNet3D(n_classes=6, resnet_widen_factor=0.25, **options)
    net.train()  # so that the test sees that the engine evaluates
    scores_of = class_scores(net)
    for shape in [(4, 3, 16, 56, 56), (1, 3, 16, 56, 56), (2, 3, 16, 56, 80), (4, 3, 8, 56, 56)]:
        clips = paddle.randn(shape)
        with paddle.no_grad():
            expected = F.softmax(net(clips), axis=1).numpy()
        scores = scores_of(clips)
        # 3e-6 was seen for depth 50 at full width: another order of sums.
        assert np.abs(scores - expected).max() < 1e-5
        np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)


def test_features_are_the_vectors_before_fc():
    paddle.seed(6)
    net = ResNet3D(18, 6, resnet_widen_factor=0.25)
    clips = paddle.randn((3, 3, 8, 40, 40))
    features = clip_features(net)(clips)
    assert not net.training and features.shape == (3, 128)
    with paddle.no_grad():
        logits = net(clips).numpy()
    # Another order of sums, as above; these are not bounded by 1.
    np.testing.assert_allclose(
        features @ net.fc.weight.numpy() + net.fc.bias.numpy(), logits, atol=1e-5 * np.abs(logits).max()
    )
