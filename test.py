"""Stage 4: score every video of a subset with a checkpoint.

    python test.py

reads results/best.pdparams and writes results/val.json with the five best labels of each validation
video, and prints clip accuracy and video accuracy side by side. The checkpoint decides network,
clip size, normalisation and class names.
"""
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
    loader = ClipLoader(
        clips,
        clips.batches(options.inference_batch_size),
        options.n_threads,
        note,
    )

    # Only one sum of scores is kept: the clips of a video follow each other.
    results, n_correct_clips, n_correct_videos = {}, 0, 0
    total, n_of_video = 0.0, 0
    n_left = np.bincount([index for index, _ in clips.windows]).tolist()
    scored = score_clips(class_scores(net), loader, expected["mean_dataset"])
    for (index, window), (_, scores) in zip(clips.windows, scored):
        video = videos[index]
        n_correct_clips += int(scores.argmax() == video.label)
        total, n_of_video = total + scores.astype(np.float64), n_of_video + 1
        if options.inference_no_average:
            segment = [min(window), max(window) + 1]
            entry = {"segment": segment, "result": top_labels(scores, labels, options.output_topk)}
            results.setdefault(video.name, []).append(entry)
        if n_of_video == n_left[index]:
            average = total / n_of_video
            n_correct_videos += int(average.argmax() == video.label)
            if not options.inference_no_average:
                results[video.name] = top_labels(average, labels, options.output_topk)
            total, n_of_video = 0.0, 0
    path = options.result_path / f"{options.inference_subset}.json"
    write_file(path, json.dumps({"results": results}))
    print(f"{path}: {len(results)} videos, {len(clips)} clips")
    print(
        f"clip accuracy {n_correct_clips / len(clips):.4f}, "
        f"video accuracy {n_correct_videos / len(videos):.4f}"
    )


if __name__ == "__main__":
    run(main, OPTIONS)
