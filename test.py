"""Stage 4: score every video of a subset with a checkpoint.

    python test.py

reads results/best.pdparams and writes results/val.json with the five best labels of each validation
video, and prints clip accuracy and video accuracy side by side. The checkpoint decides network,
clip size, normalisation and class names.
"""
import itertools
import json

from opts import UserError, note, progress_bar, run, test_options, write_file

if __name__ == "__main__":
    OPTIONS = test_options()  # before Paddle, so that --help answers at once

import numpy as np

from datasets.annotation import read_annotation
from datasets.clips import ClipLoader, WindowClips, normalise
from datasets.frames import check_frames
from model.checkpoint import load_checkpoint
from model.engine import class_scores, prepare_device
from model.resnet3d import ResNet3D
from model.weights import load_weights

SUBSETS = {"train": "training", "val": "validation", "test": "testing"}


def load_network(path, labels):
    """Return the network of a checkpoint and what it expects of a clip.

    Raises UserError where it does not tell the annotation's classes apart.
    """
    weights, facts, _ = load_checkpoint(path)
    n_classes = facts["model"]["n_classes"]
    if n_classes != len(labels) or facts["class_names"] not in (None, labels):
        what = "other classes" if n_classes == len(labels) else f"{n_classes} classes"
        raise UserError(
            f"{path}: weights for {what}, the annotation has {len(labels)}; "
            "fine-tune them with train.py, or give the annotation that they were trained on"
        )
    net = ResNet3D(**facts["model"])
    try:
        load_weights(net, weights)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return net, facts["input"]


def top_labels(scores, labels, k):
    """Return the `k` best labels of one row of scores, best first, as val.json holds them."""
    best = np.argsort(-scores, kind="stable")[:k]
    return [{"label": labels[i], "score": float(scores[i])} for i in best]


def score_clips(scores_of, loader, mean_dataset):
    """Yield `(video index, scores [n_classes] float32)` for every clip, in the dataset's order."""
    with progress_bar(total=len(loader.dataset), unit="clip", desc="test") as bar:
        for clips_thwc, indices in loader:
            yield from zip(indices.numpy().tolist(), scores_of(normalise(clips_thwc, mean_dataset)))
            bar.update(len(indices))


def main(options):
    subset = SUBSETS[options.inference_subset]
    annotation = read_annotation(options.annotation_path)
    videos, labels = annotation.videos[subset], annotation.labels
    if not videos:
        raise UserError(f"{options.annotation_path}: no video of the subset {subset}")
    check_frames(options.video_path, videos)
    prepare_device()
    net, expected = load_network(options.resume_path, labels)
    clips = WindowClips(
        options.video_path,
        videos,
        expected["sample_size"],
        expected["sample_duration"],
        expected["sample_t_stride"],
        windows=("sliding", options.inference_stride),
        crop=options.inference_crop,
    )
    batches = clips.batches(options.inference_batch_size)
    loader = ClipLoader(clips, batches, options.n_threads, note)

    # The clips of a video follow each other, so that only one video's scores are held at a time.
    results, n_correct_clips, n_correct_videos = {}, 0, 0
    scored = score_clips(class_scores(net), loader, expected["mean_dataset"])
    scored_windows = zip(scored, (window for _, window in clips.windows))
    for index, group in itertools.groupby(scored_windows, key=lambda item: item[0][0]):
        scores, windows = zip(*((scores, window) for (_, scores), window in group))
        scores, video = np.stack(scores), videos[index]
        average = scores.mean(axis=0, dtype=np.float64)
        n_correct_clips += int((scores.argmax(axis=1) == video.label).sum())
        n_correct_videos += int(average.argmax() == video.label)
        if options.inference_no_average:
            results[video.name] = [
                {
                    "segment": [min(window), max(window) + 1],
                    "result": top_labels(row, labels, options.output_topk),
                }
                for row, window in zip(scores, windows)
            ]
        else:
            results[video.name] = top_labels(average, labels, options.output_topk)
    path = options.result_path / f"{options.inference_subset}.json"
    write_file(path, json.dumps({"results": results}))
    print(f"{path}: {len(results)} videos, {len(clips)} clips")
    print(
        f"clip accuracy {n_correct_clips / len(clips):.4f}, "
        f"video accuracy {n_correct_videos / len(videos):.4f}"
    )


if __name__ == "__main__":
    run(main, OPTIONS)
