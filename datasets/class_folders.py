"""Videos in a folder for each class, `<Class>/<video>.avi`: finding them, and what their names tell."""
import os
import re
import unicodedata

from datasets.samples import is_safe_name
from datasets.sources import SourceVideo
from run.console import UserError, first_names, note
from run.files import VIDEO_SUFFIXES

# UCF-101's file names, v_<Name>_g<group>_c<clip>, which others follow.
GROUP = re.compile(r"_g(\d+)_c\d+$")


def find_class_folders(dir_path, suffixes=VIDEO_SUFFIXES, may_repeat=False):
    """Return the videos `<dir_path>/<Class>/<video><suffix>`, in order, as `SourceVideo`s.

    A video's key is its name, without the suffix. With `may_repeat`, if one name is in two classes, all keys
    are "<Class>/<video>", and a note says so.

    Notes how many other files there are, with the first three. Raises UserError if the folder is
    missing or holds no video, for one name that comes twice, and for a name that no annotation may have.
    """
    kinds = "avi" if suffixes == (".avi",) else "video"
    expected = f"expected <Class>/<video>{suffixes[0]} in it"
    if not dir_path.is_dir():
        raise UserError(f"{dir_path}: no such folder; {expected}")
    paths, left_out = _listed(dir_path, suffixes, kinds)
    for why, names in left_out.items():
        note(f"{dir_path}: {len(names)} {why}: {first_names(names)}")
    if not paths:
        raise UserError(f"{dir_path}: no {kinds} file in a class folder; {expected}")
    _require_safe(dir_path, paths)
    _note_alike(dir_path, sorted_names(path.parent.name for path in paths))
    keyed = _keyed(dir_path, paths, may_repeat)
    return [SourceVideo(p, f"{p.parent.name}/{p.stem}", key, p.parent.name) for p, key in keyed]


def _require_safe(dir_path, paths):
    for path in paths:
        for name in (path.stem, path.parent.name):
            if not is_safe_name(name):
                raise UserError(f"{dir_path}: {name!r:.300} cannot be a name in the annotation, rename it")


def _keyed(dir_path, paths, may_repeat):
    """Return `(path, key)` of each video."""
    in_class = _repeated(paths, lambda path: (path.parent.name, path.stem))
    in_set = _repeated(paths, lambda path: path.stem)
    if in_class or (in_set and not may_repeat):
        path, other = (in_class or in_set)[0]
        raise UserError(
            f"{path}: the same video name as {other}; the name is the key in all later files, rename one"
        )
    if in_set:
        names = first_names(sorted({path.stem for path, _ in in_set}))
        note(f"{dir_path}: names in several classes ({names}), so the key of each video is <Class>/<video>")
    return [(path, f"{path.parent.name}/{path.stem}" if in_set else path.stem) for path in paths]


def _repeated(paths, name_of):
    """Return `(path, first path of that name)` for each path that is not the first of its name."""
    seen = {}
    pairs = ((path, seen.setdefault(name_of(path), path)) for path in paths)
    return [(path, first) for path, first in pairs if first is not path]


def _note_alike(dir_path, class_names):
    """Note classes that are one class for a reader: they differ in case, spaces or Unicode form only."""
    alike = {}
    for name in class_names:
        form = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        alike.setdefault(form, []).append(ascii(name))
    for names in alike.values():
        if len(names) > 1:
            them = " and ".join(names)
            note(f"{dir_path}: {them} are classes of their own; if they are one, rename a folder")


def _listed(dir_path, suffixes, kinds):
    """Return the paths of the videos, and what else lies there as `{what it is: its paths}`."""
    paths, left_out = [], {}

    def leave_out(why, path):
        left_out.setdefault(why, []).append(path.relative_to(dir_path))

    for folder in sorted(dir_path.iterdir()):
        if folder.name.startswith("."):
            leave_out("hidden entries left out", folder)
        elif not os.path.isdir(folder):
            leave_out("files in no class folder left out", folder)
        else:
            n_before = len(paths)
            for path in sorted(folder.iterdir()):
                if path.name.startswith("."):
                    leave_out("hidden entries left out", path)
                elif path.suffix.lower() in suffixes:
                    paths.append(path)
                else:
                    what = "folders in a class" if os.path.isdir(path) else f"files of no {kinds} suffix"
                    leave_out(f"{what} left out", path)
            if len(paths) == n_before:
                leave_out(f"class folders without {kinds} files", folder)
    return paths, left_out


def sorted_names(class_names):
    """Return each of some class names once, sorted without regard to case (JumpingJack before JumpRope)."""
    return sorted(set(class_names), key=lambda name: (name.lower(), name))


def class_names(videos, options=None):
    """Return the class names of videos in the order of their indices: sorted without regard to case."""
    return sorted_names(video.class_name for video in videos)


def numbered_annotations(dst_path, name, splits):
    """Return the annotation files `<name>_01.json`, ... of some splits, beside the folder of frames."""
    return [dst_path.parent / f"{name}_{split:02d}.json" for split in splits]


def one_annotation(dst_path):
    """Return the annotation file of a set with one split: beside the frames' folder, with its name."""
    dst_path = dst_path if dst_path.name.strip(".") else dst_path.resolve()
    return [dst_path.with_name(f"{dst_path.name}.json")]
