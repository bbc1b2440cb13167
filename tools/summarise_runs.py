"""The accuracies of several runs, of other splits or seeds, and their mean. Needs no Paddle.

    python tools/summarise_runs.py results/split1_seed1 results/split2_seed1 results/split3_seed1

prints a line for each run, with its interval of 95 %; for each annotation with several runs (seeds) their
mean, standard deviation and McNemar's test between them; and the mean and the standard deviation of the
annotations, which are the splits: the number that paper 1 gives for UCF-101 and HMDB-51. A run is a folder
that test.py wrote val.json and val_run.json to.
"""
import itertools
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from opts import summarise_options
from run.console import UserError, run_script

if __name__ == "__main__":
    OPTIONS = summarise_options()

from datasets.annotation import read_annotation, read_results, read_run
from report.accuracy import (
    check_results,
    class_name_of,
    is_right,
    mcnemar_p,
    note_missing,
    wilson_interval,
)


def main(options):
    runs_of = {}  # annotation -> {run: the videos that are right}
    ground_truths = {}
    for folder in options.runs:
        path, results = annotation_of(folder)
        if path not in ground_truths:
            annotation = read_annotation(path)
            ground_truths[path] = annotation, class_name_of(annotation, "validation", path)
        annotation, ground_truth = ground_truths[path]
        check_results(results, annotation, "validation", 1, folder / "val.json")
        note_missing(ground_truth, results, ignore=False)
        right = {key for key in ground_truth if is_right(ground_truth, results, key, 1)}
        runs_of.setdefault(path, {})[folder] = right
    for path, runs in runs_of.items():
        print(*lines_of(path, runs, len(ground_truths[path][1])), sep="\n")
    means = [
        statistics.mean(len(right) for right in runs.values()) / len(ground_truths[path][1])
        for path, runs in runs_of.items()
    ]
    if len(means) > 1:
        print(f"mean of {len(means)} splits: {spread(means)}")


def annotation_of(folder):
    """Return the path of the annotation that a run was tested on, and its results."""
    path = folder / "val.json"
    results = read_results(path)
    run, why_not = read_run(path, results)
    if run is None:
        raise UserError(f"{why_not}; run test.py again")
    found = run.get("options", {}).get("annotation_path")
    if not isinstance(found, str):
        raise UserError(f"{folder}: val_run.json does not say which annotation it is of; run test.py again")
    return Path(found), results


def lines_of(path, runs, n):
    """Yield the lines on the runs of one annotation, `{folder: keys that are right}`."""
    for folder, right in runs.items():
        low, high = wilson_interval(len(right), n)
        yield (
            f"{folder}: {path.name}, top-1 accuracy {len(right) / n:.4f} of {n} videos, "
            f"95 % interval {low:.4f} to {high:.4f}"
        )
    for (one, right), (other, others) in itertools.combinations(runs.items(), 2):
        gained, lost = len(others - right), len(right - others)
        p = mcnemar_p(gained, lost)
        yield f"{other} against {one}: gained {gained}, lost {lost}, McNemar's exact p {p:.4g}"
    if len(runs) > 1:
        accuracies = [len(right) / n for right in runs.values()]
        yield f"mean of {len(runs)} runs on {path.name}: {spread(accuracies)}"


def spread(values):
    """Return the mean and the standard deviation (n - 1) of numbers in words."""
    return f"{statistics.mean(values):.4f}, standard deviation {statistics.stdev(values):.4f}"


if __name__ == "__main__":
    run_script(main, OPTIONS)
