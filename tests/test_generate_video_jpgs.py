"""Extraction from the outside: folders, counts, annotation files, broken videos, interruptions."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import simplejpeg
from conftest import ROOT

pytest.importorskip("cv2")
import numpy as np
from moving_shapes import draw_video, make_videos, write_video


@pytest.fixture
def videos_path(tmp_path):
    make_videos(tmp_path / "UCF-101", n_groups=3, n_clips=1)
    return tmp_path / "UCF-101"


def generate(run_script, videos_path, *options):
    return run_script("generate_video_jpgs.py", videos_path, videos_path.parent / "jpg", *options)


def tree(path):
    return {str(entry.relative_to(path)) for entry in path.rglob("*")}


def test_frames_and_annotations_are_written(videos_path, run_script):
    code, out, err = generate(run_script, videos_path, "ucf101", "--size", 30)
    assert code == 0, err
    root = videos_path.parent
    annotation = json.loads((root / "ucf101_01.json").read_text())
    assert annotation["labels"] == ["MoveDown", "MoveUp", "ShapeGrows", "ShapeShrinks"]
    assert len(annotation["database"]) == 12
    for name, entry in annotation["database"].items():
        class_name, (begin, end) = entry["annotations"]["label"], entry["annotations"]["segment"]
        frames = sorted(os.listdir(root / "jpg" / class_name / name))
        assert frames == [f"image_{n:05d}.jpg" for n in range(begin, end)]
        assert 24 <= end - begin <= 48
        assert entry["subset"] == "validation"  # groups 1 to 3 test in split 1
    first = next((root / "jpg").rglob("*.jpg"))
    assert simplejpeg.decode_jpeg(first.read_bytes()).shape == (30, 40, 3)
    for split in (2, 3):
        content = json.loads((root / f"ucf101_{split:02d}.json").read_text())
        assert {entry["subset"] for entry in content["database"].values()} == {"training"}
    assert "12 videos, 4 classes" in out and "ucf101_03.json: 12 training, 0 validation" in out


def test_a_second_run_does_only_what_is_missing(videos_path, run_script):
    assert generate(run_script, videos_path)[0] == 0
    jpg = videos_path.parent / "jpg"
    before, whole = tree(jpg), {p: p.stat().st_mtime_ns for p in jpg.rglob("*.jpg")}
    removed = jpg / "MoveUp" / "v_MoveUp_g02_c01"
    shutil.rmtree(removed)
    (jpg / "MoveUp" / ".v_MoveUp_g02_c01.tmp").mkdir()  # as a killed run leaves it
    code, out, err = generate(run_script, videos_path)
    assert code == 0, err
    assert tree(jpg) == before
    redone = {p.parent for p in jpg.rglob("*.jpg") if p.stat().st_mtime_ns != whole[p]}
    assert redone == {removed}


def test_frames_of_other_settings_are_not_mixed_in(videos_path, run_script):
    assert generate(run_script, videos_path)[0] == 0
    code, _, err = generate(run_script, videos_path, "--quality", 50)
    assert code == 1 and "use the same settings or another folder" in err


def test_broken_videos_are_listed_and_the_others_done(videos_path, run_script):
    broken = {
        "v_MoveUp_g01_c01": lambda p: p.write_bytes(b""),
        "v_MoveUp_g02_c01": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
        "v_MoveUp_g03_c01": lambda p: p.write_text("no video"),
    }
    originals = {}
    for name, spoil in broken.items():
        path = videos_path / "MoveUp" / f"{name}.avi"
        originals[path] = path.read_bytes()
        spoil(path)
    code, out, err = generate(run_script, videos_path)
    assert code == 1
    assert "3 of 12 videos do not decode" in err and "Traceback" not in err
    assert all(name in err for name in broken)
    jpg = videos_path.parent / "jpg"
    assert len(list(jpg.glob("*/v_*"))) == 9 and not list(jpg.rglob(".*"))
    assert not (videos_path.parent / "ucf101_01.json").exists()
    for path, content in originals.items():
        path.write_bytes(content)
    assert generate(run_script, videos_path)[0] == 0
    assert len(list(jpg.glob("*/v_*"))) == 12


def test_the_official_lists_are_followed(videos_path, run_script, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    paths = sorted(videos_path.glob("*/*.avi"))
    for split in (1, 2, 3):
        test = [f"{p.parent.name}/{p.name}\n" for p in paths[::2]]
        train = [f"{p.parent.name}/{p.name} 1\n" for p in paths[1::2]]
        (lists / f"testlist{split:02d}.txt").write_text("".join(test))
        (lists / f"trainlist{split:02d}.txt").write_text("".join(train))
    code, out, err = generate(run_script, videos_path, "--annotation_dir_path", lists)
    assert code == 0, err
    database = json.loads((tmp_path / "ucf101_01.json").read_text())["database"]
    assert {p.stem for p in paths[::2]} == {n for n, e in database.items() if e["subset"] == "validation"}
    (lists / "trainlist02.txt").write_text("")
    code, out, err = generate(run_script, videos_path, "--annotation_dir_path", lists)
    assert code == 1 and "in no list of split 2" in err


@pytest.mark.parametrize("arguments, message", [(["nowhere"], "no such folder"), (["."], "no avi file")])
def test_a_wrong_folder_is_one_line(tmp_path, run_script, arguments, message):
    code, out, err = run_script("generate_video_jpgs.py", *arguments, cwd=tmp_path)
    assert (code, out) == (1, "")
    assert err.startswith("error: ") and message in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_ctrl_c_leaves_nothing_half_made(tmp_path):
    rng = np.random.default_rng(0)
    frames = np.concatenate([draw_video("MoveUp", 48, rng)] * 20)
    for group in range(1, 9):
        write_video(tmp_path / "UCF-101" / "MoveUp" / f"v_MoveUp_g{group:02d}_c01.avi", frames)
    command = [sys.executable, str(ROOT / "generate_video_jpgs.py"), "UCF-101", "jpg", "--n_jobs", "2"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("jpg/MoveUp/.*.tmp")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal sends: to the workers too
    assert process.wait(timeout=60) == 130
    assert process.stderr.read().strip().endswith("interrupted")
    done = list(tmp_path.glob("jpg/MoveUp/v_*"))
    assert len(done) < 8 and not list(tmp_path.glob("jpg/MoveUp/.*"))
    assert all(len(list(folder.iterdir())) == 960 for folder in done)


def test_a_full_disk_stops_the_run_and_keeps_what_is_done(videos_path, run_script, tmp_path):
    # A file size limit stands in for a full disk: both fail a write in the middle of a video.
    wrapper = tmp_path / "limited.py"
    wrapper.write_text(
        "import resource, runpy, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))\n"
        f"sys.argv = ['generate_video_jpgs.py', {str(videos_path)!r}, {str(tmp_path / 'jpg')!r}]\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        f"runpy.run_path({str(ROOT / 'generate_video_jpgs.py')!r}, run_name='__main__')\n"
    )
    code, out, err = run_script(wrapper)
    assert code == 1 and "free some space" in err and "Traceback" not in err
    assert not list((tmp_path / "jpg").glob("*/v_*")) and not list((tmp_path / "jpg").rglob(".*.tmp"))
