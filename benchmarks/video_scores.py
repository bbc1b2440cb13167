"""How far are the scores of a video from those of its jpgs, and of these with --fast_decode?

    python benchmarks/video_scores.py FOLDER_OF_VIDEOS CHECKPOINT ... >> docs/video_scores.txt

`tools/predict.py` decodes a video and goes without jpg; `test.py` reads stage 1's jpgs, here of quality
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

from datasets.clips import WindowClips
from datasets.extraction import extract
from datasets.loader import ClipLoader
from datasets.samples import Sample, Samples
from datasets.stores import new_store
from model import networks
from model.checkpoint import Metadata, load_network, save_checkpoint
from model.device import prepare_device
from model.inference import scorer
from model.weights import from_torch
from prediction.finding import named_videos
from prediction.video_clips import VideoClips
from run.spec import FrameSpec

QUALITIES = (80, 95, 100)
ROWS = (*QUALITIES, "80 fast")


def seeded_checkpoint(path):
    """Write the network of `tests/golden/inference.json`."""
    import seeded

    golden = json.loads((ROOT / "tests/golden/inference.json").read_text())
    shapes = json.loads((ROOT / "tests/golden/state_dict_shapes.json").read_text())
    shapes = shapes[f"resnet{golden['depth']}"]
    shapes = {n: [101, *s[1:]] if n.startswith("fc.") else s for n, s in shapes.items()}
    state_dict = {name: seeded.tensor(name, shape, golden["seed"]) for name, shape in shapes.items()}
    state_dict["fc.weight"] = state_dict["fc.weight"] * np.float32(golden["fc_weight_scale"])
    weights = from_torch(state_dict)
    network = networks.recognise({name: array.shape for name, array in weights.items()})
    save_checkpoint(path, {"weights": weights}, Metadata(network=network))
    return path


def jpg_scores(path, frames_path, quality, score, clip, fast_decode=False):
    """Return the scores of a video's clips `[n, n_classes]`, from its jpgs."""
    store = new_store(frames_path / str(quality), FrameSpec(quality=quality))
    folder = f"{path.parent.name}/{path.stem}"
    if store.count(folder, 1, 2) is None:
        extract(path, store, folder)
    n_frames = store.count(folder, 1, 10**8)
    samples = Samples([Sample(path.stem, folder, 0, 1, n_frames + 1)])
    clips = WindowClips(store, samples, clip, ("sliding", 16), fast_decode=fast_decode)
    return np.concatenate([score(batch) for batch, _ in ClipLoader(clips, clips.batches(32), 0)])


def compare(checkpoint, paths, frames_path):
    """Return the number of clips, the largest difference of two videos, and a row for each quality."""
    score, clip, _ = scorer(*load_network(checkpoint))
    clips, videos = {row: [] for row in ROWS}, {row: [] for row in ROWS}
    for path in paths:
        direct = np.stack([scores for _, scores in VideoClips(path, clip, 16).scored(score, 32)])
        of_jpgs = {quality: jpg_scores(path, frames_path, quality, score, clip) for quality in QUALITIES}
        fast = jpg_scores(path, frames_path, 80, score, clip, fast_decode=True)
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
