"""Kinetics-400, -600 and -700: the csv lists that come with them, whatever folders the videos lie in.

Source: Kay et al., "The Kinetics Human Action Video Dataset", arXiv 1705.06950; Carreira et al., arXiv
1808.01340 (600) and 1907.06987 (700). The names of the lists are those that are about: of DeepMind's
archives, of ActivityNet's crawler and of the CVD foundation's download.
"""
import csv
import functools
import io
import re

from datasets.class_folders import one_annotation
from datasets.listed import Lists, find_listed, listed_split
from datasets.listed import missing_videos as _missing_videos
from run.console import UserError, first_names, note
from run.text import read_text

__all__ = ["OPTIONS", "annotation_paths", "class_names", "find_videos", "missing_videos", "splits"]
OPTIONS = {
    "annotation_dir_path": {
        "type": "path",
        "help": "folder of the csv lists, kinetics-400_train.csv, ...; default: in dir_path or beside it",
    },
}
_LIST = re.compile(
    r"(?:kinetics[-_]?(?:400|600|700)?(?:[-_]?2020)?[-_])?(train|val|validate|validation|test)\.csv", re.I
)
_SUBSETS = {"train": "training", "test": "testing"}  # every other word is validation
_COLUMNS = ("youtube_id", "time_start", "time_end")
annotation_paths = one_annotation


def find_videos(dir_path, options):
    """Return the listed videos, `<youtube id>_<start>_<end>.mp4`, both of 6 digits, or of another suffix."""
    return find_listed(dir_path, _lists(dir_path, options["annotation_dir_path"]))


def class_names(videos, options):
    """Return the class names in the order in which the training list names them first."""
    return list(_lists(options["dir_path"], options["annotation_dir_path"]).class_names)


def splits(videos, options):
    """Return the one split, that of the lists."""
    return listed_split(videos)


def missing_videos(videos, options):
    """Return the listed videos that are not here."""
    lists = _lists(options["dir_path"], options["annotation_dir_path"])
    return _missing_videos(lists, lambda path: path.stem, videos)


@functools.lru_cache(maxsize=1)
def _lists(dir_path, lists_path):
    """Read all lists of the set; return its `Lists`."""
    lists = Lists()
    for subset, path in _list_paths(dir_path, lists_path).items():
        _read_list(path, subset, lists)
    lists.tell(path.parent)
    return lists


def _list_paths(dir_path, lists_path):
    """Return `{subset: path}` of the lists, the training list first."""
    folders = [lists_path] if lists_path else [dir_path, dir_path.absolute().parent]
    for folder in folders:
        found, others = {}, []
        for path in sorted([*folder.glob("*.csv"), *folder.glob("[Kk]inetics*/*.csv")]):
            match = _LIST.fullmatch(path.name)
            if match:
                found.setdefault(_SUBSETS.get(match[1].lower(), "validation"), []).append(path)
            else:
                others.append(path.name)
        if not found:
            continue
        for subset, paths in found.items():
            if len(paths) > 1:
                raise UserError(
                    f"{folder}: {len(paths)} lists of the subset {subset} ({', '.join(map(str, paths))}); "
                    "give a folder with one set's lists with --annotation_dir_path"
                )
        if "training" not in found:
            raise UserError(f"{folder}: no training list, which orders the classes; expected train.csv")
        absent = [subset for subset in ("validation", "testing") if subset not in found]
        if absent:
            note(f"{folder}: no list of the subset {' or '.join(absent)}")
        if others and lists_path:
            note(f"{folder}: {len(others)} csv files that are no list left out: {first_names(others)}")
        return {name: found[name][0] for name in ("training", "validation", "testing") if name in found}
    where = " or ".join(map(str, folders))
    raise UserError(f"{where}: no lists such as kinetics-400_train.csv; give --annotation_dir_path")


def _read_list(path, subset, lists):
    """Read a csv list into `Lists`. Its columns are known by the header, in any order, with others between.

        label,youtube_id,time_start,time_end,split
        testifying,---QUuC4vJs,84,94,validate
    """
    rows = csv.reader(io.StringIO(read_text(path)))
    try:
        header = [name.strip().lower() for name in next(rows, [])]
        lacking = [name for name in _COLUMNS if name not in header]
        has_label = "label" in header
        if lacking or not has_label and subset != "testing":
            lacking += [] if has_label else ["label"]
            raise UserError(f"{path}: line 1: no column {', '.join(lacking)}; found {first_names(header, 9)}")
        columns = [header.index(name) for name in _COLUMNS]
        label_column = header.index("label") if has_label else None
        entries = [(rows.line_num, row) for row in rows if row]
    except csv.Error as error:
        raise UserError(f"{path}: line {rows.line_num}: not csv: {error}") from None
    named = []
    for number, row in entries:
        try:
            youtube_id, *times = (row[column] for column in columns)
            begin, end = (int(float(text)) for text in times)
            # A test list may have the column, and nothing in it.
            class_name = (row[label_column] or None) if has_label else None
        except (IndexError, ValueError, OverflowError):
            raise UserError(f"{path}: line {number}: expected an id and two numbers of seconds") from None
        if class_name is None and subset != "testing":
            raise UserError(f"{path}: line {number}: no label")
        named.append((number, f"{youtube_id}_{begin:06d}_{end:06d}", class_name))
    if subset == "training":
        lists.add_classes(path, [class_name for *_, class_name in named])
    for number, name, class_name in named:
        lists.add(f"{path}: line {number}", name, class_name, subset)
