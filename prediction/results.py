"""The results of a test: its journal, which a test that was killed continues, and the files at its end.

`val.json` and `val_run.json` are described in `datasets/annotation.py`, which reads them.
"""
import json
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from prediction.labels import top_labels
from run.accuracy import mean_class_accuracy
from run.console import UserError, note
from run.files import Journal, atomic_write
from run.spec import ClipSpec, FrameSpec, NetworkSpec, Protocol, differences

RUN_VERSION = 2  # of val_run.json


class Conditions(NamedTuple):
    """What decides the scores of a test. A test under others does not continue with its journal.

    `checkpoint` and `annotation` are checksums; `frames` is None for frames of an unknown origin.
    """

    checkpoint: int
    annotation: int
    frames_path: str
    n_clips: int
    device: str
    paddle: str
    network: NetworkSpec
    clip: ClipSpec
    protocol: Protocol
    frames: FrameSpec = None

    def to_json(self):
        """Return what JSON can hold."""
        return {k: v.to_json() if hasattr(v, "to_json") else v for k, v in self._asdict().items()}

    def changes_since(self, header):
        """Return what differs from the header of a journal as a phrase, "" for nothing."""
        changes = []
        for name, now in self._asdict().items():
            before = header.get(name)
            try:
                if before is not None and hasattr(now, "to_json"):
                    changes.append(differences(type(now).from_json(before, name), now))
                elif before != now:
                    changes.append(f"another {name}")
            except UserError:  # of an older or a newer version of this program
                changes.append(f"another {name}")
        return ", ".join(filter(None, changes))


def open_journal(path, conditions):
    """Return the journal of finished videos, emptied unless the same test began it.

        {"checkpoint": 123456789, "annotation": 987654321, ..., "protocol": {"version": 1, ...}, ...}
        {"video": "v_Archery_g01_c01", "n_correct_clips": 8, "is_correct": true, "result": [...]}
    """
    try:
        journal = Journal(path, flush_seconds=5)
        changes = conditions.changes_since(journal.entries[0]) if journal.entries else "no header"
    except UserError:
        journal, changes = None, "damaged"
    if changes:
        if path.exists():
            note(f"{path}: of another run ({changes}); starting again")
            path.unlink()
        journal = Journal(path, flush_seconds=5)
        journal.add(conditions.to_json())
    elif n_done(journal):
        note(f"{path}: {n_done(journal)} videos are done already, continuing after them", of_success=True)
    return journal


def n_done(journal):
    """Return how many videos a journal holds."""
    return len(journal.entries) - 1


def journal_entry(sample, scores, windows, class_names, protocol):
    """Return a video's journal entry from the scores of its clips `[n, n_classes]`.

    What is right is None for a video without a class.
    """
    average = scores.mean(axis=0, dtype=np.float64)
    if protocol.inference_no_average:
        result = [
            {
                "segment": [int(min(window)), int(max(window)) + 1],
                "result": top_labels(row, class_names, protocol.output_topk),
            }
            for row, window in zip(scores, windows)
        ]
    else:
        result = top_labels(average, class_names, protocol.output_topk)
    class_index = sample.class_index
    has_class = class_index >= 0
    return {
        "video": sample.key,
        "n_correct_clips": int((scores.argmax(axis=1) == class_index).sum()) if has_class else None,
        "is_correct": int(average.argmax()) == class_index if has_class else None,
        "result": result,
    }


class Accuracy(NamedTuple):
    """The part of the clips and of the videos that are right, and the mean of the classes' parts.

    None if not every video has a class.
    """

    of_clips: float
    of_videos: float
    of_classes: float


def accuracy_of(journal, n_clips, classes):
    """Return the `Accuracy` of a journal's videos, of `classes`, which have `n_clips` clips together."""
    done = journal.entries[1:]
    if any(entry["is_correct"] is None for entry in done):
        return Accuracy(None, None, None)
    n_right_clips, n_right = (sum(e[name] for e in done) for name in ("n_correct_clips", "is_correct"))
    of_classes = mean_class_accuracy((c, entry["is_correct"]) for c, entry in zip(classes, done))
    return Accuracy(n_right_clips / n_clips, n_right / len(done), of_classes)


def write_results(path, journal, clips, run):
    """Write the results file and, beside it, how it was made; delete the journal; return the `Accuracy`.

    `run` holds what is known of the run: checkpoint, device, specs and so on.
    """
    done = journal.entries[1:]
    if [entry["video"] for entry in done] != list(clips.samples.keys):
        raise UserError(f"{journal.path}: does not hold every video once; delete it and run again")
    results = json.dumps({"results": {entry["video"]: entry["result"] for entry in done}})
    n_clips = np.bincount(clips.video_of).tolist()
    classes = [clips.samples[i].class_index for i in range(len(done))]
    accuracy = accuracy_of(journal, len(clips), classes)
    content = {
        "version": RUN_VERSION,
        **run,
        "n_clips": len(clips),
        "clip_accuracy": accuracy.of_clips,
        "results_crc32": zlib.crc32(results.encode()),
        "videos": {e["video"]: [e["n_correct_clips"], n_clips[i]] for i, e in enumerate(done)},
    }
    path = Path(path)
    atomic_write(path.with_name(f"{path.stem}_run.json"), json.dumps(content))
    atomic_write(path, results)
    journal.flush()
    journal.path.unlink()
    return accuracy
