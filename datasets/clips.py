"""Clips for training, validation and test, and the worker processes that read them.

A dataset gives `(clip_thwc, video_index)`: the clip as `[T, H, W, 3] uint8 RGB`, a quarter of what
float32 would send from the workers. Normalisation happens on the device (`normalise`).
"""
import contextlib
import ctypes
import shutil
import signal
import threading
import time
import zlib

import numpy as np
import paddle

from datasets.frames import frame_name, read_frame
from datasets.spatial import (
    corner_box,
    crop_and_resize,
    random_resized_box,
    resize_and_center_crop,
    resize_short_side,
)
from datasets.temporal import center_window, even_windows, random_window, sliding_windows
from opts import UserError

# Mean and standard deviation of each channel, R G B in [0, 1]. Reference: `mean.py`.
MEANS = {
    "kinetics": ((0.4345, 0.4051, 0.3775), (0.2768, 0.2713, 0.2737)),
    "activitynet": ((0.4477, 0.4209, 0.3906), (0.2767, 0.2695, 0.2714)),
    "0.5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


def normalise(clips_thwc, mean_dataset):
    """Turn a batch `[N, T, H, W, 3] uint8` into `[N, 3, T, H, W] float32`, on its own device."""
    mean, std = (np.float32(values) for values in MEANS[mean_dataset])
    clips = clips_thwc.transpose([0, 4, 1, 2, 3]).astype("float32")
    shape = [1, 3, 1, 1, 1]
    scale = paddle.to_tensor(1 / (255 * std)).reshape(shape)
    return clips * scale - paddle.to_tensor(mean / std).reshape(shape)


_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


class _Clips:
    """Videos of one subset, and how to read a window of one of them."""

    def __init__(self, frames_path, videos, sample_size, sample_duration, sample_t_stride):
        self.frames_path = frames_path
        self.videos = videos
        self.sample_size = sample_size
        self.sample_duration = sample_duration
        self.sample_t_stride = sample_t_stride

    def _frame_numbers(self, index):
        video = self.videos[index]
        return range(video.begin, video.end)[:: self.sample_t_stride]

    def _read(self, index, window):
        video = self.videos[index]
        folder = self.frames_path / video.class_name / video.name
        decoded = {number: read_frame(folder / frame_name(number)) for number in set(window)}
        frames = [decoded[number] for number in window]
        if len({frame.shape for frame in frames}) > 1:
            raise UserError(f"{folder}: frames {window[0]} to {window[-1]} are not all of one size")
        return frames


class TrainingClips(_Clips):
    """One augmented clip a video; `dataset[epoch, index]` is a pure function of seed, epoch, video.

    So a clip is the same for any number of workers, on any process, and after a resume.
    """

    def __init__(
        self,
        *clip_arguments,
        manual_seed,
        train_crop="random",
        train_crop_min_scale=0.25,
        train_crop_min_ratio=0.75,
        hflip=True,
        train_t_crop="random",
    ):
        super().__init__(*clip_arguments)
        self.manual_seed = manual_seed
        self.train_crop = train_crop
        self.train_crop_min_scale = train_crop_min_scale
        self.train_crop_min_ratio = train_crop_min_ratio
        self.hflip = hflip
        self.train_t_crop = train_t_crop

    def __len__(self):
        return len(self.videos)

    def __getitem__(self, key):
        epoch, index = key
        name_hash = zlib.crc32(self.videos[index].name.encode())
        rng = np.random.default_rng([self.manual_seed, epoch, name_hash])
        numbers = self._frame_numbers(index)
        if self.train_t_crop == "random":
            window = random_window(numbers, self.sample_duration, rng)
        else:
            window = center_window(numbers, self.sample_duration)
        frames = self._read(index, window)
        height, width, _ = frames[0].shape
        if self.train_crop == "center":
            clip = resize_and_center_crop(frames, self.sample_size)
        else:
            if self.train_crop == "random":
                box = random_resized_box(
                    width, height, rng, self.train_crop_min_scale, self.train_crop_min_ratio
                )
            else:
                box = corner_box(width, height, rng)
            clip = crop_and_resize(frames, box, self.sample_size)
        if self.hflip and rng.random() < 0.5:
            clip = clip[:, :, ::-1]
        return clip, index

    def batches(self, epoch, batch_size):
        """Return the keys of an epoch's batches, shuffled by (seed, epoch); the last may be short."""
        order = np.random.default_rng([self.manual_seed, epoch]).permutation(len(self)).tolist()
        keys = [(epoch, index) for index in order]
        return _chunks(keys, batch_size)


class WindowClips(_Clips):
    """Fixed windows of every video, in order; `dataset[i]` is the i-th window of all.

    `windows` is either `("even", n_val_samples)` or `("sliding", inference_stride)`;
    `crop` is "center" or "nocrop".
    """

    def __init__(self, *clip_arguments, windows, crop="center"):
        super().__init__(*clip_arguments)
        kind, number = windows
        cut = {"even": even_windows, "sliding": sliding_windows}[kind]
        self.crop = crop
        self.windows = [
            (index, window)
            for index in range(len(self.videos))
            for window in cut(self._frame_numbers(index), self.sample_duration, number)
        ]

    def __len__(self):
        return len(self.windows)

    def __getitem__(self, position):
        index, window = self.windows[position]
        frames = self._read(index, window)
        resize = resize_and_center_crop if self.crop == "center" else resize_short_side
        return resize(frames, self.sample_size), index

    def batches(self, batch_size):
        """Return the positions of every batch, windows of several videos together.

        Uncropped clips of two videos may differ in size, so there a batch is of one video.
        """
        positions = range(len(self.windows))
        if self.crop == "center":
            return _chunks(positions, batch_size)
        by_video = {}
        for position in positions:
            by_video.setdefault(self.windows[position][0], []).append(position)
        return [batch for members in by_video.values() for batch in _chunks(members, batch_size)]


def _chunks(keys, size):
    return [list(keys[i : i + size]) for i in range(0, len(keys), size)]


class ClipLoader:
    """Batches of clips in a given order, read by worker processes.

    Iterating gives `(clips_thwc [N, T, H, W, 3] uint8, video_indices [N] int64)`, Tensors on the
    device; close the iterator (`contextlib.closing`) where it may be left early. Raises UserError, in
    the caller's process, for a frame that cannot be read: Paddle's own way from a worker ends in a
    SystemError, or without workers in a hang.
    """

    def __init__(self, dataset, batches, n_threads, notice=print, n_sharing=1):
        """`batches` holds a list of the dataset's keys for each batch; 0 threads read right here.

        Batches travel through /dev/shm, which `n_sharing` processes share, where they fit, else
        through pipes, which `notice` is told.
        """
        self.dataset = dataset
        self.batches = batches
        self.n_threads = n_threads
        self.use_shared_memory = n_threads > 0 and self._fits_shared_memory(notice, n_sharing)

    def __len__(self):
        return len(self.batches)

    def _fits_shared_memory(self, notice, n_sharing):
        if not self.batches:
            return False
        n_clips = max(map(len, self.batches)) * n_sharing
        # paddle.io.DataLoader's prefetch_factor is 2; one batch more is in use and one on its way.
        n_waiting = 2 * max(2, self.n_threads) + 2
        n_needed = self.dataset[self.batches[0][0]][0].nbytes * n_clips * n_waiting
        try:
            n_free = shutil.disk_usage("/dev/shm").free
        except OSError:
            n_free = 0
        if n_needed > n_free:
            notice(
                f"/dev/shm has less room than the {n_needed / 1e6:,.0f} MB that the loader wants; "
                "batches go through pipes, which is slower. Docker: --shm-size; or fewer --n_threads"
            )
        return n_needed <= n_free

    def __iter__(self):
        if self.n_threads == 0 or not self.batches:
            for keys in self.batches:
                yield [paddle.to_tensor(array) for array in _stack([self.dataset[key] for key in keys])]
            return
        loader = paddle.io.DataLoader(
            _ErrorsAsItems(self.dataset),
            batch_sampler=self.batches,
            num_workers=self.n_threads,
            worker_init_fn=_outlast_signals,
            collate_fn=_stack,
            use_shared_memory=self.use_shared_memory,
            return_list=True,
        )
        batches = iter(loader)
        threading.Thread(target=_watch_readers, args=(batches,), daemon=True).start()
        try:
            for batch in batches:
                if len(batch) == 1:
                    raise UserError(batch[0].numpy().tobytes().decode())
                yield batch
        finally:
            # Ends the readers. Letting go of the iterator is not enough: its own thread holds it.
            batches._try_shutdown_all()


def _outlast_signals(_worker):
    """Let a reader go on for a while after a signal, so that the step it reads for can be finished.

    But not after its parent's end: Paddle's own watch on that waits for work that never comes.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(20))


def _watch_readers(batches):
    """End a loader whose reader died: one that held a queue's lock would make all others wait for ever."""
    while not batches._shutdown:
        if any(worker.exitcode not in (None, 0) for worker in batches._workers):
            for worker in batches._workers:
                worker.kill()
            batches._exit_thread_unexpectedly()
            return
        time.sleep(1)


@contextlib.contextmanager
def reader_failures():
    """Turn Paddle's ways of saying that a reader process died into a UserError."""
    try:
        yield
    except (RuntimeError, SystemError, OSError) as error:
        if "DataLoader" not in str(error) and "data reader" not in str(error):
            raise
        raise UserError(
            "a reader process died (out of memory, or killed?); what is saved is whole: go on from it, "
            "with fewer --n_threads"
        ) from None


class _ErrorsAsItems:
    """Wraps a dataset; returns a UserError as an item instead of raising it."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __getitem__(self, key):
        try:
            return self.dataset[key]
        except UserError as error:
            return error

    def __len__(self):
        return len(self.dataset)


def _stack(items):
    for item in items:
        if isinstance(item, UserError):
            return [np.frombuffer(str(item).encode(), np.uint8)]
    clips, indices = zip(*items)
    return [np.stack(clips), np.array(indices, np.int64)]
