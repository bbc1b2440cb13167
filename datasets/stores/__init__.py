"""Ways to keep frames: one file each, found by lying here; its name stands in the frames' journal.

A frames folder holds the frames of each video under the video's folder, "<Class>/<video>" in most data sets,
and `frames.jsonl`: how all frames were made (`FrameSpec`), then a line for each video that is done.

    {"version": 1, "size": 240, "quality": 80, "fps": null, "store": "jpg_folders",
     "modality": "rgb"}
    {"video": "Archery/v_Archery_g01_c01", "n_frames": 132, "fps": 25.0,
     "bytes": 523400, "mtime": 1349967442.0, "crc32": 3735928559}    of the video's file; all in one line

The first line of an older folder has no version and no store; its other lines have no fps and nothing of the
file. A tree of other making, such as the reference's, has no journal: its kind is recognised by what lies in
it.

A store's file defines

    recognises(path)    tells whether a folder without a journal holds frames of this kind
    class Store         a `FrameStore` with the six methods that raise there
"""
import json
import math
import os
import statistics
from pathlib import Path

from run import registry
from run.console import UserError, first_names, progress_bar
from run.files import read_journal, remove_temporaries
from run.spec import FrameSpec

STORES = "datasets/stores"
JOURNAL = "frames.jsonl"


class FrameStore:
    """The frames of a data set below `path`; `spec` tells how they were made, None if that is unknown.

    Frames are numbered from 1. Files are opened by the readers, so that each process has its own.
    `one_file_a_frame` tells how many files a data set takes.
    """

    one_file_a_frame = False

    def __init__(self, path, spec=None):
        self.path = Path(path)
        self.spec = spec

    @property
    def modality(self):
        """What the frames show, "rgb" or "flow"; those of an unknown origin are RGB."""
        return "rgb" if self.spec is None else self.spec.modality

    def place(self, folder):
        """Return the path of the file or folder that holds a video's frames, a text or a Path."""
        raise NotImplementedError

    def videos(self):
        """Return the folders of all videos that are there, finished or not."""
        raise NotImplementedError

    def count(self, folder, begin, end):
        """Return how many of its frames `begin` to `end - 1` a video has, None if there is no such video.

        Frames are not decoded; one that does not decode is found when it is read.
        """
        raise NotImplementedError

    def reader(self, folder):
        """Return a `FrameReader` of a video."""
        raise NotImplementedError

    def writer(self, folder):
        """Return a context that gives `write(jpg_bytes)`, to call with each frame in order.

        If the context ends well the video appears, in place of an earlier one; else nothing is left of
        it. What is unfinished lies at `temporary_path(folder)`. Raises DiskFull.
        """
        raise NotImplementedError

    def verify(self, folder, n_frames):
        """Read every frame of a finished video; return what is wrong as a list of texts."""
        raise NotImplementedError

    def temporary_path(self, folder):
        """Return a path beside a video's that `remove_temporaries` deletes."""
        place = Path(self.place(folder))
        return place.with_name(f".{place.name}.{os.getpid()}.tmp")

    def remove_temporaries(self):
        """Delete what killed processes left; only for the owner of the folder."""
        for folder in self.path.glob("[!.]*"):
            if folder.is_dir():
                remove_temporaries(folder)

    def check(self, samples, is_shown=True):
        """Raise UserError unless every annotated frame of every sample is there.

        Links out of `path` are refused: names from a file do not choose what is read elsewhere. No file
        gives an absolute folder.
        """
        self._refuse_links_out([s.folder for s in samples if not s.folder.startswith("/")])
        incomplete = []
        bar = {"unit": "video", "desc": "looking for frames", "leave": False, "delay": 1}
        for sample in progress_bar(iterable=samples, disable=not is_shown, **bar):
            n_found = self.count(sample.folder, sample.begin, sample.end)
            n_expected = sample.end - sample.begin
            if n_found is None:
                incomplete.append(f"{sample.key} (no folder)")
            elif n_found < n_expected:
                incomplete.append(f"{sample.key} ({n_found} of {n_expected} frames)")
        if incomplete:
            raise UserError(
                f"{self.path}: frames missing for {len(incomplete)} of {len(samples)} annotated videos: "
                f"{first_names(incomplete)}; run generate_video_jpgs.py, with --repair if it has been run"
            )

    def _refuse_links_out(self, folders):
        real_path = os.path.realpath(self.path)
        parents = {folder.rpartition("/")[0] for folder in folders}
        parents.update(str(above) for parent in tuple(parents) for above in Path(parent).parents)
        parents = [self.path / parent for parent in sorted(parents - {"", "."})]
        for place in (*parents, *map(self.place, folders)):
            if os.path.islink(place):
                target = os.path.realpath(place)
                if os.path.commonpath([real_path, target]) != real_path:
                    raise UserError(
                        f"{place}: a link out of the frames' folder, to {target}; put the frames in its "
                        "place, or link the whole folder of frames"
                    )

    def frame_rates(self, samples):
        """Return the median, least and most frames a second of the videos of `Samples`.

        None unless the journal knows the rate of each. The median is the rate of one of them.
        """
        if self.spec is None or not len(samples):
            return None
        entries = finished_videos(read_journal(self.path / JOURNAL)[0], self.path / JOURNAL)
        rates = {folder: entry.get("fps", self.spec.fps) for folder, entry in entries.items()}
        found = [rates.get(folder) for folder in samples.folders]
        return None if None in found else (statistics.median_low(found), min(found), max(found))


class FrameReader:
    """The frames of one video, by their numbers. A context, so that it can hold a file open."""

    def size(self, number):
        """Return height and width of a frame's picture, without decoding it."""
        raise NotImplementedError

    def decode(self, number, colorspace="RGB", reduction=1):
        """Return a frame as `[H, W, 3] uint8 RGB`; "RGBX" gives a fourth byte, "GRAY" has one.

        Frames of flow are "GRAY"; `datasets/flow.py` says what is in their pictures.

        `reduction` 2, 4 or 8 decodes it that much smaller, which is quicker and not exact. Raises
        UserError, which names the frame, for one that is missing or does not decode to its end.
        """
        raise NotImplementedError

    def close(self):
        """Close what is open."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def open_store(path):
    """Return the store of a folder of frames: of the kind in its journal, else of the kind that it holds."""
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such folder of frames; run generate_video_jpgs.py first")
    spec = read_spec(path)
    if spec is not None:
        return new_store(path, spec)
    kinds = registry.modules(STORES)
    for module in (registry.load(STORES, kind) for kind in kinds):
        if module.recognises(path):
            return module.Store(path)
    raise UserError(
        f"{path}: holds no frames.jsonl, and no frames of a known kind ({', '.join(kinds)}); run "
        "generate_video_jpgs.py first"
    )


def new_store(path, spec):
    """Return the store that keeps frames below a path as the spec says."""
    kinds = registry.modules(STORES)
    if spec.store not in kinds:
        raise UserError(
            f"{path / JOURNAL}: store is {spec.store!r:.80}, expected one of {', '.join(kinds)}; use a newer "
            "checkout"
        )
    return registry.load(STORES, spec.store).Store(path, spec)


def read_spec(path):
    """Return the `FrameSpec` of a folder's journal, None if there is none or its first line is cut short."""
    try:
        with open(path / JOURNAL, "rb") as file:
            line = file.readline(100_000)
    except FileNotFoundError:
        return None
    if not line.endswith(b"\n"):
        return None
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        content = None
    return spec_of(content, path / JOURNAL)


def spec_of(content, journal_path):
    """Return the `FrameSpec` of a journal's first line."""
    if not isinstance(content, dict) or not {"size", "quality", "fps"} <= content.keys():
        raise broken(journal_path)
    return FrameSpec.from_json(content, f"{journal_path}: line 1")


def finished_videos(entries, journal_path):
    """Return the entries of a journal behind the first as `{folder: entry}`."""
    if not all(map(_is_entry, entries[1:])):
        raise broken(journal_path)
    return {entry["video"]: entry for entry in entries[1:]}


def _is_entry(entry):
    """Tell whether an entry names a video inside the folder and at least one frame."""
    parts = str(entry.get("video")).split("/")
    is_name = len(parts) == 2 and not {"", ".", ".."}.intersection(parts) and "\0" not in entry["video"]
    n_frames, fps = entry.get("n_frames"), entry.get("fps", 1)
    is_rate = type(fps) in (int, float) and 0 < fps < math.inf
    return is_name and type(n_frames) is int and n_frames > 0 and is_rate


def broken(journal_path):
    """Return the UserError on a journal that no script wrote so."""
    return UserError(
        f"{journal_path}: broken, or of another program; give another folder, or move this one away and run "
        "again"
    )
