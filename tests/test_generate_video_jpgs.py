"""Extraction from the outside: folders, counts, annotation files, broken videos, interruptions."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib

import pytest
import simplejpeg
from conftest import ROOT
from PIL import Image

pytest.importorskip("cv2")
import numpy as np
from moving_shapes import draw_video, make_videos, write_video

from datasets.annotation import read_annotation
from datasets.stores import open_store
from run.files import run_lock
from run.spec import FrameSpec


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
    first, *lines = map(json.loads, (root / "jpg/frames.jsonl").read_text().splitlines())
    settings = {"version": 1, "size": 30, "quality": 80, "fps": None, "store": "jpg_folders"}
    assert first == {**settings, "modality": "rgb"}
    n_frames = {name: e["annotations"]["segment"][1] - 1 for name, e in annotation["database"].items()}
    assert {line["video"].split("/")[1]: line["n_frames"] for line in lines} == n_frames
    assert {line["fps"] for line in lines} == {25.0}


def test_a_second_run_does_only_what_is_missing(videos_path, run_script):
    assert generate(run_script, videos_path)[0] == 0
    jpg = videos_path.parent / "jpg"
    before, whole = tree(jpg), {p: p.stat().st_mtime_ns for p in jpg.rglob("*.jpg")}
    removed = jpg / "MoveUp" / "v_MoveUp_g02_c01"
    shutil.rmtree(removed)
    (jpg / "MoveUp" / ".v_MoveUp_g02_c01.1.tmp").mkdir()  # as a killed run leaves it
    code, out, err = generate(run_script, videos_path)
    assert code == 0, err
    assert tree(jpg) == before
    redone = {p.parent for p in jpg.rglob("*.jpg") if p.stat().st_mtime_ns != whole[p]}
    assert redone == {removed}


def test_frames_of_other_settings_are_not_mixed_in(videos_path, run_script):
    assert generate(run_script, videos_path)[0] == 0
    code, _, err = generate(run_script, videos_path, "--quality", 50)
    assert code == 1 and "jpg: holds other frames: quality was 80 and is 50; use the same settings or" in err
    assert generate(run_script, videos_path, "--quality", 80)[0] == 0


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
    assert len(list(jpg.glob("*/v_*"))) == 9 and not list(jpg.glob("*/.*"))
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


def test_a_folder_that_the_journal_does_not_name_is_made_again(videos_path, run_script):
    assert generate(run_script, videos_path)[0] == 0
    journal = videos_path.parent / "jpg/frames.jsonl"
    *kept, last = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(kept) + last[:20])  # killed while it wrote the last line
    folder = videos_path.parent / "jpg" / json.loads(last)["video"]
    next(folder.iterdir()).unlink()  # and the frames of that video never got to the disk
    assert generate(run_script, videos_path)[0] == 0
    assert len(list(folder.iterdir())) == json.loads(last)["n_frames"]
    assert sorted(journal.read_text().splitlines()[1:]) == sorted(line.strip() for line in [*kept[1:], last])


def test_frames_of_other_making_are_left_alone(videos_path, run_script):
    frame = videos_path.parent / "jpg/MoveUp/v_MoveUp_g01_c01/image_00001.jpg"
    frame.parent.mkdir(parents=True)
    frame.write_bytes(b"precious")
    code, _, err = generate(run_script, videos_path)
    assert code == 1 and "this script did not make them" in err
    assert frame.read_bytes() == b"precious"


def test_links_do_not_lead_out_of_the_folder(videos_path, run_script, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "jpg").mkdir()
    (tmp_path / "jpg/frames.jsonl").write_text('{"size": 240, "quality": 80, "fps": null}\n')
    (tmp_path / "jpg/MoveUp").symlink_to(outside)
    code, _, err = generate(run_script, videos_path)
    assert code == 1 and "jpg/MoveUp: a link that leads out of" in err and not list(outside.iterdir())


def test_a_kill_leaves_no_half_video_and_no_process(tmp_path, run_script):
    rng = np.random.default_rng(0)
    frames = np.concatenate([draw_video("MoveUp", 48, rng)] * 10)
    for group in range(1, 7):
        write_video(tmp_path / "UCF-101" / "MoveUp" / f"v_MoveUp_g{group:02d}_c01.avi", frames)
    command = [sys.executable, str(ROOT / "generate_video_jpgs.py"), "UCF-101", "jpg", "--n_jobs", "2"]
    for n_done in (0, 2):
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("jpg/MoveUp/v_*"))) < n_done or not list(tmp_path.glob("jpg/*/.*.tmp")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        process.kill()
        process.wait()
    code, _, err = run_script("generate_video_jpgs.py", "UCF-101", "jpg", cwd=tmp_path)
    assert code == 0, err
    counts = [len(list(folder.iterdir())) for folder in (tmp_path / "jpg/MoveUp").iterdir()]
    assert counts == [480] * 6


def test_a_second_run_in_the_same_folder_is_refused(videos_path, run_script):
    assert generate(run_script, videos_path)[0] == 0
    with run_lock(videos_path.parent / "jpg/.lock"):
        code, _, err = generate(run_script, videos_path)
    assert code == 1 and f"another run is at work here (process {os.getpid()} on" in err


DAMAGES = {
    "is missing": lambda folder: (folder / "image_00003.jpg").unlink(),
    "image_00099.jpg does not belong there": lambda folder: shutil.copy(
        folder / "image_00001.jpg", folder / "image_00099.jpg"
    ),
    "image_00002.jpg does not decode": lambda folder: (folder / "image_00002.jpg").write_bytes(
        (folder / "image_00002.jpg").read_bytes()[:-300]
    ),
    "image_00001.jpg does not decode": lambda folder: (folder / "image_00001.jpg").write_bytes(b""),
    "is 20 x 10, not of short side": lambda folder: Image.new("RGB", (20, 10)).save(
        folder / "image_00004.jpg"
    ),
    "is Gray": lambda folder: Image.new("L", (320, 240)).save(folder / "image_00005.jpg"),
    "image_00006.jpg does not decode as jpg": lambda folder: Image.new("CMYK", (320, 240)).save(
        folder / "image_00006.jpg"
    ),
    "image_00007.jpg does not decode as jpg": lambda folder: Image.new("RGB", (320, 240)).save(
        folder / "image_00007.jpg", format="PNG"
    ),
    "no folder": lambda folder: shutil.rmtree(folder),
}


def test_a_check_finds_every_damage_and_a_repair_redoes_just_that(videos_path, run_script):
    assert generate(run_script, videos_path)[0] == 0
    root = videos_path.parent
    folders = sorted((root / "jpg").glob("*/v_*"))
    code, out, err = run_script("generate_video_jpgs.py", "nowhere", root / "jpg", "--check")
    assert code == 0 and out.strip().endswith("all whole"), err
    whole = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in (root / "jpg").rglob("*.jpg")}
    for damage, folder in zip(DAMAGES.values(), folders):
        damage(folder)
    annotation = root / "ucf101_02.json"
    content = json.loads(annotation.read_text())
    content["database"][folders[-1].name]["annotations"]["segment"][1] += 1
    annotation.write_text(json.dumps(content))

    code, out, err = run_script("generate_video_jpgs.py", "nowhere", root / "jpg", "--check")
    assert code == 1 and f"{len(DAMAGES) + 1} damaged" in err and "--repair" in err
    lines = {line.split(": ")[0]: line for line in out.splitlines()}
    for text, folder in zip(DAMAGES, folders):
        assert text in lines[f"{folder.parent.name}/{folder.name}"]
    assert "ucf101_02.json says" in lines[f"{folders[-1].parent.name}/{folders[-1].name}"]

    code, out, err = generate(run_script, videos_path, "--repair")
    assert code == 0, err
    redone = [*folders[: len(DAMAGES)], folders[-1]]
    assert {p: p.read_bytes() for p in (root / "jpg").rglob("*.jpg")} == {p: w[0] for p, w in whole.items()}
    assert all((p.stat().st_mtime_ns != when) == (p.parent in redone) for p, (_, when) in whole.items())
    code, out, _ = run_script("generate_video_jpgs.py", videos_path, root / "jpg", "--check")
    assert code == 0 and out.strip().endswith("all whole")


BROKEN = {
    "decord__corrupted": "damaged: a packet does not decode, after 28 decoded frames",
    "mp4parse-rust__no_timescale": "",
    "moviepy__result": "empty file",
    "mp4parse-rust__bipbop-cenc-audioinit": "no video stream",
    "mp4parse-rust__invalid_userdata": "",
}


def test_every_odd_file_is_whole_or_refused_or_kept_in_part_on_demand(clips_path, run_script, tmp_path):
    for i, path in enumerate([*(clips_path / "odd").iterdir(), *clips_path.glob("hmdb51/*/*")]):
        (tmp_path / "UCF-101/Odd").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "UCF-101/Odd" / f"{path.stem}_g{i:02d}_c01.avi")
    code, _, err = generate(run_script, tmp_path / "UCF-101", "--time_limit", 60)
    assert code == 1 and "Traceback" not in err
    done = {path.name.rpartition("_g")[0] for path in tmp_path.glob("jpg/Odd/*")}
    every = {path.stem.rpartition("_g")[0] for path in tmp_path.glob("UCF-101/Odd/*")}
    assert len(every) == 18 and every - done == BROKEN.keys()
    for name, why in BROKEN.items():
        line = next(line for line in err.splitlines() if name in line)
        assert why in line
    assert not list(tmp_path.glob("jpg/Odd/.*"))
    code, _, err = generate(run_script, tmp_path / "UCF-101", "--allow_partial")
    kept = {path.name.rpartition("_g")[0] for path in tmp_path.glob("jpg/Odd/*")} - done
    assert code == 1 and kept < BROKEN.keys()  # those without a single frame stay refused
    entries = [json.loads(line) for line in (tmp_path / "jpg/frames.jsonl").read_text().splitlines()[1:]]
    partial = {entry["video"] for entry in entries if "partial" in entry}
    assert {name.split("/")[1].rpartition("_g")[0] for name in partial} == kept


def test_half_a_video_is_kept_only_on_demand_and_told(videos_path, run_script):
    path = videos_path / "MoveUp/v_MoveUp_g01_c01.avi"
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    code, _, err = generate(run_script, videos_path, "--allow_partial")
    assert code == 0 and "1 videos are there in part only" in err and "cut short" in err
    annotation = json.loads((videos_path.parent / "ucf101_01.json").read_text())
    n_frames = annotation["database"]["v_MoveUp_g01_c01"]["annotations"]["segment"][1] - 1
    folder = videos_path.parent / "jpg/MoveUp/v_MoveUp_g01_c01"
    assert 0 < n_frames == len(list(folder.iterdir())) < 40
    code, _, err = generate(run_script, videos_path)  # not taken for whole later on
    assert code == 1 and "1 of 12 videos do not decode" in err


def test_a_video_that_is_redone_has_one_line_in_the_journal(videos_path, run_script):
    assert generate(run_script, videos_path)[0] == 0
    journal = videos_path.parent / "jpg/frames.jsonl"
    before = sorted(journal.read_text().splitlines())
    shutil.rmtree(videos_path.parent / "jpg/MoveUp/v_MoveUp_g01_c01")
    assert generate(run_script, videos_path)[0] == 0
    assert sorted(journal.read_text().splitlines()) == before


def test_a_video_without_a_frame_at_a_low_rate_is_refused(videos_path, run_script):
    code, _, err = generate(run_script, videos_path, "--fps", 0.1)
    assert code == 1 and "v_MoveUp_g01_c01.avi: too short for a frame at 0.1 frames a second" in err
    assert not (videos_path.parent / "ucf101_01.json").exists()


def test_frames_at_another_rate_have_that_rate_in_the_journal(videos_path, run_script):
    code, _, err = generate(run_script, videos_path, "--fps", 10)
    assert code == 0, err
    first, *lines = map(json.loads, (videos_path.parent / "jpg/frames.jsonl").read_text().splitlines())
    assert first["fps"] == 10 and {line["fps"] for line in lines} == {10.0}


LEGACY = ROOT / "tests/legacy/frames.jsonl"


def test_a_folder_of_the_first_version_is_checked_resumed_and_read(tmp_path, run_script):
    videos_path, jpg = tmp_path / "UCF-101", tmp_path / "jpg"
    make_videos(videos_path, n_groups=9, n_clips=1)  # those that the journal is of
    assert generate(run_script, videos_path, "--size", 32)[0] == 0
    shutil.copy(LEGACY, jpg / "frames.jsonl")
    code, out, err = generate(run_script, videos_path, "--check")
    assert code == 0 and out.endswith("36 videos, 1295 frames: all whole\n"), err
    store = open_store(jpg)
    assert store.spec == FrameSpec(size=32)
    training = read_annotation(tmp_path / "ucf101_03.json").subsets["training"]
    store.check(training)
    assert len(training) == 36 and store.frame_rates(training) is None

    shutil.rmtree(jpg / "MoveUp/v_MoveUp_g02_c01")
    code, _, err = generate(run_script, videos_path)
    assert code == 1 and "holds other frames: size was 32 and is 240; use" in err
    code, _, err = generate(run_script, videos_path, "--size", 32)
    assert code == 0, err
    before, after = LEGACY.read_text().splitlines(), (jpg / "frames.jsonl").read_text().splitlines()
    (redone,) = (line for line in before if "v_MoveUp_g02_c01" in line)
    *others, last = after
    path = videos_path / "MoveUp/v_MoveUp_g02_c01.avi"
    status, crc32 = path.stat(), zlib.crc32(path.read_bytes())
    source = {"bytes": status.st_size, "mtime": status.st_mtime, "crc32": crc32}
    assert others == [line for line in before if line != redone]
    assert json.loads(last) == {**json.loads(redone), "fps": 25.0, **source}

    first, *lines = after
    reordered = '{"fps": null, "quality": 80, "size": 32}'
    (jpg / "frames.jsonl").write_text("".join(f"{line}\n" for line in [reordered, *lines]))
    frame = jpg / "MoveDown/v_MoveDown_g01_c01/image_00001.jpg"
    whole = frame.read_bytes()
    frame.write_bytes(whole[:-300])
    code, out, err = generate(run_script, videos_path, "--repair", "--size", 32)
    assert code == 0 and "MoveDown/v_MoveDown_g01_c01: decoded again, 45 frames" in out, err
    assert frame.read_bytes() == whole


def test_a_video_that_cannot_be_opened_is_one_line(videos_path, run_script):
    (videos_path / "MoveUp/v_MoveUp_g09_c01.avi").mkdir()
    code, _, err = generate(run_script, videos_path)
    assert code == 1 and "g09_c01.avi: Is a directory" in err and "Traceback" not in err


def test_a_time_limit_without_end_is_taken(videos_path, run_script):
    assert generate(run_script, videos_path, "--time_limit", "1e10")[0] == 0


def test_a_repair_without_the_videos_drops_nothing(videos_path, run_script):
    assert generate(run_script, videos_path)[0] == 0
    root = videos_path.parent
    (root / "jpg/MoveUp/v_MoveUp_g01_c01/image_00002.jpg").unlink()
    (videos_path / "MoveUp/v_MoveUp_g01_c01.avi").unlink()
    files = [root / "jpg/frames.jsonl", root / "ucf101_01.json"]
    before = [path.read_bytes() for path in files]
    code, _, err = generate(run_script, videos_path, "--repair")
    assert code == 1 and "1 of 1 damaged videos are not among the videos given (MoveUp/v_MoveUp_g01" in err
    assert [path.read_bytes() for path in files] == before


def test_a_folder_that_the_journal_does_not_name_is_found_and_redone(videos_path, run_script):
    assert generate(run_script, videos_path)[0] == 0
    journal = videos_path.parent / "jpg/frames.jsonl"
    *kept, last = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(kept))
    name, n_frames = json.loads(last)["video"], json.loads(last)["n_frames"]
    code, out, _ = generate(run_script, videos_path, "--check")
    assert code == 1 and f"{name}: not in the journal" in out
    code, out, err = generate(run_script, videos_path, "--repair")
    assert code == 0 and f"{name}: decoded again, {n_frames} frames" in out, err
    assert generate(run_script, videos_path, "--check")[0] == 0


def test_a_check_of_what_is_no_finished_folder_changes_nothing(videos_path, run_script):
    jpg = videos_path.parent / "jpg"
    jpg.mkdir()
    (jpg / "frames.jsonl").write_text('{"size"')  # killed in its first line
    code, _, err = generate(run_script, videos_path, "--check")
    assert code == 1 and "no frames.jsonl in it" in err and "Traceback" not in err
    assert tree(jpg) == {"frames.jsonl"} and (jpg / "frames.jsonl").read_text() == '{"size"'
    assert generate(run_script, videos_path)[0] == 0
    (jpg / "frames.jsonl").unlink()
    (jpg / ".lock").unlink()
    assert generate(run_script, videos_path)[0] == 1
    assert not (jpg / ".lock").exists()


@pytest.mark.parametrize("video", ["../outside", "a/../../b", "/etc", "MoveUp", None])
def test_a_journal_cannot_lead_out_of_its_folder(videos_path, run_script, video):
    assert generate(run_script, videos_path)[0] == 0
    with open(videos_path.parent / "jpg/frames.jsonl", "a") as file:
        file.write(json.dumps({"video": video, "n_frames": 1}) + "\n")
    code, _, err = generate(run_script, videos_path, "--check")
    assert code == 1 and "frames.jsonl: broken" in err and "Traceback" not in err
