"""Videos in class folders, and their split: what is found, what is refused, which groups are chosen."""
import itertools
import random
import re
from pathlib import Path

import pytest

from datasets.class_folders import sorted_names
from datasets.sources import SourceVideo
from datasets.sources.folder import find_videos, splits
from datasets.splitting import choose_groups
from run import console
from run.console import UserError


def make_files(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def videos_of(*names):
    paths = [Path("videos") / name for name in names]
    return [SourceVideo(p, f"{p.parent.name}/{p.stem}", p.stem, p.parent.name) for p in paths]


def split(videos, fraction=0.2, split_by=None, seed=1):
    split_by = split_by and re.compile(split_by)
    options = {"val_fraction": fraction, "split_by": split_by, "manual_seed": seed}
    (subset_of,) = splits(videos, options)
    assert subset_of.keys() == {video.key for video in videos}
    return {name for name, subset in subset_of.items() if subset == "validation"}


def test_videos_of_many_kinds_are_found_and_all_else_is_told(tmp_path, capsys):
    console.note.cache_clear()
    videos = ["Run/a [x]!.mp4", "Run/b.MKV", "Wave hand/c.webm", "Wave hand/d.mov", "wave/e.avi"]
    others = ["Run/._a.mp4", "Run/.DS_Store", ".git/config", "top.mp4", "Run/deep/z.mp4"]
    texts = [f"Run/{i}.txt" for i in range(5)]
    make_files(tmp_path, *videos, *others, *texts)
    (tmp_path / "Empty").mkdir()
    found = find_videos(tmp_path)
    assert [str(video.path.relative_to(tmp_path)) for video in found] == videos
    assert found[0][1:] == ("Run/a [x]!", "a [x]!", "Run", None)
    notes = {line.partition(f"{tmp_path}: ")[2] for line in capsys.readouterr().err.splitlines()}
    assert notes == {
        "3 hidden entries left out: .git, Run/.DS_Store, Run/._a.mp4",
        "1 files in no class folder left out: top.mp4",
        "1 folders in a class left out: Run/deep",
        "5 files of no video suffix left out: Run/0.txt, Run/1.txt, Run/2.txt, ...",
        "1 class folders without video files: Empty",
    }


@pytest.mark.parametrize(
    "names, message",
    [
        (["a/1.mp4", "a/1.avi"], "a/1.mp4: the same video name as .*a/1.avi; .* rename one"),
        (["0/1.mp4", "a/1.mp4", "a/1.avi"], "a/1.mp4: the same video name as .*a/1.avi"),
        (["1.mp4", "2.mp4"], "no video file in a class folder; expected <Class>/<video>.avi"),
        (["a/notes.txt"], "no video file in a class folder"),
        (["a/1\n2.mp4"], r"'1\\n2' cannot be a name in the annotation"),
        (["a\tb/1.mp4"], r"'a\\tb' cannot be a name"),
        (["a/1\\2.mp4"], "cannot be a name"),
        (["a/1\udcff.mp4"], "cannot be a name"),
    ],
)
def test_names_that_later_files_cannot_hold_are_refused(tmp_path, names, message):
    make_files(tmp_path, *names)
    with pytest.raises(UserError, match=message):
        find_videos(tmp_path)


def test_labels_do_not_depend_on_the_order_where_only_case_differs():
    for names in itertools.permutations(["run", "Run", "RUN", "jump"]):
        assert sorted_names(names) == ["jump", "RUN", "Run", "run"]


def test_each_video_is_its_own_group_and_each_class_has_its_fraction():
    sizes = {"a": 10, "b": 25, "c": 2, "d": 3}
    videos = videos_of(*(f"{c}/{c}{i}.mp4" for c, n in sizes.items() for i in range(n)))
    chosen = split(videos)
    assert {c: sum(name[0] == c for name in chosen) for c in "abcd"} == {"a": 2, "b": 5, "c": 1, "d": 1}
    for seed in range(5):
        random.Random(seed).shuffle(videos)
        assert split(videos) == chosen
    assert split(videos, seed=2) != chosen


def test_groups_are_those_of_ucf101_where_all_names_have_them():
    names = [f"{c}/v_{c}_g{g:02d}_c{i:02d}.avi" for c in "ab" for g in range(1, 11) for i in (1, 2)]
    groups = {name.split("_")[2] for name in split(videos_of(*names))}
    assert len(groups) == 2 and len(split(videos_of(*names))) == 8
    assert len(split(videos_of(*names, "b/other.avi"))) == 8  # 4 of 20 and 4 of 21, each its own


@pytest.mark.parametrize("pattern", [r"^(p\d)_", r"p\d", r"(?P<person>p\d)(_|x)"])
def test_a_group_is_on_one_side_in_all_classes(pattern):
    names = [f"{c}/p{p}_{c}_{i}.mov" for c in ("run", "walk", "wave") for p in range(5) for i in range(2)]
    chosen = split(videos_of(*names), split_by=pattern)
    (person,) = {name[:2] for name in chosen}
    assert len(chosen) == 6 and all(name.startswith(person) for name in chosen)


def test_names_without_a_group_are_named():
    videos = videos_of("a/p1_x.mp4", "a/q1.mp4", "a/q2.mp4", "b/q3.mp4", "b/q4.mp4")
    with pytest.raises(UserError, match=r"'p\(\\d\)' finds no group in 4 of 5 names .*: q1, q2, q3, \.\.\.$"):
        split(videos, split_by=r"p(\d)")
    with pytest.raises(UserError, match="finds no group in 1 of 2 names"):  # a group that took no part
        split(videos_of("a/p1.mp4", "a/p.mp4"), split_by=r"p(\d)?")


def test_what_cannot_be_split_is_told_or_refused(capsys):
    console.note.cache_clear()
    names = ["a/1.mp4", *(f"b/b{i}.mp4" for i in range(4)), "C/only.mp4"]
    assert len(split(videos_of(*names))) == 1
    assert "2 classes without validation videos, of one group: a, C" in capsys.readouterr().err
    # Three classes of two of three groups: one class has to go without.
    names = ["a/a1.mp4", "a/a2.mp4", "b/b2.mp4", "b/b3.mp4", "c/c1.mp4", "c/c3.mp4"]
    assert len(split(videos_of(*names), split_by=r"\d")) == 2
    told = capsys.readouterr().err
    assert "1 classes without validation videos, of groups that other classes need:" in told
    with pytest.raises(UserError, match="no class has videos of two groups"):
        split(videos_of("a/1.mp4", "b/2.mp4"))
    with pytest.raises(UserError, match="no class has videos of two groups.*another --split_by"):
        split(videos_of("a/x1.mp4", "a/x2.mp4"), split_by="x")


def miss(n_videos, chosen, fraction):
    """Return how many classes have no video on one side, and how far all are from the fraction."""
    n_missing, distance = 0, 0
    for name in {name for classes in n_videos.values() for name in classes}:
        validation = [c[name] for g, c in n_videos.items() if name in c and g in chosen]
        training = [c[name] for g, c in n_videos.items() if name in c and g not in chosen]
        n_missing += not training or (not validation and len(training) > 1)
        distance += abs(sum(validation) - fraction * sum(validation + training))
    return n_missing, round(distance, 6)


@pytest.mark.parametrize("seed", range(12))
def test_no_choice_of_groups_is_nearer_to_the_fraction(seed):
    rng = random.Random(seed)
    n_classes, fraction = rng.choice([1, 2, 3]), rng.choice([0.1, 0.2, 0.3, 0.5])
    n_videos = {}
    for group in range(rng.randint(2, 9)):
        names = rng.sample("abc"[:n_classes], rng.randint(1, n_classes))
        n_videos[str(group)] = {name: rng.choice([1, 2, 5, 30]) for name in names}
    every = (set(c) for n in range(len(n_videos) + 1) for c in itertools.combinations(n_videos, n))
    best = min(miss(n_videos, chosen, fraction) for chosen in every)
    assert miss(n_videos, choose_groups(n_videos, fraction, seed=1), fraction) == best


def test_many_classes_with_one_large_group_each_all_find_the_small_one():
    n_videos = {f"{c}-{g}": {c: n} for c in range(100) for g, n in enumerate([90, 3, 3, 2, 2])}
    chosen = choose_groups(n_videos, 0.1, seed=1)
    assert miss(n_videos, chosen, 0.1) == (0, 0)
