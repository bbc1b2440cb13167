"""Choose the crop of a clip: which part of its frames it shows, and how large. `datasets/resize.py` cuts it.

Reference: `spatial_transforms.py`; there as here one choice holds for all frames of a clip. A box
is `(x, y, width, height)` in the frame's pixels.
"""
import math
from typing import NamedTuple

# Sides of the corner crops relative to the frame's short side. Paper: section 3.3.
CORNER_SCALES = tuple(2 ** (-k / 4) for k in range(5))


def random_resized_box(width, height, rng, min_scale=0.25, min_ratio=0.75):
    """Draw a box of `min_scale` to 1 of the area and aspect ratio `min_ratio` to `1 / min_ratio`.

    Reference: `RandomResizedCrop` (torchvision's): ten tries, then the largest central box of a
    permitted ratio. `rng` is a `numpy.random.Generator`.
    """
    for _ in range(10):
        area = width * height * rng.uniform(min_scale, 1.0)
        # Not -log(...): numpy refuses its negative zero as a bound.
        ratio = math.exp(rng.uniform(math.log(min_ratio), 0.0 - math.log(min_ratio)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1)), w, h
    ratio = min(max(width / height, min_ratio), 1 / min_ratio)
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    return (width - w) // 2, (height - h) // 2, w, h


def corner_box(width, height, rng):
    """Draw a square at one of the four corners or the centre, at one of `CORNER_SCALES`."""
    side = max(1, int(min(width, height) * CORNER_SCALES[rng.integers(len(CORNER_SCALES))]))
    x, y = [(0, 0), (1, 0), (0, 1), (1, 1), (0.5, 0.5)][rng.integers(5)]
    return round((width - side) * x), round((height - side) * y), side, side


class Crop(NamedTuple):
    """What a clip shows of its frames: `box`, resized to `size`, and of that `shape` at `window`.

    `size` is `(width, height)`, `window` `(x, y)` in it, `shape` `(height, width)`.
    """

    box: tuple
    size: tuple
    window: tuple
    shape: tuple

    def reduction(self):
        """Return 8, 4, 2 or 1: how much smaller the frames may be decoded, still not smaller than shown."""
        return next(
            (n for n in (8, 4, 2) if self.box[2] >= n * self.size[0] and self.box[3] >= n * self.size[1]), 1
        )

    def part(self):
        """Return the part of the box that is shown: left, top, right and bottom, from 0 to 1."""
        (x, y), (width, height), (h, w) = self.window, self.size, self.shape
        return x / width, y / height, min(1, (x + w) / width), min(1, (y + h) / height)

    def of_reduced(self, n, width, height):
        """Return the same crop of frames of `width` x `height` that were decoded at 1/n of their size."""
        width, height = -(-width // n), -(-height // n)
        x, y = min(round(self.box[0] / n), width - 1), min(round(self.box[1] / n), height - 1)
        w, h = min(round(self.box[2] / n), width - x), min(round(self.box[3] / n), height - y)
        return self._replace(box=(x, y, max(1, w), max(1, h)))


def box_crop(box, size):
    """Return the crop that resizes a box to `size` x `size`; nothing outside of the box counts."""
    return Crop(box, (size, size), (0, 0), (size, size))


def short_side_crop(width, height, size):
    """Return the crop of whole frames, resized so that their short side is `size`."""
    if width < height:
        target = (size, int(size * height / width))
    else:
        target = (int(size * width / height), size)
    return Crop((0, 0, width, height), target, (0, 0), target[::-1])


def three_offsets(width, height, size):
    """Return where three squares lie in a frame of the short side `size`, `(x, y)`: begin, centre, end.

    The centre is that of `center_crop`.
    """
    return [(x, y) for x, y in zip(*([0, round((side - size) / 2), side - size] for side in (width, height)))]


def three_crops(width, height, size):
    """Return the three crops along the long side: its begin, its centre and its end."""
    whole = short_side_crop(width, height, size)
    offsets = three_offsets(*whole.size, size)
    return [whole._replace(window=offset, shape=(size, size)) for offset in offsets]


def center_crop(width, height, size):
    """Return the crop that resizes the short side to `size` and then cuts the central square.

    Reference: `Resize` and `CenterCrop` of validation and test.
    """
    whole = short_side_crop(width, height, size)
    window = tuple(round((side - size) / 2) for side in whole.size)
    return whole._replace(window=window, shape=(size, size))
