"""Folders as people have them: links that lead nowhere, files that cannot be read, names that come twice."""
import json
import os
import re
import shutil
import subprocess
import sys
import unicodedata

import pytest
from conftest import ROOT, SMALL_TRAINING

pytest.importorskip("cv2")
from moving_shapes import make_videos

from datasets.annotation import read_annotation
from datasets.class_folders import find_class_folders
from datasets.sources import folder
from run import console


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "videos"
    make_videos(path, n_groups=2, n_clips=1)
    return path


@pytest.fixture
def videos_path(made, tmp_path):
    shutil.copytree(made, tmp_path / "videos")
    return tmp_path / "videos"


def generate(run_script, videos_path, *options, dst_path=None):
    dst_path = dst_path or videos_path.parent / "jpg"
    arguments = ["folder", "--size", 32, "--split_by", "(.*)", "--val_fraction", 0.5, *options]
    return run_script("generate_video_jpgs.py", videos_path, dst_path, *arguments)


def spoil(videos_path):
    """Put one of each kind of what is no video among the videos; return the reason that is given for each."""
    folder = videos_path / "MoveUp"
    (folder / "gone.avi").symlink_to("/gone/clip.avi")
    (folder / "round.avi").symlink_to("round.avi")
    (folder / "clip.avi").mkdir()
    os.mkfifo(folder / "pipe.avi")
    (folder / "empty.avi").touch()
    return {
        "gone.avi": "a link to /gone/clip.avi, which is not there; expected a video file",
        "round.avi": "Too many levels of symbolic links; expected a video file",
        "clip.avi": "Is a directory; expected a video file",
        "pipe.avi": "not a file; expected a video file",
        "empty.avi": "empty file",
    }


def test_what_is_no_video_is_listed_and_all_others_are_done(videos_path, run_script):
    reasons = spoil(videos_path)
    code, _, err = generate(run_script, videos_path)
    assert code == 1 and "Traceback" not in err
    assert "5 of 13 videos do not decode, the others are done; no annotation was written" in err
    listed = dict(line.strip().split(": ", 1) for line in err.splitlines() if line.startswith("  "))
    assert listed == {f"{videos_path}/MoveUp/{name}": reason for name, reason in reasons.items()}
    jpg = videos_path.parent / "jpg"
    assert len(list(jpg.glob("*/v_*"))) == 8 and not (videos_path.parent / "jpg.json").exists()
    # The frames that are there can be checked and repaired all the same.
    (jpg / "MoveUp/v_MoveUp_g01_c01/image_00002.jpg").unlink()
    code, out, _ = generate(run_script, videos_path, "--check")
    assert code == 1 and "MoveUp/v_MoveUp_g01_c01: image_00002.jpg is missing" in out
    code, _, err = generate(run_script, videos_path, "--repair")
    assert code == 1 and "5 of 13 videos do not decode" in err
    assert (jpg / "MoveUp/v_MoveUp_g01_c01/image_00002.jpg").exists()
    for name in reasons:
        path = videos_path / "MoveUp" / name
        path.rmdir() if path.is_dir() else path.unlink()
    code, out, err = generate(run_script, videos_path)
    assert code == 0 and "jpg.json: 4 training, 4 validation videos" in out, err


def as_another_user(command, **options):
    """Run a command for which file modes hold, as they do not for root."""
    limits = "-dac_override,-dac_read_search"
    if os.geteuid() == 0:
        if not shutil.which("setpriv"):
            pytest.skip("root reads every file, and setpriv is not here")
        command = ["setpriv", "--bounding-set", limits, "--inh-caps", limits, *command]
    return subprocess.run(command, capture_output=True, text=True, **options)


def test_a_file_that_may_not_be_read_is_listed_in_stage_1_and_in_a_check(videos_path, run_script):
    (videos_path / "MoveUp/v_MoveUp_g01_c01.avi").chmod(0)
    script = [sys.executable, str(ROOT / "generate_video_jpgs.py")]
    jpg = videos_path.parent / "jpg"
    options = "folder --size 32 --split_by (.*) --val_fraction 0.5".split()
    done = as_another_user([*script, str(videos_path), str(jpg), *options])
    assert done.returncode == 1 and "1 of 8 videos do not decode" in done.stderr
    assert f"{videos_path}/MoveUp/v_MoveUp_g01_c01.avi: Permission denied; expected" in done.stderr
    assert len(list(jpg.glob("*/v_*"))) == 7
    (jpg / "MoveUp/v_MoveUp_g02_c01/image_00003.jpg").chmod(0)
    (jpg / "MoveDown/v_MoveDown_g01_c01").chmod(0)
    done = as_another_user([*script, str(videos_path), str(jpg), *options, "--check"])
    (jpg / "MoveDown/v_MoveDown_g01_c01").chmod(0o755)
    assert done.returncode == 1 and "2 damaged" in done.stderr and "Traceback" not in done.stderr
    assert "MoveUp/v_MoveUp_g02_c01: image_00003.jpg cannot be read: Permission denied" in done.stdout
    assert "MoveDown/v_MoveDown_g01_c01: the folder cannot be read: Permission denied" in done.stdout


def frames_of(jpg, video):
    return {path.name: path.read_bytes() for path in (jpg / video).iterdir()}


@pytest.mark.parametrize("option", [None, "--repair"])
def test_a_video_that_was_replaced_is_decoded_again(videos_path, run_script, option):
    assert generate(run_script, videos_path)[0] == 0
    jpg, video = videos_path.parent / "jpg", "MoveUp/v_MoveUp_g01_c01"
    before = {str(path): path.stat().st_mtime_ns for path in jpg.rglob("*.jpg")}
    shutil.copy(videos_path / "MoveDown/v_MoveDown_g02_c01.avi", videos_path / f"{video}.avi")
    code, _, err = generate(run_script, videos_path, *filter(None, [option]))
    assert code == 0 and "note: decoded again, because the file is another one" in err and ": 1 of" in err
    assert video in err and frames_of(jpg, video) == frames_of(jpg, "MoveDown/v_MoveDown_g02_c01")
    changed = {path for path, when in before.items() if not os.path.exists(path)
               or os.stat(path).st_mtime_ns != when}  # fmt: skip
    assert changed and all(video in path for path in changed)
    entry = json.loads((videos_path.parent / "jpg.json").read_text())["database"]["v_MoveUp_g01_c01"]
    assert entry["annotations"]["segment"][1] - 1 == len(frames_of(jpg, video))
    assert generate(run_script, videos_path)[2] == ""


def test_videos_that_were_only_copied_are_not_decoded_again(videos_path, run_script):
    assert generate(run_script, videos_path)[0] == 0
    jpg = videos_path.parent / "jpg"
    before = {path: path.stat().st_mtime_ns for path in jpg.rglob("*.jpg")}
    for path in videos_path.rglob("*.avi"):
        os.utime(path, (1e9, 1e9))
    code, _, err = generate(run_script, videos_path)
    assert (code, err) == (0, "")
    # Another content of the same size is another video.
    path = videos_path / "MoveUp/v_MoveUp_g01_c01.avi"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    code, _, err = generate(run_script, videos_path, "--allow_partial")
    assert "decoded again, because the file is another one" in err
    assert all(p.stat().st_mtime_ns == when for p, when in before.items() if path.stem not in str(p))


def test_frames_of_an_earlier_version_are_taken_as_done(videos_path, run_script):
    assert generate(run_script, videos_path)[0] == 0
    journal = videos_path.parent / "jpg/frames.jsonl"
    first, *entries = map(json.loads, journal.read_text().splitlines())
    entries = [{name: entry[name] for name in ("video", "n_frames", "fps")} for entry in entries]
    journal.write_text("".join(json.dumps(entry) + "\n" for entry in [first, *entries]))
    for path in videos_path.rglob("*.avi"):
        os.utime(path, (1e9, 1e9))
    code, _, err = generate(run_script, videos_path)
    assert (code, err) == (0, "")


@pytest.mark.parametrize("above", ["videos", ".", "link"])
def test_frames_do_not_go_into_the_folder_of_the_videos(videos_path, run_script, above):
    (videos_path.parent / "link").symlink_to(videos_path)
    before = {path for path in videos_path.parent.rglob("*")}
    for option in ([], ["--repair"]):
        code, out, err = generate(run_script, videos_path, *option, dst_path=videos_path.parent / above)
        assert (code, out) == (1, "") and err.count("\n") == 1
        holds = "holds" if above == "." else "is the folder of the videos"
        assert holds in err and f"such as {videos_path}-jpg" in err and "delete" not in err
    assert {path for path in videos_path.parent.rglob("*")} == before


def test_nobody_is_told_to_delete_what_no_script_made(videos_path, run_script):
    jpg = videos_path.parent / "jpg"
    (jpg / "holiday").mkdir(parents=True)
    code, _, err = generate(run_script, videos_path)
    assert code == 1 and err.endswith("so this script did not make them; give another folder\n")
    (jpg / "frames.jsonl").write_text('{"of": "another program"}\n')
    code, _, err = generate(run_script, videos_path)
    assert code == 1 and "frames.jsonl: broken, or of another program; give another folder" in err
    assert err.endswith(", or move this one away and run again\n")


def rename_alike(videos_path):
    """Call the videos of every class 1.avi and 2.avi."""
    for path in sorted(videos_path.rglob("*.avi")):
        path.rename(path.with_name(f"{int(path.stem.split('_g')[1][:2])}.avi"))


def test_one_file_name_in_two_classes_goes_through_every_stage(videos_path, run_script):
    rename_alike(videos_path)
    root = videos_path.parent
    code, out, err = run_script(
        "generate_video_jpgs.py", videos_path, root / "jpg", "folder", "--size", 32, "--val_fraction", 0.5
    )
    assert code == 0 and "names in several classes (1, 2), so the key of each video is <Class>/<video>" in err
    annotation = read_annotation(root / "jpg.json")
    for samples in (annotation.subsets["training"], annotation.subsets["validation"]):
        assert len(samples) == 4 and samples.keys == samples.folders
        assert all(s.key.split("/")[0] == annotation.class_names[s.class_index] for s in samples)
    data = ["--video_path", root / "jpg", "--annotation_path", root / "jpg.json", "--root_path", root]
    code, _, err = run_script("train.py", *data, *SMALL_TRAINING, "--n_epochs", 1)
    assert code == 0, err
    code, _, err = run_script("test.py", *data, "--n_threads", 0)
    assert code == 0 and "training videos of this checkpoint" not in err, err
    results = json.loads((root / "results/val.json").read_text())["results"]
    assert list(results) == list(annotation.subsets["validation"].keys)
    report = ["--report", "--video_path", root / "jpg"]
    code, out, err = run_script("eval_accuracy.py", root / "jpg.json", root / "results/val.json", *report)
    assert code == 0 and "number of result: 4" in out, err
    wrong = [key for key, result in results.items() if result[0]["label"] != key.split("/")[0]]
    page = (root / "results/report.html").read_text()
    assert wrong and all(f"frames of {key}" in page for key in wrong)
    code, out, err = generate(run_script, videos_path, "--check")
    assert code == 0, err

    code, _, err = run_script("test.py", *data, "--n_threads", 0, "--inference_subset", "train")
    assert code == 0
    assert "best.pdparams: 4 of the 4 videos were training videos of this checkpoint; the accuracy" in err
    features = ["--features", root / "f.npz", "--inference_subset", "train"]
    code, _, err = run_script("test.py", *data, "--n_threads", 0, *features)
    assert code == 0 and "training videos" not in err  # these make no claim


def test_a_split_by_does_not_see_the_class_before_the_name(tmp_path, capsys):
    console.note.cache_clear()
    for class_name in ("p9_run", "p9_walk"):
        for name in ("p1_a", "p2_a", "p3_a"):
            (tmp_path / class_name).mkdir(exist_ok=True)
            (tmp_path / class_name / f"{name}.mp4").touch()
    videos = folder.find_videos(tmp_path)
    assert videos[0].key == "p9_run/p1_a"
    options = {"val_fraction": 0.3, "manual_seed": 1, "split_by": re.compile(r"^(p\d)_")}
    (subset_of,) = folder.splits(videos, options)
    chosen = {key.split("/")[1] for key, subset in subset_of.items() if subset == "validation"}
    assert len(chosen) == 1 and len(subset_of) == 6


def test_a_first_repeated_name_does_not_hide_that_a_video_changes_its_subset(videos_path, run_script):
    assert generate(run_script, videos_path)[0] == 0
    path = videos_path.parent / "jpg.json"
    content = json.loads(path.read_text())
    for entry in content["database"].values():
        entry["subset"] = {"training": "validation", "validation": "training"}[entry["subset"]]
    path.write_text(json.dumps(content))
    shutil.copy(videos_path / "MoveUp/v_MoveUp_g01_c01.avi", videos_path / "MoveDown/v_MoveUp_g01_c01.avi")
    code, _, err = generate(run_script, videos_path)
    assert code == 0 and "videos change their subset" in err


@pytest.mark.parametrize(
    "names",
    [
        [unicodedata.normalize(form, "Salto è") for form in ("NFC", "NFD")],
        ["Run", "run"],
        ["Run", "Run "],
        ["Run", "\uff32un"],
    ],
)
def test_classes_that_look_alike_are_noted(tmp_path, capsys, names):
    console.note.cache_clear()
    for i, name in enumerate([*names, "Walk"]):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{i}.avi").touch()
    assert len(find_class_folders(tmp_path)) == 3
    err = capsys.readouterr().err
    assert "are classes of their own; if they are one, rename a folder" in err and err.count("\n") == 1
    assert all(ascii(name) in err for name in names)


def test_one_class_is_noted_in_stage_1_and_in_training(tmp_path, run_script):
    make_videos(tmp_path / "made", n_groups=6, n_clips=1)
    shutil.copytree(tmp_path / "made/MoveUp", tmp_path / "videos/MoveUp")
    code, _, err = generate(run_script, tmp_path / "videos")
    assert code == 0 and "MoveUp is the only class, so that every network is always right" in err
    data = ["--video_path", tmp_path / "jpg", "--annotation_path", tmp_path / "jpg.json"]
    training = [*data, *SMALL_TRAINING, "--n_epochs", 1, "--batch_size", 3]
    code, out, err = run_script("train.py", *training, "--result_path", tmp_path / "results")
    assert code == 0, err
    assert err.count("jpg.json: MoveUp is the only class, so that every network is always right") == 1
    content = json.loads((tmp_path / "jpg.json").read_text())
    content["labels"].append("Never")
    (tmp_path / "jpg.json").write_text(json.dumps(content))
    code, out, err = run_script("train.py", *training, "--result_path", tmp_path / "more")
    assert code == 0 and "jpg.json: 1 of 2 classes have no training video: Never" in err
