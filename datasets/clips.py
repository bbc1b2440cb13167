"""Clips for training, validation and test: which frames they show, how these are cropped, how they are read.

Clips are `[T, H, W, 3] uint8 RGB`, or `[T, H, W, 2]` of flow, a quarter of what float32 would send from the
readers. Normalisation happens on the device (`model.device.normalise`). A clip has a key and is read in two
calls: `request(key)` is all that a reader needs to know, so that no reader touches the index of samples;
`read(request, out)` opens the window, plans the crop, and decodes and resizes the frames.
"""
import zlib

import numpy as np

from datasets.flow import flow_in, flow_resize, flow_size
from datasets.resize import bilinear
from datasets.spatial import (
    box_crop,
    center_crop,
    corner_box,
    random_resized_box,
    short_side_crop,
    three_crops,
)
from datasets.temporal import center_window, even_windows, random_window, sliding_windows, spread_windows
from run.console import UserError


class _Clips:
    """Samples of one subset, and how to read a window of one of them."""

    def __init__(self, store, samples, clip, fast_decode):
        """`clip` is a ClipSpec; `fast_decode` decodes at 1/2, 1/4 or 1/8 if the crop is as much smaller."""
        self.store = store
        self.samples = samples
        self.clip = clip
        self.fast_decode = fast_decode

    def __getitem__(self, key):
        """Return `(clip, sample_index)`, read right here."""
        clip = np.empty(self.shape_of(key), np.uint8)
        self.read(self.request(key), clip)
        return clip, self.index_of(key)

    def shape_of(self, key):
        """Return the shape of a clip."""
        return self.clip.sample_duration, self.clip.sample_size, self.clip.sample_size, self.clip.n_channels

    def _frame_numbers(self, index):
        return range(self.samples.begins[index], self.samples.ends[index], self.clip.sample_t_stride)

    def _open(self, reader, folder, window):
        """Return height and width of a window's frames. Raises UserError unless all have the same."""
        sizes = {self._size(reader, number) for number in window}
        if len(sizes) > 1:
            raise self._of_two_sizes(folder, window)
        return sizes.pop()

    def _size(self, reader, number):
        size = reader.size(number)
        return flow_size(size) if self.clip.modality == "flow" else size

    def _of_two_sizes(self, folder, window):
        place = self.store.place(folder)
        return UserError(f"{place}: frames {window[0]} to {window[-1]} are not all of one size")

    def _decode(self, reader, window, size, crop, is_mirrored, out):
        """Write the frames of a window, cropped, to `out [T, H, W, C]`."""
        height, width = size
        n = crop.reduction() if self.fast_decode else 1
        crop = crop.of_reduced(n, width, height)
        if self.clip.modality == "flow":
            decode = lambda number: flow_in(reader.decode(number, "GRAY", n), size, n)
            resize = flow_resize(bilinear(*crop), is_mirrored)
        else:
            decode = lambda number: reader.decode(number, "RGBX", n)
            resize = bilinear(*crop, is_mirrored)
        first_at = {}
        for i, number in enumerate(window):
            if number in first_at:  # looped
                out[i] = out[first_at[number]]
            else:
                first_at[number] = i
                resize(decode(number), out[i])


class TrainingClips(_Clips):
    """One augmented clip a sample; `clips[epoch, index]` is a pure function of seed, epoch and the sample.

    So a clip is the same for any number of workers, on any process, and after a resume. Keys are
    `(epoch, index)`.
    """

    def __init__(self, store, samples, clip, recipe):
        """`recipe` is a `Recipe`, of which the seed and the augmentation count here."""
        super().__init__(store, samples, clip, recipe.fast_decode)
        self.recipe = recipe

    def __len__(self):
        return len(self.samples)

    def index_of(self, key):
        """Return the index of a clip's sample."""
        return key[1]

    def request(self, key):
        """Return all that reading a clip takes beside the settings."""
        epoch, index = key
        seed = [self.recipe.manual_seed, epoch, zlib.crc32(self.samples.keys[index].encode())]
        return self.samples.folders[index], self._frame_numbers(index), seed

    def read(self, request, out):
        """Read the clip of a request into `out [T, H, W, C] uint8`."""
        folder, numbers, seed = request
        rng = np.random.default_rng(seed)
        window = self._plan_window(numbers, rng)
        with self.store.reader(folder) as reader:
            height, width = self._open(reader, folder, window)
            crop, is_mirrored = self._plan_crop(width, height, rng)
            self._decode(reader, window, (height, width), crop, is_mirrored, out)

    def _plan_window(self, numbers, rng):
        if self.recipe.train_t_crop == "random":
            return random_window(numbers, self.clip.sample_duration, rng)
        return center_window(numbers, self.clip.sample_duration)

    def _plan_crop(self, width, height, rng):
        recipe, size = self.recipe, self.clip.sample_size
        if recipe.train_crop == "center":
            crop = center_crop(width, height, size)
        elif recipe.train_crop == "corner":
            crop = box_crop(corner_box(width, height, rng), size)
        else:
            limits = recipe.train_crop_min_scale, recipe.train_crop_min_ratio
            crop = box_crop(random_resized_box(width, height, rng, *limits), size)
        return crop, not recipe.no_hflip and rng.random() < 0.5

    def batches(self, epoch, batch_size):
        """Return the keys of an epoch's batches, shuffled by (seed, epoch); the last may be short."""
        order = np.random.default_rng([self.recipe.manual_seed, epoch]).permutation(len(self)).tolist()
        keys = [(epoch, index) for index in order]
        return _chunks(keys, batch_size)


class WindowClips(_Clips):
    """Fixed windows of every sample, in order; `clips[i]` is the i-th window of all. Keys are positions.

    `windows` is `("even", n_val_samples)`, `("sliding", inference_stride)` or `("spread", n_clips)`; `crop`
    is "center", "nocrop" or "three", which gives three clips for each window.
    """

    def __init__(self, store, samples, clip, windows, crop="center", fast_decode=False):
        super().__init__(store, samples, clip, fast_decode)
        kind, number = windows
        cut = {"even": even_windows, "sliding": sliding_windows, "spread": spread_windows}[kind]
        self.crop = crop
        cuts = [
            np.array(cut(self._frame_numbers(index), clip.sample_duration, number), np.int32)
            for index in range(len(samples))
        ]
        # Arrays, since UCF-101 has 45,307 windows in a test set: each one's video, and its frame numbers.
        self.video_of = np.repeat(np.arange(len(cuts)), [len(windows) for windows in cuts])
        self.windows = np.concatenate(cuts)
        if crop == "three":
            self.video_of, self.windows = self.video_of.repeat(3), self.windows.repeat(3, axis=0)

    def __len__(self):
        return len(self.windows)

    def index_of(self, position):
        """Return the index of a clip's sample."""
        return int(self.video_of[position])

    def shape_of(self, position):
        """Return the shape of a clip; that of an uncropped one follows from its first frame."""
        if self.crop != "nocrop":
            return super().shape_of(position)
        with self.store.reader(self.samples.folders[self.index_of(position)]) as reader:
            height, width = self._size(reader, int(self.windows[position][0]))
        return self.clip.sample_duration, *self._plan_crop(0, width, height).shape, self.clip.n_channels

    def request(self, position):
        """Return all that reading a clip takes beside the settings."""
        request = self.samples.folders[self.index_of(position)], self.windows[position].tolist()
        return (*request, position % 3) if self.crop == "three" else request

    def read(self, request, out):
        """Read the clip of a request into `out [T, H, W, C] uint8`."""
        folder, window, *place = request
        with self.store.reader(folder) as reader:
            height, width = self._open(reader, folder, window)
            crop = self._plan_crop(*(place or [0]), width, height)
            if crop.shape != out.shape[1:3]:
                raise self._of_two_sizes(folder, window)  # its frames, or those of the batch's first clip
            self._decode(reader, window, (height, width), crop, False, out)

    def part_of(self, position):
        """Return the part of the frame that a clip shows, see `Crop.part`."""
        with self.store.reader(self.samples.folders[self.index_of(position)]) as reader:
            height, width = self._size(reader, int(self.windows[position][0]))
        return self._plan_crop(0, width, height).part()

    def _plan_crop(self, place, width, height):
        """Return the crop of frames; of three, that of `place`, 0 to 2."""
        if self.crop == "three":
            return three_crops(width, height, self.clip.sample_size)[place]
        plan = center_crop if self.crop == "center" else short_side_crop
        return plan(width, height, self.clip.sample_size)

    def batches(self, batch_size):
        """Return the positions of every batch, windows of several samples together.

        Uncropped clips of two videos may differ in size, so there a batch is of one sample.
        """
        positions = range(len(self.windows))
        if self.crop != "nocrop":
            return _chunks(positions, batch_size)
        by_sample = {}
        for position in positions:
            by_sample.setdefault(self.index_of(position), []).append(position)
        return [batch for members in by_sample.values() for batch in _chunks(members, batch_size)]


def _chunks(keys, size):
    return [list(keys[i : i + size]) for i in range(0, len(keys), size)]
