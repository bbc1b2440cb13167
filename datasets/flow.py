"""Optical flow: the motion between two frames, in 8 bits, as pictures that every store can keep.

A frame of flow `[H, W, 2] uint8` holds u, to the right, and v, downwards: by how much what is seen in a frame
has moved in the next one. Frame i is the motion from frame i to i + 1, and the last is repeated, so that a
video has as many frames of flow as frames, and one annotation, one window and one result go with both.

    level = 128 + 127 * motion / (side / 12),     rounded, motion clipped to a twelfth of the short side

Motion counts in parts of the frame's short side, so that frames of any size give the same levels. At the
usual 240 pixels the bound is 20, that of two-stream networks (TSN), and a level is 0.16 pixels. No motion,
which most pixels have, is exactly 128, and the levels 1 to 255 lie evenly around it. So a mirror is exact as
well: it turns u to 256 - u. About 127.5 (255 - u), no motion would become a motion of one level.

Differs: the reference keeps u and v as two pictures and makes none. Here they are one grey jpg, u above v:
one read a frame, and a store needs to know nothing of it. u is filled up below to whole blocks of 8 rows, so
that no block of the jpg has both, at any reduction.
"""
import numpy as np
import simplejpeg

from datasets.pixels import jpg_planes
from run.console import UserError

ZERO = 128  # the level of no motion
STEPS = 127  # levels on each side of it
PARTS = 12  # the largest motion is the short side by this
_BLOCK = 8  # rows of a jpg that are coded together


def require_opencv():
    """Raise UserError without OpenCV, which computes the flow."""
    try:
        from cv2 import DISOpticalFlow_create  # noqa: F401
    except ImportError as error:  # not there, or broken
        why = str(error).splitlines()[0]
        raise UserError(f"optical flow needs OpenCV ({why}): pip install opencv-python-headless") from None


def levels(motion):
    """Return motion in pixels, `[H, W, 2]` float, as a frame of flow."""
    most = min(motion.shape[:2]) / PARTS
    return (ZERO + np.rint(motion * (STEPS / most)).clip(-STEPS, STEPS)).astype(np.uint8)


def mirrored(flow):
    """Return frames of flow `[..., W, 2] uint8` with left and right swapped: what moved right moves left.

    Level 0, which only a jpg's loss makes, becomes 255.
    """
    flow = flow[..., ::-1, :].copy()
    flow[..., 0] = np.minimum(2 * ZERO - flow[..., 0].astype(np.int16), 255)
    return flow


class FlowStream:
    """The flow of a video whose frames come one by one: DIS of OpenCV, on one thread, from the luma.

    Paper: arXiv:1603.03590, in OpenCV's preset "medium". A frame that repeats the one before has no motion.
    """

    def __init__(self, path):
        """`path` is for errors."""
        require_opencv()
        import cv2

        cv2.setNumThreads(1)  # the processes are the parallelism
        self._path = path
        self._dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._error = cv2.error
        self._before = self._last = None

    def add(self, luma, n_copies=1):
        """Take in a frame `[H, W] uint8` that is shown `n_copies` times; yield the flow that this gives."""
        still = np.full((*luma.shape, 2), ZERO, np.uint8)
        for i in range(n_copies):
            if self._before is not None:
                self._last = still if i else self._between(self._before, luma)
                yield self._last
            self._before = luma

    def end(self):
        """Yield the last frame of flow once more, no motion for a single frame."""
        if self._before is not None:
            is_single = self._last is None
            yield np.full((*self._before.shape, 2), ZERO, np.uint8) if is_single else self._last

    def _between(self, before, luma):
        try:
            return levels(self._dis.calc(before, luma, None))
        except self._error as error:
            raise UserError(f"{self._path}: no flow of frames of {luma.shape[::-1]}: {error.err}") from None


def luma_of(frame, size, reformatters, sides):
    """Return the luma `[H, W] uint8` that flow is computed of: that of `encode_frame`'s jpg."""
    return jpg_planes(frame, size, reformatters, sides)[0]


def encode_flow(flow, quality):
    """Return a frame of flow as the bytes of a grey jpg, u above v."""
    u, v = flow[..., 0], flow[..., 1]
    u = np.pad(u, ((0, -len(u) % _BLOCK), (0, 0)), "edge")
    picture = np.concatenate([u, v])[..., None]
    return simplejpeg.encode_jpeg(picture, quality, colorspace="GRAY", colorsubsampling="GRAY", fastdct=False)


def flow_size(size):
    """Return height and width of the flow in a picture of height and width `size`."""
    height, width = size
    n_blocks = (height + _BLOCK - 1) // (2 * _BLOCK)  # of u
    return height - _BLOCK * n_blocks, width


def flow_in(picture, size, reduction=1):
    """Return the flow `[h, w, 2] uint8` in a picture `[., w, 1] uint8` that was decoded at 1/reduction.

    `size` is the height and width of the flow before that.
    """
    height = -(-size[0] // reduction)
    begin = -(-size[0] // _BLOCK) * _BLOCK // reduction
    return np.concatenate([picture[:height], picture[begin : begin + height]], axis=2)


def flow_resize(resize, is_mirrored=False):
    """Return a function that does to flow what `resize` of `datasets.resize.bilinear` does to pixels.

    It takes flow `[H, W, 2]` and writes to `out [h, w, 2]`. `resize` is one that does not mirror.
    """

    def resize_flow(flow, out):
        wide = np.concatenate([flow, flow], axis=2)  # as R, G, B and a byte that is not looked at
        pixels = np.empty((*out.shape[:2], 3), np.uint8)
        resize(wide, pixels)
        out[:] = mirrored(pixels[..., :2]) if is_mirrored else pixels[..., :2]

    return resize_flow
