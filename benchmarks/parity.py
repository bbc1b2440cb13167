"""Measure how far this code is from the reference, with the Paddle that runs it: `make parity`.

    CLIPS_PATH=... REFERENCE_PATH=... python benchmarks/parity.py           # everything, a few minutes
    python benchmarks/parity.py logits windows                              # some of it

prints the table of docs/parity.md as it is measured, and one line of JSON. The figures come from the
functions by which the tests judge, the bounds are the tests' own. A row whose data the environment does not
name says "not here". The exit code is 1 if a figure is not within its bound.
"""
import argparse
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import conftest  # first: it keeps the GPU out and gives Paddle its threads
import golden_networks
import paddle
import pytest
import test_inference
import test_inference_engine
import test_networks
import test_spatial
import test_temporal
import test_training
import test_video
from paired import machine

EQUAL = 0  # the bound of what is counted: names, windows, pixels that differ


# Each function yields rows (what, difference, bound, unit).


def logits():
    """Evaluation logits of seeded networks."""
    families = {}
    for key, (_, case) in golden_networks.cases().items():
        families.setdefault(case["kind"], []).append(key)
    for family, keys in families.items():
        difference = max(map(logits_difference, keys))
        depths = sorted({golden_networks.cases()[key][1]["depth"] for key in keys})
        what = f"evaluation logits of {len(keys)} networks of {family}, depths {', '.join(map(str, depths))}"
        yield what, difference, test_networks.LOGITS_BOUND, "of the largest logit"


def logits_difference(key):
    net, _, clips, expected = golden_networks.golden_network(key)
    return test_networks.logits_difference(net, clips, expected)


def shapes():
    """Names and shapes of all weights."""
    others = [key for key in test_networks.HERE if test_networks.other_shapes(key)]
    what = f"names and shapes of all weights, {len(test_networks.HERE)} networks"
    yield what, len(others), EQUAL, "networks"


def fine_tuning():
    """Fine-tuning from layer4 on."""
    for run, bounds in test_training.FINE_TUNING:
        found = test_training.fine_tuning_differences(run)
        begin = f"fine-tuning from {run['ft_begin_module']} on, depth {run['depth']}, {run['steps']} steps"
        for what, bound in bounds.items():
            yield f"{begin}: {what}", found[what], bound, ""


def all_layers():
    """Training all layers."""
    difference = test_training.all_layers_difference()
    yield "training all layers, losses of the first two steps", difference, test_training.ALL_LAYERS_BOUND, ""


def windows():
    """Windows of a clip's frames."""
    lengths = list(map(int, test_temporal.GOLDEN))
    others = [length for length in lengths if test_temporal.other_windows(length)]
    what = f"windows: even, sliding, centre, random starts, {len(lengths)} lengths"
    yield what, len(others), EQUAL, "lengths"


def crop():
    """The validation crop."""
    yield "validation crop, real frame", test_spatial.other_pixels(reference_path()), EQUAL, "numbers"


def scores():
    """Scores of real videos."""
    path = reference_path()
    with tempfile.TemporaryDirectory() as folder:
        difference = test_inference.score_difference(Path(folder), path)
    what = "averaged scores of two real videos, frames in to val.json out, same top 5"
    yield what, difference, test_inference.SCORE_BOUND, ""


def frame_counts():
    """Frame counts of real videos."""
    others, n_videos = test_video.other_frame_counts(clips_path(), reference_path())
    yield f"frame counts of {n_videos} real UCF-101 videos", len(others), EQUAL, "videos"


def without_jpg():
    """Frames without jpg."""
    paths = test_video.videos_without_jpg(clips_path())
    difference = max(test_video.error_without_jpg(path)[0] for path in paths)
    what = f"frames of tools/predict.py against jpgs of quality 100, {len(paths)} real videos"
    yield what, difference, test_video.WITHOUT_JPG_BOUND, "of 255 levels"


def engine():
    """The compiled network of the CPU."""
    paddle.seed(5)
    differences = []
    for depth, n_clips in ((10, 4), (18, 2), (50, 2)):
        net = conftest.network(depth, 101)
        differences.append(test_inference_engine.engine_difference(net, [(n_clips, 16, 112, 112)]))
    what = "Paddle Inference with oneDNN (CPU) against the eager network, depths 10, 18, 50"
    yield what, max(differences), test_inference_engine.ENGINE_BOUND, "in a score"


def clips_path():
    return conftest.outside_path("CLIPS_PATH", "the real clips")


def reference_path():
    return conftest.outside_path("REFERENCE_PATH", "the reference's frames")


MEASURES = [
    logits, shapes, fine_tuning, all_layers, windows, crop, scores, frame_counts, without_jpg, engine,
]  # fmt: skip


def measured(measure):
    """Return the rows of a function, or one that says that its data are not here."""
    try:
        return list(measure())
    except pytest.skip.Exception:
        return [(measure.__doc__.rstrip(".").lower(), None, None, "")]


def line(what, difference, bound, unit):
    """Return a row of the table in Markdown."""
    if difference is None:
        return f"| {what} | not here | |"
    if bound == EQUAL:
        return f"| {what} | {f'{difference} {unit} differ' if difference else 'none'} | equal |"
    return f"| {what} | {difference:.2g}{' ' + unit if unit else ''} | {bound:g} |"


def main(names):
    print("| what | largest difference | bound |\n| --- | --- | --- |")
    rows = []
    for measure in MEASURES:
        if names and measure.__name__ not in names:
            continue
        for row in measured(measure):
            print(line(*row), flush=True)
            rows.append(dict(zip(("what", "difference", "bound", "unit"), row)))
    content = {"benchmark": "parity", "rows": rows, **machine()}
    print(json.dumps(content, default=float))
    outside = [row for row in rows if row["difference"] is not None and not is_within(row)]
    sys.exit(f"error: {len(outside)} figures are not within their bounds" if outside else 0)


def is_within(row):
    return row["difference"] <= EQUAL if row["bound"] == EQUAL else row["difference"] < row["bound"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    names = [measure.__name__ for measure in MEASURES]
    parser.add_argument("names", nargs="*", help=f"what to measure: {', '.join(names)}; default: all")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(names)
    if unknown:
        parser.error(f"no measure is called {', '.join(sorted(unknown))}")
    main(arguments.names)
