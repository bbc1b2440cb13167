"""Find the videos that a user names: files, folders, and lists on stdin."""
import codecs
import itertools
import os
from pathlib import Path

from run.console import UserError, shown
from run.files import VIDEO_SUFFIXES
from run.text import decoded, encoding_of


def named_videos(named, root_path, lines):
    """Yield the path of each video that is named; instead of what holds none, a UserError or OSError.

    `named` holds paths of files and folders, and "-" for `lines` of bytes, each a path from `root_path`.
    """
    for path in named:
        each = None
        for each in _listed(lines, root_path) if path == "-" else [path]:
            try:
                if isinstance(each, Exception):
                    raise each
                yield from _videos_at(each)
            except (UserError, OSError) as error:
                yield error
        if each is None:
            yield UserError("no path on stdin")


def _listed(lines, root_path):
    """Yield the path in each line as it comes, or a UserError for a list that is no text.

    File names are bytes, so that a line without a mark is taken as it is.
    """
    lines = iter(lines)
    first = next(lines, b"")
    encoding = encoding_of(first)
    try:
        if encoding not in ("utf-8", "utf-8-sig"):  # its lines do not end at a byte
            text = decoded(first + b"".join(lines), "stdin")
            first, lines = b"", [line.encode() for line in text.split("\n")]
    except UserError as error:
        yield error
        return
    first = first.removeprefix(codecs.BOM_UTF8)
    for line in itertools.chain([first], lines):
        line = line.rstrip(b"\r\n")
        if b"\0" in line:
            yield UserError("stdin: holds NUL bytes; expected a path a line")
        elif line.strip():
            path = root_path / os.fsdecode(line)
            yield path if os.path.lexists(path) or _is_utf8(line) else _unknown(path)


def _is_utf8(line):
    try:
        return bool(line.decode("utf-8"))
    except UnicodeDecodeError:
        return False


def _unknown(path):
    return UserError(
        f"{shown(str(path))}: no such file, and its line on stdin is not UTF-8; convert the list from its "
        "encoding, such as GBK or LATIN1: iconv -f GBK -t UTF-8"
    )


def _videos_at(path):
    """Return the path of a file, or those of the videos in a folder, with the errors of folders in it."""
    if path.exists() and not path.is_dir() and not path.is_file():
        raise UserError(f"{path}: not a file; a video is read more than once, so a pipe does not work")
    if not path.is_dir():
        return [path]
    found, errors = [], []
    for folder, _, names in os.walk(path, onerror=errors.append):
        videos = (name for name in names if name.lower().endswith(VIDEO_SUFFIXES) and name[0] != ".")
        found += [Path(folder, name) for name in videos]
    if not found and not errors:
        raise UserError(f"{path}: no video in this folder, no file ending in {' '.join(VIDEO_SUFFIXES)}")
    return [*sorted(found), *errors]
