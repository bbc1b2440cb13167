"""Clips for training, validation and test: which frames they show, how these are cropped, how they are read.

Clips are `[T, H, W, 3] uint8 RGB`, a quarter of what float32 would send from the readers. Normalisation
happens on the device (`normalise`). A clip is asked for by a key and read in two steps: `request(key)` is
all that a reader needs to know, so that no reader touches the index of videos; `read(request, out)`
decodes it.
"""
import zlib

import numpy as np
import paddle

from datasets.frames import frame_name, frame_size, read_frame
from datasets.resize import bilinear
from datasets.spatial import box_crop, center_crop, corner_box, random_resized_box, short_side_crop
from datasets.temporal import center_window, even_windows, random_window, sliding_windows
from opts import UserError

# Mean and standard deviation of each channel, R G B in [0, 1]. Reference: `mean.py`.
MEANS = {
    "kinetics": ((0.4345, 0.4051, 0.3775), (0.2768, 0.2713, 0.2737)),
    "activitynet": ((0.4477, 0.4209, 0.3906), (0.2767, 0.2695, 0.2714)),
    "0.5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


def normalise(clips_thwc, mean_dataset):
    """Turn an array `[N, T, H, W, 3] uint8` into a Tensor `[N, 3, T, H, W] float32`, on Paddle's device."""
    mean, std = (np.float32(values) for values in MEANS[mean_dataset])
    scale, shift = 1 / (255 * std), mean / std
    if paddle.get_device() == "cpu":  # where Paddle's own operators take five times as long
        clips = np.empty((len(clips_thwc), 3, *clips_thwc.shape[1:4]), np.float32)
        for c in range(3):
            np.multiply(clips_thwc[..., c], scale[c], out=clips[:, c], dtype=np.float32)
            clips[:, c] -= shift[c]
        return paddle.to_tensor(clips)
    clips = paddle.to_tensor(clips_thwc).astype("float32").transpose([0, 4, 1, 2, 3])
    scale, shift = (paddle.to_tensor(values).reshape([1, 3, 1, 1, 1]) for values in (scale, shift))
    return clips * scale - shift


class _Clips:
    """Videos of one subset, and how to read a window of one of them."""

    def __init__(
        self, frames_path, videos, sample_size, sample_duration, sample_t_stride, fast_decode=False
    ):
        """`fast_decode` decodes frames at 1/2, 1/4 or 1/8 where the crop is reduced by as much anyway."""
        self.frames_path = str(frames_path)
        self.videos = videos
        self.sample_size = sample_size
        self.sample_duration = sample_duration
        self.sample_t_stride = sample_t_stride
        self.fast_decode = fast_decode

    def __getitem__(self, key):
        """Return `(clip, video_index)`, read right here."""
        clip = np.empty(self.shape_of(key), np.uint8)
        self.read(self.request(key), clip)
        return clip, self.index_of(key)

    def shape_of(self, key):
        """Return the shape of a clip."""
        return self.sample_duration, self.sample_size, self.sample_size, 3

    def _folder(self, index):
        video = self.videos[index]
        return f"{self.frames_path}/{video.class_name}/{video.name}"

    def _frame_numbers(self, index):
        video = self.videos[index]
        return range(video.begin, video.end)[:: self.sample_t_stride]

    def _read_window(self, folder, window, crop_of, out):
        """Write the frames of a window to `out [T, H, W, 3]`.

        `crop_of(width, height)` is asked once, for `(crop, mirrored)`.
        """
        size = n = resize = None

        def reduction(height, width):
            nonlocal size, n, resize
            if size is None:
                crop, mirrored = crop_of(width, height)
                size = height, width, *crop.shape
                n = crop.reduction() if self.fast_decode else 1
                resize = bilinear(*crop.of_reduced(n, width, height), mirrored)
            if size != (height, width, *out.shape[1:3]):
                raise UserError(f"{folder}: frames {window[0]} to {window[-1]} are not all of one size")
            return n

        first_at = {}
        for i, number in enumerate(window):
            if number in first_at:  # looped
                out[i] = out[first_at[number]]
            else:
                first_at[number] = i
                pixels = read_frame(f"{folder}/{frame_name(number)}", "RGBX", reduction)
                resize(pixels, out[i])


class TrainingClips(_Clips):
    """One augmented clip a video; `dataset[epoch, index]` is a pure function of seed, epoch, video.

    So a clip is the same for any number of workers, on any process, and after a resume.
    """

    def __init__(
        self,
        *clip_arguments,
        manual_seed,
        train_crop="random",
        train_crop_min_scale=0.25,
        train_crop_min_ratio=0.75,
        hflip=True,
        train_t_crop="random",
        fast_decode=False,
    ):
        super().__init__(*clip_arguments, fast_decode)
        self.manual_seed = manual_seed
        self.train_crop = train_crop
        self.train_crop_min_scale = train_crop_min_scale
        self.train_crop_min_ratio = train_crop_min_ratio
        self.hflip = hflip
        self.train_t_crop = train_t_crop

    def __len__(self):
        return len(self.videos)

    def index_of(self, key):
        """Return the index of a clip's video."""
        return key[1]

    def request(self, key):
        """Return all that reading a clip takes beside the settings."""
        epoch, index = key
        seed = [self.manual_seed, epoch, zlib.crc32(self.videos[index].name.encode())]
        return self._folder(index), self._frame_numbers(index), seed

    def read(self, request, out):
        """Read the clip of a request into `out [T, H, W, 3] uint8`."""
        folder, numbers, seed = request
        rng = np.random.default_rng(seed)
        if self.train_t_crop == "random":
            window = random_window(numbers, self.sample_duration, rng)
        else:
            window = center_window(numbers, self.sample_duration)
        self._read_window(folder, window, lambda width, height: self._draw_crop(width, height, rng), out)

    def _draw_crop(self, width, height, rng):
        if self.train_crop == "center":
            crop = center_crop(width, height, self.sample_size)
        else:
            if self.train_crop == "random":
                limits = self.train_crop_min_scale, self.train_crop_min_ratio
                box = random_resized_box(width, height, rng, *limits)
            else:
                box = corner_box(width, height, rng)
            crop = box_crop(box, self.sample_size)
        return crop, self.hflip and rng.random() < 0.5

    def batches(self, epoch, batch_size):
        """Return the keys of an epoch's batches, shuffled by (seed, epoch); the last may be short."""
        order = np.random.default_rng([self.manual_seed, epoch]).permutation(len(self)).tolist()
        keys = [(epoch, index) for index in order]
        return _chunks(keys, batch_size)


class WindowClips(_Clips):
    """Fixed windows of every video, in order; `dataset[i]` is the i-th window of all.

    `windows` is either `("even", n_val_samples)` or `("sliding", inference_stride)`;
    `crop` is "center" or "nocrop".
    """

    def __init__(self, *clip_arguments, windows, crop="center", fast_decode=False):
        super().__init__(*clip_arguments, fast_decode)
        kind, number = windows
        cut = {"even": even_windows, "sliding": sliding_windows}[kind]
        self.crop = crop
        cuts = [
            np.array(cut(self._frame_numbers(index), self.sample_duration, number), np.int32)
            for index in range(len(self.videos))
        ]
        # Arrays, since UCF-101 has 45,307 windows in a test set: each one's video, and its frame numbers.
        self.video_of = np.repeat(np.arange(len(cuts)), [len(windows) for windows in cuts])
        self.windows = np.concatenate(cuts)

    def __len__(self):
        return len(self.windows)

    def index_of(self, position):
        """Return the index of a clip's video."""
        return int(self.video_of[position])

    def shape_of(self, position):
        """Return the shape of a clip; that of an uncropped one follows from its first frame."""
        if self.crop == "center":
            return super().shape_of(position)
        first = frame_name(self.windows[position][0])
        height, width = frame_size(f"{self._folder(self.index_of(position))}/{first}")
        return self.sample_duration, *short_side_crop(width, height, self.sample_size).shape, 3

    def request(self, position):
        """Return all that reading a clip takes beside the settings."""
        return self._folder(self.index_of(position)), self.windows[position].tolist()

    def read(self, request, out):
        """Read the clip of a request into `out [T, H, W, 3] uint8`."""
        place = center_crop if self.crop == "center" else short_side_crop
        self._read_window(
            *request, lambda width, height: (place(width, height, self.sample_size), False), out
        )

    def batches(self, batch_size):
        """Return the positions of every batch, windows of several videos together.

        Uncropped clips of two videos may differ in size, so there a batch is of one video.
        """
        positions = range(len(self.windows))
        if self.crop == "center":
            return _chunks(positions, batch_size)
        by_video = {}
        for position in positions:
            by_video.setdefault(self.index_of(position), []).append(position)
        return [batch for members in by_video.values() for batch in _chunks(members, batch_size)]


def _chunks(keys, size):
    return [list(keys[i : i + size]) for i in range(0, len(keys), size)]
