"""test.py end to end on a CPU against a PyTorch loop that does the same, and how its cost grows.

    python benchmarks/bench_test.py

R3D-50 on 16 x 112 x 112, sliding windows of real videos. Theirs: Pillow and torch's DataLoader read the
same frames in as many processes, the same network is evaluated by torch in as many threads, in the quicker
of its two memory layouts. Ours: test.py as a program, its rate between the first batch and the last, as it
notes it itself. The floor is the engine on ready-made batches. Then test.py with a small network on 10, 100
and 1,000 videos: seconds and memory.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import paddle
from bench_loader import TheirClips, make_frames, plans_of
from paired import ROOT, paired_runs, report, row

from datasets.annotation import annotation_json
from datasets.clips import WindowClips
from datasets.samples import Samples
from model import networks, torch_forward
from model.checkpoint import Metadata, save_checkpoint
from model.device import n_cpu_threads, normalise, prepare_device
from model.inference import class_scores
from model.weights import to_torch, weights_of
from run.spec import ClipSpec, NetworkSpec

CLASSES = ["A", "B"]


def save_network(path, sample_size, **arguments):
    """Write a checkpoint of drawn weights; return its network."""
    paddle.seed(1)
    spec = NetworkSpec("resnet", {"n_classes": len(CLASSES), **arguments})
    net = networks.build(spec)
    net.eval()
    metadata = Metadata(net.spec, ClipSpec(sample_size=sample_size), CLASSES)
    save_checkpoint(path, {"weights": weights_of(net)}, metadata)
    return net


def write_annotation(path, samples):
    path.write_text(annotation_json(CLASSES, {"validation": samples}))


def run_test(folder, checkpoint, annotation, *more):
    """Run test.py; return its wall seconds, peak MB and what it noted."""
    command = [sys.executable, str(ROOT / "test.py"), "--root_path", folder, "--video_path", "jpg"]
    command += ["--resume_path", checkpoint, "--annotation_path", annotation, *more]
    start, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile() as error:
        # Paddle has set it to 1 here, where it is imported; test.py gets what all others here compute with.
        environment = {**os.environ, "OMP_NUM_THREADS": str(n_cpu_threads())}
        process = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.DEVNULL, stderr=error, env=environment
        )
        while process.poll() is None:
            peak = max(peak, peak_kb(process.pid))
            time.sleep(0.05)
        error.seek(0)
        if process.returncode != 0:
            raise SystemExit(f"error: test.py: {error.read().decode()[-500:]}")
    noted = json.loads((folder / "results/val_run.json").read_text())
    return time.perf_counter() - start, peak / 1000, noted


def peak_kb(pid):
    """Return a process's peak so far; what `wait4` tells begins with the peak of this process."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def against_torch(folder, options):
    store, samples = make_frames(folder, options.n_videos)
    # A video may serve for several samples: their keys have to differ.
    samples = Samples(sample._replace(key=f"copy{i}") for i, sample in enumerate(samples))
    write_annotation(folder / "large.json", samples)
    net = save_network(folder / "r50.pdparams", 112)
    clips = WindowClips(store, samples, ClipSpec(), ("sliding", 16))
    batches = clips.batches(options.batch_size)[: options.n_batches]
    n_clips = sum(map(len, batches))
    threads = n_cpu_threads()
    torch.set_num_threads(threads)
    tensors = {name: torch.from_numpy(array) for name, array in to_torch(weights_of(net)).items()}
    dataset = TheirClips(plans_of(clips, [key for keys in batches for key in keys]))

    def torch_loop(layout):
        loader = torch.utils.data.DataLoader(dataset, options.batch_size, num_workers=options.n_threads)
        held = {n: t.contiguous(memory_format=layout) if t.dim() == 5 else t for n, t in tensors.items()}
        start = time.perf_counter()
        for batch in loader:
            logits = torch_forward.logits(held, batch.contiguous(memory_format=layout), net.spec)
            torch.softmax(torch.from_numpy(logits), 1).numpy()
        return n_clips / (time.perf_counter() - start)

    layouts = (torch.contiguous_format, torch.channels_last_3d)
    quicker = max(layouts, key=torch_loop)

    scores_of = class_scores(net)
    stacked = [np.stack([clips[key][0] for key in keys]) for keys in batches[:2]]
    ready = [normalise(clips_thwc, ClipSpec()) for clips_thwc in stacked]
    scores_of(ready[0])

    def theirs():
        return torch_loop(quicker)

    def engine():
        start = time.perf_counter()
        for i in range(len(batches)):
            scores_of(ready[i % 2])
        return n_clips / (time.perf_counter() - start)

    def ours():
        more = ("--n_threads", options.n_threads, "--inference_batch_size", options.batch_size)
        return run_test(folder, "r50.pdparams", "large.json", *more)[2]["clips_per_second"]

    figures = paired_runs(theirs, ours, engine, n=options.n_runs)
    facts = {"torch_layout": str(quicker), "threads": threads, "n_clips": len(clips)}
    return row("test.py, R3D-50, clips/s", figures[1], figures[0], figures[2]), facts


def growth(folder, options):
    """Return test.py's seconds and memory for more and more videos, all of the same frames."""
    save_network(folder / "small.pdparams", 32, model_depth=10, resnet_widen_factor=0.125)
    _, (sample,) = make_frames(folder, 1)
    lines = []
    for n in (10, 100, 1000):
        write_annotation(folder / "growth.json", [sample._replace(key=f"same{i}") for i in range(n)])
        seconds, peak, noted = run_test(folder, "small.pdparams", "growth.json", "--n_threads", 2)
        lines.append(
            {"videos": n, "windows": noted["n_clips"], "seconds": round(seconds, 1), "peak_mb": round(peak)}
        )
        print(lines[-1], file=sys.stderr)
    return lines


def main(options):
    prepare_device()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
        first, facts = against_torch(Path(folder), options)
        lines = growth(Path(other), options)
    per_window = [
        (b["seconds"] - a["seconds"]) / (b["windows"] - a["windows"]) * 1000 for a, b in zip(lines, lines[1:])
    ]
    # Not theirs and ours but fewer and more of the same: the ratio should stay near 1.
    peaks = lines[2]["peak_mb"], lines[0]["peak_mb"]
    rows = [
        first,
        row("test.py, ms a window, to 100 and to 1,000 videos", per_window[1], per_window[0], None, False),
        row("test.py, its main process' peak MB, 10, 1,000 videos", *peaks, None, False),
    ]
    report(rows, growth=lines, n_threads=options.n_threads, batch_size=options.batch_size, **facts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--n_videos", type=int, default=12)
    parser.add_argument("--n_batches", type=int, default=2, help="batches that torch and the engine take")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--n_threads", type=int, default=2, help="worker processes of both")
    parser.add_argument("--n_runs", type=int, default=5)
    main(parser.parse_args())
