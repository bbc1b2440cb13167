"""Videos to frames: what a process does for one video, and the folder that keeps account of those done."""
import ctypes
import itertools
import math
import os
import stat
import zlib
from typing import NamedTuple

import av

from datasets.flow import FlowStream, encode_flow, luma_of
from datasets.pixels import encode_frame
from datasets.stores import JOURNAL, finished_videos, new_store, read_spec, spec_of
from datasets.video import open_video
from run.console import UserError
from run.files import DiskFull, Journal
from run.spec import differences

_BLOCK = 4096  # bytes: a file takes whole blocks of a disk, of this size on most


class Extracted(NamedTuple):
    """What became of a video: `fps` is the rate of its frames, `partial` why there are not more, or None.

    `bytes`, `mtime` and `crc32` are of its file, so that another file of its name is noticed. `is_told` is
    false if nothing in the file says how long it should be.
    """

    n_frames: int
    fps: float
    partial: str
    bytes: int
    mtime: float
    crc32: int
    is_told: bool = True


def file_status(path):
    """Return the `os.stat` of a video's file. Raises UserError for what is no file, or cannot be read."""
    try:
        found = os.stat(path)
        if stat.S_ISREG(found.st_mode):
            open(path, "rb").close()
            return found
        reason = "Is a directory" if stat.S_ISDIR(found.st_mode) else "not a file"
    except FileNotFoundError:
        is_link = os.path.islink(path)
        reason = f"a link to {os.readlink(path)}, which is not there" if is_link else "no such file"
    except OSError as error:
        reason = error.strerror
    raise UserError(f"{path}: {reason}; expected a video file")


def _crc32(path):
    crc = 0
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            crc = zlib.crc32(part, crc)
    return crc


def extract(path, store, folder, allow_partial=False):
    """Decode one video to frames in a store, as its spec says; they appear only when complete.

    Raises UserError for a video that does not decode as a whole; with `allow_partial` only for one that
    gives no frame.
    """
    with store.writer(folder) as write:
        status, crc32 = file_status(path), _crc32(path)
        with open_video(path) as video:
            n_frames, partial = _write_frames(video, write, store.spec, allow_partial)
            fps = float(store.spec.fps or video.rate)
            return Extracted(
                n_frames, fps, partial, status.st_size, status.st_mtime, crc32, video.is_told
            )


def _write_frames(video, write, spec, allow_partial):
    n_frames, partial = 0, None
    encoder = _encoder(video, spec)
    try:
        for frame, n_copies in video.frames(spec.fps):
            for content in encoder.add(frame, n_copies):
                write(content)
            n_frames += n_copies
        if n_frames == 0:
            at = f" at {spec.fps:g} frames a second" if spec.fps else ""
            raise UserError(f"{video.path}: too short for a frame{at}")
    except DiskFull:
        raise
    except UserError as error:
        if not allow_partial or n_frames == 0:
            raise
        partial = str(error)
    for content in encoder.end():
        write(content)
    return n_frames, partial


class _RgbEncoder:
    """Makes jpgs of the frames of a video: `add` gives those of a frame, `end` what then is left."""

    def __init__(self, video, spec):
        self.video, self.spec, self.reformatters = video, spec, {}

    def add(self, frame, n_copies):
        """Return the jpgs, in order, that a frame which is shown `n_copies` times gives."""
        return [self._encoded(frame)] * n_copies if n_copies else []

    def end(self):
        """Return the jpgs behind the last frame."""
        return []

    def _encoded(self, frame):
        try:
            return self._content(frame)
        except (ValueError, av.FFmpegError) as error:  # of a shape or a format that jpg does not have
            raise UserError(f"{self.video.path}: a frame does not encode as jpg: {error}") from None

    def _content(self, frame):
        return encode_frame(frame, self.spec.size, self.spec.quality, self.reformatters, self.video.sides)


class _FlowEncoder(_RgbEncoder):
    """The same for the flow of a video."""

    def __init__(self, video, spec):
        super().__init__(video, spec)
        self.stream = FlowStream(video.path)

    def add(self, frame, n_copies):
        """Yield the jpgs that end with a frame which is shown `n_copies` times."""
        if n_copies:
            for flow in self.stream.add(self._encoded(frame), n_copies):
                yield encode_flow(flow, self.spec.quality)

    def end(self):
        """Return the jpg of the last frame of flow, again."""
        return [encode_flow(flow, self.spec.quality) for flow in self.stream.end()]

    def _content(self, frame):
        return luma_of(frame, self.spec.size, self.reformatters, self.video.sides)


def _encoder(video, spec):
    return (_FlowEncoder if spec.modality == "flow" else _RgbEncoder)(video, spec)


def sample_size(path, store, n_frames=25):
    """Return how many bytes on disk a video's frames will take, and how many frames, by its first ones."""
    n_claimed, taken, spec = 0, [], store.spec
    try:
        file_status(path)
        with open_video(path) as video:
            n_claimed = video.n_claimed(spec.fps)
            encoder = _encoder(video, spec)
            contents = (content for frame, _ in video.frames(spec.fps) for content in encoder.add(frame, 1))
            for content in itertools.islice(contents, n_frames):
                n_bytes = len(content)
                taken.append(math.ceil(n_bytes / _BLOCK) * _BLOCK if store.one_file_a_frame else n_bytes)
    except UserError:
        pass  # extraction itself will report it
    return (n_claimed * sum(taken) / len(taken), n_claimed) if taken else (0, 0)


def require_frames_folder(path, may_be_new):
    """Raise UserError for a folder that stage 1 did not make: in its own it deletes and redoes."""
    if (path / JOURNAL).is_file() and read_spec(path) is not None:
        return
    if not may_be_new:
        raise UserError(f"{path}: no {JOURNAL} in it; run generate_video_jpgs.py first")
    if any(entry.is_dir() for entry in path.glob("[!.]*")):
        raise UserError(
            f"{path}: holds folders but no {JOURNAL}, so this script did not make them; give another folder"
        )


def require_apart(path, videos_path):
    """Raise UserError for a folder of frames that is the folder of the videos, or lies above it."""
    frames, videos = os.path.realpath(path), os.path.realpath(videos_path)
    if videos == frames or os.path.commonpath([frames, videos]) == frames:
        what = "is the folder of" if videos == frames else f"holds {videos_path}, the folder of"
        raise UserError(
            f"{path}: {what} the videos; give the frames a folder of their own, such as {videos}-jpg"
        )


class FramesFolder:
    """A folder of frames and its journal: `entries` maps the folder of each finished video to its line.

    Only what the journal names is done.
    """

    def __init__(self, path, spec=None):
        """`spec` is the `FrameSpec` of this run, for a new folder or one to complete; None only reads one.

        Raises UserError if the frames were made otherwise, or not by stage 1.
        """
        self.path = path
        require_frames_folder(path, may_be_new=spec is not None)
        # A line gets to the disk after the frames that it speaks of, even if the machine is lost.
        self.journal = Journal(path / JOURNAL, flush_seconds=30, before_flush=self._sync)
        if not self.journal.entries:
            self.journal.add(spec.to_json())
            self.journal.flush()
        found = spec_of(self.journal.entries[0], self.journal.path)
        changed = spec and differences(found, spec)
        if changed:
            raise UserError(f"{path}: holds other frames: {changed}; use the same settings or another folder")
        self.entries = finished_videos(self.journal.entries, self.journal.path)
        self.store = new_store(path, found)
        if spec is not None:  # a check alone changes nothing
            self.store.remove_temporaries()

    def unknown(self):
        """Return the folders of videos that are there without a line, as a killed run leaves them."""
        return sorted(folder for folder in self.store.videos() if folder not in self.entries)

    def _sync(self):
        """Bring all written frames to the disk."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            if ctypes.CDLL(None).syncfs(descriptor) != 0:
                os.sync()
        except AttributeError:  # no such function in this C library
            os.sync()
        finally:
            os.close(descriptor)

    def is_done(self, folder, allow_partial):
        """Tell whether a video is finished; a partial one only if those are allowed."""
        entry = self.entries.get(folder)
        is_finished = entry is not None and (allow_partial or "partial" not in entry)
        return is_finished and os.path.exists(self.store.place(folder))

    def is_replaced(self, folder, path):
        """Tell whether a video's file is another one than its frames were made of.

        That is unknown, and taken for no, if the journal has no size of it, as of frames made earlier. A
        file that was only copied has another time, and the same content.
        """
        entry = self.entries.get(folder, {})
        if "bytes" not in entry:
            return False
        try:
            status = os.stat(path)
            is_like = entry["bytes"] == status.st_size
            return not is_like or entry.get("mtime") != status.st_mtime and entry.get("crc32") != _crc32(path)
        except OSError:  # without its file, a video is as its frames are
            return False

    def check_links(self, folders):
        """Raise UserError if writing a video would follow a link out of the folder."""
        root = os.path.realpath(self.path)
        parents = {self.path / folder.split("/")[0] for folder in folders}
        for place in (*sorted(parents), *map(self.store.place, folders)):
            if os.path.islink(place) and not os.path.realpath(place).startswith(root + os.sep):
                raise UserError(f"{place}: a link that leads out of {self.path}; remove it")

    def add(self, folder, extracted):
        """Note that a video is finished."""
        entry = {"video": folder, **extracted._asdict()}
        del entry["is_told"]  # noted once
        if entry["partial"] is None:
            del entry["partial"]
        self.entries[folder] = entry
        self.journal.add(entry)

    def forget(self, folders):
        """Take videos for not done, so that the next run decodes them again."""
        self.journal.keep(lambda entry: entry.get("video") not in folders)
        for folder in folders:
            self.entries.pop(folder, None)
