"""Write a video again with labels drawn into its frames."""
import functools

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datasets.pixels import upright_planes, upright_sides
from datasets.video import open_video
from run.console import UserError, progress_bar, shown
from run.files import atomic_path

HEAT = (82, 90, 240)  # red, as Y, Cb and Cr


def write_labelled_video(path, out_path, labels, frame_rate, fps=None, heat_at=None):
    """Write the frames of `read_frames(path, fps)`, upright, with labels drawn in, as an mp4 file.

    `labels` holds each frame's text, or None for none; `frame_rate` is a Fraction of frames a second.
    `heat_at(i, height, width)` gives the map of a frame `[height, width]`, from 0 to 1, which is drawn in
    red, or None. The file is H.264 (MPEG-4 if this ffmpeg has no x264) with even sides and square pixels, and
    without sound. Raises DiskFull, and UserError for what else keeps the file from being written.
    """
    bar = progress_bar(total=len(labels), unit="frame", desc=shown(out_path.name), delay=2, leave=False)
    try:
        with bar, atomic_path(out_path) as temporary:
            fast = {"movflags": "faststart"}  # plays while it is still loading
            output = av.open(f"file:{temporary}", "w", format="mp4", options=fast)
            with output as container, open_video(path) as video:
                frames = (frame for frame, n_copies in video.frames(fps) for _ in range(n_copies))
                stream = None
                for i, frame in enumerate(frames):
                    planes = _even_planes(frame, video)
                    heat = heat_at and heat_at(i, *planes[0].shape)
                    labelled = _draw(labels[i], planes if heat is None else _heated(planes, heat))
                    stream = stream or _stream(container, labelled, frame_rate)
                    labelled.pts, labelled.time_base = i, 1 / frame_rate
                    container.mux(stream.encode(labelled))
                    bar.update()
                container.mux(stream.encode())
    except av.FFmpegError as error:
        raise UserError(f"{out_path}: cannot be written: {error}") from None


def _even_planes(frame, video):
    """Return Y, Cb, Cr of a frame with even sides: yuv420p has one chroma sample for 2 x 2 pixels.

    All frames get the size of the first, and square pixels: a DVD's are wider than high.
    """
    width, height = video.sides
    if upright_sides(frame) == (frame.width, frame.height):
        width = round(width * video.pixel_aspect)
    else:  # it stands on its side in the file
        height = round(height * video.pixel_aspect)
    return upright_planes(
        frame, width + width % 2, height + height % 2, format="yuv420p", dst_color_range="MPEG"
    )


def _heated(planes, heat):
    """Return planes with a map of luma's size drawn in: the higher it is, the less of the frame is left."""
    parts = [0.7 * heat[:: len(heat) // len(plane), :: len(heat) // len(plane)] for plane in planes]
    mixed = (plane + part * (red - plane.astype(np.float32)) for plane, part, red in zip(planes, parts, HEAT))
    return [np.uint8(plane + 0.5) for plane in mixed]


def _stream(container, frame, frame_rate):
    if "libx264" in av.codecs_available:
        stream = container.add_stream("libx264", rate=frame_rate, options={"preset": "veryfast"})
    else:
        stream = container.add_stream("mpeg4", rate=frame_rate)
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
    except (TypeError, ImportError, OSError):  # before Pillow 10.1, or no FreeType: one small font
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
