"""The clips of a video file, straight from it: stage 1's frames and stage 4's windows, nothing on disk."""
import contextlib
import itertools
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from datasets.clips import normalise
from datasets.spatial import resize_and_center_crop, resize_short_side
from datasets.temporal import streamed_windows
from datasets.video import claimed_frames, frame_rate, read_frames, rgb_frame
from opts import VIDEO_SUFFIXES, UserError, progress_bar, shown

FRAME_SIZE = 240  # stage 1's default for the short side


def named_videos(named, root_path, lines):
    """Yield the path of each video that is named; in the place of what holds none, a UserError or OSError.

    `named` holds paths of files and folders, and "-" for `lines` of bytes, each a path from `root_path`.
    """
    for path in named:
        if path == "-":
            listed = (root_path / os.fsdecode(line.rstrip(b"\r\n")) for line in lines if line.strip())
        else:
            listed = [path]
        each = None
        for each in listed:
            try:
                yield from _videos_at(each)
            except (UserError, OSError) as error:
                yield error
        if each is None:
            yield UserError("no path on stdin")


def _videos_at(path):
    if path.exists() and not path.is_dir() and not path.is_file():
        raise UserError(f"{path}: not a file; a video is read more than once, so a pipe does not serve")
    if not path.is_dir():
        return [path]
    found = []
    for folder, _, names in os.walk(path, onerror=_raise):
        videos = (name for name in names if name.lower().endswith(VIDEO_SUFFIXES) and name[0] != ".")
        found += [Path(folder, name) for name in videos]
    if not found:
        raise UserError(f"{path}: no video in this folder, no file ending in {' '.join(VIDEO_SUFFIXES)}")
    return sorted(found)


def _raise(error):
    raise error


class VideoClips:
    """Iterating gives `(window, clip_thwc [T, H, W, 3] uint8 RGB)` for each window of a video, in order.

    A window holds frame numbers from 1, as `WindowClips` has them for the same video's jpgs; the pixels
    are the jpgs' but for what jpg loses. `n_frames` and `rate`, a Fraction of frames a second, are known
    with the first clip. Memory is that of one clip, however long the video is.

    Raises UserError for what does not decode, as `read_frames` does.
    """

    def __init__(
        self, path, sample_size, sample_duration, sample_t_stride, inference_stride, crop="center", fps=None
    ):
        self.path = path
        self.sample_size = sample_size
        self.sample_duration = sample_duration
        self.sample_t_stride = sample_t_stride
        self.inference_stride = inference_stride
        self.crop = crop
        self.fps = fps
        self.n_frames = 0
        self.rate = None
        self._reformatters = {}

    def __iter__(self):
        for pairs in streamed_windows(self._frames(), self.sample_duration, self.inference_stride):
            window, frames = zip(*pairs)
            yield list(window), np.stack(frames)

    def evaluate(self, function, mean_dataset, batch_size):
        """Yield `(window, values)` for each clip, `values` its row of `function(clips [N, 3, T, H, W])`.

        Batches are of this video alone, so that its values do not depend on others. A progress bar shows
        where it takes more than 2 s.
        """
        total, name = claimed_frames(self.path, self.fps) or None, shown(self.path.name)
        bar = progress_bar(total=total, unit="frame", desc=name, delay=2, leave=False)
        with bar, contextlib.closing(iter(self)) as clips:
            while batch := list(itertools.islice(clips, batch_size)):
                windows, clips_thwc = zip(*batch)
                yield from zip(windows, function(normalise(np.stack(clips_thwc), mean_dataset)))
                bar.update(self.n_frames - bar.n)

    def _frames(self):
        """Yield `(number, frame as the network takes it)` for every frame that windows are cut from."""
        shape = None
        for frame, n_copies in read_frames(self.path, self.fps):
            if self.rate is None:
                self.rate = Fraction(str(self.fps)) if self.fps else frame_rate(self.path)
            small = None
            for _ in range(n_copies):
                self.n_frames += 1
                if (self.n_frames - 1) % self.sample_t_stride:
                    continue
                if small is None:
                    small = self._resize(frame)
                shape = shape or small.shape
                if small.shape != shape:
                    raise UserError(f"{self.path}: its frames change their size at frame {self.n_frames}")
                yield self.n_frames, small
        if self.n_frames == 0:
            raise UserError(f"{self.path}: too short for a frame at {self.fps:g} frames a second")

    def _resize(self, frame):
        try:
            rgb = rgb_frame(frame, FRAME_SIZE, self._reformatters)
        except (ValueError, av.FFmpegError) as error:  # of a shape or a format that does not convert
            raise UserError(f"{self.path}: frame {self.n_frames} does not convert to RGB: {error}") from None
        resize = resize_and_center_crop if self.crop == "center" else resize_short_side
        return resize([rgb], self.sample_size)[0]
