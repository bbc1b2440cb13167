"""Data sets: one file each, found by lying here; its name is the word on stage 1's command line.

A source's file defines

    OPTIONS                                   a literal: its own options, as `run/registry.py` reads them; may
                                              be absent. `options` is `{name: value}` of these and of
                                              `dir_path`, the folder of the videos
    find_videos(dir_path, options)            the `SourceVideo`s of a folder, in the order of the annotation
    class_names(videos, options)              the class names in the order of their indices
    annotation_paths(dst_path)                the annotation file of each split
    splits(videos, options)                   `{key: subset}` for each of these; other videos are unused

and, unless a sample is all frames of a video,

    samples(video, n_frames, fps, options)    `[(key, class name, begin, end), ...]`; the class name is None
                                              without a label, `fps` None for frames of unknown rate

and, if lists name the videos,

    missing_videos(videos, options)           the `Missing` of `datasets/listed.py`: listed and not here

and, to print more than the size of each split,

    summary(names, subsets)                   lines of text, of class names and the `Samples` of each subset

Each raises UserError for what is missing or cannot be. What data sets with a folder for each class have in
common is in `datasets/class_folders.py`, and in `datasets/listed.py` what those with lists have.
"""
from pathlib import Path
from typing import NamedTuple

from run import registry

SOURCES = "datasets/sources"


class SourceVideo(NamedTuple):
    """A video file of a data set.

    `folder` is where its frames go below the frames' root, "<folder>/<folder>"; `key` its name in all later
    files, no other video's, of which slashes may be a part; `class_name` None without a label; `subset` is
    what lists say of it, if they do.
    """

    path: Path
    folder: str
    key: str
    class_name: str
    subset: str = None


def load_source(name):
    """Return the module of a data set."""
    return registry.load(SOURCES, name)


def samples_of(source, video, n_frames, fps, options):
    """Return the `(key, class name, begin, end)` of each sample of a video, of which there are `n_frames`."""
    if hasattr(source, "samples"):
        return source.samples(video, n_frames, fps, options)
    return [(video.key, video.class_name, 1, n_frames + 1)]
