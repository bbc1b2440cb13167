"""Kinetics' lists, and a small copy of the set from its videos to an accuracy."""
import json

import pytest
from conftest import SMALL_TRAINING

pytest.importorskip("cv2")
import numpy as np
from moving_shapes import draw_video, write_video

from datasets.sources import kinetics
from run import console
from run.console import UserError

TRAIN = """youtube_id, Label ,time_start,time_end,split,is_cc
-abcdefghi1,zumba (dance),3,13,train,0
abcdefghij2,"bowling, fast",0.0,10.0,train,0
abcdefghij3,zumba (dance),7,17,train,0
abcdefghij4,"bowling, fast",7,17,train,0
"""
VAL = """label,youtube_id,time_start,time_end,split
"bowling, fast",v2345678901,1,11,validate
zumba (dance),v2345678902,1,11,validate
"""
TEST = "youtube_id,time_start,time_end,split\nt2345678901,100000,100010,test\n"


def write_lists(folder, **texts):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name.replace('__', '-')}.csv").write_text(text)


@pytest.fixture
def lists_path(tmp_path):
    write_lists(tmp_path / "lists", train=TRAIN, validate=VAL, test=TEST)
    return tmp_path / "lists"


def make_files(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


NAMES = ("-abcdefghi1_000003_000013", "abcdefghij2_000000_000010", "v2345678901_000001_000011")


def find(root, lists_path=None):
    console.note.cache_clear()
    kinetics._lists.cache_clear()
    options = {"annotation_dir_path": lists_path, "dir_path": root}
    videos = kinetics.find_videos(root, options)
    return videos, options


def test_the_lists_decide_class_and_subset_wherever_the_videos_lie(tmp_path, lists_path):
    places = ("zumba (dance)/", "train/bowling, fast/", "val/")
    make_files(tmp_path / "videos", *(f"{p}{n}.mp4" for p, n in zip(places, NAMES)))
    make_files(tmp_path / "videos", "test/t2345678901_100000_100010.webm")
    videos, options = find(tmp_path / "videos", lists_path)
    assert [video[1:] for video in videos] == [
        (f"zumba (dance)/{NAMES[0]}", NAMES[0], "zumba (dance)", "training"),
        (f"bowling, fast/{NAMES[1]}", NAMES[1], "bowling, fast", "training"),
        (f"bowling, fast/{NAMES[2]}", NAMES[2], "bowling, fast", "validation"),
        ("test/t2345678901_100000_100010", "t2345678901_100000_100010", None, "testing"),
    ]
    assert kinetics.class_names(videos, options) == ["zumba (dance)", "bowling, fast"]
    assert kinetics.splits(videos, options) == [{video.key: video.subset for video in videos}]
    assert [entry.video[:11] for entry in kinetics.missing_videos(videos, options)] == [
        "abcdefghij3", "abcdefghij4", "v2345678902",
    ]


@pytest.mark.parametrize(
    "names", [("kinetics__400_train", "kinetics__400_val"), ("kinetics_train", "kinetics_val"),
              ("kinetics700_2020_train", "kinetics700_2020_validation"), ("Train", "VAL")]
)
def test_the_lists_are_known_by_every_name_that_is_about_beside_the_videos(tmp_path, names, capsys):
    write_lists(tmp_path, **dict(zip(names, (TRAIN, VAL))))
    make_files(tmp_path / "videos", *(f"a/{n}.mp4" for n in NAMES))
    videos, _ = find(tmp_path / "videos")
    assert [video.subset for video in videos] == ["training", "training", "validation"]
    assert "no list of the subset testing" in capsys.readouterr().err


def test_a_replacement_comes_in_place_of_a_video_and_strangers_are_told(tmp_path, lists_path, capsys):
    root = tmp_path / "videos"
    make_files(root, f"a/{NAMES[0]}.mp4", f"replacement_for_corrupted/{NAMES[0]}.mp4")
    make_files(root, "a/other.mp4", "a/b.part")
    videos, _ = find(root, lists_path)
    assert [video.path.parent.name for video in videos] == ["replacement_for_corrupted"]
    told = capsys.readouterr().err
    assert "1 videos taken from a replacement folder" in told
    assert "1 videos in no list left out: a/other.mp4" in told
    assert "no video suffix left out: a/b.part" in told
    make_files(root, f"b/{NAMES[0]}.mp4")
    with pytest.raises(UserError, match=f"b/{NAMES[0]}.mp4: the same video as .*a/{NAMES[0]}.mp4"):
        find(root, lists_path)


def test_a_video_of_two_lists_is_not_trained_on_and_repeats_are_told(tmp_path, capsys):
    repeated = VAL + VAL.splitlines()[1] + "\nzumba (dance),-abcdefghi1,3,13,validate\n"
    write_lists(tmp_path / "lists", train=TRAIN, val=repeated)
    make_files(tmp_path / "videos", *(f"a/{n}.mp4" for n in NAMES))
    videos, _ = find(tmp_path / "videos", tmp_path / "lists")
    assert {video.key: video.subset for video in videos}[NAMES[0]] == "validation"
    told = capsys.readouterr().err
    assert "1 videos listed twice: v2345678901" in told and "1 videos in the lists of two subsets" in told


@pytest.mark.parametrize(
    "lists, message",
    [
        ({"val": VAL}, "no training list"),
        ({"train": TRAIN, "kinetics_train": TRAIN}, "2 lists of the subset training"),
        ({"train": "label,youtube_id\na,b\n"}, "line 1: no column time_start, time_end; found label"),
        ({"train": TEST}, "line 1: no column label"),
        ({"train": TRAIN + "x,zumba (dance),a,b,c,0\n"}, "line 6: expected an id and two numbers"),
        ({"train": TRAIN + "x\n"}, "line 6: expected an id"),
        ({"train": TRAIN + "x,,1,2,train,0\n"}, "line 6: no label"),
        ({"train": TRAIN + "x,a/b,1,2,train,0\n"}, "class 'a/b' cannot be a name"),
        ({"train": TRAIN + "../x,zumba (dance),1,2,train,0\n", "val": VAL}, "cannot be a name|none of"),
        ({"train": TRAIN, "val": VAL + "golf,x,1,2,v\n"}, "line 4: 'golf' is no class of the set"),
        ({"train": TRAIN + '-abcdefghi1,"bowling, fast",3,13,,\n'}, "line 6: .* delete one of the lines"),
        ({}, "no lists such as"),
    ],
)
def test_a_bad_list_is_named(tmp_path, lists, message):
    write_lists(tmp_path / "lists", **lists)
    make_files(tmp_path / "videos", "a/y.mp4")
    with pytest.raises(UserError, match=message):
        find(tmp_path / "videos", tmp_path / "lists")


def test_a_small_kinetics_goes_from_videos_to_an_accuracy(tmp_path, lists_path, run_script):
    rng = np.random.default_rng(0)
    for place, name in (
        *(("train/zumba (dance)", n) for n in (NAMES[0], "abcdefghij3_000007_000017")),
        *(("train/bowling, fast", n) for n in (NAMES[1], "abcdefghij4_000007_000017")),
        ("val/bowling, fast", NAMES[2]), ("test", "t2345678901_100000_100010"),
    ):
        write_video(tmp_path / "k" / place / f"{name}.mp4", draw_video("MoveUp", 12, rng))
    arguments = "k", "k-jpg", "kinetics", "--annotation_dir_path", "lists", "--size", 40
    code, out, err = run_script("generate_video_jpgs.py", *arguments, cwd=tmp_path)
    assert code == 0, err
    assert "1 of 7 listed videos are not in k: v2345678902_000001_000011; all in k-jpg_missing.csv\n" in err
    lines = (tmp_path / "k-jpg_missing.csv").read_text().splitlines()
    assert lines == ["video,label,subset", "v2345678902_000001_000011,zumba (dance),validation"]
    assert "k-jpg.json: 4 training, 1 validation, 1 testing videos\n" in out
    content = json.loads((tmp_path / "k-jpg.json").read_text())
    assert content["labels"] == ["zumba (dance)", "bowling, fast"]
    entry = content["database"]["t2345678901_100000_100010"]
    assert entry == {"subset": "testing", "annotations": {"segment": [1, 13]}}

    data = ["--video_path", "k-jpg", "--annotation_path", "k-jpg.json", "--n_threads", 0]
    code, out, err = run_script("train.py", *SMALL_TRAINING, *data, "--n_epochs", 1, cwd=tmp_path)
    assert code == 0, err
    assert run_script("test.py", *data, cwd=tmp_path)[0] == 0
    code, out, err = run_script("eval_accuracy.py", "k-jpg.json", "results/val.json", cwd=tmp_path)
    assert code == 0 and "top-1 accuracy: " in out, err
    code, out, err = run_script("test.py", *data, "--inference_subset", "test", cwd=tmp_path)
    assert code == 0 and "no accuracy: the annotation does not give every video's class" in out, err
    assert list(json.loads((tmp_path / "results/test.json").read_text())["results"]) == list(
        content["database"]
    )[-1:]
    subset = "--subset", "testing"
    code, out, err = run_script("eval_accuracy.py", "k-jpg.json", "results/test.json", *subset, cwd=tmp_path)
    assert code == 1 and err.count("\n") == 1 and "have no label: no accuracy can be computed" in err
