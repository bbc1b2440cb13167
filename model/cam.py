"""What a network looks at: Grad-CAM over space and time, for every network.

Paper: Selvaraju et al., arXiv:1610.02391. A stage's map is the ReLU of its activations, summed over channels,
each weighted with the mean gradient of the class's logit with respect to it.
Differs: the paper takes the last stage, which has one cell for 16 frames here, and 4 x 4 for 112 pixels. So
the maps of all sizes with a stride of four pixels and more are added, each with its maximum at 1. Only maps
with one cell in time are left out, if there are others. docs/prediction.md has the figures that decided it.
"""
from typing import NamedTuple

import numpy as np
import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from model.device import explained, normalise

LEAST_STRIDE = 4  # pixels between two cells; what is finer is the stem's, and tells edges, not classes


class Maps(NamedTuple):
    """Maps of some clips: `values [N, t, h, w] float32` from 0 to 1, the maximum of each clip 1 (or all 0).

    The centre of cell i lies at `offset + stride * i`, in frames of the clip and in pixels: `stride` and
    `offset` have a value for t, h and w. That is where the convolutions and pools of these networks put it,
    neither corner to corner nor at half a cell.
    """

    values: np.ndarray
    stride: tuple
    offset: tuple

    def frame(self, index, t, height, width):
        """Return the map of one clip at its frame `t`, a value a pixel, `[height, width] float32`."""
        whole = self.values[index : index + 1]
        for axis, at in enumerate(([t], np.arange(height), np.arange(width))):
            whole = _between_cells(whole, axis + 1, (at - np.float32(self.offset[axis])) / self.stride[axis])
        return whole[0, 0].astype(np.float32)


def cam(net, metadata):
    """Return a function from clips `[N, T, H, W, C] uint8` and a class index for each to their `Maps`.

    It computes in float32 and eagerly, which needs gradients: on a CPU many times slower than `scorer`.
    """
    net.eval()

    @explained("use a smaller --inference_batch_size")
    def maps(clips_thwc, class_indices):
        return class_maps(net, normalise(clips_thwc, metadata.clip), class_indices)

    return maps


def class_maps(net, clips, class_indices, stages=None):
    """Return the `Maps` of clips `[N, C, T, H, W] float32`, normalised, for a class index each.

    `net` is a `StagedNetwork` in eval mode. `stages` names those whose maps are added, instead of the
    rule above.
    """
    outputs, places, logits = _observed(net, clips)
    chosen = _pyramid(outputs, places) if stages is None else stages
    kept = [outputs[name] for name in chosen]
    wanted = F.one_hot(paddle.to_tensor(np.asarray(class_indices, np.int64)), logits.shape[1])
    gradients = paddle.grad((logits * wanted).sum(), kept)
    finest, total = places[tuple(kept[0].shape[2:])], 0
    for output, gradient in zip(kept, gradients):
        weights = gradient.mean(axis=[2, 3, 4], keepdim=True)
        one = _to_one(F.relu((weights * output).sum(axis=1)).numpy())
        total = total + _at_cells(one, places[one.shape[1:]], finest, kept[0].shape[2:])
    return Maps(_to_one(total).astype(np.float32), *finest)


def _observed(net, clips):
    """Run clips; return each stage's last map, `{name: [N, C, t, h, w]}`, where cells are, and the logits.

    The places are `{(t, h, w): (stride, offset)}`: whatever changes the size of a map moves its cells, and
    all ways to one size move them alike.
    """
    places = {tuple(clips.shape[2:]): ((1.0,) * 3, (0.0,) * 3)}

    def after(layer, inputs, output):
        before, now = tuple(inputs[0].shape[2:]), tuple(output.shape[2:])
        if now not in places and before in places:
            places[now] = _moved(layer, *places[before])

    kinds = (nn.Conv3D, nn.MaxPool3D, nn.AvgPool3D)
    hooks = [each.register_forward_post_hook(after) for each in net.sublayers() if isinstance(each, kinds)]
    outputs, x = {}, clips
    for name, layers in net.stages().items():
        for layer in layers:
            x = layer(x)
            if x.ndim == 5 and not isinstance(layer, nn.AdaptiveAvgPool3D):
                outputs[name] = x
    for hook in hooks:
        hook.remove()
    return outputs, places, x


def _moved(layer, stride, offset):
    """Return stride and offset of the cells behind a convolution or a pool."""
    if isinstance(layer, nn.Conv3D):
        kernel, step, padding = layer._kernel_size, layer._stride, layer._padding
    else:
        kernel, step, padding = layer.ksize, layer.stride, layer.padding
    kernel, step, padding = ([v] * 3 if isinstance(v, int) else v for v in (kernel, step, padding))
    centres = [(k - 1) / 2 - p for k, p in zip(kernel, padding)]
    return (
        tuple(old * new for old, new in zip(stride, step)),
        tuple(begin + old * centre for begin, old, centre in zip(offset, stride, centres)),
    )


def _pyramid(outputs, places):
    """Return the names of the stages whose maps are added: the last of each size, the finest first."""
    last = {tuple(output.shape[2:]): name for name, output in outputs.items()}
    sizes = [size for size in last if max(places[size][0][1:]) >= LEAST_STRIDE] or list(last)[-1:]
    return [last[size] for size in [size for size in sizes if size[0] > 1] or sizes]


def _to_one(maps):
    """Return maps `[N, t, h, w]` with the maximum of each at 1."""
    return maps / np.maximum(maps.max(axis=(1, 2, 3), keepdims=True), 1e-12)


def _at_cells(maps, place, other, shape):
    """Return maps, whose cells lie at `place`, at the cells of another map of `shape`."""
    for axis, n in enumerate(shape):
        stride, offset = (values[axis] for values in other)
        at = (offset + stride * np.arange(n) - place[1][axis]) / place[0][axis]
        maps = _between_cells(maps, axis + 1, at)
    return maps


def _between_cells(maps, axis, at):
    """Return maps along one axis at fractions of a cell, linearly; beyond the last cell is what it holds."""
    at = np.clip(at, 0, maps.shape[axis] - 1)
    low = at.astype(int)
    high = np.minimum(low + 1, maps.shape[axis] - 1)
    part = (at - low).reshape([-1 if i == axis else 1 for i in range(maps.ndim)])
    return maps.take(low, axis) * (1 - part) + maps.take(high, axis) * part
