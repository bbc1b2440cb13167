"""The page on the results of some videos: one HTML file that needs no other.

The functions here compute plain data; `page.html.j2` draws it, with `page.css` and `page.js`. Jinja2 escapes
every name. What not every page needs (Jinja2, Pillow, the frames) is imported when it is used.
"""
import base64
import collections
import hashlib
import re
from pathlib import Path
from typing import NamedTuple

from report.accuracy import wilson_interval
from report.maps import read_maps
from report.mistakes import mistakes
from report.packages import missing_package
from report.provenance import how_tested, how_trained
from run.accuracy import mean_class_accuracy
from run.console import UserError
from run.spec import Published

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


def report_html(class_names, samples, results, *, source, run, training, curves_path, frames_path, maps_path):
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
    maps_of, why_no_maps = read_maps(maps_path, {v.sample.key: v.taken_for for v in videos})
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
        mistakes={**mistakes(videos, run[0], frames_path, maps_of), "why_no_maps": why_no_maps},
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


def accuracy(class_names, videos, run, why_not):
    """Return top-1, its interval, the mean of the classes, top-5 and the clip accuracy, each with its counts.

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
    of_classes = mean_class_accuracy((v.class_name, v.taken_for == v.class_name) for v in videos)
    first = {"value": n_first / n, "text": f"{n_first:,} of {n:,} videos"}
    tiles = [
        {"name": "Video accuracy (top-1)", **first},
        {"name": "Mean class accuracy", "value": of_classes, "text": "each class counts alike"},
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
