"""The training loader and the test transform against the reference's way, on the same frames.

    python benchmarks/bench_loader.py

Theirs, written from the reference's description and not from this project's modules: Pillow decodes, crops
and resizes each frame, torch turns it to float32 and normalises it, and torch's DataLoader stacks the
batches and hands them over, in the same number of worker processes, in the same order, with the same boxes.
Ours is ClipLoader, whose batches are uint8: they are normalised on the GPU, and in a row of its own on the
CPU, in the main process. The floor is the jpg decoder alone, in as many processes. Both
ways are held against each other first: the same pixels.
"""
import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent))
from paired import find_videos_to_measure, paired_runs, report, row  # isort: skip
import simplejpeg

from datasets.clips import TrainingClips, WindowClips
from datasets.extraction import extract
from datasets.loader import ClipLoader
from datasets.samples import Sample, Samples
from datasets.stores import new_store
from datasets.stores.jpg_folders import frame_name
from datasets.workers import in_processes
from model.device import normalise
from run.spec import MEANS, ClipSpec, FrameSpec, Recipe

CLIP = ClipSpec()


class TheirClips(torch.utils.data.Dataset):
    """The same clips by Pillow and torch; `plan_of` gives folder, window, box, size, window and mirror."""

    def __init__(self, plans, rows_first=False):
        self.plans = plans
        self.rows_first = rows_first  # as Pillow did before version 13; takes longer there
        mean, std, _ = MEANS["kinetics"]
        self.mean = torch.tensor(mean).view(3, 1, 1)
        self.std = torch.tensor(std).view(3, 1, 1)

    def __len__(self):
        return len(self.plans)

    def frame(self, path, box, size, window, shape, mirrored):
        with open(path, "rb") as file:
            image = Image.open(file).convert("RGB")
        x, y, w, h = box
        if box != (0, 0, *image.size):
            image = image.crop((x, y, x + w, y + h))
        if self.rows_first:
            image = image.resize((size[0], image.height), Image.BILINEAR)
        image = image.resize(size, Image.BILINEAR)
        if shape != size[::-1]:
            image = image.crop((*window, window[0] + shape[1], window[1] + shape[0]))
        return image.transpose(Image.FLIP_LEFT_RIGHT) if mirrored else image

    def __getitem__(self, position):
        folder, window, crop, mirrored = self.plans[position]
        tensors = []
        for number in window:
            image = self.frame(f"{folder}/{frame_name(number)}", *crop, mirrored)
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div_(255)
            tensors.append(pixels.sub_(self.mean).div_(self.std))
        return torch.stack(tensors).permute(1, 0, 2, 3)


def plans_of(clips, keys):
    """Ask our own clips which frames, box and mirror a key stands for, so that theirs shows the same."""
    plans = []
    for key in keys:
        request = clips.request(key)
        folder = clips.store.place(request[0])
        out = np.empty(clips.shape_of(key), np.uint8)
        clips._decode = lambda reader, window, size, *plan, f=folder: plans.append((f, window, *plan[:2]))
        clips.read(request, out)
        del clips._decode
    return plans


def make_frames(folder, n_videos):
    """Decode real videos by stage 1; return the store, and enough whole videos as `Sample`s of one class."""
    sources = find_videos_to_measure(folder / "avi")
    store = new_store(folder / "jpg", FrameSpec())
    tasks = [(path, store, f"A/v{i:04d}") for i, path in enumerate(sources)]
    n_frames = {task[2]: result.n_frames for task, result in in_processes(extract, tasks, 2, 600)}
    samples = []
    for i in range(n_videos):  # a video may serve for several samples
        place = f"A/v{i % len(sources):04d}"
        samples.append(Sample(place.split("/")[1], place, 0, 1, n_frames[place] + 1))
    return store, samples


def theirs_of(clips, batches, n_threads):
    dataset = TheirClips(plans_of(clips, [key for keys in batches for key in keys]))

    def theirs():
        size = len(batches[0])
        loader = torch.utils.data.DataLoader(dataset, size, num_workers=n_threads, prefetch_factor=2)
        start, n = time.perf_counter(), 0
        for batch in loader:
            n += len(batch)
        return n / (time.perf_counter() - start)

    return dataset, theirs


def ours_of(clips, batches, n_threads, is_normalised=False):
    def ours():
        start, n = time.perf_counter(), 0
        for batch, _ in ClipLoader(clips, batches, n_threads):
            n += len(normalise(batch, CLIP) if is_normalised else batch)
        return n / (time.perf_counter() - start)

    return ours


def decode_alone(paths):
    for path in paths:
        with open(path, "rb") as file:
            simplejpeg.decode_jpeg(file.read(), "RGBX", fastdct=False, fastupsample=False)


def floor_of(plans, n_threads):
    parts = [
        ([f"{plan[0]}/{frame_name(number)}" for plan in plans[i::n_threads] for number in plan[1]],)
        for i in range(n_threads)
    ]

    def floor():
        start = time.perf_counter()
        list(in_processes(decode_alone, parts, n_threads, 600))
        return len(plans) / (time.perf_counter() - start)

    return floor


def require_equal(clips, batches, dataset):
    """Hold the first batch of both ways against each other: the same pixels."""
    keys = batches[0]
    dataset = TheirClips(dataset.plans, rows_first=True)
    for position, key in enumerate(keys):
        ours, _ = clips[key]
        theirs = dataset[position].permute(1, 2, 3, 0).numpy()
        mean, std = (np.float32(v) for v in MEANS["kinetics"][:2])
        pixels = np.rint((theirs * std + mean) * 255).astype(np.uint8)
        if not (pixels == ours).all():
            raise SystemExit(f"error: clip {key} differs in {(pixels != ours).sum()} pixels")


def milliseconds(clips, keys):
    """Return the CPU milliseconds of a clip in one process, the median of five rounds."""
    rounds = []
    for _ in range(5):
        start = time.process_time()
        for key in keys:
            clips[key]
        rounds.append((time.process_time() - start) / len(keys) * 1000)
    return sorted(rounds)[2]


def main(options):
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        store, samples = make_frames(folder, options.n_clips)
        arguments = store, Samples(samples), CLIP
        training = TrainingClips(*arguments, Recipe())
        test, fast = (WindowClips(*arguments, ("even", 1), fast_decode=is_fast) for is_fast in (False, True))
        rows, facts = [], {}
        batches = training.batches(1, options.batch_size)
        dataset, theirs = theirs_of(training, batches, options.n_threads)
        require_equal(training, batches, dataset)
        floor = floor_of(dataset.plans, options.n_threads)
        ours = ours_of(training, batches, options.n_threads)
        ours_normalised = ours_of(training, batches, options.n_threads, is_normalised=True)
        figures = paired_runs(theirs, ours, ours_normalised, floor, n=options.n_runs)
        rows.append(row("training loader, clips/s", figures[1], figures[0], figures[3]))
        rows.append(row("the same, normalised here on the CPU", figures[2], figures[0], figures[3]))
        facts["training_ms_per_clip"] = milliseconds(training, batches[0])

        batches = test.batches(options.batch_size)
        dataset, theirs = theirs_of(test, batches, options.n_threads)
        require_equal(test, batches, dataset)
        floor = floor_of(dataset.plans, options.n_threads)
        ours, ours_fast = (ours_of(clips, batches, options.n_threads) for clips in (test, fast))
        figures = paired_runs(theirs, ours, ours_fast, floor, n=options.n_runs)
        rows.append(row("test loader, clips/s", figures[1], figures[0], figures[3]))
        rows.append(row("test loader, --fast_decode against without, clips/s", figures[2], figures[1]))
        facts["test_ms_per_clip"] = milliseconds(test, batches[0])
        facts["test_fast_ms_per_clip"] = milliseconds(fast, batches[0])
        differences = [np.abs(test[k][0].astype(int) - fast[k][0]).mean() for k in range(min(len(test), 60))]
        facts["fast_decode_mean_pixel_error"] = float(np.mean(differences))
        report(rows, n_threads=options.n_threads, batch_size=options.batch_size, **facts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--n_clips", type=int, default=2048)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--n_threads", type=int, default=2, help="worker processes of both")
    parser.add_argument("--n_runs", type=int, default=5)
    main(parser.parse_args())
