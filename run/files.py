"""Files that survive what happens to a run: kills, full disks, a second run in the same folder."""
import contextlib
import errno
import fcntl
import json
import os
import shutil
import time
from pathlib import Path

from run.console import UserError, first_names, note

# Files with these endings count as the videos of a folder.
VIDEO_SUFFIXES = tuple(
    ".avi .mp4 .m4v .mov .mkv .webm .mpg .mpeg .wmv .flv .3gp .ts .mts .ogv .m2ts .vob .asf .gif .3g2 .f4v "
    ".m2v .dv .rm .mxf".split()
)
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFull(UserError):
    """A file did not fit on its disk."""

    def __init__(self, path, n_bytes, reason):
        needed = f"{n_bytes:,} bytes are needed, " if n_bytes else ""
        super().__init__(
            f"{path}: {reason}; {needed}nothing was replaced; "
            "free some space and run the same command again"
        )

    def __reduce__(self):  # from a worker process as it is, not with the arguments of __init__
        return _same_text, (str(self),)


def _same_text(text):
    error = DiskFull.__new__(DiskFull)
    error.args = (text,)
    return error


@contextlib.contextmanager
def disk_full_named(path, n_bytes=None):
    """While this context lasts, an error of a full disk becomes DiskFull with the file's name and size.

    That is an OSError, or an error of another library that has its `errno` (PyAV's).
    """
    try:
        yield
    except Exception as error:
        if getattr(error, "errno", None) not in _DISK_FULL:
            raise
        raise DiskFull(path, n_bytes, error.strerror) from None


def atomic_write(path, content):
    """Write bytes or text to a file, whole or not at all; make its folder if it is missing.

    Raises DiskFull with the file's name and size.
    """
    content = content.encode() if isinstance(content, str) else content
    with atomic_path(path, len(content)) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def atomic_path(path, n_bytes=None):
    """Yield a path beside a file's, to write to; it becomes the file if that ends well, else it is deleted.

    Raises DiskFull with the file's name and, if known, its size.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_full_named(path, n_bytes):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException as error:
            if isinstance(error, OSError) and str(error.filename) == str(temporary):
                error.filename, error.filename2 = str(path), None  # the name that the user knows
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def atomic_folder(path, contents):
    """Write a folder of files `{name: bytes or text}`, whole or not at all, in place of an earlier one.

    Raises UserError if that one holds anything else.
    """
    path = Path(path)
    foreign = sorted({entry.name for entry in path.iterdir()} - set(contents)) if path.exists() else []
    if foreign:
        raise UserError(
            f"{path}: holds {first_names(foreign)}, which this script did not write; give another folder"
        )
    temporary, earlier = (path.with_name(f".{path.name}.{os.getpid()}{end}") for end in (".tmp", ".old.tmp"))
    try:
        for name, content in contents.items():
            atomic_write(temporary / name, content)
        if path.exists():
            os.replace(path, earlier)
        os.replace(temporary, path)
    except BaseException:
        if earlier.exists() and not path.exists():
            os.replace(earlier, path)
        raise
    finally:
        for folder in (temporary, earlier):
            shutil.rmtree(folder, ignore_errors=True)


def remove_temporaries(folder):
    """Delete what killed runs left of files and folders being written; only for the owner (`run_lock`)."""
    for path in Path(folder).glob(".*.tmp"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def read_journal(path):
    """Return the entries of a `Journal`'s file and how many bytes of a torn last line follow them."""
    content = Path(path).read_bytes()
    whole, _, torn = content.rpartition(b"\n")
    lines = enumerate(whole.splitlines(), start=1)
    return [_parsed(path, number, line) for number, line in lines], len(torn)


def _parsed(path, number, line):
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        entry = None
    if not isinstance(entry, dict):
        raise UserError(f"{path}: line {number} is not a JSON object; delete the file or fix it")
    return entry


class Journal:
    """An append-only file of JSON objects, a line each, that says how far a run has come.

        {"epoch": 1, "train_loss": 1.75}
        {"epoch": 2, "train_loss": 1.43}

    `entries` holds what is in the file and what was added. A line that a kill cut short counts as
    not written. Raises UserError if any other line is broken, and if the disk is full.
    """

    def __init__(self, path, flush_seconds=0, before_flush=None):
        """Read the file if there is one. Entries wait up to `flush_seconds` for their way to the disk;
        `before_flush` is called first, to bring there what they speak of.
        """
        self.path = Path(path)
        self.flush_seconds = flush_seconds
        self.before_flush = before_flush
        self._waiting = b""
        self._flushed = time.monotonic()
        self.entries, n_torn = read_journal(path) if self.path.exists() else ([], 0)
        if n_torn:
            os.truncate(self.path, self.path.stat().st_size - n_torn)

    def add(self, entry):
        """Append an entry, on disk within `flush_seconds` of the last ones."""
        self.entries.append(entry)
        self._waiting += json.dumps(entry).encode() + b"\n"
        if time.monotonic() - self._flushed >= self.flush_seconds:
            self.flush()

    def flush(self):
        """Bring all entries to the disk."""
        if not self._waiting:
            return
        if self.before_flush is not None:
            self.before_flush()
        with disk_full_named(self.path, len(self._waiting)):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab") as file:
                file.write(self._waiting)
                file.flush()
                os.fsync(file.fileno())
        self._waiting = b""
        self._flushed = time.monotonic()

    def keep(self, condition):
        """Drop the entries that do not meet a condition, in one replacement of the file."""
        self.flush()
        kept = [entry for entry in self.entries if condition(entry)]
        if len(kept) < len(self.entries):
            atomic_write(self.path, "".join(json.dumps(entry) + "\n" for entry in kept))
            self.entries = kept


@contextlib.contextmanager
def run_lock(lock_path):
    """Hold a folder for this run only, by a lock on a file in it.

    The lock ends with the process, however that ends, so none is ever stale; worker processes do
    not inherit it. Raises UserError, naming the owner, if another process holds it.
    """
    lock_path.parent.mkdir(parents=True, exist_ok=True)
    with open(lock_path, "a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                raise UserError(
                    f"{lock_path.parent}: another run is at work here ({file.read().strip()}); "
                    "wait for its end, or give another folder"
                ) from None
            note(f"{lock_path}: no locks on this disk ({error.strerror}); start only one run in its folder")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}\n")
        file.flush()
        yield


def check_free_space(path, n_bytes, n_files, what):
    """Raise UserError if the disk of a path has less room than `what` is expected to take."""
    folder = Path(path).absolute()
    while not folder.exists():
        folder = folder.parent
    disk = os.statvfs(folder)
    n_free = disk.f_bavail * disk.f_frsize
    if n_free < n_bytes:
        raise UserError(
            f"{path}: {what} will take about {n_bytes / 1e6:,.0f} MB, its disk has "
            f"{n_free / 1e6:,.0f} MB free; free some space, or give a folder on another disk"
        )
    if disk.f_files and disk.f_favail < n_files:  # some file systems do not count
        raise UserError(
            f"{path}: {what} will take about {n_files:,} files, its disk has room for "
            f"{disk.f_favail:,} (df -i); give a folder on another disk"
        )
