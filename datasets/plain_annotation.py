"""Read an annotation in the form that this project and the reference write, piece by piece.

Python's json first makes four objects of each video: half a gigabyte for Kinetics-700. Here the bytes
of an entry go straight into the columns. A file that differs by as much as a blank is left to json, which
reads all forms and says what is wrong in a broken one.
"""
import json
import re
from array import array

from datasets.samples import Samples, is_safe_name, is_safe_path

_PIECE, _LONGEST_ENTRY = 1 << 20, 10_000
_BEGIN, _BETWEEN = b'{"labels": ', b', "database": {'
_ENTRY = re.compile(
    rb'"([ !#-\[\]-~]{1,255})": '  # a key of ASCII without " and \
    rb'\{"subset": "(training|validation|testing)", (?:"video_path": "([^"\\]{1,4096})", )?'
    rb'"annotations": \{(?:"label": "([^"\\]{1,255})", )?"segment": \[([1-9]\d{0,7}), ([1-9]\d{0,7})\]\}\}'
    rb"(, |\}\}[ \t\r\n]*)"
)


def read_plain(file, subset_names):
    """Return the class names and `{subset: Samples}` of an open binary file, None if it is not of the plain
    form or any check fails.
    """
    text = file.read(_PIECE)
    class_names, position = _class_names(text)
    if class_names is None:
        return None
    subsets = {name.encode(): Samples() for name in subset_names}
    index_of = {name.encode(): index for index, name in enumerate(class_names)}
    hashes = array("q")
    for entry in _entries(file, text, position):
        if entry is None:
            return None
        key, subset, folder, label, begin, end, _ = entry.groups()
        begin, end, index = int(begin), int(end), index_of.get(label, -1)
        is_labelled = index >= 0 or (label is None and subset == b"testing")
        if folder is None:
            folder, is_safe = (label or b"test") + b"/" + key, True
        else:
            is_safe = is_safe_path(folder.decode(errors="replace"))
        if key[0] == ord(".") or b"/" in key:
            is_safe = is_safe and is_safe_path(key.decode())
        if not (is_labelled and is_safe and begin < end):
            return None
        subsets[subset].append_utf8(key, folder, index, begin, end)
        hashes.append(hash(key))
    ordered = sorted(hashes)
    if any(map(int.__eq__, ordered, ordered[1:])):  # a key that comes twice, most likely
        return None
    return class_names, {name.decode(): samples for name, samples in subsets.items()}


def _class_names(text):
    """Return the class names at the beginning of a file and where its entries begin, or None twice."""
    end = text.find(_BETWEEN)
    if not text.startswith(_BEGIN) or end < 0:
        return None, None
    try:
        names = json.loads(text[len(_BEGIN) : end])
    except (ValueError, RecursionError):
        return None, None
    is_list = isinstance(names, list) and names and all(map(is_safe_name, names))
    return (names, end + len(_BETWEEN)) if is_list and len(set(names)) == len(names) else (None, None)


def _entries(file, text, position):
    """Yield the match of each entry; None, as the last, if there is anything else."""
    while True:
        entry = _ENTRY.match(text, position)
        # An entry at the end of the piece may continue in the next one.
        is_short = entry.end() == len(text) if entry else len(text) - position < _LONGEST_ENTRY
        more = file.read(_PIECE) if is_short else b""
        if more:
            text, position = text[position:] + more, 0
            continue
        is_last = entry is not None and entry[7] != b", "
        yield entry if not is_last or entry.end() == len(text) else None
        if is_last or entry is None:
            return
        position = entry.end()
