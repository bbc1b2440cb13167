"""HMDB-51: the split files that come with it.

Source: Kuehne, Jhuang, Garrote, Poggio, Serre, "HMDB: A Large Video Database for Human Motion
Recognition", ICCV 2011. 6,766 videos, 51 classes; each split trains 3,570 and tests 1,530.
"""
from datasets.class_folders import class_names, find_class_folders, numbered_annotations
from run.console import UserError, first_names, note
from run.text import read_text

__all__ = ["OPTIONS", "annotation_paths", "class_names", "find_videos", "splits"]
OPTIONS = {
    "annotation_dir_path": {
        "type": "path",
        "help": "folder of the official split files, <Class>_test_split1.txt, ...; needed",
    },
}
SPLITS = (1, 2, 3)
# 0 is for videos that a split leaves out, to have 70 for training and 30 for testing in each class.
_SUBSETS = {"0": None, "1": "training", "2": "validation"}


def find_videos(dir_path, options=None):
    """Return the avi files in class folders."""
    return find_class_folders(dir_path, (".avi",))


def annotation_paths(dst_path):
    """Return where the annotation files of the splits are: beside the frames' folder."""
    return numbered_annotations(dst_path, "hmdb51", SPLITS)


def splits(videos, options):
    """Return `{key: subset}` for each split, without the videos that it leaves out.

    Raises UserError for a video that the lists of its class do not name.
    """
    lists_path = options["annotation_dir_path"]
    if lists_path is None:
        raise UserError(
            "hmdb51 needs --annotation_dir_path, the folder of its split files (testTrainMulti_7030_splits)"
        )
    return [_split(videos, lists_path, split) for split in SPLITS]


def _split(videos, lists_path, split):
    lists = {name: read_split_list(lists_path, name, split) for name in class_names(videos)}
    unknown = [video for video in videos if video.key not in lists[video.class_name]]
    if unknown:
        raise UserError(
            f"{len(unknown)} videos are in no list of split {split} in {lists_path}: "
            f"{first_names([f'{video.class_name}/{video.path.name}' for video in unknown])}"
        )
    n_listed = sum(map(len, lists.values()))
    if n_listed > len(videos):
        note(f"{lists_path}: {n_listed - len(videos)} of {n_listed} videos of these classes are not here")
    subset_of = {video.key: lists[video.class_name][video.key] for video in videos}
    return {key: subset for key, subset in subset_of.items() if subset is not None}


def read_split_list(lists_path, class_name, split):
    """Read the list of a class, `<Class>_test_split1.txt`; return `{key: subset}`, None for left out.

        April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1
        Blonde_being_brushed_brush_hair_f_nm_np2_ri_med_0.avi 2
    """
    path = lists_path / f"{class_name}_test_split{split}.txt"
    try:
        lines = read_text(path).split("\n")
    except FileNotFoundError:
        raise UserError(f"{path}: no such list; expected HMDB-51's official split files") from None
    found = {}
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line:
            continue
        file_name, *code = line.rsplit(None, 1)
        name, code = file_name.rpartition(".")[0], "".join(code)
        if not name or code not in _SUBSETS or name in found:
            raise UserError(f"{path}: line {number}: expected <video>.avi and 0, 1 or 2, each video once")
        found[name] = _SUBSETS[code]
    return found
