"""The page on the results of some videos: one HTML file that needs no other.

The functions here compute plain data; `page.html.j2` draws it, with `page.css` and `page.js`. Jinja2 escapes
every name. What not every page needs (Jinja2, Pillow, the frames) is imported when it is used.
"""
import base64
import collections
import hashlib
import io
import json
import re
from pathlib import Path
from typing import NamedTuple

from report.packages import missing_package
from run.console import UserError
from run.spec import Published, checked_record

N_MISTAKES, N_FRAMES, FRAME_HEIGHT = 20, 5, 96
HERE = Path(__file__).parent


class Scored(NamedTuple):
    """A video: its `Sample`, its class name, and its result, `(class name, score)` pairs, best first."""

    sample: tuple
    class_name: str
    result: list  # [] without a result, which counts as wrong

    @property
    def taken_for(self):
        """The class name with the highest score, None without a result."""
        return self.result[0][0] if self.result else None


def report_html(class_names, samples, results, *, source, run, training, curves_path, frames_path):
    """Return the page as text.

    `samples` are the `Sample`s that count; `results` maps their keys to `(class name, score)` pairs, best
    first. `run` is what `read_run` returns, `training` what `last_header` does. The page says which of the
    frames, the curves and the records of the runs are missing. Raises UserError without Jinja2.
    """
    environment = _environment()
    videos = [Scored(s, class_names[s.class_index], results.get(s.key, [])) for s in samples]
    confusions = {name: collections.Counter() for name in class_names}  # class -> taken for -> videos
    for video in videos:
        confusions[video.class_name][video.taken_for] += 1
    script = _text("page.js")
    return environment.get_template("page.html.j2").render(
        n_videos=len(videos),
        n_classes=len(class_names),
        source=source,
        accuracy=accuracy(class_names, videos, *run),
        published=published(run[0], training),
        curves=curves(curves_path),
        classes=class_table(confusions),
        matrix=matrix(confusions),
        mistakes=mistakes(videos, run[0], frames_path),
        test=how_tested(*run),
        training=how_trained(training),
        style=_text("page.css"),
        script=script,
        script_hash=_base64(hashlib.sha256(script.encode()).digest()),
    )


def _environment():
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except Exception as error:  # a broken installation fails in its own ways
        raise missing_package("--report", "Jinja2", error) from None
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["percent"] = lambda part: f"{100 * part:.1f}\u00a0%"
    environment.filters["words"] = words
    return environment


def _text(name):
    return (HERE / name).read_text(encoding="utf-8")


def _base64(content):
    return base64.b64encode(content).decode()


def words(name):
    """Return the parts that a narrow column breaks a name into, WalkingWithDog as Walking, With, Dog."""
    return re.split(r"(?<=[a-z0-9])(?=[A-Z])|(?<=_)", name)


# The accuracy --------------------------------------------------------------------------------


def wilson_interval(n_right, n, z=1.959963984540054):
    """Return Wilson's interval for a proportion, of 95 % by default."""
    p = n_right / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5 / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def accuracy(class_names, videos, run, why_not):
    """Return top-1, its interval, top-5 and the clip accuracy, each with its counts.

    `value` is None if it is not known, with the reason in `text`.
    """
    n, n_wanted = len(videos), min(5, len(class_names))
    top = [[name for name, _ in video.result[:5]] for video in videos]
    n_first = sum(video.class_name in names[:1] for video, names in zip(videos, top))
    n_five = sum(video.class_name in names for video, names in zip(videos, top))
    low, high = wilson_interval(n_first, n)
    never = f"; of {len(class_names)} classes it misses none" if len(class_names) <= 5 else ""
    five = {"value": n_five / n, "text": f"{n_five:,} of {n:,} videos{never}"}
    if any(0 < len(video.result) < n_wanted for video in videos):
        five = {"value": None, "text": f"the results hold fewer than {n_wanted} classes a video"}
    clips = {"value": None, "text": why_not}
    if run is not None:
        n_right, n_clips = (sum(pair[i] for pair in run["videos"].values()) for i in (0, 1))
        clips = {"value": n_right / n_clips, "text": f"{n_right:,} of {n_clips:,} clips"}
    first = {"value": n_first / n, "text": f"{n_first:,} of {n:,} videos"}
    tiles = [
        {"name": "Video accuracy (top-1)", **first},
        {"name": "Top-5", **five},
        {"name": "Clip accuracy", **clips},
    ]
    return {"value": n_first / n, "low": low, "high": high, "tiles": tiles}


def published(run, training):
    """Return what was published for the recipe: `figure`, a `Published` or None, and `why_not`.

    It comes from the record of the test, else (version 1 has none) from the last training in the folder.
    `why_not` is "" unless the record is damaged.
    """
    for content, name in ((run, "val_run.json"), (training, "train.jsonl")):
        if content is not None and "published" in content:
            if content["published"] is None:
                break
            try:
                figure = Published.from_json(content["published"], f"{name}: published")
                return {"figure": figure, "why_not": ""}
            except UserError as error:
                return {"figure": None, "why_not": str(error)}
    return {"figure": None, "why_not": ""}


# Curves, classes, confusions -----------------------------------------------------------------


def curves(path):
    """Return the picture of the training, `content` in base64, None if there is none."""
    try:
        content = _base64(path.read_bytes())
    except OSError:
        content = None
    return {"name": path.name, "content": content}


def class_table(confusions):
    """Return a row for each class, the lowest accuracy first; without videos it is None, and last."""
    rows = []
    for name, counts in confusions.items():
        n, n_right = sum(counts.values()), counts[name]
        wrong = [(count, other) for other, count in counts.items() if other != name]
        n_confused, other = max(wrong, key=lambda pair: pair[0], default=(0, None))
        rows.append(
            {
                "name": name,
                "n": n,
                "n_right": n_right,
                "accuracy": n_right / n if n else None,
                "taken_for": "no result" if other is None else other,
                "n_confused": n_confused,
            }
        )
    rows.sort(key=lambda row: 2 if row["accuracy"] is None else row["accuracy"])
    return rows


def matrix(confusions):
    """Return the confusion matrix: names of rows and columns, the cells that hold videos, sizes in pixels."""
    rows = list(confusions)
    columns = rows + [None] * any(None in counts for counts in confusions.values())
    size, font = (44, 13) if len(rows) <= 12 else (22, 11) if len(rows) <= 40 else (11, 9)
    cells = [
        {
            "row": i,
            "column": j,
            "count": confusions[row][column],
            "n": sum(confusions[row].values()),
            # The root, so that a single video among forty is seen.
            "opacity": 0.25 + 0.75 * (confusions[row][column] / sum(confusions[row].values())) ** 0.5,
        }
        for i, row in enumerate(rows)
        for j, column in enumerate(columns)
        if confusions[row][column]
    ]
    short = lambda name: name if len(name) <= 24 else f"{name[:23]}…"
    return {
        "rows": rows,
        "columns": ["no result" if name is None else name for name in columns],
        "short": [short("no result" if name is None else name) for name in columns],
        "cells": cells,
        "size": size,
        "font": font,
        "margin": round(0.62 * font * max(len(short(name)) for name in rows)) + 16,
    }


# The mistakes --------------------------------------------------------------------------------


def mistakes(videos, run, frames_path):
    """Return the videos that were taken for another class, the highest score first, with their frames."""
    wrong = [video for video in videos if video.taken_for not in (None, video.class_name)]
    wrong.sort(key=lambda video: -video.result[0][1])
    store, why_not = _open_frames(frames_path) if wrong else (None, "")
    cards = []
    for video in wrong[:N_MISTAKES]:
        strip, why_no_strip = (None, "") if store is None else _strip(store, video.sample)
        cards.append(
            {
                "key": video.sample.key,
                "class_name": video.class_name,
                "taken_for": video.taken_for,
                "score": video.result[0][1],
                "own_score": dict(video.result).get(video.class_name),
                "clips": None if run is None else run["videos"][video.sample.key],
                "strip": None if strip is None else _base64(strip),
                "why_not": why_no_strip,
            }
        )
    return {"n": len(wrong), "cards": cards, "n_frames": N_FRAMES, "why_not": why_not}


def _open_frames(path):
    """Return the store of the frames and "", or None and why there is none."""
    if not path.exists():
        return None, f"there is no folder {path} (--video_path)"
    try:
        import PIL.Image  # noqa: F401  (for `_strip`)

        from datasets.stores import open_store

        return open_store(path), ""
    except (UserError, OSError, ImportError) as error:
        return None, str(error)


def _strip(store, sample):
    """Return a jpg of a video's frames side by side and "", or None and why there is none."""
    from PIL import Image

    from datasets.annotation import Samples

    n = sample.end - sample.begin
    numbers = [sample.begin + (2 * i + 1) * n // (2 * N_FRAMES) for i in range(N_FRAMES)]
    try:
        store.check(Samples([sample]), is_shown=False)
        with store.reader(sample.folder) as reader:
            images = [Image.fromarray(reader.decode(number)) for number in numbers]
    except (UserError, OSError) as error:
        return None, str(error)
    width = max(1, min(3 * FRAME_HEIGHT, round(images[0].width * FRAME_HEIGHT / images[0].height)))
    strip = Image.new("RGB", ((width + 2) * N_FRAMES - 2, FRAME_HEIGHT))
    for i, image in enumerate(images):
        strip.paste(image.convert("RGB").resize((width, FRAME_HEIGHT)), (i * (width + 2), 0))
    content = io.BytesIO()
    strip.save(content, "JPEG", quality=75)
    return content.getvalue(), ""


# How it was made -----------------------------------------------------------------------------

TEST_SPECS = ("network", "clip", "protocol", "options")
TRAINING_NAMES = (
    "command git python paddle numpy device n_ranks n_training_videos n_validation_clips n_parameters "
    "recipe_name"
).split()
TRAINING_SPECS = ("network", "clip", "recipe", "options")


def last_header(path):
    """Return the last header of a training log, None if there is none; a run may be writing to it."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and "epoch" not in entry:
            return entry
    return None


def how_tested(run, why_not):
    """Return how the results were made, as groups of `(name, value)` pairs, or why that is not known."""
    if run is None:
        return {"why_not": why_not, "groups": []}
    versions = run.get("versions")
    first = {name: run.get(name) for name in ("checkpoint", "device")}
    first.update(versions if isinstance(versions, dict) else {})
    return {"why_not": "", "groups": _groups(first, run, TEST_SPECS)}


def how_trained(header):
    """Return how the last training in the folder was made, as `how_tested` does."""
    if header is None:
        return {"why_not": "no train.jsonl with a header beside the results.", "groups": []}
    try:
        checked_record(header, "train.jsonl")
    except UserError as error:
        return {"why_not": str(error), "groups": []}
    first = {name: header[name] for name in TRAINING_NAMES if name in header}
    if isinstance(first.get("command"), list):
        first["command"] = " ".join(map(str, first["command"]))
    return {"why_not": "", "groups": _groups(first, header, TRAINING_SPECS)}


def _groups(first, content, names):
    """Return a group without a title, then those of `names` that are in the content of a record.

    Only these: a log may hold more than is to be passed on with a page.
    """
    found = {name.capitalize(): content[name] for name in names if isinstance(content.get(name), dict)}
    return [{"title": name, "pairs": _pairs(group)} for name, group in {"": first, **found}.items()]


def _pairs(content):
    """Return names and values as text, those of an object inside, as a network's arguments, in its place."""
    pairs = []
    for name, value in content.items():
        pairs += value.items() if isinstance(value, dict) else [(name, value)]
    return [(str(name), _shown(value)[:400]) for name, value in pairs if name != "version"]  # of the form


def _shown(value):
    return value if isinstance(value, str) and value else json.dumps(value)
