"""Bilinear resizing in Pillow's own pixels, at more than twice its speed.

Pillow resizes with a triangle as wide as the reduction: along the rows, rounded to 8 bits, then along
the columns, with weights of 22 fractional bits. The same sums are taken here over whole arrays, which
numba compiles to vector instructions. If numba is not installed, Pillow itself does it.

Pillow 13 takes the columns first if that is less work, which changes a third of all crops by one
level here and there. Here the rows always come first, as in the versions that the reference ran on.
"""
import functools

import numpy as np
from PIL import Image

from run.console import note

try:
    import numba
except Exception as error:  # not there, or broken: it also refuses a numpy that is too new for it
    numba = None
    note(f"frames are resized by Pillow, which takes more than twice as long: no numba ({error})")

_BITS = 22  # Pillow's PRECISION_BITS
_BLOCK = 16  # rows that are turned together, so that they stay in the fastest cache


def bilinear(box, size, window, shape, mirrored=False):
    """Return a function that resizes frames alike: `resize(pixels, out)`.

    It cuts `box`, `(x, y, width, height)`, out of `pixels [H, W, 3 or 4] uint8` (R, G, B and, which is
    quicker, a byte that is not looked at), resizes that to `size`, `(width, height)`, and writes to `out
    [h, w, 3] uint8` what lies at `window`, `(x, y)`; `shape` is `(h, w)`. The pixels are those of Pillow's
    `crop`, `resize` and `crop`; `mirrored` swaps left and right after that.
    """
    (x, y, width, height), (h, w) = box, shape
    columns, rows = slice(window[0], window[0] + w), slice(window[1], window[1] + h)
    if numba is None:

        def resize(pixels, out):
            image = Image.fromarray(np.ascontiguousarray(pixels[y : y + height, x : x + width, :3]))
            rows_done = image.resize((size[0], height), Image.BILINEAR)
            cut = np.asarray(rows_done.resize(size, Image.BILINEAR))[rows, columns]
            out[:] = cut[:, ::-1] if mirrored else cut

        return resize
    x_first, x_weights = (part[columns] for part in _weights(width, size[0]))
    y_first, y_weights = (part[rows] for part in _weights(height, size[1]))
    if mirrored:
        x_first, x_weights = x_first[::-1], np.ascontiguousarray(x_weights[::-1])
    x_first, y_first = x + x_first, y + y_first

    def resize(pixels, out):
        if pixels.shape[2] == 3:
            pixels = np.concatenate([pixels, pixels[:, :, :1]], axis=2)
        frame = np.ascontiguousarray(pixels).view(np.uint32)[:, :, 0]
        assert out.flags.c_contiguous  # else the result would go to a copy
        work = _work(frame.shape[0] * (frame.shape[1] + w))
        _resample(frame, x_first, x_weights, y_first, y_weights, work, out.reshape(h, 3 * w))

    return resize


@functools.lru_cache(maxsize=4096)
def _weights(n_in, n_out):
    """Return the sums that map `n_in` values to `n_out`: `(first [n_out] int64, weights [n_out, n] int32)`.

    Value i is the sum of `weights[i, t] * values[first[i] + t]` over t, in units of 2**-22.
    """
    scale = n_in / n_out
    support = max(scale, 1.0)
    centers = (np.arange(n_out) + 0.5) * scale
    begin = np.maximum(centers - support + 0.5, 0).astype(np.int64)
    end = np.minimum(centers + support + 0.5, n_in).astype(np.int64)
    n = int((end - begin).max())
    first = np.minimum(begin, n_in - n)
    at = first[:, None] + np.arange(n)
    weights = np.maximum(0.0, 1.0 - np.abs((at - centers[:, None] + 0.5) * (1.0 / support)))
    weights[(at < begin[:, None]) | (at >= end[:, None])] = 0.0
    weights /= np.cumsum(weights, axis=1)[:, -1:]  # summed in Pillow's order
    return first, (0.5 + weights * (1 << _BITS)).astype(np.int32)


@functools.lru_cache(maxsize=2)
def _work(n):
    """Return memory for two of `_resample`'s arrays; its pages are touched once, not for every frame."""
    return np.empty(n, np.uint32)


def _add_up(rows, first, weights, sums):
    """Write the weighted sum of some `rows [m, n] uint8` to `sums [n] int32`, in units of 2**-22."""
    for i in range(sums.shape[0]):
        sums[i] = 1 << (_BITS - 1)  # to be rounded, not cut off
    for t in range(weights.shape[0]):
        row, weight = rows[first + t], weights[t]
        for i in range(sums.shape[0]):
            sums[i] += np.int32(row[i]) * weight


def _resample(frame, x_first, x_weights, y_first, y_weights, work, out):
    """Resize `frame [H, W] uint32` to `out [h, 3 * w] uint8` with the `_weights` of its columns and rows."""
    left, right = x_first.min(), x_first.max() + x_weights.shape[1]
    top, bottom = y_first[0], y_first[-1] + y_weights.shape[1]
    n_rows, n_columns, w = bottom - top, right - left, x_first.shape[0]
    # A column of the frame becomes a row, so that both directions add up whole rows. Unsigned indices
    # spare numba the question whether they count from the end.
    turned = work[: n_columns * n_rows].reshape(n_columns, n_rows)
    for block in range(0, n_rows, _BLOCK):
        n = min(_BLOCK, n_rows - block)
        for x in range(n_columns):
            for y in range(n):
                pixel = frame[np.uintp(top + block + y), np.uintp(left + x)]
                turned[np.uintp(x), np.uintp(block + y)] = pixel
    columns = turned.view(np.uint8)
    narrow = work[n_columns * n_rows :].view(np.uint8)[: n_rows * 3 * w].reshape(n_rows, 3 * w)
    sums = np.empty(4 * n_rows, np.int32)
    for x in range(w):
        _add_up(columns, x_first[x] - left, x_weights[x], sums)
        for y in range(n_rows):
            for c in range(3):
                narrow[np.uintp(y), np.uintp(3 * x + c)] = sums[np.uintp(4 * y + c)] >> _BITS
    sums = np.empty(3 * w, np.int32)
    for y in range(y_first.shape[0]):
        _add_up(narrow, y_first[y] - top, y_weights[y], sums)
        for i in range(3 * w):
            out[y, i] = sums[i] >> _BITS


if numba is not None:
    _add_up = numba.njit(_add_up)
    # Compiled when this module is imported, before readers are started; kept for the next run.
    _ARRAYS = "uint32[:, :], int64[::1], int32[:, ::1], int64[::1], int32[:, ::1], uint32[::1], uint8[:, ::1]"
    try:
        _resample = numba.njit(f"void({_ARRAYS})", cache=True)(_resample)
    except RuntimeError:  # no folder to keep it in
        _resample = numba.njit(f"void({_ARRAYS})")(_resample)
