"""Compare two ways in one run, in turns; and run all such benchmarks.

    python benchmarks/paired.py --out docs/bench.json        # what `make bench` does

runs every bench_*.py beside this file, prints their tables as one and writes their JSON lines. Times
on a shared machine drift by tens of percent: so the ways take turns, ratios are of neighbours in time,
and what is reported is a median.
"""
import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from run.files import atomic_write

PACKAGES = "paddlepaddle paddlepaddle-gpu torch numpy numba av simplejpeg pillow".split()
COLUMNS = ("what", "theirs", "ours", "ratio", "floor", "ratio to floor")


def paired_runs(*ways, n=5):
    """Call each way n times, in turns, and return a list of n figures for each.

    A way's figure is what it returns, a number, or the seconds that it took where it returns None. The
    order is turned around every other time, so that none is always the second.
    """
    figures = [[] for _ in ways]
    for i in range(n):
        turns = list(zip(ways, figures))
        for way, mine in turns if i % 2 == 0 else turns[::-1]:
            start = time.perf_counter()
            figure = way()
            mine.append(time.perf_counter() - start if figure is None else figure)
            print(f"{i + 1}/{n} {getattr(way, '__name__', 'way')}: {mine[-1]:.4g}", file=sys.stderr)
    return figures


def row(what, ours, theirs=None, floor=None, more_is_better=True):
    """Return a row of the table from the figures of `paired_runs`, or from single numbers.

    `floor` is what cannot be beaten with these libraries. A ratio is the median over the pairs of how
    many times better ours is: above 1 for better than theirs; below 1 to the floor.
    """

    def ratio(other):
        if other is None:
            return None
        pairs = zip(_figures(ours), _figures(other))
        return statistics.median(a / b if more_is_better else b / a for a, b in pairs)

    medians = [None if each is None else statistics.median(_figures(each)) for each in (theirs, ours, floor)]
    cells = (what, medians[0], medians[1], ratio(theirs), medians[2], ratio(floor))
    return {**dict(zip(COLUMNS, cells)), "runs": len(_figures(ours))}


def _figures(value):
    return value if isinstance(value, (list, tuple)) else [value]


def report(rows, **facts):
    """Print the rows as a table, and one line of JSON with them, `facts`, the machine and the versions."""
    print_table(rows)
    content = {"benchmark": Path(sys.argv[0]).stem, "rows": rows, **facts, **machine()}
    print(json.dumps(content), flush=True)


def print_table(rows):
    """Print rows of `row` in Markdown, numbers with three digits."""
    print("| " + " | ".join(COLUMNS) + " |")
    print("| --- |" + " ---: |" * (len(COLUMNS) - 1))
    for each in rows:
        print("| " + " | ".join(_text(each[column]) for column in COLUMNS) + " |")


def _text(cell):
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell
    return f"{cell:,.0f}" if abs(cell) >= 100 else f"{cell:.3g}"


def machine():
    """Return what a reader has to know of the machine and the packages."""
    cpu = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    return {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "versions": versions}


def find_videos_to_measure(folder, n_generated=32):
    """Return paths of real videos of 320 x 240, or of generated ones written to a folder, with a note.

    The real ones are those of CLIPS_PATH: UCF-101's and Weizmann's actions.
    """
    clips_path = os.environ.get("CLIPS_PATH")
    if clips_path:
        found = [path for name in ("ucf101", "weizmann4") for path in Path(clips_path, name).rglob("*.avi")]
        if found:
            return sorted(found)
    print("note: no CLIPS_PATH, so these are generated videos, easier than real ones", file=sys.stderr)
    import moving_shapes  # of the tests

    moving_shapes.WIDTH, moving_shapes.HEIGHT = 320, 240
    moving_shapes.make_videos(Path(folder), n_groups=n_generated // len(moving_shapes.CLASSES), n_clips=1)
    return sorted(Path(folder).rglob("*.avi"))


def main(out, names):
    lines = {}  # of each script; a run of some leaves the others' in the file
    if out and out.exists():
        lines = {json.loads(line)["benchmark"]: line for line in out.read_text().splitlines()}
    for script in sorted(Path(__file__).parent.glob("bench_*.py")):
        if names and script.stem not in names:
            continue
        print(f"{script.name} ...", file=sys.stderr)
        done = subprocess.run([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
        if done.returncode != 0:
            sys.exit(f"error: {script.name} ended with exit code {done.returncode}")
        lines[script.stem] = done.stdout.strip().splitlines()[-1]
        if out:
            atomic_write(out, "".join(f"{lines[name]}\n" for name in sorted(lines)))
    print_table([each for name in sorted(lines) for each in json.loads(lines[name])["rows"]])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", help="scripts to run, as bench_step; default: all")
    parser.add_argument("--out", type=Path, help="file of a JSON line for each script")
    arguments = parser.parse_args()
    main(arguments.out, arguments.names)
