"""Stage 4: score every video of a subset with a checkpoint.

    python test.py

reads results/best.pdparams and writes results/val.json with the five best labels of each validation
video, and results/val_run.json, which says how they were made and how many of each video's clips are
right, and prints clip accuracy and video accuracy side by side. The checkpoint decides network,
clip size, normalisation and class names. Run again after a kill, it goes on behind the last finished
video. On several GPUs: `python -m paddle.distributed.launch --gpus 0,1,2,3 test.py`.
"""
import collections
import contextlib
import itertools
import json
import platform
import zlib
from pathlib import Path

from opts import UserError, note, progress_bar, run, test_options, working

if __name__ == "__main__":
    OPTIONS = test_options()  # before Paddle, so that --help answers at once
    with working("loading Paddle"):
        import paddle

import numpy as np
import paddle

from datasets.annotation import read_annotation
from datasets.clips import ClipLoader, WindowClips, normalise, reader_failures
from datasets.frames import check_frames
from disk import Journal, only_run, write_file
from model.checkpoint import load_checkpoint
from model.engine import class_scores, prepare_device
from model.ranks import Ranks
from model.resnet3d import ResNet3D
from model.weights import load_weights

SUBSETS = {"train": "training", "val": "validation", "test": "testing"}
# The options that decide what is written; a run with others does not go on where one was killed.
DECISIVE = {
    "inference_batch_size",
    "inference_stride",
    "inference_crop",
    "inference_no_average",
    "output_topk",
}


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


def score_clips(scores_of, clips, batches, n_classes, options, expected, ranks):
    """Yield `(video index, scores [n_classes] float32)` for every clip of the batches, in their order.

    The ranks take whole batches in turn, so that a clip's batch, and with it the last bit of its
    scores, is the same for any number of ranks; all of them get all scores.
    """
    n_rounds = -(-len(batches) // ranks.n)
    loader = ClipLoader(clips, ranks.part(batches), options.n_threads, note, ranks.n_on_this_machine)
    table = np.zeros((max(map(len, batches), default=0), n_classes), np.float32)
    bar = progress_bar(total=sum(map(len, batches)), unit="clip", desc="test", disable=not ranks.is_first)
    with bar, contextlib.closing(iter(loader)) as own_batches:
        for i in range(n_rounds):
            batch = next(own_batches, None)  # in the last round, some ranks may have none
            if batch is not None:
                table[: len(batch[1])] = scores_of(normalise(batch[0], expected["mean_dataset"]))
            tables = ranks.gather(paddle.to_tensor(table))
            for keys, scores in zip(batches[i * ranks.n :], tables):
                yield from zip((clips.windows[key][0] for key in keys), scores.numpy())
                bar.update(len(keys))


def open_journal(path, header):
    """Return the journal of finished videos, emptied unless it was begun by the same run.

        {"checkpoint": 123456789, "annotation": 987654321, ...}
        {"video": "v_Archery_g01_c01", "n_correct_clips": 8, "is_correct": true, "result": [...]}
    """
    try:
        journal = Journal(path, flush_seconds=5)
    except UserError:
        journal = None
    if journal is None or journal.entries[:1] != [header]:
        if path.exists():
            note(f"{path}: of another run (checkpoint, annotation or options differ); starting anew")
            path.unlink()
        journal = Journal(path, flush_seconds=5)
        journal.add(header)
    elif len(journal.entries) > 1:
        n_done = len(journal.entries) - 1
        note(f"{path}: {n_done} videos are done already, going on behind them", of_success=True)
    return journal


def result_of(video, scores, windows, labels, options):
    """Return a video's journal entry from the scores of its clips `[n, n_classes]`."""
    average = scores.mean(axis=0, dtype=np.float64)
    if options.inference_no_average:
        result = [
            {
                "segment": [min(window), max(window) + 1],
                "result": top_labels(row, labels, options.output_topk),
            }
            for row, window in zip(scores, windows)
        ]
    else:
        result = top_labels(average, labels, options.output_topk)
    return {
        "video": video.name,
        "n_correct_clips": int((scores.argmax(axis=1) == video.label).sum()),
        "is_correct": int(average.argmax()) == video.label,
        "result": result,
    }


def main(options):
    with Ranks() as ranks, contextlib.ExitStack() as held:
        subset = SUBSETS[options.inference_subset]
        annotation = read_annotation(options.annotation_path)
        videos, labels = annotation.videos[subset], annotation.labels
        if not videos:
            raise UserError(f"{options.annotation_path}: no video of the subset {subset}")
        check_frames(options.video_path, videos, ranks.is_first)
        device = prepare_device(ranks.n_on_this_machine)
        with working("loading the network", ranks.is_first):
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
        run_facts = {
            "checkpoint": zlib.crc32(options.resume_path.read_bytes()),
            "annotation": zlib.crc32(repr(annotation).encode()),
            "video_path": str(options.video_path),
            "options": {name: getattr(options, name) for name in vars(options) if name in DECISIVE},
            "n_clips": len(clips),
        }
        ranks.require_same("the checkpoint, the annotation or the options", run_facts)
        journal = None
        if ranks.is_first:
            held.enter_context(only_run(options.result_path / f".{options.inference_subset}.lock"))
            journal = open_journal(options.result_path / f".{options.inference_subset}.jsonl", run_facts)
            held.callback(journal.flush)
        held.enter_context(reader_failures())
        score_videos(net, expected, clips, labels, options, ranks, journal)
        if ranks.is_first:
            write_results(journal, clips, options, device)


def score_videos(net, expected, clips, labels, options, ranks, journal):
    """Score the videos that the first rank's journal does not hold yet, and add them to it."""
    n_done = ranks.gather_objects(journal and len(journal.entries) - 1)[0]
    # The batches stay those of a run from the start: the first to compute holds the first open video.
    batches = clips.batches(options.inference_batch_size)
    batches = [keys for keys in batches if clips.windows[keys[-1]][0] >= n_done]
    if not batches:
        return
    windows = (clips.windows[key][1] for keys in batches for key in keys)
    with working("preparing the network", ranks.is_first):
        scores_of = class_scores(net, ranks.n_on_this_machine)
    scored = score_clips(scores_of, clips, batches, len(labels), options, expected, ranks)
    # The clips of a video follow each other, so that only one video's scores are held at a time.
    with contextlib.closing(scored):
        for index, group in itertools.groupby(zip(scored, windows), key=lambda item: item[0][0]):
            scores, its_windows = zip(*((scores, window) for (_, scores), window in group))
            if journal is not None and index >= n_done:
                video = clips.videos[index]
                journal.add(result_of(video, np.stack(scores), its_windows, labels, options))


def write_results(journal, clips, options, device):
    """Write the results file and how it was made, print both accuracies and delete the journal."""
    done = journal.entries[1:]
    if [entry["video"] for entry in done] != [video.name for video in clips.videos]:
        raise UserError(f"{journal.path}: does not hold every video once; delete it and run again")
    path = options.result_path / f"{options.inference_subset}.json"
    results = json.dumps({"results": {entry["video"]: entry["result"] for entry in done}})
    n_clips = collections.Counter(index for index, _ in clips.windows)
    clip_accuracy = sum(entry["n_correct_clips"] for entry in done) / len(clips)
    run_facts = {
        "checkpoint": str(options.resume_path),
        "device": device,
        "versions": {
            "python": platform.python_version(),
            "paddle": paddle.__version__,
            "numpy": np.__version__,
        },
        "options": {name: str(v) if isinstance(v, Path) else v for name, v in vars(options).items()},
        "n_clips": len(clips),
        "clip_accuracy": clip_accuracy,
        "results_crc32": zlib.crc32(results.encode()),
        "videos": {e["video"]: [e["n_correct_clips"], n_clips[i]] for i, e in enumerate(done)},
    }
    write_file(path.with_name(f"{path.stem}_run.json"), json.dumps(run_facts))
    write_file(path, results)
    journal.flush()
    journal.path.unlink()
    print(f"{path}: {len(done)} videos, {len(clips)} clips")
    print(
        f"clip accuracy {clip_accuracy:.4f}, "
        f"video accuracy {sum(entry['is_correct'] for entry in done) / len(done):.4f}"
    )


if __name__ == "__main__":
    run(main, OPTIONS)
