"""Crops: Pillow's pixels, the reference's validation crop, and boxes within their limits."""
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import GOLDEN, cut, pillow_resize, read_frame
from PIL import Image

from datasets.spatial import box_crop, center_crop, corner_box, random_resized_box, short_side_crop


def noise(height, width, n_frames=2):
    return list(np.random.default_rng(0).integers(0, 256, (n_frames, height, width, 3), np.uint8))


@pytest.mark.parametrize(
    "box", [(0, 0, 80, 60), (7, 3, 20, 30), (79, 59, 1, 1), (0, 59, 80, 1), (5, 0, 33, 60), (5, 1, 2, 57)]
)
def test_a_box_is_cut_and_resized_as_pillow_does(box):
    frames = noise(60, 80)
    clip = cut(frames, box_crop(box, 32))
    x, y, w, h = box
    assert clip.shape == (2, 32, 32, 3) and clip.dtype == np.uint8
    for ours, frame in zip(clip, frames):
        image = pillow_resize(Image.fromarray(frame).crop((x, y, x + w, y + h)), (32, 32))
        np.testing.assert_array_equal(ours, np.asarray(image))


def other_pixels(reference_path):
    """Return how many numbers of a real frame's validation crop are not the reference's."""
    frame = read_frame(reference_path / "frames/v_Archery_g01_c01/image_00050.jpg")
    height, width, _ = frame.shape
    crop = cut([frame], center_crop(width, height, 112))[0]
    expected = np.load(GOLDEN / "center_crop.npz")["frame50"]
    assert crop.shape == expected.shape and crop.dtype == expected.dtype
    return np.count_nonzero(crop != expected)


def test_the_validation_crop_equals_the_reference(reference_path):
    assert other_pixels(reference_path) == 0


@pytest.mark.parametrize(
    "height, width, resized", [(60, 80, (32, 42)), (80, 60, (42, 32)), (50, 50, (32, 32)), (20, 30, (32, 48))]
)
def test_the_short_side_is_resized_and_the_centre_cut(height, width, resized):
    frames = noise(height, width)
    whole = cut(frames, short_side_crop(width, height, 32))
    assert whole.shape == (2, *resized, 3)
    image = pillow_resize(Image.fromarray(frames[0]), resized[::-1])
    np.testing.assert_array_equal(whole[0], np.asarray(image))
    y, x = (resized[0] - 32) // 2, (resized[1] - 32) // 2
    middle = cut(frames, center_crop(width, height, 32))
    np.testing.assert_array_equal(middle, whole[:, y : y + 32, x : x + 32])


@pytest.mark.parametrize("width, height", [(320, 240), (240, 320), (427, 240)])
@pytest.mark.parametrize("min_scale, min_ratio", [(0.25, 0.75), (0.4, 0.9)])
def test_random_boxes_fill_their_limits_and_no_more(width, height, min_scale, min_ratio):
    rng = np.random.default_rng(0)
    boxes = [random_resized_box(width, height, rng, min_scale, min_ratio) for _ in range(2000)]
    for x, y, w, h in boxes:
        assert x >= 0 and y >= 0 and x + w <= width and y + h <= height
        # Sides are rounded to whole pixels: half a pixel of slack each.
        assert (w + 0.5) * (h + 0.5) >= min_scale * width * height
        assert (w + 0.5) / (h - 0.5) >= min_ratio and (w - 0.5) / (h + 0.5) <= 1 / min_ratio
    # A wide frame has no large boxes of a permitted ratio; 4:3 and 3:4 reach almost the whole frame.
    scales = [w * h / (width * height) for _, _, w, h in boxes]
    assert min(scales) < min_scale + 0.02
    assert max(scales) > 0.95 * min(1, min(width, height) / max(width, height) / min_ratio)
    ratios = [w / h for _, _, w, h in boxes]
    assert min(ratios) < min_ratio * 1.02 and max(ratios) > 0.98 / min_ratio
    for start, side, whole in ((0, 2, width), (1, 3, height)):
        assert any(box[start] == 0 for box in boxes)
        assert any(box[start] == whole - box[side] > 0 for box in boxes)


@pytest.mark.parametrize(
    "width, height, box", [(1000, 10, (493, 0, 13, 10)), (10, 1000, (0, 493, 10, 13)), (1, 1, (0, 0, 1, 1))]
)
def test_a_frame_too_narrow_for_any_box_gives_the_largest_central_one(width, height, box):
    for seed in range(20):
        assert random_resized_box(width, height, np.random.default_rng(seed)) == box


@pytest.mark.parametrize("width, height", [(320, 240), (240, 320), (427, 240)])
def test_corner_boxes_are_of_five_positions_and_five_scales(width, height):
    sides = [240, 201, 169, 142, 120]  # 240 * 2 ** (-k / 4), rounded down
    expected = {
        (x, y, s, s)
        for s in sides
        for x, y in [(0, 0), (width - s, 0), (0, height - s), (width - s, height - s)]
        + [(round((width - s) / 2), round((height - s) / 2))]
    }
    bounds = set()
    boxes = set()
    for scale in range(5):
        for position in range(5):
            draws = [position, scale]
            rng = SimpleNamespace(integers=lambda n, draws=draws: bounds.add(n) or draws.pop())
            boxes.add(corner_box(width, height, rng))
    assert bounds == {5} and boxes == expected
