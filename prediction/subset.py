"""Evaluate the clips of a subset, in one process or in several that take turns."""
import contextlib
import itertools
import time

import numpy as np

from datasets.loader import ClipLoader
from prediction.results import journal_entry
from run.console import progress_bar


def evaluate_clips(score, clips, batches, n_threads, ranks, rounds=None):
    """Yield `(video index, values)` for every clip of the batches, in their order.

    `values` is the clip's row of `score(clips [N, T, H, W, 3] uint8)`. The ranks take whole batches in
    turn, so that a clip's batch, and with it the last bit of its values, is the same for any number of
    ranks; all of them get all values. `rounds` takes in the time and the number of clips done at the end
    of each round of the ranks.
    """
    n_rounds = -(-len(batches) // ranks.n)
    loader = ClipLoader(clips, ranks.shard(batches), n_threads)
    bar = progress_bar(total=sum(map(len, batches)), unit="clip", desc="test", disable=not ranks.is_first)
    with bar, contextlib.closing(iter(loader)) as own_batches:
        for i in range(n_rounds):
            batch = next(own_batches, None)  # in the last round, some ranks may have none
            tables = ranks.gather_objects(None if batch is None else score(batch[0]))
            for keys, values in zip(batches[i * ranks.n :], tables):
                yield from zip((clips.index_of(key) for key in keys), values)
                bar.update(len(keys))
            if rounds is not None:
                rounds.append((time.perf_counter(), sum(map(len, batches[: (i + 1) * ranks.n]))))


def open_batches(clips, n_done, batch_size):
    """Return the batches that hold clips of the videos behind the first `n_done`.

    They are batches of a run from the start; the first may begin with clips of a video that is done.
    """
    return [keys for keys in clips.batches(batch_size) if clips.index_of(keys[-1]) >= n_done]


def score_videos(evaluated, clips, batches, class_names, protocol):
    """Yield `(video index, its journal entry)` for each video of the batches, from `evaluate_clips`."""
    windows = (clips.windows[key] for keys in batches for key in keys)
    # The clips of a video follow each other, so that only one video's scores are held at a time.
    with contextlib.closing(evaluated):
        for index, group in itertools.groupby(zip(evaluated, windows), key=lambda item: item[0][0]):
            scores, its_windows = zip(*((scores, window) for (_, scores), window in group))
            sample = clips.samples[index]
            yield index, journal_entry(sample, np.stack(scores), its_windows, class_names, protocol)


def clips_per_second(rounds):
    """Return the rate between the first round, which prepares things, and the last; None for one round."""
    if len(rounds) < 2:
        return None
    (begin, n_before), (end, n) = rounds[0], rounds[-1]
    return round((n - n_before) / (end - begin), 3)
