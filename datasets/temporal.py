"""Choose the frames of a clip: windows over the frame numbers of one video.

Every function takes `frames`, the video's frame numbers in order, and returns windows: lists of
exactly `size` frame numbers. A window that reaches the end of the video is looped: its own frames
are repeated from its first one on.

Reference: `temporal_transforms.py`, which these functions equal for every video length at frame
stride 1. Differs: the reference's even and sliding windows ignore `--sample_t_stride` and run over
every frame; here all windows are taken from the subsampled frames (`frames[::sample_t_stride]`).
"""
import math
from collections import deque


def _loop(window, size):
    return [window[i % len(window)] for i in range(size)]


def _windows(frames, starts, size):
    """Cut a window at each start, up to the first one that has to be looped (reference behaviour)."""
    windows = []
    for start in starts:
        window = frames[start : start + size]
        windows.append(_loop(window, size))
        if len(window) < size:
            break
    return windows


def random_window(frames, size, rng):
    """Draw one window, its start uniform in [0, max(0, n - size - 1)].

    Reference: `TemporalRandomCrop`. The last possible start, n - size, is never drawn there, and so
    not here. `rng` is a `numpy.random.Generator`.
    """
    start = int(rng.integers(0, max(0, len(frames) - size - 1) + 1))
    return _loop(frames[start : start + size], size)


def center_window(frames, size):
    """Cut the window in the middle of the video. Reference: `TemporalCenterCrop`."""
    start = max(0, len(frames) // 2 - size // 2)
    return _loop(frames[start : start + size], size)


def even_windows(frames, size, n_windows):
    """Cut up to `n_windows` evenly spaced windows; a short video gives fewer.

    Reference: `TemporalEvenCrop`. Differs: for one window the reference divides by zero; here it is
    the centre window.
    """
    if n_windows == 1:
        return [center_window(frames, size)]
    stride = max(1, math.ceil((len(frames) - 1 - size) / (n_windows - 1)))
    return _windows(frames, range(0, len(frames), stride)[:n_windows], size)


def sliding_windows(frames, size, stride):
    """Cut a window every `stride` frames over the whole video. Reference: `SlidingWindow`."""
    return _windows(frames, range(0, len(frames), stride), size)


def spread_windows(frames, size, n_windows):
    """Cut `n_windows` from the first to the last one that fits, evenly spaced; no window comes twice.

    The clips of the papers that report 10 x 3 views. Differs from `even_windows`, the reference's, which
    may end before the video does.
    """
    if n_windows == 1:
        return [center_window(frames, size)]
    last = max(0, len(frames) - size)
    starts = sorted({round(last * i / (n_windows - 1)) for i in range(n_windows)})
    return [_loop(frames[start : start + size], size) for start in starts]


def streamed_windows(frames, size, stride):
    """Yield the windows of `sliding_windows` from frames that come one by one; keep one window of them."""
    kept, start = deque(), 0  # the frames from `start` on, where the open window begins
    for number, frame in enumerate(frames):
        if number >= start:
            kept.append(frame)
        if number == start + size - 1:
            yield list(kept)
            start += stride
            for _ in range(min(stride, size)):
                kept.popleft()
    if kept:
        yield _loop(list(kept), size)
