"""Write a video again with labels drawn into its frames."""
import functools

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datasets.video import read_frames, upright_planes
from disk import DISK_FULL, DiskFull, whole_file
from opts import UserError, progress_bar, shown


def write_labelled_video(path, out_path, labels, rate, fps=None):
    """Write the frames of `read_frames(path, fps)`, upright, with labels drawn in, as an mp4 file.

    `labels` holds each frame's text, or None for none; `rate` is a Fraction of frames a second. The file
    is H.264 (MPEG-4 where this ffmpeg has no x264) with even sides, and without sound.
    """
    n_frames, stream = 0, None
    bar = progress_bar(total=len(labels), unit="frame", desc=shown(out_path.name), delay=2, leave=False)
    with bar, whole_file(out_path) as temporary:
        try:
            fast = {"movflags": "faststart"}  # plays while it is still loading
            with av.open(f"file:{temporary}", "w", format="mp4", options=fast) as container:
                for frame, n_copies in read_frames(path, fps):
                    for _ in range(n_copies):
                        labelled = _draw(labels[n_frames], _even_planes(frame))
                        stream = stream or _stream(container, labelled, rate)
                        labelled.pts, labelled.time_base = n_frames, 1 / rate
                        container.mux(stream.encode(labelled))
                        n_frames += 1
                        bar.update()
                container.mux(stream.encode())
        except av.FFmpegError as error:
            if error.errno in DISK_FULL:
                raise DiskFull(out_path, None, error.strerror) from None
            raise UserError(f"{out_path}: cannot be written: {error}") from None


def _even_planes(frame):
    """Return Y, Cb, Cr of a frame with even sides: yuv420p has one chroma sample for 2 x 2 pixels."""
    sides = frame.width + frame.width % 2, frame.height + frame.height % 2
    return upright_planes(frame, *sides, format="yuv420p", dst_color_range="MPEG")


def _stream(container, frame, rate):
    if "libx264" in av.codecs_available:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "veryfast"})
    else:
        stream = container.add_stream("mpeg4", rate=rate)
    stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "yuv420p"
    return stream


def _draw(text, planes):
    """Return an `av.VideoFrame` of the planes, with white text on a darkened ground at the upper left."""
    height, width = planes[0].shape
    content = np.concatenate([plane.ravel() for plane in planes])  # a copy: they may be the decoder's memory
    if text is not None:
        label = _label(text, height, width)
        own_planes = np.split(content, np.cumsum([plane.size for plane in planes])[:-1])
        for plane, shape, black in zip(own_planes, [p.shape for p in planes], (16, 128, 128)):
            step = height // shape[0]
            part = label[::step, ::step]
            ground = plane.reshape(shape)[: part.shape[0], : part.shape[1]]
            ground[:] = black + (ground - np.int16(black)) // 4
            if step == 1:
                np.maximum(ground, 16 + part * np.float32(219 / 255), out=ground, casting="unsafe")
    return av.VideoFrame.from_ndarray(content.reshape(height * 3 // 2, width), format="yuv420p")


@functools.lru_cache(maxsize=1)
def _label(text, height, width):
    """Draw a line of text; return it as `[h, w] uint8`, white on black, no larger than a frame."""
    wanted = size = max(12, height // 14)
    try:
        font = ImageFont.load_default(size)
    except (TypeError, ImportError, OSError):  # before Pillow 10.1 and without FreeType: one small font
        font, size = ImageFont.load_default(), 11
        text = text.encode("latin-1", "replace").decode("latin-1")
    text = " ".join(text.split())
    image = Image.new("L", (size * (len(text) + 1), 2 * size))
    ImageDraw.Draw(image).text((size // 2, size // 2), text, fill=255, font=font)
    _, _, right, _ = image.getbbox() or (0, 0, size, 0)
    right += size // 2
    scale = min(wanted / size, width / right, height / (2 * size))
    sides = max(1, round(right * scale)), max(1, round(2 * size * scale))
    return np.asarray(image.crop((0, 0, right, 2 * size)).resize(sides, Image.BILINEAR))
