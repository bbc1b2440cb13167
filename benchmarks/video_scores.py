"""How far are the scores of a video from those of its jpgs, and of these with --fast_decode?

    python benchmarks/video_scores.py FOLDER_OF_VIDEOS CHECKPOINT ... >> docs/video_scores.txt

`test.py --video` decodes a video and goes without jpg; `test.py` reads stage 1's jpgs, here of quality
80, 95 and 100. The row `80 fast` is jpgs of quality 80 with `--fast_decode` against the same without. A
CHECKPOINT named `seeded` is the network of the golden inference test. For each, the difference is the
largest of any class: the median and the largest over all clips, the largest over all videos; and for how
many the best label is another one. The scale for it is how far the scores of two of the videos are apart.
"""
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests/golden")]
import numpy as np
import paddle

from datasets.annotation import Video
from datasets.clips import WindowClips, normalise
from datasets.extraction import extract
from datasets.loader import ClipLoader
from datasets.video_clips import VideoClips, named_videos
from model.checkpoint import DEFAULT_INPUT, load_network, save_checkpoint
from model.engine import class_scores, prepare_device

QUALITIES = (80, 95, 100)
ROWS = (*QUALITIES, "80 fast")


def seeded_checkpoint(path):
    """Write the network of `tests/golden/inference.json`."""
    import seeded

    from model.weights import architecture_of, from_torch

    golden = json.loads((ROOT / "tests/golden/inference.json").read_text())
    shapes = json.loads((ROOT / "tests/golden/state_dict_shapes.json").read_text())
    shapes = shapes[f"resnet{golden['depth']}"]
    shapes = {n: [101, *s[1:]] if n.startswith("fc.") else s for n, s in shapes.items()}
    state_dict = {name: seeded.tensor(name, shape, golden["seed"]) for name, shape in shapes.items()}
    state_dict["fc.weight"] = state_dict["fc.weight"] * np.float32(golden["fc_weight_scale"])
    weights = from_torch(state_dict)
    save_checkpoint(path, weights, {"model": architecture_of(weights), "input": DEFAULT_INPUT})
    return path


def jpg_scores(path, frames_path, quality, evaluate, sizes, mean_dataset, fast_decode=False):
    """Return the scores of a video's clips `[n, n_classes]`, from its jpgs."""
    folder = frames_path / str(quality) / path.parent.name / path.stem
    if not folder.exists():
        extract(path, folder, 240, quality)
    video = Video(path.stem, path.parent.name, 0, 1, sum(1 for _ in folder.iterdir()) + 1)
    more = {"windows": ("sliding", 16), "fast_decode": fast_decode}
    clips = WindowClips(frames_path / str(quality), [video], *sizes, **more)
    batches = ClipLoader(clips, clips.batches(32), 0)
    return np.concatenate([evaluate(normalise(batch, mean_dataset)) for batch, _ in batches])


def compare(checkpoint, paths, frames_path):
    """Return the number of clips, the largest difference of two videos, and a row for each quality."""
    net, facts = load_network(checkpoint)
    *sizes, mean_dataset = (facts["input"][name] for name in DEFAULT_INPUT)
    evaluate = class_scores(net)
    clips, videos = {row: [] for row in ROWS}, {row: [] for row in ROWS}
    for path in paths:
        evaluated = VideoClips(path, *sizes, 16).evaluate(evaluate, mean_dataset, 32)
        direct = np.stack([scores for _, scores in evaluated])
        arguments = evaluate, sizes, mean_dataset
        of_jpgs = {quality: jpg_scores(path, frames_path, quality, *arguments) for quality in QUALITIES}
        fast = jpg_scores(path, frames_path, 80, *arguments, fast_decode=True)
        for row in ROWS:
            ours, theirs = (fast, of_jpgs[80]) if row == "80 fast" else (direct, of_jpgs[row])
            clips[row] += zip(ours, theirs)
            videos[row].append((ours.mean(0), theirs.mean(0)))
    rows = {}
    for row in ROWS:
        of_clips, of_videos = (
            np.array([np.abs(a - b).max() for a, b in pairs[row]]) for pairs in (clips, videos)
        )
        others = [sum(a.argmax() != b.argmax() for a, b in pairs[row]) for pairs in (clips, videos)]
        rows[row] = np.median(of_clips), of_clips.max(), of_videos.max(), *others
    spread = np.ptp([ours for ours, _ in videos[80]], axis=0).max()
    return len(clips[80]), spread, rows


def main(folder, *checkpoints):
    prepare_device()
    paths = list(named_videos([Path(folder)], Path("."), []))
    figures = {}
    with tempfile.TemporaryDirectory() as work:
        for checkpoint in checkpoints:
            path = seeded_checkpoint(Path(work, "seeded.pdparams")) if checkpoint == "seeded" else checkpoint
            n_clips, spread, rows = compare(path, paths, Path(work, "frames"))
            print(
                f"{folder}, {checkpoint}: {len(paths)} videos, {n_clips} clips; "
                f"two videos are up to {spread:.5f} apart"
            )
            print("quality  clip median  clip largest  video largest  other best label: clips  videos")
            for name, row in rows.items():
                print("{:>7}{:13.5f}{:14.5f}{:15.5f}{:25d}{:8d}".format(name, *row), flush=True)
            figures[checkpoint] = {name: [float(value) for value in row] for name, row in rows.items()}
    print(json.dumps({"paddle": paddle.__version__, "folder": folder, "rows": figures}))


if __name__ == "__main__":
    main(*sys.argv[1:])
