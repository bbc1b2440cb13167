"""Clips and their loader: reproducible, complete, and loud where a frame is broken."""
import shutil
import subprocess
import sys
import zlib

import numpy as np
import paddle
import pytest
from conftest import ROOT, cut, make_frames, read_frame

from datasets import resize
from datasets.annotation import read_annotation
from datasets.clips import TrainingClips, WindowClips
from datasets.loader import ClipLoader
from datasets.samples import Sample, Samples
from datasets.spatial import box_crop, center_crop
from datasets.stores import FrameReader, FrameStore, open_store
from datasets.stores.jpg_folders import frame_name
from model.device import normalise
from run.console import UserError
from run.spec import MEANS, ClipSpec, Recipe

FRAMES = "dataset/UCF-101-jpg"


def samples_of(root):
    """Return all ten samples of `small_set`; the i-th has 18 + i frames of 80 x 60 pixels."""
    subsets = read_annotation(root / "dataset/ucf101_01.json").subsets
    return subsets["training"] + subsets["validation"]


def clip_spec(sample_t_stride=1):
    return ClipSpec(sample_size=32, sample_duration=8, sample_t_stride=sample_t_stride)


def training_clips(root, samples=None, **recipe):
    samples = samples_of(root) if samples is None else Samples(samples)
    return TrainingClips(open_store(root / FRAMES), samples, clip_spec(), Recipe(**recipe))


def window_clips(root, windows, samples=None, t_stride=1, **options):
    samples = samples_of(root) if samples is None else Samples(samples)
    return WindowClips(open_store(root / FRAMES), samples, clip_spec(t_stride), windows, **options)


def read_all(dataset, batches, n_threads):
    loader = ClipLoader(dataset, batches, n_threads)
    return [(clips.copy(), indices) for clips, indices in loader]


def assert_same_batches(ours, expected):
    assert len(ours) == len(expected)
    for (clips, indices), (expected_clips, expected_indices) in zip(ours, expected):
        np.testing.assert_array_equal(indices, expected_indices)
        np.testing.assert_array_equal(clips, expected_clips)


def test_a_training_clip_is_the_same_from_any_number_of_workers(small_set):
    dataset = training_clips(small_set)
    batches = dataset.batches(3, 4)
    assert_same_batches(read_all(dataset, batches, 2), read_all(dataset, batches, 0))


def test_a_training_clip_follows_from_seed_epoch_and_video_alone(small_set):
    samples = list(samples_of(small_set))
    dataset, reversed_set = training_clips(small_set), training_clips(small_set, samples[::-1])
    for index in range(10):
        clip, given = dataset[1, index]
        assert given == index
        np.testing.assert_array_equal(clip, reversed_set[1, 9 - index][0])
        assert (clip != dataset[2, index][0]).any()
        assert (clip != training_clips(small_set, manual_seed=2)[1, index][0]).any()


def test_training_batches_hold_every_video_once_and_the_last_is_short(small_set):
    dataset = training_clips(small_set)
    orders = []
    for seed, epoch in ((1, 1), (1, 2), (2, 1)):
        batches = training_clips(small_set, manual_seed=seed).batches(epoch, 4)
        assert [len(batch) for batch in batches] == [4, 4, 2]
        assert {key[0] for batch in batches for key in batch} == {epoch}
        orders.append([index for batch in batches for _, index in batch])
        assert sorted(orders[-1]) == list(range(10))
    assert orders[0] != orders[1] and orders[0] != orders[2]
    loaded = read_all(dataset, dataset.batches(1, 4), 0)
    assert np.concatenate([indices for _, indices in loaded]).tolist() == orders[0]


def test_half_of_the_training_clips_are_mirrored(small_set):
    dataset = training_clips(small_set, train_crop="center", train_t_crop="center")
    plain, _ = window_clips(small_set, ("even", 1))[0]
    mirrored = 0
    for epoch in range(1, 101):
        clip, _ = dataset[epoch, 0]
        mirrored += (clip == plain[:, :, ::-1]).all()
        assert (clip == plain).all() or (clip == plain[:, :, ::-1]).all()
    assert 30 <= mirrored <= 70  # four standard deviations of 100 fair draws


def test_without_augmentation_a_training_clip_is_the_centre_clip(small_set):
    dataset = training_clips(small_set, train_crop="center", train_t_crop="center", no_hflip=True)
    for index, (plain, _) in enumerate(window_clips(small_set, ("even", 1))):
        np.testing.assert_array_equal(dataset[5, index][0], plain)


def test_a_clip_is_of_the_frames_of_its_window(small_set):
    sample = samples_of(small_set)[0]._replace(begin=3, end=18)  # frames 3, 5, ... 17
    clip, _ = window_clips(small_set, ("sliding", 8), [sample], t_stride=2)[0]
    folder = small_set / FRAMES / sample.folder
    frames = [read_frame(folder / frame_name(number)) for number in range(3, 18, 2)]
    np.testing.assert_array_equal(clip, cut(frames, center_crop(80, 60, 32)))


@pytest.mark.parametrize("train_crop", ["random", "corner", "center"])
def test_every_training_crop_gives_a_clip_of_the_asked_size(small_set, train_crop):
    clip, _ = training_clips(small_set, train_crop=train_crop)[1, 0]
    assert clip.shape == (8, 32, 32, 3) and clip.dtype == np.uint8


def test_even_and_sliding_windows_are_counted(small_set):
    n_frames = [18 + i for i in range(10)]
    n_sliding = [-(-n // 5) for n in n_frames]  # a start every 5 frames ...
    n_looped = [sum(start + 8 > n for start in range(0, n, 5)) for n in n_frames]
    n_sliding = [n - max(0, looped - 1) for n, looped in zip(n_sliding, n_looped)]  # ... to the first looped
    for windows, n_expected in ((("even", 3), [3] * 10), (("sliding", 5), n_sliding)):
        dataset = window_clips(small_set, windows)
        indices = [dataset.index_of(position) for position in range(len(dataset))]
        assert [indices.count(video) for video in range(10)] == n_expected
        assert indices == sorted(indices) and len(dataset) == sum(n_expected)
        batches = dataset.batches(7)
        assert [position for batch in batches for position in batch] == list(range(len(dataset)))
        assert {len(batch) for batch in batches[:-1]} == {7}


def test_uncropped_batches_hold_one_video_each(small_set):
    for name, width in (("narrow", 40), ("wide", 120)):
        make_frames(small_set / FRAMES / "run" / name, 20, width=width)
    samples = [Sample("narrow", "run/narrow", 1, 1, 21), Sample("wide", "run/wide", 1, 1, 21)]
    dataset = window_clips(small_set, ("sliding", 8), samples, crop="nocrop")
    batches = dataset.batches(2)
    assert batches == [[0, 1], [2], [3, 4], [5]]
    loaded = read_all(dataset, batches, 0)
    assert [clips.shape[2:4] for clips, _ in loaded] == [(48, 32), (48, 32), (32, 64), (32, 64)]
    assert [indices.tolist() for _, indices in loaded] == [[0, 0], [0], [1, 1], [1]]


@pytest.mark.parametrize("n_threads", [0, 2])
def test_batches_are_handed_over_as_bytes(small_set, n_threads):
    dataset = window_clips(small_set, ("even", 1))
    clips, indices = next(iter(ClipLoader(dataset, dataset.batches(4), n_threads)))
    assert clips.dtype == np.uint8 and clips.shape == (4, 8, 32, 32, 3)
    assert indices.dtype == np.int64 and indices.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("mean_dataset", MEANS)
def test_normalised_clips_equal_the_formula(mean_dataset):
    clips = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16, 3), np.uint8)
    mean, std, scale = MEANS[mean_dataset]
    expected = ((clips / scale - np.array(mean)) / np.array(std)).transpose(0, 4, 1, 2, 3)
    ours = normalise(clips, ClipSpec(mean=mean, std=std, scale=scale))
    assert ours.dtype == paddle.float32
    # Of the largest: three roundings of float32.
    np.testing.assert_allclose(ours.numpy(), expected, rtol=0, atol=4e-7 * np.abs(expected).max())


READ_ALL = """
from datasets.annotation import read_annotation
from datasets.clips import WindowClips
from datasets.loader import ClipLoader
from datasets.stores import open_store
from run.console import UserError
from run.spec import ClipSpec
samples = read_annotation("{root}/dataset/ucf101_01.json").subsets["training"]
clip = ClipSpec(sample_size=32, sample_duration=8)
dataset = WindowClips(open_store("{root}/{frames}"), samples, clip, ("sliding", 8))
try:
    for batch in ClipLoader(dataset, dataset.batches(4), {n_threads}):
        pass
except UserError as error:
    print("UserError:", error)
"""


@pytest.mark.parametrize("n_threads", [0, 2])
def test_a_broken_frame_ends_the_loader_with_its_name(small_set, n_threads):
    path = small_set / FRAMES / samples_of(small_set)[4].folder / frame_name(9)
    path.write_bytes(path.read_bytes()[:300])
    code = READ_ALL.format(root=small_set, frames=FRAMES, n_threads=n_threads)
    # A process of its own: a loader that hangs is ended by the timeout.
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert f"UserError: {path}: does not decode" in done.stdout.replace("\n", " "), done.stdout


def test_an_error_beside_the_loader_leaves_no_reader_to_wait_for(small_set):
    code = READ_ALL.format(root=small_set, frames=FRAMES, n_threads=2).replace(
        "        pass", "        raise MemoryError('of the step')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1 and done.stderr.endswith("MemoryError: of the step\n")


def test_frames_of_two_sizes_in_a_window_are_refused(small_set):
    folder = small_set / FRAMES / "run/v"
    make_frames(folder, 8)
    make_frames(folder.with_name("other"), 8, width=100)
    shutil.copy(folder.with_name("other") / frame_name(5), folder)
    for crop in ("center", "nocrop"):
        dataset = window_clips(small_set, ("even", 1), [Sample("v", "run/v", 1, 1, 9)], crop=crop)
        with pytest.raises(UserError, match="run/v: frames 1 to 8 are not all of one size"):
            dataset[0]


def test_uncropped_windows_of_two_sizes_in_a_batch_are_refused(small_set):
    folder = small_set / FRAMES / "run/v"
    make_frames(folder, 16)
    make_frames(folder.with_name("other"), 16, width=100)
    for number in range(9, 17):
        shutil.copy(folder.with_name("other") / frame_name(number), folder)
    samples = [Sample("v", "run/v", 1, 1, 17)]
    dataset = window_clips(small_set, ("sliding", 8), samples, crop="nocrop")
    with pytest.raises(UserError, match="run/v: frames 9 to 16 are not all of one size"):
        read_all(dataset, dataset.batches(2), 0)


def test_a_small_shared_memory_does_not_matter(small_set):
    # Docker's /dev/shm has 64 MB; here it has less than one of the batches.
    mount = "mount -t tmpfs -o size=64k none /dev/shm"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode != 0:
        pytest.skip("another /dev/shm takes the right to mount")
    code = READ_ALL.format(root=small_set, frames=FRAMES, n_threads=2) + "print('read')"
    script = f'{mount} && exec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, sys.executable, code],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "read\n"), done.stderr


def test_fast_decoding_gives_nearly_the_same_clips(small_set):
    folder = small_set / FRAMES / "run/large"
    make_frames(folder, 8, height=240, width=320)
    sample = [Sample("large", "run/large", 1, 1, 9)]
    for make in (
        lambda **more: window_clips(small_set, ("even", 1), sample, **more)[0][0],
        lambda **more: window_clips(small_set, ("even", 1), sample, crop="nocrop", **more)[0][0],
        lambda **more: training_clips(small_set, sample, train_crop_min_scale=1.0, **more)[1, 0][0],
    ):
        exact, fast = make().astype(int), make(fast_decode=True).astype(int)
        # Blocks of one colour, seen through two filters: the edges differ.
        assert exact.shape == fast.shape and 0 < np.abs(exact - fast).mean() < 4


def test_a_clip_is_decoded_smaller_only_where_its_crop_allows_it():
    assert center_crop(320, 240, 112).reduction() == 2
    assert center_crop(320, 223, 112).reduction() == 1
    assert box_crop((0, 0, 224, 448), 112).reduction() == 2
    assert box_crop((0, 0, 223, 448), 112).reduction() == 1
    assert box_crop((10, 20, 900, 900), 112).reduction() == 8
    assert box_crop((7, 9, 225, 231), 112).of_reduced(2, 321, 240).box == (4, 4, 112, 116)


@pytest.mark.parametrize("mirrored", [False, True])
def test_without_numba_pillow_gives_the_same_pixels(monkeypatch, mirrored):
    frame = np.random.default_rng(0).integers(0, 256, (60, 83, 4), np.uint8)
    crop = center_crop(83, 60, 32)
    ours, pillows = np.empty((2, 32, 32, 3), np.uint8)
    resize.bilinear(*crop, mirrored)(frame, ours)
    monkeypatch.setattr(resize, "numba", None)
    resize.bilinear(*crop, mirrored)(frame, pillows)
    np.testing.assert_array_equal(ours, pillows)


class SyntheticFrames(FrameStore):
    """Frames that show where and when they are; the folder "A/240x320x29" has 29 of 320 x 240 pixels."""

    def reader(self, folder):
        return SyntheticReader(folder)


class SyntheticReader(FrameReader):
    def __init__(self, folder):
        self.height, self.width = map(int, folder.removeprefix("A/").split("x")[:2])

    def size(self, number):
        return self.height, self.width

    def decode(self, number, colorspace="RGB", reduction=1):
        y, x = np.mgrid[: self.height : reduction, : self.width : reduction]
        planes = 3 * x + 7 * number, 5 * y + 11 * number, x + y + 13 * number, 0 * x
        return np.stack(planes, -1).astype(np.uint8)


# Sums over the bytes of clips, those of version 1: what a seed draws may not change. No codec is in
# between. Of clips of 16 frames, and of clips of 8 with every second frame.
CLIP_SPECS = [ClipSpec(sample_size=48), ClipSpec(sample_size=32, sample_duration=8, sample_t_stride=2)]
DRAWN = [
    ({}, [3515124117, 2031486625]),
    ({"train_crop": "corner"}, [13660280, 1363838290]),
    (
        {"train_crop_min_scale": 0.6, "train_crop_min_ratio": 0.9, "manual_seed": 7},
        [1461508768, 2063516788],
    ),
    ({"train_crop": "center", "train_t_crop": "center", "no_hflip": True}, [4226696575, 2282248932]),
    ({"fast_decode": True, "train_crop_min_scale": 1.0}, [1534762695, 3169104072]),
]
FIXED = [
    ({"windows": ("even", 3)}, [3437329874, 1768585955]),
    ({"windows": ("even", 3), "crop": "nocrop"}, [485561791, 2948175289]),
    ({"windows": ("sliding", 16)}, [119552515, 4031475040]),
    ({"windows": ("sliding", 16), "crop": "nocrop"}, [1223869952, 1838562686]),
    ({"windows": ("even", 1), "fast_decode": True}, [319986842, 3685440553]),
    ({"windows": ("even", 1), "fast_decode": True, "crop": "nocrop"}, [2171827749, 2265483263]),
]


def synthetic_samples():
    names = [f"{size}x{n}" for size in ("240x320", "320x240", "61x83") for n in (5, 29, 100)]
    n_frames = [int(name.split("x")[2]) for name in names]
    return Samples(Sample(name, f"A/{name}", 0, 1 + n // 10, n + 1) for name, n in zip(names, n_frames))


def crc_of(clips, keys):
    crc = 0
    for key in keys:
        crc = zlib.crc32(clips[key][0].tobytes(), crc)
    return crc


@pytest.mark.parametrize("recipe, expected", DRAWN)
def test_a_seed_draws_the_clips_that_it_always_drew(recipe, expected):
    samples = synthetic_samples()
    keys = [(epoch, index) for epoch in range(1, 4) for index in range(len(samples))]
    for clip, crc in zip(CLIP_SPECS, expected):
        assert crc_of(TrainingClips(SyntheticFrames("."), samples, clip, Recipe(**recipe)), keys) == crc


@pytest.mark.parametrize("options, expected", FIXED)
def test_windows_show_what_they_always_showed(options, expected):
    for clip, crc in zip(CLIP_SPECS, expected):
        clips = WindowClips(SyntheticFrames("."), synthetic_samples(), clip, **options)
        assert crc_of(clips, range(len(clips))) == crc


def test_a_looped_frame_is_decoded_once_and_the_reader_closed():
    calls = []

    class Reader(SyntheticReader):
        def decode(self, number, colorspace="RGB", reduction=1):
            calls.append(number)
            return super().decode(number, colorspace, reduction)

        def close(self):
            calls.append("closed")

    store = SyntheticFrames(".")
    store.reader = Reader
    clips = WindowClips(store, synthetic_samples(), CLIP_SPECS[0], ("even", 1))
    clips[0]
    assert calls == [1, 2, 3, 4, 5, "closed"]  # looped to 16
