"""Read and write the JSON files of the pipeline: annotations and results. Needs no Paddle.

Annotation (`ucf101_01.json`), the reference's format; the segment is half-open, from frame 1:

    {"labels": ["ApplyEyeMakeup", ...],
     "database": {"v_ApplyEyeMakeup_g01_c01": {
         "subset": "validation",
         "annotations": {"label": "ApplyEyeMakeup", "segment": [1, 166]}}}}

Results (`val.json`), best label first:

    {"results": {"v_ApplyEyeMakeup_g01_c01": [{"label": "ApplyEyeMakeup", "score": 0.97}, ...]}}

How the results were made (`val_run.json`), with the clips of each video that are right, and all:

    {"checkpoint": "results/best.pdparams", "device": "cpu", "versions": {"python": "3.11.7", ...},
     "options": {...}, "n_clips": 147, "clip_accuracy": 0.91, "results_crc32": 123456789,
     "videos": {"v_ApplyEyeMakeup_g01_c01": [8, 10], ...}}
"""
import json
import math
import os
import zlib
from typing import NamedTuple

from opts import UserError

SUBSETS = ("training", "validation", "testing")
# Kinetics-700's annotation has 100 MB.
LARGEST_FILE = 10**9


class Video(NamedTuple):
    """One annotated video; its frames are the numbers `begin` to `end - 1`."""

    name: str
    class_name: str
    label: int
    begin: int
    end: int


class Annotation(NamedTuple):
    """The class names in label order, and the videos of each subset in the file's order."""

    labels: list
    videos: dict


def _read_json(path, what):
    try:
        with open(path, encoding="utf-8") as file:
            n_bytes = os.fstat(file.fileno()).st_size
            if n_bytes > LARGEST_FILE:
                raise UserError(f"{path}: {n_bytes:,} bytes, expected a {what} of at most {LARGEST_FILE:,}")
            return json.load(file, object_pairs_hook=_without_repeats, parse_int=_whole_number)
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


def is_safe_name(name):
    """Tell whether a name from a file can only be a folder's entry, not lead out of the folder."""
    is_text = isinstance(name, str) and name.isprintable() and 0 < len(name.encode()) <= 255
    return is_text and "/" not in name and "\\" not in name and name not in (".", "..")


def read_annotation(path):
    """Read an annotation file and check every part of it; return an `Annotation`.

    Raises UserError for a file that is missing, malformed, or names a class or a video that could
    lead out of the frames' folder.
    """
    content = _read_json(path, "annotation")

    def check(condition, where, expected):
        if not condition:
            raise UserError(f"{path}: {where}: expected {expected}")

    check(isinstance(content, dict), "top level", "an object with labels and database")
    labels, database = content.get("labels"), content.get("database")
    check(isinstance(labels, list) and labels, "labels", "a list of class names")
    for name in labels:
        check(is_safe_name(name), f"label {name!r:.80}", "a plain folder name")
    label_of = {name: label for label, name in enumerate(labels)}
    check(len(label_of) == len(labels), "labels", "every class once")
    check(isinstance(database, dict) and database, "database", "an object of videos")

    videos = {subset: [] for subset in SUBSETS}
    for name, entry in database.items():
        where = f"video {name!r:.80}"
        check(is_safe_name(name), where, "a plain folder name")
        check(isinstance(entry, dict), where, "an object")
        subset, annotations = entry.get("subset"), entry.get("annotations")
        check(subset in SUBSETS, where, f"subset to be one of {', '.join(SUBSETS)}")
        check(isinstance(annotations, dict), where, "annotations to be an object")
        class_name, segment = annotations.get("label"), annotations.get("segment")
        check(isinstance(class_name, str) and class_name in label_of, where, "a label of labels")
        is_segment = (
            isinstance(segment, list)
            and len(segment) == 2
            and all(type(number) is int for number in segment)
            and 1 <= segment[0] < segment[1] <= 10**8
        )
        check(is_segment, where, "segment to be [first frame, last frame + 1]")
        videos[subset].append(Video(name, class_name, label_of[class_name], *segment))
    return Annotation(labels, videos)


def annotation_json(labels, videos):
    """Return the text of an annotation file; `videos` maps a subset to its list of `Video`."""
    database = {
        video.name: {
            "subset": subset,
            "annotations": {"label": video.class_name, "segment": [video.begin, video.end]},
        }
        for subset, members in videos.items()
        for video in members
    }
    return json.dumps({"labels": labels, "database": database})


def read_results(path):
    """Read a results file; return `{video: [(label, score), ...]}`, best first.

    Raises UserError for a missing or malformed file, or one that holds the scores of clips
    (`test.py --inference_no_average`).
    """
    content = _read_json(path, "results file")
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, dict):
        raise UserError(f"{path}: expected an object with results")
    return {name: _read_result(path, name, result) for name, result in results.items()}


def _read_result(path, name, result):
    where = f"{path}: video {name!r:.80}"
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

    Returns `(facts, "")`, or `(None, why not)` where that file is missing, malformed, or of other
    results. `facts["videos"]` maps each video of the results to `[n_correct_clips, n_clips]`.
    """
    path = results_path.with_name(f"{results_path.stem}_run.json")
    try:
        facts = _read_json(path, "facts on a run")
    except UserError as error:
        return None, str(error)
    counts = facts.get("videos") if isinstance(facts, dict) else None
    if not isinstance(counts, dict) or not all(map(_is_part, counts.values())):
        return None, f"{path}: malformed"
    if facts.get("results_crc32") != zlib.crc32(results_path.read_bytes()) or set(counts) != set(results):
        return None, f"{path}: of other results than {results_path.name}"
    return facts, ""


def _is_part(pair):
    is_pair = isinstance(pair, list) and len(pair) == 2 and all(type(n) is int for n in pair)
    return is_pair and 0 <= pair[0] <= pair[1] <= 10**9 and pair[1] > 0
