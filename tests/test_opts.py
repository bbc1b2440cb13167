"""The command lines: only options that are read, help that is quick and fits, paths under a root."""
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import disk
import opts

SCRIPTS = {
    "generate_video_jpgs.py": opts.generate_options,
    "convert_to_paddle.py": opts.convert_options,
    "train.py": opts.train_options,
    "test.py": opts.test_options,
    "eval_accuracy.py": opts.eval_options,
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_option_is_read_by_its_script(script):
    source = (ROOT / script).read_text()
    names = set(vars(SCRIPTS[script]([]))) - {"root_path"}  # read by the parser itself
    if script == "generate_video_jpgs.py":
        names -= {"dataset"}  # one choice so far: it names the layout
    unread = {name for name in names if not re.search(rf"\boptions\.{name}\b", source)}
    assert not unread


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_answers_at_once_fits_80_columns_and_shows_an_example(script):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, str(ROOT / script), "--help"],
        capture_output=True,
        text=True,
        env={"COLUMNS": "80", "PATH": "/usr/bin:/bin"},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0 and f"python {script}" in done.stdout
    text = done.stdout.split("example:")[0]
    assert max(map(len, text.splitlines())) <= 80
    assert "import" not in done.stderr
    # CPU time, for cores that others share: 0.05 s. PyAV or numpy alone take 0.1 to 0.2 s, Paddle 2 s.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.15


@pytest.mark.parametrize(
    "arguments",
    [
        ["--batch_size", "0"],
        ["--learning_rate", "-1"],
        ["--label_smoothing", "1.5"],
        ["--model_depth", "51"],
        ["--ft_begin_module", "layer5"],
        ["--batch", "8"],
        ["--manual_seed", "x"],
    ],
)
def test_a_bad_value_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as leaving:
        opts.train_options(arguments)
    assert leaving.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_relative_paths_start_from_the_root_and_absolute_ones_stay():
    options = opts.train_options(["--root_path", "/data", "--result_path", "/elsewhere"])
    assert options.video_path == Path("/data/dataset/UCF-101-jpg")
    assert options.result_path == Path("/elsewhere")
    assert opts.train_options(["--pretrain_path", "none"]).pretrain_path is None


def test_the_defaults_are_the_published_recipe():
    options = vars(opts.train_options([]))
    recipe = {
        "learning_rate": 0.003,
        "momentum": 0.9,
        "weight_decay": 1e-3,
        "nesterov": False,
        "lr_scheduler": "plateau",
        "plateau_patience": 10,
        "batch_size": 128,
        "n_epochs": 200,
        "sample_size": 112,
        "sample_duration": 16,
        "train_crop": "random",
        "train_crop_min_scale": 0.25,
        "train_crop_min_ratio": 0.75,
        "mean_dataset": "kinetics",
        "label_smoothing": 0.0,
        "mixup_alpha": 0.0,
        "n_val_samples": 3,
    }
    assert {name: options[name] for name in recipe} == recipe


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a" / "b.json"
    disk.write_file(path, "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk.os, "fsync", full)
    with pytest.raises(opts.UserError, match="b.json: No space left on device; 3 bytes are needed"):
        disk.write_file(path, "new")
    assert path.read_text() == "old" and [p.name for p in path.parent.iterdir()] == ["b.json"]
