"""Stage 4: score every video of a subset with a checkpoint.

    python test.py

reads results/best.pdparams and writes results/val.json with the five best labels of each validation
video, and results/val_run.json, which says how they were made and how many of each video's clips are
right. It prints clip, video and mean class accuracy. The checkpoint decides network, clip spec
and class names. Run again after a kill, it continues after the last finished video.
On several GPUs: `python -m paddle.distributed.launch --gpus 0,1,2,3 test.py`.

    python test.py --features features.npz

writes the vectors before the last layer instead of scores.
"""
import contextlib
import platform
import zlib

from opts import test_options
from run.arguments import plain_options
from run.console import UserError, run_script, working

if __name__ == "__main__":
    OPTIONS = test_options()  # before Paddle, so that --help answers at once
    with working("loading Paddle"):
        import model.device  # noqa: F401

import numpy as np
import paddle

from datasets.annotation import read_annotation
from datasets.clips import WindowClips
from datasets.stores import open_store
from model.cam import cam
from model.checkpoint import load_network
from model.device import explained, prepare_device
from model.inference import amp_of, scorer
from model.training.distributed import Ranks
from prediction.checks import (
    check_classes,
    check_modality,
    note_other_decoding,
    note_training_videos,
    note_unknown_order,
)
from prediction.features import features_bytes, write_features
from prediction.maps import write_mistake_maps
from prediction.results import Conditions, n_done, open_journal, write_results
from prediction.subset import clips_per_second, evaluate_clips, open_batches, score_videos
from report.mistakes import frame_numbers
from run.files import check_free_space, run_lock

SUBSETS = {"train": "training", "val": "validation", "test": "testing"}


def main(options):
    with Ranks() as ranks, explained("use a smaller --inference_batch_size"):
        annotation = read_annotation(options.annotation_path)
        subset, protocol = SUBSETS[options.inference_subset], options.protocol
        samples = annotation.subsets[subset]
        if not samples:
            raise UserError(f"{options.annotation_path}: no video of the subset {subset}")
        store = open_store(options.video_path)
        store.check(samples, ranks.is_first)
        device = prepare_device(ranks.n_on_this_machine)
        with working("loading the network", ranks.is_first):
            net, metadata = load_network(options.resume_path)
        annotation = annotation.in_order(metadata.class_names or annotation.class_names)
        samples = annotation.subsets[subset]
        check_modality(options.resume_path, metadata, store)
        check_classes(options.resume_path, metadata, annotation.class_names)
        note_unknown_order(options.resume_path, metadata)
        note_other_decoding(options.resume_path, metadata, protocol.fast_decode)
        if not options.features:
            note_training_videos(options.resume_path, metadata, samples)
        clips = WindowClips(
            store, samples, metadata.clip, protocol.windows, protocol.inference_crop, protocol.fast_decode
        )
        conditions = Conditions(
            checkpoint=zlib.crc32(options.resume_path.read_bytes()),
            annotation=annotation.checksum(),
            frames_path=str(options.video_path),
            n_clips=len(clips),
            device=device.split(":")[0],
            paddle=paddle.__version__,
            network=metadata.network,
            clip=metadata.clip,
            protocol=protocol,
            frames=store.spec,
        )
        ranks.require_same("the checkpoint, the annotation or the options", conditions.to_json())
        if options.features:
            save_features(net, metadata, clips, annotation.class_names, options, ranks)
        else:
            save_scores(net, metadata, clips, annotation.class_names, conditions, options, ranks)


def save_scores(net, metadata, clips, class_names, conditions, options, ranks):
    """Score the videos that the journal does not hold yet; write the results on the first rank."""
    path, protocol = options.result_path / f"{options.inference_subset}.json", options.protocol
    with contextlib.ExitStack() as held:
        journal = None
        if ranks.is_first:
            held.enter_context(run_lock(path.with_name(f".{path.stem}.lock")))
            journal = open_journal(path.with_name(f".{path.stem}.jsonl"), conditions)
            held.callback(journal.flush)
        begin = ranks.gather_objects(journal and n_done(journal))[0]
        batches, rounds = open_batches(clips, begin, protocol.inference_batch_size), []
        if batches:
            with working("preparing the network", ranks.is_first):
                score = scorer(net, metadata, n_sharing=ranks.n_on_this_machine).score
            evaluated = evaluate_clips(score, clips, batches, options.n_threads, ranks, rounds)
            for index, entry in score_videos(evaluated, clips, batches, class_names, protocol):
                if journal is not None and index >= begin:
                    journal.add(entry)
        if ranks.is_first:
            run = {**description(metadata, options), "clips_per_second": clips_per_second(rounds)}
            accuracy = write_results(path, journal, clips, run)
            views = f", {protocol.views} a video" if protocol.views else ""
            maps_path = path.with_name(f"{path.stem}_cam.json")
            maps_path.unlink(missing_ok=True)  # of earlier results
            print(f"{path}: {len(clips.samples)} videos, {len(clips)} clips{views}")
            if accuracy.of_clips is None:
                print("no accuracy: the annotation does not give every video's class")
            else:
                print(f"clip accuracy {accuracy.of_clips:.4f}, video accuracy {accuracy.of_videos:.4f}")
                print(f"mean class accuracy {accuracy.of_classes:.4f}")
            if options.cam:
                done, looking = journal.entries[1:], cam(net, metadata)
                n = write_mistake_maps(
                    maps_path, looking, clips, done, options.cam, class_names, frame_numbers
                )
                print(f"{maps_path}: what was looked at in {n} wrongly labelled videos")


def description(metadata, options):
    """Return what val_run.json says of a run beside its results, see `datasets/annotation.py`."""
    return {
        "checkpoint": str(options.resume_path),
        "device": paddle.get_device(),
        "amp": amp_of(metadata),
        "versions": {
            "python": platform.python_version(),
            "paddle": paddle.__version__,
            "numpy": np.__version__,
        },
        "network": metadata.network.to_json(),
        "clip": metadata.clip.to_json(),
        "protocol": options.protocol.to_json(),
        "options": plain_options(options),
        "published": metadata.published and metadata.published.to_json(),
    }


def save_features(net, metadata, clips, class_names, options, ranks):
    """Write the features of every clip of the subset, on the first rank."""
    path, samples, n_features = options.features, clips.samples, net.n_features
    if ranks.is_first:
        n_bytes = features_bytes(len(clips), len(samples), n_features)
        check_free_space(path, n_bytes, 1, f"the features of {len(clips)} clips")
    score = scorer(net, metadata, features=True, n_sharing=ranks.n_on_this_machine).score
    batches = clips.batches(options.protocol.inference_batch_size)
    rows = np.zeros((len(clips), n_features), np.float32)  # takes memory where it is written to
    with contextlib.closing(evaluate_clips(score, clips, batches, options.n_threads, ranks)) as evaluated:
        for i, (_, row) in enumerate(evaluated):
            if ranks.is_first:
                rows[i] = row
    if ranks.is_first:
        classes = samples.class_indices if min(samples.class_indices) >= 0 else None
        write_features(path, rows, clips.video_of, clips.windows, list(samples.keys), classes, class_names)
        print(f"{path}: {len(samples)} videos, {len(rows)} clips, {n_features} features of each")


if __name__ == "__main__":
    run_script(main, OPTIONS)
