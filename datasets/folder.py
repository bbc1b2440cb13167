"""Videos in a folder for each class, `<Class>/<video>.mp4`, and a split of one's own for them.

The videos of one group (of one person, one place, one original film) are alike, so that a group is on
one side of the split: a network tested on videos of its training groups looks better than it is.
"""
import hashlib
import re
from collections import Counter

from datasets.annotation import is_safe_name
from opts import VIDEO_SUFFIXES, UserError, note, shown

# UCF-101's file names, v_<Name>_g<group>_c<clip>, which others follow.
GROUP = re.compile(r"_g(\d+)_c\d+$")


def listed(names):
    """Return the first three names, and dots for more."""
    return ", ".join(shown(str(name)) for name in names[:3]) + (", ..." if len(names) > 3 else "")


def find_videos(videos_path, suffixes=VIDEO_SUFFIXES):
    """Return the video files `<videos_path>/<Class>/<video><suffix>`, in order, as a list of paths.

    Notes how many other files there are, with the first three. Raises UserError where the folder is
    missing, holds no video, holds one name twice (the name is the video's key in every later file), or a
    name that no annotation may have.
    """
    kinds = "avi" if suffixes == (".avi",) else "video"
    expected = f"expected <Class>/<video>{suffixes[0]} in it"
    if not videos_path.is_dir():
        raise UserError(f"{videos_path}: no such folder; {expected}")
    paths, left_out = [], {}

    def leave_out(why, path):
        left_out.setdefault(why, []).append(path.relative_to(videos_path))

    for folder in sorted(videos_path.iterdir()):
        if folder.name.startswith("."):
            leave_out("hidden entries left out", folder)
        elif not folder.is_dir():
            leave_out("files in no class folder left out", folder)
        else:
            n_before = len(paths)
            for path in sorted(folder.iterdir()):
                if path.name.startswith("."):
                    leave_out("hidden entries left out", path)
                elif path.suffix.lower() in suffixes:
                    paths.append(path)
                else:
                    what = "folders in a class" if path.is_dir() else f"files of no {kinds} suffix"
                    leave_out(f"{what} left out", path)
            if len(paths) == n_before:
                leave_out(f"class folders without {kinds} files", folder)
    for why, names in left_out.items():
        note(f"{videos_path}: {len(names)} {why}: {listed(names)}")
    if not paths:
        raise UserError(f"{videos_path}: no {kinds} file in a class folder; {expected}")
    seen = {}
    for path in paths:
        other = seen.setdefault(path.stem, path)
        if other is not path:
            raise UserError(
                f"{path}: the same video name as {other}; the name is the key in all later files, rename one"
            )
        for name in (path.stem, path.parent.name):
            if not is_safe_name(name):
                raise UserError(f"{videos_path}: {name!r:.300} cannot be a name in the annotation, rename it")
    return paths


def class_labels(class_names):
    """Return the class names in label order: without regard to case (JumpingJack, JumpRope)."""
    return sorted(set(class_names), key=lambda name: (name.lower(), name))


def annotation_paths(dst_path):
    """Return where the annotation file is: beside the frames' folder, with its name."""
    dst_path = dst_path if dst_path.name.strip(".") else dst_path.resolve()
    return [dst_path.with_name(f"{dst_path.name}.json")]


def subsets(paths, val_fraction, split_by, seed, **_):
    """Return the one split of the videos, `[{video: subset}]`, the same for any order of paths.

    Raises UserError where `split_by`, a compiled pattern, does not find a group in each name, and where
    no class can be split. Notes the classes that cannot.
    """
    group_of = _group_of(sorted(path.stem for path in paths), split_by)
    n_videos = {}
    for path in sorted(paths):
        n_videos.setdefault(group_of[path.stem], Counter())[path.parent.name] += 1
    chosen = choose_groups(n_videos, val_fraction, seed)
    n_groups = Counter(name for classes in n_videos.values() for name in classes)
    validated = {name for group in chosen for name in n_videos[group]}
    if not validated:
        raise UserError(
            "no class has videos of two groups, so that none can be validated; add videos"
            + (", or give another --split_by" if split_by else "")
        )
    for what, names in (
        ("of one group", [name for name in n_groups if n_groups[name] == 1]),
        ("of groups that other classes need", [name for name in n_groups if n_groups[name] > 1]),
    ):
        names = [name for name in class_labels(names) if name not in validated]
        if names:
            note(f"{len(names)} classes without validation videos, {what}: {listed(names)}")
    untrained = n_groups.keys() - {name for group in n_videos.keys() - chosen for name in n_videos[group]}
    if untrained:
        note(f"{len(untrained)} classes without training videos: {listed(class_labels(untrained))}")
    return [{name: "validation" if group in chosen else "training" for name, group in group_of.items()}]


def _group_of(names, split_by):
    """Return `{video: group}`: by `split_by`, else UCF-101's where all names have them, else each its own."""
    if split_by is None and not all(map(GROUP.search, names)):
        return {name: name for name in names}
    groups = {}
    for name in names:
        match = (split_by or GROUP).search(name)
        groups[name] = match and (match[1] if match.re.groups else match[0])
    missing = [name for name in names if groups[name] is None]
    if missing:
        raise UserError(
            f"--split_by '{split_by.pattern}' finds no group in {len(missing)} of {len(names)} names "
            f"(without their suffix): {listed(missing)}"
        )
    return groups


def choose_groups(n_videos, fraction, seed):
    """Return the set of groups to validate on; `n_videos` maps each to its `{class: number of videos}`.

    Each class comes as near to the fraction as was found: from several random starts, a group at a time
    changes sides while that helps. Having none on one side is worse than any number, but for a class of
    one group, which is best left to training.
    """
    return set().union(*(_choose(part, fraction, seed) for part in _independent_parts(n_videos)))


def _independent_parts(n_videos):
    """Divide the groups into parts that share no class; yield the entries of each."""
    part_of = {}
    for group, classes in n_videos.items():
        touched = {id(part_of[name]): part_of[name] for name in classes if name in part_of}
        first, *others = sorted(touched.values(), key=len, reverse=True) or [{}]
        first[group] = classes
        for other in others:
            first.update(other)
        for name in {name for entries in (*others, {group: classes}) for c in entries.values() for name in c}:
            part_of[name] = first
    yield from {id(part): part for part in part_of.values()}.values()


def _choose(n_videos, fraction, seed, n_starts=50):
    n_all, n_groups = Counter(), Counter()
    for classes in n_videos.values():
        n_all.update(classes)
        n_groups.update(classes.keys())
    too_bad = 2 * sum(n_all.values())

    def cost(name, n):
        is_one_sided = n == n_all[name] or (n == 0 and n_groups[name] > 1)
        return abs(n - fraction * n_all[name]) + too_bad * is_one_sided

    best_cost, best = None, set()
    for start in range(max(1, min(n_starts, 200_000 // len(n_videos)))):
        order = sorted(
            n_videos, key=lambda group: hashlib.sha256(f"{seed} {start} {group}".encode()).digest()
        )
        chosen, n_chosen, is_better = set(), Counter(), True
        while is_better:
            is_better = False
            for group in order:
                sign = -1 if group in chosen else 1
                after = {name: n_chosen[name] + sign * n for name, n in n_videos[group].items()}
                if sum(cost(name, n) - cost(name, n_chosen[name]) for name, n in after.items()) < -1e-9:
                    chosen ^= {group}
                    n_chosen.update({name: n - n_chosen[name] for name, n in after.items()})
                    is_better = True
        whole_cost = sum(cost(name, n_chosen[name]) for name in n_all)
        if best_cost is None or whole_cost < best_cost:
            best_cost, best = whole_cost, chosen
        if best_cost <= len(n_all) / 2:  # half a video a class: the rounding
            break
    return best


def counts_by_class(videos):
    """Return lines of `<Class> <training>/<validation>`, in label order, several a line where they fit."""
    counts = {subset: Counter(video.class_name for video in members) for subset, members in videos.items()}
    names = class_labels(name for members in counts.values() for name in members)
    cells = [f"{name} {counts['training'][name]}/{counts['validation'][name]}" for name in names]
    width = max(map(len, cells)) + 3
    n_cells = max(1, 100 // width)
    rows = (cells[i : i + n_cells] for i in range(0, len(cells), n_cells))
    return ["  " + "".join(cell.ljust(width) for cell in row).rstrip() for row in rows]
