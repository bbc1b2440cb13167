"""The pixels of a decoded frame: scaled, upright, as jpg or as RGB; ffmpeg's own samples for both."""
import math
import struct

import av
import numpy as np
import simplejpeg
from av.video.reformatter import VideoReformatter
from PIL import Image

# PyAV 17 starts swscale threads of its own, which take longer than the frame; before there were none.
_ONE_THREAD = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}
_BT709 = 1  # ffmpeg's AVCOL_SPC_BT709


def scaled_size(width, height, size):
    """Return `(width, height)` with the short side at `size`, as ffmpeg's `scale=-1:size` rounds."""
    if width > height:
        return max(1, (2 * width * size + height) // (2 * height)), size
    return size, max(1, (2 * height * size + width) // (2 * width))


def encode_frame(frame, size, quality, reformatters=None, sides=None):
    """Encode one `av.VideoFrame` as jpg bytes, short side at `size` pixels, upright.

    The planes go from the video to the jpg as they are, scaled to jpg's full range by swscale: no
    trip through RGB, and the same samples that ffmpeg hands to its own encoder. `reformatters` is a
    dictionary for all frames of a video, empty at first: setting swscale up costs more than its use.
    `sides` are the upright width and height of the video's first frame (`Video.sides`): a later frame of
    another size is scaled to the first one's, as ffmpeg does.
    """
    luma, *chroma = jpg_planes(frame, size, reformatters, sides)
    return simplejpeg.encode_jpeg_yuv_planes(_to_even(luma), *chroma, quality=quality, fastdct=False)


def rgb_frame(frame, size, reformatters=None, sides=None):
    """Return `[H, W, 3] uint8 RGB`: the pixels of `encode_frame`'s jpg, if a jpg lost nothing.

    Measured against quality 100, the mean difference is 0.1 to 0.3 levels and without a bias; swscale's
    own way to RGB is 0.6 to 0.9 darker.
    """
    y, *chroma = jpg_planes(frame, size, reformatters, sides)
    height, width = y.shape
    # Twice the size with a triangle filter, as libjpeg does.
    cb, cr = (Image.fromarray(c).resize((2 * c.shape[1], 2 * c.shape[0]), Image.BILINEAR) for c in chroma)
    cb, cr = (np.asarray(c, np.float32)[:height, :width] - 128 for c in (cb, cr))
    y = y + np.float32(0.5)  # turns the truncation below into rounding
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    return rgb.clip(0, 255).astype(np.uint8)


def jpg_planes(frame, size, reformatters=None, sides=None):
    """Return Y, Cb and Cr of a frame, short side at `size` pixels, upright, in jpg's range and matrix."""
    sides = scaled_size(*(sides or upright_sides(frame)), size)
    return upright_planes(
        frame,
        *sides,
        # Not yuv420p: older PyAV would hand a frame of that format back without stretching its range.
        format="yuvj420p",
        interpolation="BICUBIC",
        src_colorspace="ITU709" if frame.colorspace == _BT709 else None,
        dst_colorspace="ITU601",  # the only matrix that jpg knows
        dst_color_range="JPEG",
        reformatters=reformatters,
    )


def upright_planes(frame, width, height, reformatters=None, **reformat_options):
    """Return the planes of a frame that is scaled and turned as it is to be shown, `[H, W] uint8`.

    `width` and `height` are those of the upright frame; the options are those of `VideoFrame.reformat`.
    """
    reformatters = {} if reformatters is None else reformatters
    turn, angle = _orientation(frame)
    if angle or frame.interlaced_frame:
        frame = _filtered(frame, angle, reformatters)
    kind = (frame.format.name, frame.width, frame.height, frame.colorspace, frame.color_range)
    reformatter = reformatters.setdefault(kind, VideoReformatter())
    if turn in _TRANSPOSING:
        width, height = height, width
    frame = reformatter.reformat(frame, width, height, **reformat_options, **_ONE_THREAD)
    return [np.ascontiguousarray(turn(_samples(plane))) for plane in frame.planes]


def _samples(plane):
    return np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]


def upright_sides(frame):
    """Return the width and height of a frame as it is to be shown."""
    turn, _ = _orientation(frame)
    return (frame.height, frame.width) if turn in _TRANSPOSING else (frame.width, frame.height)


def _as_it_is(samples):
    return samples


def _mirrored(samples):
    return samples[:, ::-1]


def _upside_down(samples):
    return samples[::-1]


def _half_turned(samples):
    return samples[::-1, ::-1]


def _transposed(samples):
    return samples.T


def _clockwise(samples):
    return samples.T[:, ::-1]


def _anticlockwise(samples):
    return samples.T[::-1]


def _transposed_the_other_way(samples):
    return samples.T[::-1, ::-1]


_TRANSPOSING = (_transposed, _clockwise, _anticlockwise, _transposed_the_other_way)


def _orientation(frame):
    """Return how a frame is turned to stand upright, and an angle in degrees that this leaves, 0 for most.

    Phones write it as a matrix of nine numbers; reflections are in it as well. Reference: `get_rotation`
    and `configure_input_video_filter` of `fftools/ffmpeg_filter.c`.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return _as_it_is, 0
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))
    across, down = math.hypot(a, c), math.hypot(b, d)
    if not across or not down:
        return _as_it_is, 0
    angle = round(math.degrees(math.atan2(b / down, a / across))) % 360
    if angle == 0:
        return (_upside_down if d < 0 else _as_it_is), 0
    if angle == 90:
        return (_transposed if c > 0 else _clockwise), 0
    if angle == 180:
        return (_half_turned if d < 0 else _mirrored), 0
    if angle == 270:
        return (_transposed_the_other_way if c < 0 else _anticlockwise), 0
    return _as_it_is, angle


def _filtered(frame, angle, reformatters):
    """Return a frame turned by an angle in degrees, and marked as progressive.

    Of a frame that is marked as interlaced, swscale 9 would scale the two fields apart, which combs whatever
    moves; ffmpeg's program does not (measured: 54 levels).
    """
    key = ("graph", frame.format.name, frame.width, frame.height, frame.colorspace, frame.color_range, angle)
    if key not in reformatters:
        graph = reformatters[key] = av.filter.Graph()
        nodes = [
            graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
            ),
            graph.add("setfield", "prog"),
            *([graph.add("rotate", f"{angle}*PI/180")] if angle else []),
            graph.add("buffersink"),
        ]
        for node, following in zip(nodes, nodes[1:]):
            node.link_to(following)
        graph.configure()
    graph = reformatters[key]
    graph.push(frame)
    return graph.pull()


def _to_even(luma):
    """Repeat the edge of an odd width or height: libjpeg-turbo reads that far, past the array's end."""
    height, width = luma.shape
    if height % 2 == width % 2 == 0:
        return luma
    return np.pad(luma, ((0, height % 2), (0, width % 2)), "edge")[:height, :width]
