"""What prediction sees of a network. Needs no Paddle, so that an exported model serves without it."""
import functools
from typing import Callable, NamedTuple, Optional

import numpy as np

from run.spec import ClipSpec


class Scorer(NamedTuple):
    """A network as prediction sees it.

    `score` maps clips `[N, T, H, W, C] uint8`, made as `clip` describes, to an array `[N, n]`, a row a clip;
    `class_names` says what the columns of class scores are, None if that is not known.
    """

    score: Callable
    clip: ClipSpec
    class_names: Optional[list]


@functools.lru_cache(maxsize=8)
def scale_and_shift(clip):
    """Return what the pixels of clips are multiplied with and what is then subtracted, float32 `[C]` each."""
    mean, std = np.float32(clip.mean), np.float32(clip.std)
    return 1 / (np.float32(clip.scale) * std), mean / std


def normalised(clips_thwc, clip):
    """Turn an array `[N, T, H, W, C] uint8` into one `[N, C, T, H, W] float32`, normalised as `clip` says."""
    scale, shift = scale_and_shift(clip)
    clips = np.empty((len(clips_thwc), len(scale), *clips_thwc.shape[1:4]), np.float32)
    for c in range(len(scale)):
        np.multiply(clips_thwc[..., c], scale[c], out=clips[:, c], dtype=np.float32)
        clips[:, c] -= shift[c]
    return clips
