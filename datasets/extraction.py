"""Videos to frames: what a process does for one video, and a journal of the videos that are done.

A frames folder holds `<Class>/<video>/image_00001.jpg` ... and `frames.jsonl`: the settings of all
frames, then a line for each finished video. Only what the journal names is done.

    {"size": 240, "quality": 80, "fps": null}
    {"video": "Archery/v_Archery_g01_c01", "n_frames": 132}
"""
import ctypes
import os
import shutil

import av
import simplejpeg

from datasets.frames import frame_name, read_frame
from datasets.video import claimed_frames, encode_frame, read_frames
from disk import DISK_FULL, DiskFull, Journal
from opts import UserError


def extract(path, folder, size, quality, fps=None, allow_partial=False):
    """Decode one video to a folder of frames, which appears only when complete.

    Returns `(n_frames, partial)`, `partial` being None or, with `allow_partial`, the reason why there
    are not more. Raises UserError for a video that does not decode as a whole.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    n_frames, partial, reformatters = 0, None, {}
    try:
        temporary.mkdir(parents=True)
        try:
            for frame, n_copies in read_frames(path, fps):
                content = _encode(path, frame, size, quality, reformatters) if n_copies else None
                for _ in range(n_copies):
                    n_frames += 1
                    _write(temporary / frame_name(n_frames), content)
            if n_frames == 0:
                raise UserError(f"{path}: too short for a frame at {fps:g} frames a second")
        except DiskFull:
            raise
        except UserError as error:
            if not allow_partial or n_frames == 0:
                raise
            partial = str(error)
        shutil.rmtree(folder, ignore_errors=True)  # one that no journal names
        os.rename(temporary, folder)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in DISK_FULL:  # no room for the folder itself
            raise DiskFull(folder, 4096, error.strerror) from None
        raise
    return n_frames, partial


def _encode(path, frame, size, quality, reformatters):
    try:
        return encode_frame(frame, size, quality, reformatters)
    except (ValueError, av.FFmpegError) as error:  # of a shape or a format that jpg does not have
        raise UserError(f"{path}: a frame does not encode as jpg: {error}") from None


def _write(path, content):
    try:
        path.write_bytes(content)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise DiskFull(path, len(content), error.strerror) from None
        raise


def sample_size(path, size, quality, fps=None, n_frames=25):
    """Return how many bytes on disk a video's frames will take, and how many frames, by its first ones.

    A file takes whole blocks, of 4096 bytes on most disks.
    """
    taken, reformatters = [], {}
    try:
        for frame, _ in read_frames(path, fps):
            taken.append(-(-len(_encode(path, frame, size, quality, reformatters)) // 4096) * 4096)
            if len(taken) == n_frames:
                break
    except UserError:
        pass  # extraction itself will tell
    n = claimed_frames(path, fps) if taken else 0
    return n * sum(taken) / max(1, len(taken)), n


def require_frames_folder(path, may_be_new):
    """Raise UserError for a folder that stage 1 did not make: in its own it deletes and redoes."""
    journal_path = path / "frames.jsonl"
    # A journal cut short in its first line is from before any frame.
    if journal_path.is_file() and b"\n" in journal_path.read_bytes():
        return
    if not may_be_new:
        raise UserError(f"{path}: no frames.jsonl in it; run generate_video_jpgs.py first")
    if any(entry.is_dir() for entry in path.glob("[!.]*")):
        raise UserError(
            f"{path}: holds folders but no frames.jsonl, so this script did not make them; "
            "give another folder, or delete this one"
        )


def _is_safe(entry):
    """Tell whether an entry names a video inside the folder and at least one frame."""
    parts = str(entry.get("video")).split("/")
    is_name = len(parts) == 2 and not {"", ".", ".."}.intersection(parts) and "\0" not in entry["video"]
    return is_name and type(entry.get("n_frames")) is int and entry["n_frames"] > 0


class FramesFolder:
    """A folder of frames with its journal. Raises UserError where they are of other settings, or foreign."""

    def __init__(self, path, settings=None):
        """`settings` are those of this run; None reads a finished folder with its own."""
        self.path = path
        journal_path = path / "frames.jsonl"
        require_frames_folder(path, may_be_new=settings is not None)
        # A line gets to the disk after the frames that it speaks of, even if the machine is lost.
        self.journal = Journal(journal_path, flush_seconds=30, before_flush=self._sync)
        if not self.journal.entries:
            self.journal.add(settings)
            self.journal.flush()
        self.settings = self.journal.entries[0]
        if settings is not None and self.settings != settings:
            raise UserError(
                f"{path}: holds frames made with {self.settings}, this run has {settings}; "
                "use the same settings or another folder"
            )
        if "size" not in self.settings or not all(map(_is_safe, self.journal.entries[1:])):
            raise UserError(f"{journal_path}: broken; delete the folder {path} and run again")
        self.entries = {entry["video"]: entry for entry in self.journal.entries[1:]}
        if settings is not None:  # a check alone changes nothing
            self.remove_temporaries()

    def unknown(self):
        """Return the `<Class>/<video>` that have a folder but no line, as a killed run leaves them."""
        folders = (path for path in self.path.glob("[!.]*/[!.]*") if path.is_dir())
        names = (f"{path.parent.name}/{path.name}" for path in folders)
        return sorted(name for name in names if name not in self.entries)

    def remove_temporaries(self):
        """Delete what killed processes left; for the folder's owner alone."""
        for folder in self.path.glob("*/.*.tmp"):
            shutil.rmtree(folder, ignore_errors=True)

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

    def is_done(self, name, allow_partial):
        """Tell whether `<Class>/<video>` is finished; a partial video only where those are allowed."""
        entry = self.entries.get(name)
        return entry is not None and (allow_partial or "partial" not in entry) and (self.path / name).is_dir()

    def check_links(self, names):
        """Raise UserError where writing a video would follow a link out of the folder."""
        root = os.path.realpath(self.path)
        for place in {name.split("/")[0] for name in names} | set(names):
            folder = self.path / place
            if folder.is_symlink() and not os.path.realpath(folder).startswith(root + os.sep):
                raise UserError(f"{folder}: a link that leads out of {self.path}; remove it")

    def add(self, name, n_frames, partial=None):
        """Note that a video is finished."""
        entry = {"video": name, "n_frames": n_frames, **({"partial": partial} if partial else {})}
        self.entries[name] = entry
        self.journal.add(entry)

    def forget(self, names):
        """Take videos for not done, so that the next run decodes them again."""
        self.journal.keep(lambda entry: entry.get("video") not in names)
        for name in names:
            self.entries.pop(name, None)


def check_video(folder, n_frames, size):
    """Read every frame of a finished video; return what is wrong as a list of texts, empty if nothing is."""
    try:
        names = set(os.listdir(folder))
    except OSError:
        return ["no folder"]
    expected = {frame_name(number) for number in range(1, n_frames + 1)}
    findings = [f"{name} is missing" for name in sorted(expected - names)]
    findings += [f"{name} does not belong there" for name in sorted(names - expected)]
    first = None
    for name in sorted(expected & names):
        try:
            *shape, colours, _ = simplejpeg.decode_jpeg_header((folder / name).read_bytes())
            read_frame(folder / name)
        except (UserError, ValueError):
            findings.append(f"{name} does not decode as jpg")
            continue
        first = first or shape
        if colours != "YCbCr":
            findings.append(f"{name} is {colours}, not a colour jpg as stage 1 writes it")
        elif min(shape) != size or shape != first:
            findings.append(f"{name} is {shape[1]} x {shape[0]}, not of short side {size} as the others")
    return findings
