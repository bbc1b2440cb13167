"""What a network looked at in a video: maps of its clips, for each frame, in a file, for the report.

The maps come from `model.cam`, as objects that have `values [N, t, h, w] float32` from 0 to 1, `stride`,
`offset` and `frame`; nothing here needs Paddle.
"""
import base64
import bisect
import io
import json

import numpy as np
from PIL import Image

from datasets.spatial import center_crop, short_side_crop
from run.files import atomic_path, atomic_write

MAPS_VERSION = 1  # of val_cam.json


class LookedAt:
    """The maps of the clips of one video, each for the class with the clip's highest score.

    Memory grows with the video, by 12 kB a clip of 16 frames and 112 pixels.
    """

    def __init__(self, score, cam, clip, crop="center"):
        """`score` is a `Scorer`'s, `cam` gives the maps; `clip` and `crop` say how clips are made."""
        self._score, self._cam = score, cam
        self._place, self._size = {"center": center_crop, "nocrop": short_side_crop}[crop], clip.sample_size
        self.windows, self.class_indices, self.maps = [], [], []

    def score(self, clips_thwc):
        """Return the scores of clips, and keep the maps of them."""
        scores = self._score(clips_thwc)
        classes = scores.argmax(axis=1)
        maps = self._cam(clips_thwc, classes)
        self.class_indices += classes.tolist()
        self.maps += [maps._replace(values=values[None].astype(np.float16)) for values in maps.values]
        return scores

    def noting_windows(self, scored):
        """Yield `(window, scores)` as they come, and keep the windows."""
        for window, scores in scored:
            self.windows.append(window)
            yield window, scores

    def at(self, i, height, width):
        """Return the map of a video's frame `i`, from 0, in `[height, width]` float32, 0 outside of the crop.

        It is the mean over the clips that cover the frame; None if none does.
        """
        number = i + 1
        begin = bisect.bisect_left([max(window) for window in self.windows], number)
        end = bisect.bisect_right([min(window) for window in self.windows], number)
        if begin >= end:
            return None
        crop, total = self._place(width, height, self._size), 0
        for window, maps in zip(self.windows[begin:end], self.maps[begin:end]):
            total = total + maps.frame(0, _nearest(window, number), *crop.shape)
        left, top, right, bottom = crop.part()
        x, y, x_end, y_end = (round(v) for v in (left * width, top * height, right * width, bottom * height))
        whole = np.zeros((height, width), np.float32)
        small = Image.fromarray(total / np.float32(end - begin))
        whole[y:y_end, x:x_end] = np.asarray(small.resize((x_end - x, y_end - y), Image.BILINEAR))
        return whole

    def write(self, path, class_names=None):
        """Write the maps to an npz file, whole or not at all; docs/prediction.md lists its arrays."""
        arrays = {
            "maps": np.concatenate([maps.values for maps in self.maps]),
            "stride": np.array(self.maps[0].stride),
            "offset": np.array(self.maps[0].offset),
            "windows": np.array(self.windows, np.int64),
            "class_indices": np.array(self.class_indices, np.int64),
        }
        if class_names is not None:
            arrays["class_names"] = np.array(class_names, np.str_)
        with atomic_path(path, arrays["maps"].nbytes) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)


def _nearest(window, number):
    """Return the place in a window of the last frame up to a number; a looped window repeats its frames."""
    return max(range(len(window)), key=lambda i: (window[i] <= number, window[i], -i))


def frame_maps(cam, clips, index, numbers, class_index):
    """Return maps of frames of a video as png bytes, and the part of the frame that they are of.

    `clips` are `WindowClips`, `index` that of the video, `numbers` those of its frames. Each frame is taken
    from the clip in whose middle it is most.
    """
    positions = np.flatnonzero(clips.video_of == index).tolist()
    pictures, known = [], {}
    for number in numbers:
        middles = [abs(np.median(clips.windows[each]) - number) for each in positions]
        position = positions[int(np.argmin(middles))]
        if position not in known:
            clip = np.empty(clips.shape_of(position), np.uint8)
            clips.read(clips.request(position), clip)
            known[position] = cam(clip[None], [class_index]), clip.shape[1:3]
        maps, shape = known[position]
        values = maps.frame(0, _nearest(clips.windows[position].tolist(), number), *shape)
        content = io.BytesIO()
        Image.fromarray(np.uint8(values * 255 + 0.5)).save(content, "PNG")
        pictures.append(content.getvalue())
    return pictures, clips.part_of(positions[0])


def write_mistake_maps(path, cam, clips, entries, n_most, class_names, frames_of):
    """Write the maps of at most `n_most` wrongly labelled videos, the surest first; return how many.

    `entries` are those of the test's journal, a video each; `frames_of` gives the numbers of a sample's
    frames that the report shows. The form, for the class that a video was taken for:

        {"version": 1, "videos": {"<video>": {"label": "<Class>", "frames": [2, 5, ...],
         "part": [0.125, 0.0, 0.875, 1.0], "maps": ["<png in base64>", ...]}}}
    """
    wrong = [(i, entry["result"][0]) for i, entry in enumerate(entries) if entry["is_correct"] is False]
    wrong.sort(key=lambda item: -item[1]["score"])
    videos = {}
    for index, best in wrong[:n_most]:
        sample = clips.samples[index]
        numbers = frames_of(sample)
        pictures, part = frame_maps(cam, clips, index, numbers, class_names.index(best["label"]))
        videos[sample.key] = {
            "label": best["label"],
            "frames": numbers,
            "part": part,
            "maps": [base64.b64encode(picture).decode() for picture in pictures],
        }
    atomic_write(path, json.dumps({"version": MAPS_VERSION, "videos": videos}))
    return len(videos)
