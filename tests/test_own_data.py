"""Videos of one's own, and HMDB-51's: from the files to the accuracy, through the scripts."""
import json
import shutil

import pytest
from conftest import SMALL_TRAINING

pytest.importorskip("cv2")
import numpy as np
from moving_shapes import CLASSES, draw_video, write_video


@pytest.fixture
def my_videos(tmp_path):
    """Videos of four classes and six persons, in the formats that phones and web pages give."""
    rng = np.random.default_rng(0)
    for class_name in CLASSES:
        for person, suffix in enumerate((".avi", ".mp4", ".mkv", ".MOV", ".avi", ".mp4")):
            path = tmp_path / "my_videos" / class_name / f"p{person} {class_name}!{suffix.lower()}"
            write_video(path, draw_video(class_name, 24, rng))
            path.rename(path.with_suffix(suffix))
    (tmp_path / "my_videos/MoveUp/notes.txt").write_text("mine")
    return tmp_path / "my_videos"


def generate(run_script, my_videos, *arguments):
    arguments = ("my_videos", "my_jpg", "folder", "--size", 40, *arguments)
    return run_script("generate_video_jpgs.py", *arguments, cwd=my_videos.parent)


def subsets_in(path):
    return {name: entry["subset"] for name, entry in json.loads(path.read_text())["database"].items()}


def test_own_videos_go_all_the_way_to_the_accuracy(my_videos, run_script):
    root = my_videos.parent
    code, out, err = generate(run_script, my_videos, "--split_by", r"^(p\d)", "--val_fraction", 0.3)
    assert code == 0, err
    assert "note: my_videos: 1 files of no video suffix left out: MoveUp/notes.txt\n" in err
    assert out == (
        "my_jpg: 24 videos, 4 classes, 576 frames\n"
        "my_jpg.json: 16 training, 8 validation videos\n"
        "  MoveDown 4/2       MoveUp 4/2         ShapeGrows 4/2     ShapeShrinks 4/2\n"
    )
    subset_of = subsets_in(root / "my_jpg.json")
    validation = {name[:2] for name, subset in subset_of.items() if subset == "validation"}
    training = {name[:2] for name, subset in subset_of.items() if subset == "training"}
    assert len(validation) == 2 and len(training) == 4 and not validation & training

    data = ["--video_path", "my_jpg", "--annotation_path", "my_jpg.json", "--n_threads", 0]
    code, out, err = run_script("train.py", *SMALL_TRAINING, *data, "--n_epochs", 1, cwd=root)
    assert code == 0, err
    code, out, err = run_script("test.py", *data, cwd=root)
    assert code == 0 and "results/val.json: 8 videos, 16 clips" in out, err
    code, out, err = run_script("eval_accuracy.py", "my_jpg.json", "results/val.json", cwd=root)
    assert code == 0 and "number of result: 8\n" in out, err


def test_a_check_and_a_repair_hold_for_own_videos_and_a_changed_split_is_told(my_videos, run_script):
    root = my_videos.parent
    assert generate(run_script, my_videos)[0] == 0
    content = (root / "my_jpg.json").read_bytes()
    assert generate(run_script, my_videos)[0] == 0
    assert (root / "my_jpg.json").read_bytes() == content
    (root / "my_jpg/MoveUp/p1 MoveUp!/image_00003.jpg").unlink()
    changed = json.loads(content)
    changed["database"]["p2 MoveUp!"]["annotations"]["segment"][1] += 1
    (root / "my_jpg.json").write_text(json.dumps(changed))
    code, out, err = generate(run_script, my_videos, "--check")
    assert code == 1 and "24 videos, 576 frames: 2 damaged" in err
    assert "MoveUp/p1 MoveUp!: image_00003.jpg is missing\n" in out
    assert "MoveUp/p2 MoveUp!: my_jpg.json says 25 frames, there are 24\n" in out
    code, out, err = generate(run_script, my_videos, "--repair")
    assert code == 0 and "change their subset" not in err, err
    assert (root / "my_jpg.json").read_bytes() == content
    before = subsets_in(root / "my_jpg.json")
    code, out, err = generate(run_script, my_videos, "--split_by", r"^p\d")
    assert code == 0, err
    after = subsets_in(root / "my_jpg.json")
    n_moved = sum(before[name] != after[name] for name in before)
    assert f"note: my_jpg.json: {n_moved} videos change their subset, and" in err and n_moved > 0


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["--split_by", "("], 2, "'(' is not a regular expression"),
        (["--split_by", "x(p)"], 1, "error: --split_by 'x(p)' finds no group in 24 of 24 names"),
        (["--val_fraction", "1"], 2, "1 is not above 0, at most 0.9"),
        (["--annotation_dir_path", "lists"], 2, "--annotation_dir_path is for the data set hmdb51"),
    ],
)
def test_a_bad_split_is_refused_before_anything_is_decoded(my_videos, run_script, arguments, code, message):
    found, out, err = generate(run_script, my_videos, *arguments)
    assert (found, out) == (code, "") and message in err and "Traceback" not in err
    assert {entry.name for entry in my_videos.parent.iterdir()} == {"my_videos"}


def test_the_split_is_not_asked_for_where_it_is_given(tmp_path, run_script):
    code, _, err = run_script("generate_video_jpgs.py", "a", "b", "ucf101", "--split_by", "a", cwd=tmp_path)
    assert code == 2 and "--split_by is for the data set folder" in err
    for name in ("golf", "wave"):
        (tmp_path / "a" / name).mkdir(parents=True)
        (tmp_path / "a" / name / f"{name}.avi").touch()
    code, _, err = run_script("generate_video_jpgs.py", "a", "b", "hmdb51", cwd=tmp_path)
    assert code == 1 and "error: hmdb51 needs --annotation_dir_path" in err and err.count("\n") == 1


def test_original_clips_of_hmdb51_follow_their_lists(clips_path, tmp_path, run_script):
    shutil.copytree(clips_path / "hmdb51", tmp_path / "HMDB-51")
    lists = tmp_path / "testTrainMulti_7030_splits"
    lists.mkdir()
    paths = sorted((tmp_path / "HMDB-51").glob("*/*.avi"))
    codes = {1: "11122", 2: "21012", 3: "12210"}
    for split in codes:
        for path, code in zip(paths, codes[split]):
            (lists / f"{path.parent.name}_test_split{split}.txt").write_text(f"{path.name} {code} \n")
    arguments = ["HMDB-51", "HMDB-51-jpg", "hmdb51", "--size", 60]
    given = ["--annotation_dir_path", "testTrainMulti_7030_splits"]
    code, out, err = run_script("generate_video_jpgs.py", *arguments, *given, cwd=tmp_path)
    assert code == 0, err
    assert "HMDB-51-jpg: 5 videos, 5 classes, " in out
    assert "hmdb51_01.json: 3 training, 2 validation videos\n" in out
    assert "hmdb51_02.json: 2 training, 2 validation videos, 1 unused\n" in out
    for split in codes:
        content = json.loads((tmp_path / f"hmdb51_{split:02d}.json").read_text())
        assert content["labels"] == ["cartwheel", "golf", "punch", "swing_baseball", "wave"]
        names = {"1": "training", "2": "validation"}
        expected = {p.stem: names[c] for p, c in zip(paths, codes[split]) if c != "0"}
        assert {name: entry["subset"] for name, entry in content["database"].items()} == expected
        for name, entry in content["database"].items():
            frames = list((tmp_path / "HMDB-51-jpg" / entry["annotations"]["label"] / name).iterdir())
            assert entry["annotations"]["segment"] == [1, len(frames) + 1] and len(frames) > 10
    code, out, err = run_script("generate_video_jpgs.py", *arguments, "--check", cwd=tmp_path)
    assert code == 0 and out.strip().endswith("all whole"), err
