"""What the size of a data set costs before the first step, on trees and annotations of full size.

    python benchmarks/bench_scale.py

makes UCF-101's tree (13,320 videos, 2,486,290 frame files, all links to a few empty files) and a
Kinetics-700-sized annotation (650,000 videos, 700 classes) in the temporary folder (TMPDIR; it needs
about 400 MB and 27,000 inodes) and opens them as train.py and test.py do, each time in a fresh process.
"""
import argparse
import gc
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from paired import ROOT, find_videos_to_measure, report, row

from datasets.annotation import annotation_json, read_annotation
from datasets.samples import Sample, Samples
from datasets.stores.jpg_folders import Store, frame_name
from run.spec import ClipSpec, Recipe

N_UCF101 = {"videos": 13_320, "classes": 101, "frames": 2_486_290, "training": 9_537}
N_KINETICS = {"videos": 650_000, "classes": 700}
LINKS_A_FILE = 60_000  # ext4 takes 65,000
SCRIPTS = ("generate_video_jpgs", "convert_to_paddle", "train", "test", "eval_accuracy")


def ucf101_sized():
    """Return class names and samples, by subset, in UCF-101's number; lengths of 29 frames and more."""
    rng = random.Random(0)
    n = N_UCF101["videos"]
    lengths = [29 + int(rng.expovariate(1 / 157)) for _ in range(n)]
    while (surplus := sum(lengths) - N_UCF101["frames"]) != 0:
        i = rng.randrange(n)
        lengths[i] = max(29, min(1776, lengths[i] - max(-50, min(50, surplus))))
    labels = [f"ClassNumber{i:03d}" for i in range(N_UCF101["classes"])]
    videos = {"training": [], "validation": []}
    for i, length in enumerate(lengths):
        label = i % len(labels)
        name = f"v_{labels[label]}_g{i // 101 % 25 + 1:02d}_c{i // 2525 + 1:02d}"
        subset = "training" if i < N_UCF101["training"] else "validation"
        videos[subset].append(Sample(name, f"{labels[label]}/{name}", label, 1, length + 1))
    return labels, videos


def make_tree(frames_path, samples):
    """Write a folder of frames for each sample, every frame a link to an empty file."""
    n_links = LINKS_A_FILE
    for sample in samples:
        folder = frames_path / sample.folder
        folder.mkdir(parents=True)
        for number in range(sample.begin, sample.end):
            if n_links == LINKS_A_FILE:
                source, n_links = f"{frames_path}/.{sample.key}-{number}", 0
                open(source, "w").close()
            os.link(source, f"{folder}/{frame_name(number)}")
            n_links += 1


def kinetics_sized():
    """Return class names and samples in Kinetics-700's number, named as its are."""
    rng = random.Random(1)
    labels = [f"doing something of kind {i:03d}" for i in range(N_KINETICS["classes"])]
    videos = []
    for i in range(N_KINETICS["videos"]):
        begin = rng.randrange(600)
        name = f"{rng.getrandbits(64):016x}"[:11] + f"_{begin:06d}_{begin + 10:06d}"
        label = i % len(labels)
        videos.append(Sample(name, f"{labels[label]}/{name}", label, 1, rng.randrange(100, 301)))
    return labels, {"training": videos[:-35_000], "validation": videos[-35_000:]}


def megabytes(field, pid="self"):
    """Return a sum of /proc/<pid>/smaps_rollup in MB."""
    for line in open(f"/proc/{pid}/smaps_rollup"):
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise KeyError(field)


def open_index(annotation_path, frames_path=None):
    """Read the annotation, and check the frames; return times and memory."""
    gc.collect()
    before = megabytes("Rss")
    clock, cpu = time.perf_counter(), time.process_time()
    annotation = read_annotation(Path(annotation_path))
    samples = sum(annotation.subsets.values(), Samples())
    if frames_path:
        Store(frames_path).check(samples)
    found = {"seconds": time.perf_counter() - clock, "cpu_seconds": time.process_time() - cpu}
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    gc.collect()
    return {**found, "index_mb": megabytes("Rss") - before, "child_mb": private_megabytes(samples)}


def private_megabytes(samples):
    """Return the MB that a forked process has for itself after it has looked at every sample."""
    gc.freeze()
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        sum(sample.end - sample.begin + len(sample.key) for sample in samples)
        os.write(theirs, str(megabytes("Private_Dirty")).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    return float(os.read(ours, 100))


def list_windows(annotation_path):
    """List the test windows of the validation subset, as test.py does."""
    from datasets.clips import WindowClips

    samples = read_annotation(Path(annotation_path)).subsets["validation"]
    gc.collect()
    before, start = megabytes("Rss"), time.perf_counter()
    clips = WindowClips(Store("."), samples, ClipSpec(), ("sliding", 16))
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "mb": megabytes("Rss") - before, "n": len(clips)}


def first_batch(annotation_path, frames_path):
    """Return the seconds from the loader's start to the first training batch, of 128 clips."""
    import contextlib

    from datasets.clips import TrainingClips
    from datasets.loader import ClipLoader

    samples = sum(read_annotation(Path(annotation_path)).subsets.values(), Samples())
    clips = TrainingClips(Store(frames_path), samples, ClipSpec(), Recipe())
    keys = [(1, i % len(samples)) for i in range(4 * 128)]
    start = time.perf_counter()
    loader = ClipLoader(clips, [keys[i : i + 128] for i in range(0, len(keys), 128)], n_threads=4)
    with contextlib.closing(iter(loader)) as batches:
        next(batches)
        return {"seconds": time.perf_counter() - start}


MEASURES = {f.__name__: f for f in (open_index, list_windows, first_batch)}


def measured(name, *arguments, n=1):
    """Run a measure n times, each in a fresh process; return its figures as lists."""
    results = []
    for _ in range(n):
        command = [sys.executable, __file__, "--measure", name, *map(str, arguments)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        results.append(json.loads(done.stdout.splitlines()[-1]))
        print(name, results[-1], file=sys.stderr)
    return {key: [result[key] for result in results] for key in results[0]}


def help_seconds(n):
    """Return the slowest script's seconds for `--help`, on the clock and of CPU time, by medians."""
    clock, cpu = [], []
    for script in SCRIPTS:
        times = []
        for _ in range(n):
            before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            subprocess.run([sys.executable, f"{ROOT}/{script}.py", "--help"], stdout=subprocess.DEVNULL)
            seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
            used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            times.append((seconds, used))
        clock.append(statistics.median(seconds for seconds, _ in times))
        cpu.append(statistics.median(used for _, used in times))
    return max(clock), max(cpu)


def main(n):
    def goal(what, ours):
        return row(what, ours, more_is_better=False)

    clock, cpu = help_seconds(n)
    rows = [goal("--help of the slowest script, s (goal 0.3)", clock), goal("the same, s of CPU time", cpu)]
    with tempfile.TemporaryDirectory(prefix="bench_") as folder:
        folder = Path(folder)
        labels, videos = kinetics_sized()
        (folder / "kinetics.json").write_text(annotation_json(labels, videos))
        of = measured("open_index", folder / "kinetics.json", n=n)
        rows += [
            goal("Kinetics-700's annotation, s (goal 30)", of["seconds"]),
            goal("the same, s of CPU time", of["cpu_seconds"]),
            goal("the same, peak MB (goal 1,000)", of["peak_mb"]),
            goal("the same, MB of the index", of["index_mb"]),
            goal("the same, MB of a forked process's own after a look at each video", of["child_mb"]),
        ]
        videos_path = find_videos_to_measure(folder / "made")[0].parent.parent
        command = [sys.executable, f"{ROOT}/generate_video_jpgs.py", videos_path, folder / "few/jpg"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        of = measured("first_batch", folder / "few/ucf101_01.json", folder / "few/jpg", n=n)
        rows.append(goal("first batch of 128 training clips, 4 processes, s (goal 5)", of["seconds"]))
        labels, videos = ucf101_sized()
        (folder / "ucf101.json").write_text(annotation_json(labels, videos))
        of = measured("list_windows", folder / "ucf101.json", n=n)
        rows += [
            goal(f"{of['n'][0]:,} windows of a made-up test set, s to list", of["seconds"]),
            goal("the same, MB", of["mb"]),
        ]
        make_tree(folder / "jpg", sum(videos.values(), []))
        measured("open_index", folder / "ucf101.json", folder / "jpg")  # warms the disk
        of = measured("open_index", folder / "ucf101.json", folder / "jpg", n=n)
        rows += [
            goal("UCF-101's index with all frames looked for, s (goal 3)", of["seconds"]),
            goal("the same, s of CPU time", of["cpu_seconds"]),
            goal("the same, MB of the index (goal 50)", of["index_mb"]),
        ]
    report(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--n", type=int, default=5, help="runs")
    parser.add_argument("--measure", nargs="+", help="for the benchmark's own processes")
    options = parser.parse_args()
    if options.measure:
        name, *arguments = options.measure
        print(json.dumps(MEASURES[name](*arguments)))
    else:
        main(options.n)
