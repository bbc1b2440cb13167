"""Batches of clips, read ahead by worker processes into memory that they share with this one.

A batch has its place in anonymous shared memory, which is not /dev/shm, so that a container's limit on
that does not hold. Each reader gets its share of every batch as a list of requests, writes the clips where
they belong, and says so; nothing else travels between the processes.
"""
import math
import mmap

import numpy as np

from datasets.workers import Worker, WorkerDied, interrupts_held, kill_all
from run.console import UserError

# Batches in the making while one is in use: enough to bridge a slow moment of a network disk.
N_AHEAD = 4


class ClipLoader:
    """Batches of clips in a given order: `(clips_thwc [N, T, H, W, 3] uint8, video_indices [N] int64)`.

    Both are arrays. The clips are the readers' own memory, not a copy: they hold until the next batch is
    asked for. Close the iterator (`contextlib.closing`) if it may be left early.
    Raises UserError, in the caller's process, for a frame that cannot be read, and for a reader that
    died.
    """

    def __init__(self, clips, batches, n_threads):
        """`batches` holds a list of the clips' keys for each batch; 0 threads read right here."""
        self.clips = clips
        self.batches = batches
        self.n_threads = n_threads

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        batches = self._read_ahead() if self.n_threads and self.batches else self._read_here()
        try:
            for keys, batch in zip(self.batches, batches):
                indices = np.array([self.clips.index_of(key) for key in keys], np.int64)
                yield batch, indices
        finally:
            batches.close()  # else a traceback could hold readers, for which Python waits at its end

    def _shape(self, keys):
        return (len(keys), *self.clips.shape_of(keys[0]))

    def _read_here(self):
        for keys in self.batches:
            batch = np.empty(self._shape(keys), np.uint8)
            for key, out in zip(keys, batch):
                self.clips.read(self.clips.request(key), out)
            yield batch

    def _read_ahead(self):
        """Yield every batch in its place, which is given to a later batch when the next is asked for."""
        shapes = [self._shape(keys) for keys in self.batches]
        n_bytes = max(map(math.prod, shapes))
        n_places = min(N_AHEAD + 1, len(shapes))
        readers = []
        try:
            try:
                places = [np.frombuffer(mmap.mmap(-1, n_bytes), np.uint8) for _ in range(n_places)]
                for _ in range(self.n_threads):
                    with interrupts_held():
                        readers.append(Worker(_read_share, self.clips, places))
            except OSError as error:
                needed = f"{n_places} batches of {n_bytes / 1e6:,.0f} MB"
                raise UserError(
                    f"{self.n_threads} readers with {needed} do not start: {error.strerror}; use fewer "
                    "--n_threads or a smaller batch"
                ) from None
            for i in range(len(shapes) + n_places):
                done = i - n_places
                if done >= 0:
                    for reader in readers:
                        _require_done(reader.result())
                    place = places[done % n_places]
                    yield place[: math.prod(shapes[done])].reshape(shapes[done])
                if i < len(shapes):
                    requests = [(row, self.clips.request(key)) for row, key in enumerate(self.batches[i])]
                    for number, reader in enumerate(readers):
                        reader.submit((i % n_places, shapes[i], requests[number :: len(readers)]))
        finally:
            kill_all(readers)


def _require_done(result):
    if isinstance(result, WorkerDied):
        raise UserError(
            f"a reader process died ({result.how}; out of memory, or killed?); what is saved is whole: "
            "continue from it, with fewer --n_threads"
        )
    if result is not None:
        raise result


def _read_share(task, clips, places):
    """Read some clips of a batch into their places; what a reader does."""
    place, shape, requests = task
    batch = places[place][: math.prod(shape)].reshape(shape)
    for row, request in requests:
        clips.read(request, batch[row])
