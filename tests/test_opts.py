"""The command lines: only options that are read, help that is quick and fits, paths under a root."""
import fcntl
import os
import pty
import re
import resource
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from conftest import ROOT, SMALL_TRAINING

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
    names = set(vars(SCRIPTS[script]([]))) - {"root_path", "quiet"}  # read by the parser itself
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


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--timeline"], "--timeline is for --video"),
        (["--json"], "--json is for --video"),
        (["--render", "o.mp4"], "--render is for --video"),
        (["--fps", "25"], "--fps is for --video"),
        (["--video", "a", "b", "--render", "o.mp4"], "exactly one video"),
        (["--video", "-", "--render", "o.mp4"], "exactly one video"),
        (["--video", "a", "--render", "o.avi"], "o.avi does not end in .mp4"),
        (["--video", "a", "--inference_no_average"], "--timeline gives"),
        (["--video", "a", "--features", "o.npz", "--json"], "features only"),
        (["--features", "o.npz", "--inference_no_average"], "clips and videos"),
        (["--features", "o.txt"], "o.txt does not end in .npz"),
        (["--video"], "expected at least one argument"),
    ],
)
def test_options_that_contradict_each_other_exit_with_2(arguments, told, capsys):
    with pytest.raises(SystemExit) as leaving:
        opts.test_options(arguments)
    assert leaving.value.code == 2
    assert told in capsys.readouterr().err


def test_the_users_own_videos_start_from_the_root_too():
    options = opts.test_options(["--root_path", "/data", "--video", "a.mp4", "/b.mp4", "-", "--timeline"])
    assert options.video == [Path("/data/a.mp4"), Path("/b.mp4"), "-"]


def test_relative_paths_start_from_the_root_and_absolute_ones_stay():
    options = opts.train_options(["--root_path", "/data", "--result_path", "/elsewhere"])
    assert options.video_path == Path("/data/dataset/UCF-101-jpg")
    assert options.result_path == Path("/elsewhere")
    assert opts.train_options(["--pretrain_path", "none"]).pretrain_path is None


def on_a_terminal(command, cwd):
    """Run a command whose stderr is a terminal; return what is written there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 80, 0, 0))
    with subprocess.Popen(
        [sys.executable, *map(str, command)], stderr=theirs, stdout=subprocess.DEVNULL, cwd=cwd
    ) as process:
        os.close(theirs)
        written = b""
        try:
            while part := os.read(ours, 4096):
                written += part
        except OSError:  # Linux's way to say that the other end is closed
            pass
    os.close(ours)
    assert process.returncode == 0, written
    return written.decode()


BAR = """
import sys, opts
opts.eval_options(sys.argv[1:])
with opts.progress_bar(total=3, unit="clip", desc="counting", mininterval=0, miniters=1) as bar:
    for _ in range(3):
        bar.update()
        opts.note("half way")
        opts.note("all is well", of_success=True)
with opts.working("thinking"):
    pass
"""


def test_a_terminal_gets_a_bar_and_a_log_file_gets_lines():
    written = on_a_terminal(["-c", BAR], ROOT)
    assert "\rcounting: 100%" in written and "\rthinking ..." in written
    assert "\rnote: half way\r\n" in written  # above the bar, not behind it
    at_once = BAR.replace("mininterval=0", "mininterval=0, delay=0")  # not after 30 s
    done = subprocess.run([sys.executable, "-c", at_once], cwd=ROOT, capture_output=True, text=True)
    lines = done.stderr.split("\n")
    assert "\r" not in done.stderr and "thinking" not in done.stderr and lines[-1] == ""
    assert [line for line in lines if line.startswith("counting 3/3 clips, ")]
    assert {"note: half way", "note: all is well"} < set(lines)


def test_quiet_leaves_errors_and_the_notes_that_matter():
    assert on_a_terminal(["-c", BAR, "--quiet"], ROOT) == "note: half way\r\n"


def test_a_training_shows_its_steps_on_a_terminal_and_nothing_with_quiet(small_set):
    train = [ROOT / "train.py", *SMALL_TRAINING, "--n_epochs", 1]
    written = on_a_terminal(train, small_set)
    loading = ("\rloading Paddle ...", "\rloading the network ...", "\rwriting save_1.pdparams ...")
    for shown in (*loading, "\repoch 1 2/2", ", loss 0.", "\rvalidation: "):
        assert shown in written, shown
    assert max(map(len, re.split("[\r\n]+|\x1b.", written))) <= 80
    assert on_a_terminal([*train, "--result_path", "quiet", "--quiet"], small_set) == ""


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_can_be_quiet(script):
    assert SCRIPTS[script](["--quiet"]).quiet and not SCRIPTS[script]([]).quiet


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
