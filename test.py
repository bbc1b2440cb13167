"""Stage 4: score every video of a subset with a checkpoint.

    python test.py

reads results/best.pdparams and writes results/val.json with the five best labels of each validation
video, and results/val_run.json, which says how they were made and how many of each video's clips are
right, and prints clip accuracy and video accuracy side by side. The checkpoint decides network,
clip size, normalisation and class names. Run again after a kill, it goes on behind the last finished
video. On several GPUs: `python -m paddle.distributed.launch --gpus 0,1,2,3 test.py`.

    python test.py --video clip.mp4
    python test.py --features features.npz

The first prints the five best labels of videos of your own, straight from their files; the second
writes the pooled vectors before fc instead of scores.
"""
import contextlib
import itertools
import json
import platform
import sys
import time
import zlib
from pathlib import Path

from opts import UserError, note, one_line, progress_bar, run, test_options, working

if __name__ == "__main__":
    OPTIONS = test_options()  # before Paddle, so that --help answers at once
    with working("loading Paddle"):
        import paddle

import numpy as np
import paddle

from datasets.annotation import read_annotation
from datasets.clips import WindowClips, normalise
from datasets.features import features_bytes, write_features
from datasets.frames import check_frames
from datasets.labelled_video import write_labelled_video
from datasets.loader import ClipLoader
from datasets.video_clips import VideoClips, named_videos
from datasets.video_labels import label_video, result_lines, top_labels
from disk import Journal, only_run, require_space, write_file
from model.checkpoint import DEFAULT_INPUT, load_network
from model.engine import class_scores, clip_features, prepare_device
from model.ranks import Ranks

SUBSETS = {"train": "training", "val": "validation", "test": "testing"}
# The options that decide what is written; a run with others does not go on where one was killed.
DECISIVE = {
    "inference_batch_size",
    "inference_stride",
    "inference_crop",
    "inference_no_average",
    "output_topk",
    "fast_decode",
}


def require_classes(path, facts, labels):
    """Raise UserError where a checkpoint does not tell the annotation's classes apart."""
    n_classes = facts["model"]["n_classes"]
    if n_classes != len(labels) or facts["class_names"] not in (None, labels):
        what = "other classes" if n_classes == len(labels) else f"{n_classes} classes"
        raise UserError(
            f"{path}: weights for {what}, the annotation has {len(labels)}; "
            "fine-tune them with train.py, or give the annotation that they were trained on"
        )


def note_other_decoding(path, facts, fast_decode):
    """Tell the user where a network was validated, and its best epoch chosen, on other pixels."""
    trained = facts.get("fast_decode", fast_decode)  # converted weights do not say
    if trained != fast_decode:
        ways = "with", "without"
        note(f"{path}: validated {ways[fast_decode]} --fast_decode, here {ways[trained]}: other pixels")


def evaluate_clips(evaluate, clips, batches, n_values, options, expected, ranks, rounds=None):
    """Yield `(video index, values [n_values] float32)` for every clip of the batches, in their order.

    The ranks take whole batches in turn, so that a clip's batch, and with it the last bit of its
    values, is the same for any number of ranks; all of them get all values. `rounds` takes in the
    time and the number of clips done at the end of each round of the ranks.
    """
    n_rounds = -(-len(batches) // ranks.n)
    loader = ClipLoader(clips, ranks.part(batches), options.n_threads)
    table = np.zeros((max(map(len, batches), default=0), n_values), np.float32)
    bar = progress_bar(total=sum(map(len, batches)), unit="clip", desc="test", disable=not ranks.is_first)
    with bar, contextlib.closing(iter(loader)) as own_batches:
        for i in range(n_rounds):
            batch = next(own_batches, None)  # in the last round, some ranks may have none
            if batch is not None:
                table[: len(batch[1])] = evaluate(normalise(batch[0], expected["mean_dataset"]))
            tables = ranks.gather(paddle.to_tensor(table))
            for keys, values in zip(batches[i * ranks.n :], tables):
                yield from zip((clips.index_of(key) for key in keys), values.numpy())
                bar.update(len(keys))
            if rounds is not None:
                rounds.append((time.perf_counter(), sum(map(len, batches[: (i + 1) * ranks.n]))))


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
                "segment": [int(min(window)), int(max(window)) + 1],
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
    if options.video:
        return own_videos(options)
    with Ranks() as ranks, contextlib.ExitStack() as held:
        subset = SUBSETS[options.inference_subset]
        annotation = read_annotation(options.annotation_path)
        videos, labels = annotation.videos[subset], annotation.labels
        if not videos:
            raise UserError(f"{options.annotation_path}: no video of the subset {subset}")
        check_frames(options.video_path, videos, ranks.is_first)
        device = prepare_device(ranks.n_on_this_machine)
        with working("loading the network", ranks.is_first):
            net, facts = load_network(options.resume_path)
        require_classes(options.resume_path, facts, labels)
        note_other_decoding(options.resume_path, facts, options.fast_decode)
        expected = facts["input"]
        clips = WindowClips(
            options.video_path,
            videos,
            expected["sample_size"],
            expected["sample_duration"],
            expected["sample_t_stride"],
            windows=("sliding", options.inference_stride),
            crop=options.inference_crop,
            fast_decode=options.fast_decode,
        )
        run_facts = {
            "checkpoint": zlib.crc32(options.resume_path.read_bytes()),
            "annotation": zlib.crc32(repr(annotation).encode()),
            "video_path": str(options.video_path),
            "options": {name: getattr(options, name) for name in vars(options) if name in DECISIVE},
            "n_clips": len(clips),
            "versions": [device.split(":")[0], paddle.__version__],
        }
        ranks.require_same("the checkpoint, the annotation or the options", run_facts)
        if options.features:
            return save_features(net, expected, clips, labels, options, ranks)
        journal = None
        if ranks.is_first:
            held.enter_context(only_run(options.result_path / f".{options.inference_subset}.lock"))
            journal = open_journal(options.result_path / f".{options.inference_subset}.jsonl", run_facts)
            held.callback(journal.flush)
        rounds = score_videos(net, expected, clips, labels, options, ranks, journal)
        if ranks.is_first:
            write_results(journal, clips, options, device, rounds)


def score_videos(net, expected, clips, labels, options, ranks, journal):
    """Score the videos that the first rank's journal does not hold yet, and add them to it.

    Returns the end of each round, as `evaluate_clips` notes it.
    """
    n_done = ranks.gather_objects(journal and len(journal.entries) - 1)[0]
    # The batches stay those of a run from the start: the first to compute holds the first open video.
    batches = clips.batches(options.inference_batch_size)
    batches = [keys for keys in batches if clips.index_of(keys[-1]) >= n_done]
    rounds = []
    if not batches:
        return rounds
    windows = (clips.windows[key] for keys in batches for key in keys)
    with working("preparing the network", ranks.is_first):
        scores_of = class_scores(net, ranks.n_on_this_machine)
    scored = evaluate_clips(scores_of, clips, batches, len(labels), options, expected, ranks, rounds)
    # The clips of a video follow each other, so that only one video's scores are held at a time.
    with contextlib.closing(scored):
        for index, group in itertools.groupby(zip(scored, windows), key=lambda item: item[0][0]):
            scores, its_windows = zip(*((scores, window) for (_, scores), window in group))
            if journal is not None and index >= n_done:
                video = clips.videos[index]
                journal.add(result_of(video, np.stack(scores), its_windows, labels, options))
    return rounds


def clips_per_second(rounds):
    """Return the rate between the first round, which prepares things, and the last; None for one round."""
    if len(rounds) < 2:
        return None
    (begin, n_before), (end, n) = rounds[0], rounds[-1]
    return round((n - n_before) / (end - begin), 3)


def write_results(journal, clips, options, device, rounds):
    """Write the results file and how it was made, print both accuracies and delete the journal."""
    done = journal.entries[1:]
    if [entry["video"] for entry in done] != [video.name for video in clips.videos]:
        raise UserError(f"{journal.path}: does not hold every video once; delete it and run again")
    path = options.result_path / f"{options.inference_subset}.json"
    results = json.dumps({"results": {entry["video"]: entry["result"] for entry in done}})
    n_clips = np.bincount(clips.video_of).tolist()
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
        "clips_per_second": clips_per_second(rounds),
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


def save_features(net, expected, clips, labels, options, ranks):
    """Write the features of every clip of the subset, on the first rank."""
    n_features = net.fc.weight.shape[0]
    if ranks.is_first:
        n_bytes = features_bytes(len(clips), len(clips.videos), n_features)
        require_space(options.features, n_bytes, 1, f"the features of {len(clips)} clips")
    batches = clips.batches(options.inference_batch_size)
    evaluate = clip_features(net, ranks.n_on_this_machine)
    evaluated = evaluate_clips(evaluate, clips, batches, n_features, options, expected, ranks)
    rows = np.zeros((len(clips), n_features), np.float32)  # takes memory where it is written to
    with contextlib.closing(evaluated):
        for i, (_, row) in enumerate(evaluated):
            if ranks.is_first:
                rows[i] = row
    if ranks.is_first:
        names, classes = [video.name for video in clips.videos], [video.label for video in clips.videos]
        write_features(options.features, rows, clips.video_of, clips.windows, names, classes, labels)
        print(f"{options.features}: {len(names)} videos, {len(rows)} clips, {n_features} features of each")


def own_videos(options):
    """Print the labels of the user's own videos, or write their features; one that fails stops no other."""
    if Ranks().n > 1:
        raise UserError("--video works in one process; start test.py without the launcher")
    found = named_videos(options.video, options.root_path, getattr(sys.stdin, "buffer", ()))
    if options.render:  # before the network is there
        found = list(found)
        if len(found) > 1:
            raise UserError(
                f"{options.render}: one file, and {len(found)} videos in {options.video[0]}; "
                "give --render one of them"
            )
    prepare_device()
    net, facts = load_network(options.resume_path)
    note_other_decoding(options.resume_path, facts, False)
    class_names = facts["class_names"]
    if class_names is None and not options.features:
        note(f"{options.resume_path}: has no class names; its classes are given by number, from 0")
        class_names = [f"class {label}" for label in range(facts["model"]["n_classes"])]
    evaluate = clip_features(net) if options.features else class_scores(net)
    *sizes, mean_dataset = (facts["input"][name] for name in DEFAULT_INPUT)
    names, clip_video, windows, rows, n_failed = [], [], [], [], 0
    for path in found:
        try:
            if isinstance(path, Exception):
                raise path
            if options.render and path.resolve() == options.render.resolve():
                raise UserError(f"{path}: --render would write over this video itself; give another name")
            clips = VideoClips(path, *sizes, options.inference_stride, options.inference_crop, options.fps)
            evaluated = clips.evaluate(evaluate, mean_dataset, options.inference_batch_size)
            if options.features:
                clip_windows, clip_rows = zip(*evaluated)
            else:
                result, frame_labels = label_video(
                    clips, evaluated, class_names, options.output_topk, options.timeline, bool(options.render)
                )
        except (UserError, OSError) as error:
            print(f"error: {one_line(error)}", file=sys.stderr)
            n_failed += 1
            continue
        if options.features:
            clip_video += [len(names)] * len(clip_rows)
            names.append(str(path))
            windows += clip_windows
            rows += clip_rows
            continue
        print(json.dumps(result) if options.json else "\n".join(result_lines(result)), flush=True)
        if options.render:
            texts = [item and f"{item['label']} {item['score']:.2f}" for item in frame_labels]
            write_labelled_video(path, options.render, texts, clips.rate, options.fps)
            note(f"{options.render}: written, {len(texts)} frames")
    if names:
        write_features(options.features, np.stack(rows), clip_video, windows, names, class_names=class_names)
        print(f"{options.features}: {len(names)} videos, {len(rows)} clips, {len(rows[0])} features of each")
    if n_failed:
        sys.exit(1)


if __name__ == "__main__":
    run(main, OPTIONS)
