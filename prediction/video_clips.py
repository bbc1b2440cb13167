"""The clips of a video file, straight from it: stage 1's frames and stage 4's windows, nothing on disk."""
import contextlib
import itertools
import time
from fractions import Fraction

import av
import numpy as np

from datasets.flow import FlowStream, flow_resize, luma_of
from datasets.pixels import rgb_frame
from datasets.resize import bilinear
from datasets.spatial import center_crop, short_side_crop, three_offsets
from datasets.temporal import streamed_windows
from datasets.video import open_video
from datasets.workers import Worker, WorkerDied, interrupts_held, kill_all
from run.console import UserError, note, progress_bar, shown
from run.spec import FRAME_RATE_MARGINS, FrameSpec


class VideoClips:
    """Iterating gives `(window, clip_thwc [T, H, W, C] uint8)` for each window of a video, in order.

    A window holds frame numbers from 1, as `WindowClips` has them for the same video's jpgs; the pixels
    are the jpgs', except for what jpg loses. `n_frames` is known after the last clip. Memory is that of one
    clip, however long the video is.

    `fps` resamples the video by its time stamps. If it is None, a video is resampled that is far from the
    frame rates of the training (`ClipSpec.target_fps`), and one whose own rate varies; a note says so. Then
    `fps` is what is asked of `Video.frames`, None for the video's own, and `frame_rate` that of the frames, a
    Fraction.

    Raises UserError for a file that is no video, and when it is read for what does not decode.
    """

    def __init__(self, path, clip, inference_stride, crop="center", fps=None):
        """`clip` is a ClipSpec; `crop` is "center", "nocrop" or "three": three clips for each window."""
        self.path = path
        self.clip = clip
        self.inference_stride = inference_stride
        self.crop = crop
        self.n_frames = 0
        with open_video(path) as video:
            self.fps = self._target_fps(video) if fps is None else fps
            self.frame_rate = video.rate if self.fps is None else Fraction(str(self.fps))
            self.n_claimed = video.n_claimed(self.fps)
        self._reformatters = {}
        self._shape = self._resize_to = self._out_shape = None

    def _target_fps(self, video):
        """Return the rate to resample to, None for the video's own.

        If frames come at varying times (phones, screen recordings), ffmpeg takes the shortest time between
        two of them for the rate and repeats frames. What the network was trained on is then compared with
        their average.
        """
        if video.is_cover:
            return None
        varies = video.rate > FRAME_RATE_MARGINS[1] * video.average_rate
        rate = video.average_rate if varies else video.rate
        target = self.clip.target_fps(rate)
        if target is None and not varies:
            return None
        text = f"{float(rate):g} frames a second"
        if varies:
            text += f" on average (its time stamps allow {float(video.rate):g})"
        if target is not None:
            _, least, most = self.clip.frame_rates
            text += f", the network was trained on {least:g}" + ("" if least == most else f" to {most:g}")
        target = Fraction(rate if target is None else target).limit_denominator(1001)  # 29.97 is 30000/1001
        own = f"--fps {float(video.rate):g} keeps its own"
        note(f"{self.path}: {text}; resampled to {float(target):g} ({own})")
        return target

    def __iter__(self):
        windows = streamed_windows(self._frames(), self.clip.sample_duration, self.inference_stride)
        for pairs in windows:
            window, frames = zip(*pairs)
            clip_thwc, size = np.stack(frames), self.clip.sample_size
            if self.crop != "three":
                yield list(window), clip_thwc
                continue
            for x, y in three_offsets(clip_thwc.shape[2], clip_thwc.shape[1], size):
                yield list(window), clip_thwc[:, y : y + size, x : x + size]

    def scored(self, score, batch_size):
        """Yield `(window, values)` for each clip, `values` its row of `score(clips [N, T, H, W, 3] uint8)`.

        Batches are of this video only, so that its values do not depend on others. A progress bar shows
        when it takes more than 2 s.
        """
        total, name = self.n_claimed or None, shown(self.path.name)
        bar = progress_bar(total=total, unit="frame", desc=name, delay=2, leave=False)
        with bar, contextlib.closing(self.batches(batch_size)) as batches:
            for windows, clips_thwc in batches:
                yield from zip(windows, score(clips_thwc))
                bar.update(self.n_frames - bar.n)

    def batches(self, batch_size):
        """Yield `(windows, clips [N, T, H, W, 3] uint8)`, the last with fewer clips."""
        with contextlib.closing(iter(self)) as clips:
            while batch := list(itertools.islice(clips, batch_size)):
                windows, clips_thwc = zip(*batch)
                yield windows, np.stack(clips_thwc)

    def _frames(self):
        """Yield `(number, frame as the network takes it)` for every frame that windows are cut from."""
        self.n_frames = 0
        with open_video(self.path) as video:
            yield from (self._flow_of if self.clip.modality == "flow" else self._rgb_of)(video)
        if self.n_frames == 0:
            fps = float(self.frame_rate)
            raise UserError(f"{self.path}: too short for a frame at {fps:g} frames a second")

    def _rgb_of(self, video):
        for frame, n_copies in video.frames(self.fps):
            small = None
            for _ in range(n_copies):
                self.n_frames += 1
                if (self.n_frames - 1) % self.clip.sample_t_stride:
                    continue
                if small is None:
                    small = self._resize(frame, video.sides)
                yield self.n_frames, small

    def _flow_of(self, video):
        stream = FlowStream(self.path)
        flows = (
            flow
            for frame, n_copies in video.frames(self.fps)
            if n_copies
            for flow in stream.add(self._converted(luma_of, frame, video.sides), n_copies)
        )
        for flow in itertools.chain(flows, stream.end()):
            self.n_frames += 1
            if (self.n_frames - 1) % self.clip.sample_t_stride == 0:
                yield self.n_frames, self._cut(flow)

    def _resize(self, frame, sides):
        return self._cut(self._converted(rgb_frame, frame, sides))

    def _converted(self, convert, frame, sides):
        """Return `rgb_frame` or `luma_of` of a frame."""
        try:
            return convert(frame, FrameSpec().size, self._reformatters, sides)
        except (ValueError, av.FFmpegError) as error:  # of a shape or a format that does not convert
            raise UserError(f"{self.path}: frame {self.n_frames} does not convert to RGB: {error}") from None

    def _cut(self, pixels):
        """Return what the network takes of a frame `[H, W, C] uint8`."""
        height, width, n_channels = pixels.shape
        if self._shape != pixels.shape:
            place = center_crop if self.crop == "center" else short_side_crop
            crop = place(width, height, self.clip.sample_size)
            resize = bilinear(*crop)
            self._resize_to = flow_resize(resize) if self.clip.modality == "flow" else resize
            self._shape, self._out_shape = pixels.shape, (*crop.shape, n_channels)
        small = np.empty(self._out_shape, np.uint8)
        self._resize_to(pixels, small)
        return small


class LimitedClips(VideoClips):
    """The same, read by a process of its own, which is ended if it takes too long or crashes.

    `time_limit` is in seconds; what is done with the clips meanwhile does not count. The next batch is read
    while the caller is busy with the one before.
    """

    def __init__(self, path, clip, inference_stride, crop="center", fps=None, time_limit=600.0):
        self.path = path
        self._time_limit = self._left = time_limit
        with interrupts_held():
            self._worker = Worker(_Reading(path, clip, inference_stride, crop, fps))
        self._worker.submit(0)
        try:
            self.fps, self.frame_rate, self.n_claimed = self._result()
        except BaseException:
            self.close()
            raise

    def batches(self, batch_size):
        """Yield `(windows, clips [N, T, H, W, 3] uint8)`, once."""
        try:
            self._worker.submit(batch_size)
            while True:
                self.n_frames, batch = self._result()
                if batch is None:
                    return
                self._worker.submit(batch_size)
                yield batch
        finally:
            self.close()

    def close(self):
        """End the process."""
        kill_all([self._worker])

    def _result(self):
        begin = time.monotonic()
        if not self._worker.connection.poll(min(self._left, 1e6)):
            raise UserError(f"{self.path}: not done after {self._time_limit:g} s (--time_limit)")
        self._left = max(0, self._left - (time.monotonic() - begin))
        result = self._worker.result()
        if isinstance(result, WorkerDied):
            raise UserError(f"{self.path}: {result}")
        if isinstance(result, Exception):
            raise result
        return result


class _Reading:
    """What the process of `LimitedClips` does: opens the video, then reads a batch each time."""

    def __init__(self, *arguments):
        self._arguments = arguments
        self._clips = self._batches = None

    def __call__(self, batch_size):
        if self._clips is None:
            self._clips = VideoClips(*self._arguments)
            return self._clips.fps, self._clips.frame_rate, self._clips.n_claimed
        self._batches = self._batches or self._clips.batches(batch_size)
        batch = next(self._batches, None)
        return self._clips.n_frames, batch
