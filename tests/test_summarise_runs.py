"""Several runs, of splits and seeds: their mean, as `make reproduce SPLITS=... SEEDS=...` ends with it."""
import json
import subprocess
import zlib

import pytest
from conftest import ROOT

VIDEOS = [f"v{i}" for i in range(10)]


def write_annotation(path):
    entry = {"subset": "validation", "annotations": {"label": "a", "segment": [1, 9]}}
    path.write_text(json.dumps({"labels": ["a", "b"], "database": dict.fromkeys(VIDEOS, entry)}))


def write_run(folder, annotation, wrong):
    """Write the results of a run that takes some videos of class a for b."""
    folder.mkdir()
    results = {}
    for video in VIDEOS:
        labels = "ba" if video in wrong else "ab"
        results[video] = [{"label": label, "score": score} for label, score in zip(labels, (0.9, 0.1))]
    text = json.dumps({"results": results})
    (folder / "val.json").write_text(text)
    run = {"version": 2, "results_crc32": zlib.crc32(text.encode()), "videos": dict.fromkeys(VIDEOS, [1, 1])}
    (folder / "val_run.json").write_text(json.dumps({**run, "options": {"annotation_path": str(annotation)}}))


@pytest.fixture
def runs(tmp_path):
    for split in (1, 2):
        write_annotation(tmp_path / f"ucf101_0{split}.json")
    for name, split, wrong in (
        ("split1_seed1", 1, ["v0", "v1"]),  # 0.8
        ("split1_seed2", 1, ["v1", "v2", "v3", "v4"]),  # 0.6
        ("split2_seed1", 2, []),  # 1.0
    ):
        write_run(tmp_path / name, f"ucf101_0{split}.json", wrong)
    return tmp_path


def test_runs_of_splits_and_seeds_give_their_mean_and_how_sure_it_is(runs, run_script):
    names = ["split1_seed1", "split1_seed2", "split2_seed1"]
    code, out, err = run_script("tools/summarise_runs.py", *names, cwd=runs)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "split1_seed1: ucf101_01.json, top-1 accuracy 0.8000 of 10 videos, 95 % interval 0.4902 to 0.9433",
        "split1_seed2: ucf101_01.json, top-1 accuracy 0.6000 of 10 videos, 95 % interval 0.3127 to 0.8318",
        "split1_seed2 against split1_seed1: gained 1, lost 3, McNemar's exact p 0.625",
        "mean of 2 runs on ucf101_01.json: 0.7000, standard deviation 0.1414",
        "split2_seed1: ucf101_02.json, top-1 accuracy 1.0000 of 10 videos, 95 % interval 0.7225 to 1.0000",
        "mean of 2 splits: 0.8500, standard deviation 0.2121",
    ]


def test_a_run_that_does_not_say_its_annotation_is_refused(runs, run_script):
    (runs / "split1_seed1/val_run.json").unlink()
    code, _, err = run_script("tools/summarise_runs.py", "split1_seed1", cwd=runs)
    assert code == 1 and "val_run.json" in err and "run test.py again" in err and err.count("\n") == 1
    code, _, err = run_script("tools/summarise_runs.py", "nowhere", cwd=runs)
    assert code == 1 and "nowhere/val.json: no such results file" in err and err.count("\n") == 1


def planned(*variables):
    done = subprocess.run(
        ["make", "-n", "--no-print-directory", "-C", str(ROOT), "reproduce", *variables],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": "-1"},
    )
    return [" ".join(line.split()) for line in done.stdout.splitlines()]


def test_make_runs_each_split_with_each_seed_and_then_the_mean():
    lines = planned("VIDEOS=v", "WEIGHTS=w.pth", "SPLITS=1,3", "SEEDS=4,5")
    trained = [line for line in lines if "train.py" in line]
    folders = [f"results/split{split}_seed{seed}" for split in (1, 3) for seed in (4, 5)]
    for line, folder in zip(trained, folders):
        assert f"--result_path {folder} " in line and f"--manual_seed {folder[-1]}" in line
        assert f"--annotation_path dataset/ucf101_0{folder[13]}.json" in line
    assert len(trained) == 4 and lines[-1].endswith(" ".join(["tools/summarise_runs.py", *folders]))
    assert sum("generate_video_jpgs.py" in line for line in lines) == 1
    assert not any("summarise" in line or "split" in line for line in planned("VIDEOS=v", "WEIGHTS=w.pth"))
