"""Write a video again with labels drawn into its frames."""
import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datasets.video import read_frames, rgb_frame
from disk import DISK_FULL, DiskFull, whole_file
from opts import UserError


def write_labelled_video(path, out_path, labels, rate, fps=None):
    """Write the frames of `read_frames(path, fps)`, upright, as an mp4 file; return their number.

    `labels` holds each frame's text, or None for none; `rate` is a Fraction of frames a second. The file
    is H.264 (MPEG-4 where this ffmpeg has no x264) with even sides, and without sound.
    """
    n_frames, stream, patch_of = 0, None, (None, None)
    with whole_file(out_path) as temporary:
        try:
            fast = {"movflags": "faststart"}  # plays while it is still loading
            with av.open(f"file:{temporary}", "w", format="mp4", options=fast) as container:
                for frame, n_copies in read_frames(path, fps):
                    rgb = _even_sides(rgb_frame(frame, min(frame.width, frame.height))) if n_copies else None
                    for _ in range(n_copies):
                        stream = stream or _stream(container, rgb.shape, rate)
                        text = labels[n_frames]
                        if text != patch_of[0]:
                            patch_of = text, text and _label(text, *rgb.shape[:2])
                        labelled = rgb if text is None else _drawn(rgb, patch_of[1])
                        encoded = av.VideoFrame.from_ndarray(labelled, format="rgb24")
                        encoded.pts, encoded.time_base = n_frames, 1 / rate
                        container.mux(stream.encode(encoded))
                        n_frames += 1
                container.mux(stream.encode())
        except av.FFmpegError as error:
            if error.errno in DISK_FULL:
                raise DiskFull(out_path, None, error.strerror) from None
            raise UserError(f"{out_path}: cannot be written: {error}") from None
    return n_frames


def _stream(container, shape, rate):
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    stream = container.add_stream(codec, rate=rate)
    stream.height, stream.width, _ = shape
    stream.pix_fmt = "yuv420p"  # what every player knows
    return stream


def _even_sides(rgb):
    """Repeat the last row or column of an odd side: a yuv420p frame has one chroma sample for 2 x 2."""
    height, width, _ = rgb.shape
    return np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _label(text, height, width):
    """Draw a line of text; return it as `[h, w] uint8`, white on black, no larger than a frame."""
    wanted = size = max(8, height // 14)
    try:
        font = ImageFont.load_default(size)
    except (TypeError, ImportError, OSError):  # before Pillow 10.1 and without FreeType: one small font
        font, size = ImageFont.load_default(), 11
        text = text.encode("latin-1", "replace").decode("latin-1")
    text = " ".join(text.split())
    image = Image.new("L", (size * (len(text) + 1), 2 * size))
    ImageDraw.Draw(image).text((size // 2, size // 2), text, fill=255, font=font)
    right = image.getbbox()[2] + size // 2
    scale = min(wanted / size, width / right, height / (2 * size))
    sides = max(1, round(right * scale)), max(1, round(2 * size * scale))
    return np.asarray(image.crop((0, 0, right, 2 * size)).resize(sides, Image.BILINEAR))


def _drawn(rgb, label):
    """Return a copy of a frame with a label at its upper left, on a darkened ground."""
    drawn = rgb.copy()
    height, width = label.shape
    ground = drawn[:height, :width]
    ground[:] = np.maximum(ground // 4, label[..., None])
    return drawn
