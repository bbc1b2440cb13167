"""Read and write the JSON files of the pipeline: annotations and results. Needs neither Paddle nor numpy.

Annotation (`ucf101_01.json`), the reference's format; the segment is half-open, from frame 1. A key is a
video's name, or `<Class>/<name>` if names come in several classes. The frames lie in `<label>/<key>` below
the frames' folder, those of a testing video without a label in `test/<key>`, unless a `video_path` says
where: so a video can have several entries, with segments of their own.

    {"labels": ["ApplyEyeMakeup", ...],
     "database": {"v_ApplyEyeMakeup_g01_c01": {
         "subset": "validation",
         "video_path": "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01",
         "annotations": {"label": "ApplyEyeMakeup", "segment": [1, 166]}}}}

Results (`val.json`), best label first:

    {"results": {"v_ApplyEyeMakeup_g01_c01": [{"label": "ApplyEyeMakeup", "score": 0.97}, ...]}}

How the results were made (`val_run.json`), with the clips of each video that are right, and all. Version 1
has neither a version nor specs: these are among its options.

    {"version": 2, "checkpoint": "results/best.pdparams", "device": "cpu",
     "versions": {"python": "3.11.7", ...}, "network": {...}, "clip": {...}, "protocol": {...},
     "options": {...}, "published": {...}, "n_clips": 147, "clips_per_second": 14.2,
     "clip_accuracy": 0.91, "results_crc32": 123456789,
     "videos": {"v_ApplyEyeMakeup_g01_c01": [8, 10], ...}}

Unless every video has a label, `clip_accuracy` is null, and so is what is right of a video without one.
"""
import contextlib
import json
import math
import os
import zlib
from typing import NamedTuple

from datasets.plain_annotation import read_plain
from datasets.samples import Samples, default_folder, is_safe_name, is_safe_path
from run.console import UserError, first_names, note, shown
from run.spec import checked_record
from run.text import decoded

SUBSETS = ("training", "validation", "testing")
# Kinetics-700's annotation has 100 MB.
LARGEST_FILE = 10**9


class Annotation(NamedTuple):
    """The class names in the order of their indices, and the `Samples` of each of `SUBSETS`."""

    class_names: list
    subsets: dict

    def in_order(self, class_names):
        """Return it with the classes in another order; as it is if these are not its classes.

        A network knows its own order: the Kinetics files of 2018 have the alphabet's, the lists another one.
        """
        if sorted(class_names) != sorted(self.class_names):
            return self
        index_of = {name: index for index, name in enumerate(class_names)}
        indices = [index_of[name] for name in self.class_names] + [-1]
        subsets = {subset: samples.with_classes(indices) for subset, samples in self.subsets.items()}
        return Annotation(list(class_names), subsets)

    def checksum(self):
        """Return the CRC-32 of it all: two equal ones are of the same data set and split."""
        text = "".join(f"{name}\n" for name in self.class_names)
        text += "".join(f"{subset} {self.subsets[subset].checksum()}\n" for subset in SUBSETS)
        return zlib.crc32(text.encode())


def _read_json(path, what):
    try:
        with open(path, "rb") as file:
            n_bytes = os.fstat(file.fileno()).st_size
            if n_bytes > LARGEST_FILE:
                raise UserError(f"{path}: {n_bytes:,} bytes, expected a {what} of at most {LARGEST_FILE:,}")
            text = decoded(file.read(), path)
        return json.loads(text, object_pairs_hook=_without_repeats, parse_int=_whole_number)
    except FileNotFoundError:
        raise UserError(f"{path}: no such {what}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{path}: not a JSON {what}: {error}") from None


def _whole_number(text):
    # Python before 3.10.7 takes the square of their number in time for many digits.
    if len(text) > 100:
        raise ValueError(f"a number of {len(text):,} digits")
    return int(text)


def _without_repeats(pairs):
    """Build a dictionary, refusing a key that comes twice: json would keep the last one silently."""
    content = dict(pairs)
    if len(content) < len(pairs):
        seen = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"{repeated!r:.80} comes twice")
    return content


def read_annotation(path):
    """Read an annotation file and check every part of it; return an `Annotation`.

    Raises UserError for a file that is missing or malformed, or that names a class, a key or a path which
    could lead out of the frames' folder.
    """
    with contextlib.suppress(OSError), open(path, "rb") as file:
        plain = read_plain(file, SUBSETS)
        if plain is not None:
            return Annotation(*plain)
    content = _read_json(path, "annotation")

    def check(condition, where, expected):
        if not condition:
            raise UserError(f"{path}: {where}: expected {expected}")

    check(isinstance(content, dict), "top level", "an object with labels and database")
    class_names, database = content.get("labels"), content.get("database")
    check(isinstance(class_names, list) and class_names, "labels", "a list of class names")
    for name in class_names:
        check(is_safe_name(name), f"label {name!r:.80}", "a plain folder name")
    index_of = {name: index for index, name in enumerate(class_names)}
    check(len(index_of) == len(class_names), "labels", "every class once")
    check(isinstance(database, dict) and database, "database", "an object of videos")
    subsets = {subset: Samples() for subset in SUBSETS}
    for key, entry in database.items():
        try:
            subsets[_subset_of(entry)].append(key, *_columns_of(key, entry, index_of))
        except ValueError as error:
            raise UserError(f"{path}: video {key!r:.80}: expected {error}") from None
        database[key] = None  # its memory serves the next ones
    return Annotation(class_names, subsets)


def note_only_class(path, class_names):
    """Note a single class: there is nothing to tell apart."""
    if len(class_names) == 1:
        note(f"{path}: {shown(class_names[0])} is the only class, so that every network is always right")


def note_classes(path, annotation):
    """Note what cannot be learnt: a single class, and classes without a training video."""
    names = annotation.class_names
    note_only_class(path, names)
    trained = set(annotation.subsets["training"].class_indices)
    untrained = [name for index, name in enumerate(names) if index not in trained]
    if untrained:
        first = first_names(untrained)
        note(f"{path}: {len(untrained)} of {len(names)} classes have no training video: {first}")


def _subset_of(entry):
    if not isinstance(entry, dict):
        raise ValueError("an object")
    subset = entry.get("subset")
    if subset not in SUBSETS:
        raise ValueError(f"subset to be one of {', '.join(SUBSETS)}")
    return subset


def _columns_of(key, entry, index_of):
    """Return folder, class index, begin and end of a database entry. Raises ValueError: what is expected."""
    if not is_safe_path(key):
        raise ValueError("a plain folder name, or several joined by /")
    annotations = entry.get("annotations")
    if not isinstance(annotations, dict):
        raise ValueError("annotations to be an object")
    class_name = annotations.get("label")
    if "label" in annotations or entry["subset"] != "testing":
        if not isinstance(class_name, str) or class_name not in index_of:
            raise ValueError("a label of labels")
    segment = annotations.get("segment")
    is_segment = (
        isinstance(segment, list)
        and len(segment) == 2
        and type(segment[0]) is type(segment[1]) is int
        and 1 <= segment[0] < segment[1] <= 10**8
    )
    if not is_segment:
        raise ValueError("segment to be [first frame, last frame + 1]")
    folder = default_folder(key, class_name)
    if "video_path" in entry:
        folder = entry["video_path"]
        if not is_safe_path(folder):
            raise ValueError("video_path to be a path below the folder of frames")
    return folder, index_of.get(class_name, -1), *segment


def annotation_json(class_names, subsets):
    """Return the text of an annotation file; `subsets` maps each subset to its samples."""
    database = {}
    for subset, samples in subsets.items():
        for key, folder, class_index, begin, end in samples:
            class_name = class_names[class_index] if class_index >= 0 else None
            entry = database[key] = {"subset": subset}
            if folder != default_folder(key, class_name):
                entry["video_path"] = folder
            label = {} if class_name is None else {"label": class_name}
            entry["annotations"] = {**label, "segment": [begin, end]}
    return json.dumps({"labels": class_names, "database": database})


def read_results(path):
    """Read a results file; return `{key: [(class name, score), ...]}`, best first.

    Raises UserError for a missing or malformed file, or one that holds the scores of clips
    (`test.py --inference_no_average`).
    """
    content = _read_json(path, "results file")
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, dict):
        raise UserError(f"{path}: expected an object with results")
    return {key: _read_result(path, key, result) for key, result in results.items()}


def _read_result(path, key, result):
    where = f"{path}: video {key!r:.80}"
    if not isinstance(result, list) or not result:
        raise UserError(f"{where}: expected a list of labels with scores")
    if all(isinstance(item, dict) and "segment" in item for item in result):
        raise UserError(
            f"{where}: holds the scores of clips, not of the video; "
            "run test.py without --inference_no_average"
        )
    pairs = []
    for item in result:
        label = item.get("label") if isinstance(item, dict) else None
        score = item.get("score") if isinstance(item, dict) else None
        # Python's JSON also reads NaN and Infinity.
        is_number = type(score) in (int, float) and -math.inf < score < math.inf
        if not isinstance(label, str) or not is_number:
            raise UserError(f'{where}: expected {{"label": text, "score": number}}, found {item!r:.80}')
        pairs.append((label, score))
    if any(a[1] < b[1] for a, b in zip(pairs, pairs[1:])):
        raise UserError(f"{where}: the scores are not in order, best first")
    if len({label for label, _ in pairs}) < len(pairs):
        raise UserError(f"{where}: names a label twice")
    return pairs


def read_run(results_path, results):
    """Read how a results file was made, from the file beside it that `test.py` wrote with it.

    Returns `(run, "")`, or `(None, why not)` if that file is missing, malformed, or of other results.
    `run["videos"]` maps each video of the results to `[n_correct_clips, n_clips]`.
    """
    path = results_path.with_name(f"{results_path.stem}_run.json")
    try:
        run = checked_record(_read_json(path, "description of a run"), path)
    except UserError as error:
        return None, str(error)
    if run.get("clip_accuracy", 0) is None:
        return None, f"{path}: test.py scored these videos without their classes"
    counts = run.get("videos")
    if not isinstance(counts, dict) or not all(map(_is_part, counts.values())):
        return None, f"{path}: malformed"
    if run.get("results_crc32") != zlib.crc32(results_path.read_bytes()) or set(counts) != set(results):
        return None, f"{path}: of other results than {results_path.name}"
    return run, ""


def _is_part(pair):
    is_pair = isinstance(pair, list) and len(pair) == 2 and all(type(n) is int for n in pair)
    return is_pair and 0 <= pair[0] <= pair[1] <= 10**9 and pair[1] > 0
