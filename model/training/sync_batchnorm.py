"""BatchNorm over the clips of all ranks. Paddle's own SyncBatchNorm has no CPU kernel, so that it could
not be tested here, and takes all ranks for equally many clips, which a short last batch is not. It is used
where it is asked for and the parts are equal.
"""
import math

import paddle
import paddle.nn as nn
from paddle.autograd import PyLayer

_AXES = [0, 2, 3, 4]


def _by_channel(vector):
    return vector.reshape([1, -1, 1, 1, 1])


class _Normalise(PyLayer):
    """Scale and shift `x [N, C, T, H, W]` to the given weight and bias, by the statistics of all ranks."""

    @staticmethod
    def forward(ctx, x, weight, bias, mean, variance, n_values, epsilon, ranks):
        inverse_std = paddle.rsqrt(variance + epsilon)
        ctx.save_for_backward(x, weight, mean, inverse_std)
        ctx.n_values, ctx.ranks = n_values, ranks
        out = (x.astype("float32") - _by_channel(mean)) * _by_channel(weight * inverse_std)
        return (out + _by_channel(bias)).astype(x.dtype)

    @staticmethod
    def backward(ctx, gradient):
        x, weight, mean, inverse_std = ctx.saved_tensor()
        out_gradient = gradient.astype("float32")
        normalised = (x.astype("float32") - _by_channel(mean)) * _by_channel(inverse_std)
        bias_gradient = out_gradient.sum(_AXES)
        weight_gradient = (out_gradient * normalised).sum(_AXES)
        # Sums over all ranks reach every clip; the parameters' own are summed with all gradients.
        sums = ctx.ranks.sum(paddle.stack([bias_gradient, weight_gradient])) / ctx.n_values
        x_gradient = out_gradient - _by_channel(sums[0]) - normalised * _by_channel(sums[1])
        x_gradient = (x_gradient * _by_channel(weight * inverse_std)).astype(x.dtype)
        return x_gradient, weight_gradient, bias_gradient, None, None


class SyncBatchNorm3D(nn.Layer):
    """A `BatchNorm3D` with the same parameters and statistics, whose batch is that of all ranks.

    With `paddles_own`, Paddle's kernel computes as long as `is_even` says that the ranks' parts are equal.
    """

    def __init__(self, batchnorm, ranks, paddles_own=False):
        super().__init__()
        self.is_even = False
        self.weight, self.bias = batchnorm.weight, batchnorm.bias
        self._mean, self._variance = batchnorm._mean, batchnorm._variance
        self._momentum, self._epsilon = batchnorm._momentum, batchnorm._epsilon
        self._ranks = ranks
        self._paddles_own = ()  # in a tuple, so that it is no layer of the network beside this one
        if paddles_own:
            own = nn.SyncBatchNorm(len(self.weight), self._momentum, self._epsilon)
            for name in ("weight", "bias", "_mean", "_variance"):
                setattr(own, name, getattr(self, name))
            self._paddles_own = (own,)

    def forward(self, x):
        if self.training and self.is_even and self._paddles_own:
            return self._paddles_own[0](x)
        if not self.training:
            return nn.functional.batch_norm(
                x, self._mean, self._variance, self.weight, self.bias, False, epsilon=self._epsilon
            )
        with paddle.no_grad():
            mean, variance, n_values = self._statistics(x.astype("float32"))
            for running, batch in ((self._mean, mean), (self._variance, variance)):
                paddle.assign(self._momentum * running + (1 - self._momentum) * batch, running)
        return _Normalise.apply(
            x, self.weight, self.bias, mean, variance, n_values, self._epsilon, self._ranks
        )

    def _statistics(self, x):
        """Return mean and biased variance by channel over all ranks' clips, and the count of values."""
        mean = x.mean(_AXES)
        variance = (x - _by_channel(mean)).square().mean(_AXES)
        n = paddle.full([1], x.size / x.shape[1])
        table = paddle.stack(self._ranks.gather(paddle.concat([n, mean, variance])))
        share = table[:, :1] / table[:, :1].sum()
        means, variances = table[:, 1:].split(2, axis=1)
        mean = (share * means).sum(0)
        variance = (share * (variances + (means - mean).square())).sum(0)
        return mean, variance, table[:, 0].sum()


def synchronise_batchnorms(net, ranks, paddles_own=False):
    """Replace every `BatchNorm3D` of a network by one that shares its parameters and its statistics."""
    for name, child in list(net.named_children()):
        if isinstance(child, nn.BatchNorm3D):
            setattr(net, name, SyncBatchNorm3D(child, ranks, paddles_own))
        else:
            synchronise_batchnorms(child, ranks, paddles_own)


@paddle.no_grad()
def batchnorms_of_one_value(net, clips_shape):
    """Return the names of the `BatchNorm3D`s that see one value a channel of clips of a shape.

    Such a one has no variance in train mode. The network is put in eval mode.
    """
    found, hooks = [], []
    for name, layer in net.named_sublayers():
        if isinstance(layer, nn.BatchNorm3D):

            def note_size(_, inputs, name=name):
                if math.prod(inputs[0].shape) == inputs[0].shape[1]:
                    found.append(name)

            hooks.append(layer.register_forward_pre_hook(note_size))
    net.eval()
    net(paddle.zeros(clips_shape))
    for hook in hooks:
        hook.remove()
    return found
