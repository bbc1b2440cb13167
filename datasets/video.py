"""Decode a video file to the frames that ffmpeg would write, and give them as jpg or as pixels.

The published annotations count frames as `ffmpeg -i video image_%05d.jpg` writes them: at a
constant rate, repeating or dropping frames where the time stamps ask for it. PyAV, which is
ffmpeg's own libraries, is used because OpenCV hides what that needs: it reports the time stamp of
the wrong frame behind a B-frame, 0 for the last one, and ends a broken file as if it were whole.
"""
import math
import struct
from fractions import Fraction

import av
import numpy as np
import simplejpeg
from PIL import Image

from opts import UserError

# Titles in another encoding than UTF-8 are no reason to refuse a video; PyAV 19 knows that itself.
_LENIENT = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
_BT709 = 1  # ffmpeg's AVCOL_SPC_BT709


def read_frames(path, fps=None):
    """Yield `(frame, n_copies)` for a video at a constant frame rate, `frame` an `av.VideoFrame`.

    `fps` is the rate in frames a second; None keeps the stream's own, and then the sum of all
    `n_copies` is the number of frames that ffmpeg writes.

    Raises UserError for a file that is no video, is cut short, or does not decode to its end, after
    the last frame that does.
    """
    cut_short = _riff_shortfall(path)
    n_decoded = 0
    try:
        with _open(path) as container:
            if not container.streams.video:
                raise UserError(f"{path}: no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "NONE"  # the processes are the parallelism
            n_claimed = stream.frames
            if not stream.guessed_rate:
                raise UserError(f"{path}: the stream states no frame rate")
            rate = Fraction(stream.guessed_rate)
            # A first frame that is stamped late is repeated from the file's start on, but not where
            # the video is the only stream (ffmpeg: "Not duplicating initial frames").
            is_alone = len(container.streams) == 1
            start = None if is_alone else Fraction(container.start_time or 0, av.time_base)
            timed = _with_times(container, stream, 1 / rate)
            if fps is None:
                copies = _at_own_rate(timed, start, rate)
            else:
                copies = _at_new_rate(timed, start, Fraction(fps), 1 / rate)
            last = None
            for frame, n_copies in copies:
                n_decoded += frame is not last
                last = frame
                yield frame, n_copies
    except (av.FFmpegError, UnicodeDecodeError) as error:
        if not cut_short:
            raise UserError(f"{path}: broken after {n_decoded} decoded frames: {error}") from error
    if cut_short:
        raise UserError(f"{path}: cut short: {cut_short}")
    if n_decoded == 0:
        raise UserError(f"{path}: no frame decodes")
    # HMDB-51's headers claim one frame more than there is.
    if n_decoded < n_claimed - 1:
        raise UserError(f"{path}: cut short: {n_decoded} frames decode, the header claims {n_claimed}")


def _open(path):
    return av.open(f"file:{path}", **_LENIENT)  # else ffmpeg takes the 12 of "12:30.mp4" for a protocol


def _riff_shortfall(path):
    """Tell how an AVI file is shorter than its own header says, which ffmpeg would read as if whole.

    Returns None where it is not. Raises UserError for an empty file.
    """
    with open(path, "rb") as file:
        head = file.read(8)
        n_bytes = file.seek(0, 2)
    if n_bytes == 0:
        raise UserError(f"{path}: empty file")
    if head[:4] == b"RIFF" and len(head) == 8:
        n_expected = struct.unpack("<I", head[4:])[0] + 8
        if n_bytes < n_expected:
            return f"{n_bytes:,} bytes, its header says {n_expected:,}"
    return None


def claimed_frames(path, fps=None):
    """Return how many frames a video's header claims, at its own rate or at `fps`; 0 if it claims none."""
    try:
        with _open(path) as container:
            stream = container.streams.video[0]
            if stream.frames and not fps:
                return stream.frames
            return round((container.duration or 0) / av.time_base * (fps or stream.guessed_rate or 0))
    except (av.FFmpegError, UnicodeDecodeError, IndexError):
        return 0


def frame_rate(path):
    """Return the own rate of a video that `read_frames` reads, a Fraction of frames a second."""
    with _open(path) as container:
        return Fraction(container.streams.video[0].guessed_rate)


def _with_times(container, stream, period):
    """Yield `(frame, time)` in display order, `time` in seconds and never going back.

    AVI stores no display times, and what libavformat makes up for them swaps neighbours around
    B-frames; its decoding times run evenly, one frame late at most.
    """
    is_avi = container.format.name == "avi"
    next_time = Fraction(0)
    for frame in container.decode(stream):
        stamp = frame.dts if is_avi else frame.pts
        time = next_time if stamp is None else max(next_time - period, stamp * frame.time_base)
        next_time = time + period
        yield frame, time


def _at_own_rate(timed_frames, start, rate):
    """Repeat and drop frames as ffmpeg does by default (`-vsync cfr`) to keep the stream's own rate.

    Small deviations pass; a frame more than 1.1 slots late is preceded by copies of the one before,
    one more than 2.1 slots early is dropped. A `start` of None is the first frame's own time.
    """
    previous, n_written = None, 0
    for frame, time in timed_frames:
        start = time if start is None else start
        late = (time - start) * rate - n_written
        n = 0 if late < -2.1 else max(1, round(late + 1)) if late > 0.1 else 1
        n_previous = round(late - Fraction(6, 10)) if late > 1.1 and previous is not None else 0
        if n_previous:
            yield previous, n_previous
        yield frame, n - n_previous
        previous, n_written = frame, n_written + n


def _at_new_rate(timed_frames, start, rate, period):
    """Repeat and drop frames to reach another rate, as ffmpeg's `fps` filter does.

    A frame fills the slots from its time to the next one's, the last those of its `period`.
    """
    current, slot = None, 0
    for frame, time in timed_frames:
        start = time if start is None else start
        next_slot = math.floor((time - start) * rate + Fraction(1, 2))
        if current is not None:
            yield current, max(0, next_slot - slot)
            slot = max(slot, next_slot)
        current, end = frame, time + period - start
    if current is not None:
        yield current, max(0, math.floor(end * rate + Fraction(1, 2)) - slot)


def scaled_size(width, height, size):
    """Return `(width, height)` with the short side at `size`, as ffmpeg's `scale=-1:size` rounds."""
    if width > height:
        return max(1, (2 * width * size + height) // (2 * height)), size
    return size, max(1, (2 * height * size + width) // (2 * width))


def encode_frame(frame, size, quality):
    """Encode one `av.VideoFrame` as jpg bytes, short side at `size` pixels, upright.

    The planes go from the video to the jpg as they are, scaled to jpg's full range by swscale: no
    trip through RGB, and the same samples that ffmpeg hands to its own encoder.
    """
    planes = _jpg_planes(frame, size)
    return simplejpeg.encode_jpeg_yuv_planes(*planes, quality=quality, fastdct=False)


def rgb_frame(frame, size):
    """Return `[H, W, 3] uint8 RGB`: the pixels of `encode_frame`'s jpg, if a jpg lost nothing.

    Measured against quality 100, the mean difference is 0.1 to 0.3 levels and without a bias; swscale's
    own way to RGB is 0.6 to 0.9 darker.
    """
    y, *chroma = _jpg_planes(frame, size)
    height, width = y.shape
    # Twice the size with a triangle filter, as libjpeg does.
    cb, cr = (Image.fromarray(c).resize((2 * c.shape[1], 2 * c.shape[0]), Image.BILINEAR) for c in chroma)
    cb, cr = (np.asarray(c, np.float32)[:height, :width] - 128 for c in (cb, cr))
    y = y + np.float32(0.5)  # turns the truncation below into rounding
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    return rgb.clip(0, 255).astype(np.uint8)


def _jpg_planes(frame, size):
    """Return Y, Cb and Cr of a frame, short side at `size` pixels, upright, in jpg's range and matrix."""
    rotation = frame.rotation if frame.rotation in (90, -90, 180, -180) else 0
    width, height = scaled_size(frame.width, frame.height, size)
    frame = frame.reformat(
        width,
        height,
        # Not yuv420p: older PyAV would hand a frame of that format back without stretching its range.
        format="yuvj420p",
        interpolation="BICUBIC",
        src_colorspace="ITU709" if frame.colorspace == _BT709 else None,
        dst_colorspace="ITU601",  # the only matrix that jpg knows
        dst_color_range="JPEG",
    )
    return [_plane(plane, rotation) for plane in frame.planes]


def _plane(plane, rotation):
    samples = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
    return np.ascontiguousarray(np.rot90(samples, rotation // 90))
