"""Videos that lists name: what is listed, what is here in whatever folders, and what is missing.

The lists decide the class and the subset of a video, not the folder that it lies in: downloads of one data
set come as `<Class>/<video>`, as `train/<Class>/<video>` and as one folder of all.
"""
import os
from pathlib import Path
from typing import NamedTuple

from datasets.samples import default_folder, is_safe_name
from datasets.sources import SourceVideo
from datasets.stores import JOURNAL
from run.console import UserError, first_names, note, working
from run.files import VIDEO_SUFFIXES

_DEPTH = 3  # folders on the way to a video, the given one included: train/<Class>
_TEXTS = (".csv", ".txt", ".json", ".md")
# A video of several lists belongs to the first of these: what is tested is not trained on.
_ORDER = ("validation", "testing", "training")


class Missing(NamedTuple):
    """A video that a list names and that is not here; `class_name` is None without a label."""

    video: str
    class_name: str
    subset: str


class Lists:
    """What lists say: `class_names` in the order of their indices, and `(class name, subset)` of each video.

    The name of a video is its file name without suffix, or what `name_of` of `find_listed` makes of it.
    """

    def __init__(self):
        self.class_names = {}  # a dictionary, since it keeps its order and finds at once
        self.videos = {}
        self._repeated, self._in_two = [], []

    def add(self, where, name, class_name, subset):
        """Add a line of a list. Raises UserError, which begins with `where`, if it contradicts another."""
        if class_name is not None and class_name not in self.class_names:
            raise UserError(f"{where}: {class_name!r:.80} is no class of the set")
        if not is_safe_name(name.rpartition("/")[2]):
            raise UserError(f"{where}: {name!r:.80} cannot be a name in the annotation")
        now = class_name, subset
        found = self.videos.setdefault(name, now)
        if found is now:
            return
        if found[1] != subset:
            self._in_two.append(name)
            self.videos[name] = min(found, now, key=lambda listed: _ORDER.index(listed[1]))
        elif found == now:
            self._repeated.append(name)
        else:
            raise UserError(
                f"{where}: {name} is of the class {class_name!r:.80}, and on another line of "
                f"{found[0]!r:.80}; delete one of the lines"
            )

    def add_classes(self, where, class_names):
        """Add names to the classes of the set, those that are new, in their order."""
        for name in dict.fromkeys(class_names):
            if not is_safe_name(name):
                raise UserError(f"{where}: class {name!r:.80} cannot be a name in the annotation")
            self.class_names[name] = None

    def tell(self, where):
        """Note the videos that are listed more than once."""
        for what, names in (
            ("videos listed twice", self._repeated),
            ("videos in the lists of two subsets; validation counts first, then testing", self._in_two),
        ):
            if names:
                note(f"{where}: {len(names)} {what}: {first_names(names)}")


def find_listed(dir_path, lists, name_of=lambda path: path.stem):
    """Return the listed videos below a folder as `SourceVideo`s, in the order of the lists.

    `name_of(path)` is what the lists call a video. Notes what is in no list. Raises UserError if no listed
    video is there, and for two files of one name.
    """
    paths = _named(dir_path, name_of)
    found = {name: path.relative_to(dir_path) for name, path in paths.items()}
    strangers = sorted(str(path) for name, path in found.items() if name not in lists.videos)
    if strangers:
        note(f"{dir_path}: {len(strangers)} videos in no list left out: {first_names(strangers)}")
    if len(strangers) == len(paths):
        first = first_names(list(lists.videos))
        n = len(lists.videos)
        raise UserError(f"{dir_path}: none of the {n} listed videos is there; expected {first}")
    stems = {name.rpartition("/")[2] for name in lists.videos}
    are_unique = len(stems) == len(lists.videos)
    if not are_unique:
        note(f"{dir_path}: the lists have names that come again, so the key of each video is <Class>/<video>")
    videos = []
    for name, (class_name, subset) in lists.videos.items():
        if name in paths:
            folder = default_folder(paths[name].stem, class_name)
            key = paths[name].stem if are_unique else folder
            videos.append(SourceVideo(paths[name], folder, key, class_name, subset))
    return videos


def listed_split(videos):
    """Return the one split of videos that lists decide."""
    return [{video.key: video.subset for video in videos}]


def missing_videos(lists, name_of, videos):
    """Return the listed videos that are not among those found, as `Missing`."""
    found = {name_of(video.path) for video in videos}
    return [Missing(name, *listed) for name, listed in lists.videos.items() if name not in found]


def _named(dir_path, name_of):
    """Return `{name: path}` of all videos below a folder.

    A file below a folder `replacement...` comes in place of another of its name: so the corrupt videos of
    Kinetics' common download are given again.
    """
    paths, replaced = {}, []
    for path in _files(dir_path):
        name, is_replacement = name_of(path), _is_replacement(path.relative_to(dir_path))
        other = paths.setdefault(name, path)
        if other is path:
            continue
        if is_replacement == _is_replacement(other.relative_to(dir_path)):
            raise UserError(f"{path}: the same video as {other}; move one of them away")
        replaced.append(name)
        paths[name] = path if is_replacement else other
    if replaced:
        note(f"{dir_path}: {len(replaced)} videos taken from a replacement folder: {first_names(replaced)}")
    return paths


def _is_replacement(path):
    return any(part.startswith("replacement") for part in path.parts[:-1])


def _files(dir_path):
    """Return the paths of the video files below a folder, in order; note what else is there."""
    if not dir_path.is_dir():
        raise UserError(f"{dir_path}: no such folder; expected the folder of the videos")
    paths, left_out = [], {}
    with working("looking for videos"):
        for folder, folders, names in os.walk(dir_path, followlinks=True):
            depth = len(Path(folder).relative_to(dir_path).parts) + 1
            if JOURNAL in names:  # frames that stage 1 made
                folders.clear()
                continue
            if depth == _DEPTH and folders:
                left_out.setdefault("folders too deep for a video", []).extend(folders)
                folders.clear()
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                path = Path(folder, name)
                if name.startswith("."):
                    left_out.setdefault("hidden files", []).append(name)
                elif path.suffix.lower() in VIDEO_SUFFIXES:
                    paths.append(path)
                elif path.suffix.lower() not in _TEXTS:
                    left_out.setdefault("files of no video suffix", []).append(path.relative_to(dir_path))
    for what, names in left_out.items():
        note(f"{dir_path}: {len(names)} {what} left out: {first_names(names)}")
    return paths
