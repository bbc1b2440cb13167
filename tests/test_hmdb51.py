"""HMDB-51's split files."""
import re
from pathlib import Path

import pytest

from datasets.sources import SourceVideo
from datasets.sources.hmdb51 import read_split_list, splits
from run import console
from run.console import UserError

NAMES = ["300+_Yards!!!_golf_[x]_0", "b_golf_1", "c_golf_2"]
PATHS = [Path("videos/golf") / f"{name}.avi" for name in NAMES] + [Path("videos/ride_bike/d e.avi")]
VIDEOS = [SourceVideo(p, f"{p.parent.name}/{p.stem}", p.stem, p.parent.name) for p in PATHS]


def write_lists(folder, codes="120", split=1):
    lines = [f"{name}.avi {code} \n" for name, code in zip(NAMES, codes)]
    (folder / f"golf_test_split{split}.txt").write_text("".join(lines))
    (folder / f"ride_bike_test_split{split}.txt").write_bytes(b"d e.avi 1\r\n\r\n")


def test_ones_train_twos_validate_and_zeros_are_left_out(tmp_path):
    for split, codes in enumerate(("120", "201", "012"), start=1):
        write_lists(tmp_path, codes, split)
    t, v = "training", "validation"
    assert splits(VIDEOS, {"annotation_dir_path": tmp_path}) == [
        {NAMES[0]: t, NAMES[1]: v, "d e": t},
        {NAMES[0]: v, NAMES[2]: t, "d e": t},
        {NAMES[1]: t, NAMES[2]: v, "d e": t},
    ]


def test_listed_videos_that_are_not_there_are_told(tmp_path, capsys):
    console.note.cache_clear()
    for split in (1, 2, 3):
        write_lists(tmp_path, split=split)
    splits(VIDEOS[:2], {"annotation_dir_path": tmp_path})
    assert capsys.readouterr().err == f"note: {tmp_path}: 1 of 3 videos of these classes are not here\n"


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda p: p.unlink(), "golf_test_split1.txt: no such list"),
        (lambda p: p.write_text("b_golf_1.avi 1\n"), "2 videos are in no list of split 1.*: golf/300"),
        (lambda p: p.write_text("b_golf_1.avi 3\n"), "line 1: expected <video>.avi and 0, 1 or 2"),
        (lambda p: p.write_text("b_golf_1.avi\n"), "line 1: expected"),
        (lambda p: p.write_text("1\n"), "line 1: expected"),
        (lambda p: p.write_text("b.avi 1\n\nb.avi 1\n"), "line 3: expected .* each video once"),
    ],
)
def test_a_bad_list_is_named(tmp_path, spoil, message):
    write_lists(tmp_path)
    spoil(tmp_path / "golf_test_split1.txt")
    with pytest.raises(UserError, match=message):
        splits(VIDEOS, {"annotation_dir_path": tmp_path})


def test_the_lists_are_asked_for():
    with pytest.raises(UserError, match=re.escape("--annotation_dir_path, the folder of its split files")):
        splits(VIDEOS, {"annotation_dir_path": None})


def test_a_list_is_read_as_it_is_published(tmp_path):
    write_lists(tmp_path)
    expected = dict(zip(NAMES, ["training", "validation", None]))
    assert read_split_list(tmp_path, "golf", 1) == expected
