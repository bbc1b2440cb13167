"""The labels of a video: as a whole, of each second, of each frame."""
import math

import numpy as np

from run.console import shown


def top_labels(scores, class_names, k):
    """Return the `k` best classes of one row of scores, best first, as val.json holds them.

    Without class names, they are called by their class index: "class 17".
    """
    best = np.argsort(-scores, kind="stable")[:k]
    names = [f"class {i}" if class_names is None else class_names[i] for i in best]
    return [{"label": name, "score": float(scores[i])} for name, i in zip(names, best)]


class _Averages:
    """Mean scores of the slots of a video (its seconds, or its frames) over the windows that cover each.

    Windows come in the order of their starts, so that only the scores of open slots are held.
    """

    def __init__(self, finish):
        """`finish` turns a slot's mean scores into what is kept of them."""
        self._finish = finish
        self._done = []
        self._open = {}

    def add(self, first, last, scores):
        """Take in the scores of a window over the slots from `first` to `last`."""
        self._close(first)
        for slot in range(first, last + 1):
            total, n = self._open.get(slot, (0, 0))
            self._open[slot] = total + scores, n + 1

    def _close(self, end):
        for slot in sorted(slot for slot in self._open if slot < end):
            total, n = self._open.pop(slot)
            self._done += [None] * (slot - len(self._done)) + [self._finish(total / n)]

    def all(self, n_slots):
        """Return what is kept of each slot, None for one between two windows."""
        self._close(n_slots)
        return self._done + [None] * (n_slots - len(self._done))


def label_video(clips, scored, class_names, k, timeline=False, each_frame=False):
    """Return `(result, frame_labels)` of one video; `scored` are the scores of its `VideoClips`.

        {"video": "video.mp4", "n_frames": 165, "seconds": 6.6, "n_clips": 11,
         "result": [{"label": "<Class>", "score": 0.97}, ... k, best first],
         "timeline": [{"second": 0, "label": "<Class>", "score": 0.97}, ...]}

    The score of the video is the mean over its clips. The score of a second or a frame is the mean over
    the clips that cover it, at least in part; label and score are None if none does. Without `timeline`
    and `each_frame` these are left out.
    """

    def best(scores):
        return top_labels(scores, class_names, 1)[0]

    total, n_clips, seconds, frames = 0, 0, _Averages(best), _Averages(best)
    for window, scores in scored:
        scores = scores.astype(np.float64)
        total, n_clips = total + scores, n_clips + 1
        first, last = min(window) - 1, max(window) - 1
        if timeline:
            seconds.add(int(first / clips.frame_rate), int(last / clips.frame_rate), scores)
        if each_frame:
            frames.add(first, last, scores)
    result = {
        "video": str(clips.path),
        "n_frames": clips.n_frames,
        "seconds": float(clips.n_frames / clips.frame_rate),
        "n_clips": n_clips,
        "result": top_labels(total / n_clips, class_names, k),
    }
    if timeline:
        none = {"label": None, "score": None}
        items = enumerate(seconds.all(math.ceil(clips.n_frames / clips.frame_rate)))
        result["timeline"] = [{"second": second, **(item or none)} for second, item in items]
    return result, frames.all(clips.n_frames) if each_frame else []


def result_lines(result):
    """Return a result of `label_video` as lines of text."""
    name, length = shown(result["video"]), f"{result['n_frames']} frames, {result['seconds']:.2f} s"
    lines = [f"{name}: {length}, {result['n_clips']} clips"]
    lines += [f"  {_shown_label(item)}" for item in result["result"]]
    for item in result.get("timeline", ()):
        minutes, seconds = divmod(item["second"], 60)
        lines.append(f"  {minutes}:{seconds:02d} {_shown_label(item)}")
    return lines


def _shown_label(item):
    return "no clip" if item["label"] is None else f"{item['score']:.4f} {shown(item['label'])}"
