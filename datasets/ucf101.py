"""What is peculiar to UCF-101: its folders, its file names and its three splits.

Source: Soomro, Zamir, Shah, "UCF101", CRCV-TR-12-01, and the split files that come with it.
"""
from datasets import folder
from opts import UserError

SPLITS = (1, 2, 3)
N_TEST_GROUPS = 7


def find_videos(videos_path):
    """Return the avi files as `folder.find_videos` does."""
    return folder.find_videos(videos_path, (".avi",))


def annotation_paths(dst_path):
    """Return where the annotation files of the splits are: beside the frames' folder."""
    return [dst_path.parent / f"ucf101_{split:02d}.json" for split in SPLITS]


def subsets(paths, lists_path=None, **_):
    """Return `{video: subset}` for each split: by the official lists where given, else by the groups.

    Raises UserError for a video that is in no list, or has no group in its name.
    """
    names = [path.stem for path in paths]
    if lists_path is None:
        return [{name: subset_by_group(name, split) for name in names} for split in SPLITS]
    splits = []
    for split in SPLITS:
        lists = read_split_lists(lists_path, split)
        unknown = [name for name in names if name not in lists]
        if unknown:
            text = f"{len(unknown)} videos are in no list of split {split} in {lists_path}"
            raise UserError(f"{text}: {folder.listed(unknown)}")
        splits.append({name: lists[name] for name in names})
    return splits


def subset_by_group(video_name, split):
    """Return "validation" where the video's group is one of the split's seven test groups.

    Split 1 tests groups 1-7, split 2 groups 8-14, split 3 groups 15-21; groups 22-25 always train.
    Raises UserError for a name without a group.
    """
    match = folder.GROUP.search(video_name)
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
