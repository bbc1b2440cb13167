"""Videos of one's own in a folder for each class, `<Class>/<video>.mp4`, and a split made here.

The videos of one group (of one person, one place, one original film) are alike, so that a group is on
one side of the split: a network tested on videos of its training groups looks better than it is.
"""
from collections import Counter

from datasets.class_folders import GROUP, class_names, find_class_folders, one_annotation, sorted_names
from datasets.splitting import choose_groups
from run.console import UserError, first_names, note

__all__ = ["OPTIONS", "annotation_paths", "class_names", "find_videos", "splits", "summary"]
OPTIONS = {
    "val_fraction": {
        "type": "float",
        "default": 0.2,
        "low": 0,
        "above": True,
        "high": 0.9,
        "help": "part of each class's videos to validate on, as near as the groups allow",
    },
    "split_by": {
        "type": "pattern",
        "help": "what videos that belong together share in their names (without suffix), the first group or "
        "the whole match; default: UCF-101's _g<group>_c<clip> if all have it, else each is its own",
    },
    "manual_seed": {"type": "int", "default": 1, "low": 0, "help": "seed of the split"},
}
annotation_paths = one_annotation


def find_videos(dir_path, options=None):
    """Return the video files in class folders; a name may come again in another class."""
    return find_class_folders(dir_path, may_repeat=True)


def splits(videos, options):
    """Return the one split of the videos, `[{key: subset}]`, the same for any order of videos.

    Raises UserError if `split_by`, a compiled pattern, does not find a group in each name, and if no class
    can be split. Notes the classes that cannot.
    """
    split_by = options["split_by"]
    group_of = _group_of(sorted(videos), split_by)
    n_videos = {}
    for video in sorted(videos):
        n_videos.setdefault(group_of[video.key], Counter())[video.class_name] += 1
    chosen = choose_groups(n_videos, options["val_fraction"], options["manual_seed"])
    if not chosen:
        raise UserError(
            "no class has videos of two groups, so that none can be validated; add videos"
            + (", or give another --split_by" if split_by else "")
        )
    _note_one_sided(n_videos, chosen)
    return [{key: "validation" if group in chosen else "training" for key, group in group_of.items()}]


def _group_of(videos, split_by):
    """Return `{key: group}`: by `split_by`, else UCF-101's if all names have them, else each its own."""
    names = {video.key: video.path.stem for video in videos}  # a key may have the class before the name
    if split_by is None and not all(map(GROUP.search, names.values())):
        return {key: key for key in names}
    groups = {}
    for key, name in names.items():
        match = (split_by or GROUP).search(name)
        groups[key] = match and (match[1] if match.re.groups else match[0])
    missing = sorted(names[key] for key in names if groups[key] is None)
    if missing:
        raise UserError(
            f"--split_by '{split_by.pattern}' finds no group in {len(missing)} of {len(names)} names "
            f"(without their suffix): {first_names(missing)}"
        )
    return groups


def _note_one_sided(n_videos, chosen):
    """Note the classes that have no validation videos, and why, and those that have no training videos."""
    n_groups = Counter(name for classes in n_videos.values() for name in classes)
    validated = {name for group in chosen for name in n_videos[group]}
    for what, names in (
        ("of one group", [name for name in n_groups if n_groups[name] == 1]),
        ("of groups that other classes need", [name for name in n_groups if n_groups[name] > 1]),
    ):
        names = [name for name in sorted_names(names) if name not in validated]
        if names:
            note(f"{len(names)} classes without validation videos, {what}: {first_names(names)}")
    untrained = n_groups.keys() - {name for group in n_videos.keys() - chosen for name in n_videos[group]}
    if untrained:
        note(f"{len(untrained)} classes without training videos: {first_names(sorted_names(untrained))}")


def summary(names, subsets):
    """Return lines of `<Class> <training>/<validation>`, in order of `names`, several a line if they fit."""
    n_training, n_validation = (Counter(subsets[name].class_indices) for name in ("training", "validation"))
    cells = [f"{name} {n_training[i]}/{n_validation[i]}" for i, name in enumerate(names)]
    width = max(map(len, cells)) + 3
    n_cells = max(1, 100 // width)
    rows = (cells[i : i + n_cells] for i in range(0, len(cells), n_cells))
    return ["  " + "".join(cell.ljust(width) for cell in row).rstrip() for row in rows]
