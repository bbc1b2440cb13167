"""UCF-101: its folders, its file names and its three splits.

Source: Soomro, Zamir, Shah, "UCF101", CRCV-TR-12-01, and the split files that come with it.
"""
from datasets.class_folders import GROUP, class_names, find_class_folders, numbered_annotations
from run.console import UserError, first_names
from run.text import read_text

__all__ = ["OPTIONS", "annotation_paths", "class_names", "find_videos", "splits"]
OPTIONS = {
    "annotation_dir_path": {
        "type": "path",
        "help": "folder of the official lists, trainlist01.txt, testlist01.txt, ...; default: none, the "
        "splits follow from the group numbers",
    },
}
SPLITS = (1, 2, 3)
N_TEST_GROUPS = 7


def find_videos(dir_path, options=None):
    """Return the avi files in class folders."""
    return find_class_folders(dir_path, (".avi",))


def annotation_paths(dst_path):
    """Return where the annotation files of the splits are: beside the frames' folder."""
    return numbered_annotations(dst_path, "ucf101", SPLITS)


def splits(videos, options):
    """Return `{key: subset}` for each split: by the official lists if given, else by the groups.

    Raises UserError for a video that is in no list, or has no group in its name.
    """
    lists_path, keys = options["annotation_dir_path"], [video.key for video in videos]
    if lists_path is None:
        return [{key: subset_by_group(key, split) for key in keys} for split in SPLITS]
    found = []
    for split in SPLITS:
        lists = read_split_lists(lists_path, split)
        unknown = [key for key in keys if key not in lists]
        if unknown:
            text = f"{len(unknown)} videos are in no list of split {split} in {lists_path}"
            raise UserError(f"{text}: {first_names(unknown)}")
        found.append({key: lists[key] for key in keys})
    return found


def subset_by_group(key, split):
    """Return "validation" if the video's group is one of the split's seven test groups, else "training".

    Split 1 tests groups 1-7, split 2 groups 8-14, split 3 groups 15-21; groups 22-25 always train.
    Raises UserError for a name without a group.
    """
    match = GROUP.search(key)
    if not match:
        raise UserError(
            f"{key}: no group in the name, expected v_<Name>_g<group>_c<clip>; "
            "give the official lists with --annotation_dir_path"
        )
    first = (split - 1) * N_TEST_GROUPS + 1
    return "validation" if first <= int(match[1]) < first + N_TEST_GROUPS else "training"


def read_split_lists(lists_path, split):
    """Read UCF-101's official lists of a split; return `{key: subset}`.

    `trainlist01.txt` has lines like `ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1`, and
    `testlist01.txt` the same without the number.
    """
    subsets = {}
    for subset, prefix in (("training", "trainlist"), ("validation", "testlist")):
        path = lists_path / f"{prefix}{split:02d}.txt"
        try:
            lines = read_text(path).split("\n")
        except FileNotFoundError:
            raise UserError(f"{path}: no such list; expected UCF-101's official split files") from None
        for line in filter(None, map(str.strip, lines)):
            key = line.split()[0].rsplit("/", 1)[-1].rsplit(".", 1)[0]
            if subsets.setdefault(key, subset) != subset:
                raise UserError(f"{path}: {key} is in both lists of split {split}")
    return subsets
