"""Crop and resize the frames of a clip, in Pillow's pixels.

Reference: `spatial_transforms.py`; there as here one choice holds for all frames of a clip. A box
is `(x, y, width, height)` in the frame's pixels. Clips are `[T, H, W, 3] uint8 RGB`.
"""
import math

import numpy as np
from PIL import Image

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
    side = int(min(width, height) * CORNER_SCALES[rng.integers(len(CORNER_SCALES))])
    x, y = [(0, 0), (1, 0), (0, 1), (1, 1), (0.5, 0.5)][rng.integers(5)]
    return round((width - side) * x), round((height - side) * y), side, side


def crop_and_resize(frames, box, size):
    """Cut the box out of each frame and resize it to `size` x `size`; return the clip.

    Pillow's bilinear filter, on the pixels of the box alone. Raises ValueError where the frames are
    not all of one size.
    """
    x, y, w, h = box
    clip = np.empty((len(frames), size, size, 3), np.uint8)
    for i, frame in enumerate(_of_one_size(frames)):
        image = Image.fromarray(frame[y : y + h, x : x + w])
        clip[i] = image.resize((size, size), Image.BILINEAR)
    return clip


def resize_short_side(frames, size):
    """Resize each frame so that its short side is `size`; return the clip."""
    height, width, _ = frames[0].shape
    if width < height:
        target = (size, int(size * height / width))
    else:
        target = (int(size * width / height), size)
    clip = np.empty((len(frames), target[1], target[0], 3), np.uint8)
    for i, frame in enumerate(_of_one_size(frames)):
        clip[i] = Image.fromarray(frame).resize(target, Image.BILINEAR)
    return clip


def resize_and_center_crop(frames, size):
    """Resize the short side to `size`, then cut the central square; return the clip.

    Reference: `Resize` and `CenterCrop` of validation and test.
    """
    clip = resize_short_side(frames, size)
    y, x = round((clip.shape[1] - size) / 2), round((clip.shape[2] - size) / 2)
    return clip[:, y : y + size, x : x + size]


def _of_one_size(frames):
    for frame in frames:
        if frame.shape != frames[0].shape:
            raise ValueError(f"frames of two sizes in one clip: {frames[0].shape[:2]}, {frame.shape[:2]}")
    return frames
