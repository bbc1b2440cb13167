"""What is peculiar to UCF-101: its folders, its file names and its three splits.

Source: Soomro, Zamir, Shah, "UCF101", CRCV-TR-12-01, and the split files that come with it.
"""
import re

from opts import UserError

SPLITS = (1, 2, 3)
N_TEST_GROUPS = 7
_GROUP = re.compile(r"_g(\d+)_c\d+$")


def find_videos(videos_path):
    """Return the avi files under `<videos_path>/<Class>/`, in order, as a list of paths.

    Raises UserError where the folder is missing, holds no such file, or holds one name twice (the
    name is the video's key in every later file).
    """
    if not videos_path.is_dir():
        raise UserError(
            f"{videos_path}: no such folder; expected <Class>/<video>.avi in it, "
            "as in UCF-101's own archive"
        )
    paths = sorted(path for path in videos_path.glob("*/*") if path.suffix.lower() == ".avi")
    if not paths:
        raise UserError(f"{videos_path}: no avi file; expected <Class>/<video>.avi in it")
    seen = {}
    for path in paths:
        other = seen.setdefault(path.stem, path)
        if other is not path:
            raise UserError(f"{path}: the same video name as {other}")
    return paths


def class_labels(class_names):
    """Return the class names in label order: without regard to case (JumpingJack, JumpRope)."""
    return sorted(set(class_names), key=str.lower)


def subset_by_group(video_name, split):
    """Return "validation" where the video's group is one of the split's seven test groups.

    Split 1 tests groups 1-7, split 2 groups 8-14, split 3 groups 15-21; groups 22-25 always train.
    Raises UserError for a name without a group.
    """
    match = _GROUP.search(video_name)
    if not match:
        raise UserError(
            f"{video_name}: no group in the name, expected v_<Name>_g<group>_c<clip>; "
            "give the official lists with --annotation_dir_path"
        )
    first = (split - 1) * N_TEST_GROUPS + 1
    return "validation" if first <= int(match[1]) < first + N_TEST_GROUPS else "training"


def read_split_lists(lists_path, split):
    """Read UCF-101's official lists of a split; return `{video: subset}`.

    `trainlist01.txt` has lines like `ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1`, and
    `testlist01.txt` the same without the number.
    """
    subsets = {}
    for subset, prefix in (("training", "trainlist"), ("validation", "testlist")):
        path = lists_path / f"{prefix}{split:02d}.txt"
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except FileNotFoundError:
            raise UserError(f"{path}: no such list; expected UCF-101's official split files") from None
        for line in filter(None, map(str.strip, lines)):
            name = line.split()[0].rsplit("/", 1)[-1].rsplit(".", 1)[0]
            if subsets.setdefault(name, subset) != subset:
                raise UserError(f"{path}: {name} is in both lists of split {split}")
    return subsets
