"""The command lines: only options that are read, help that is quick and fits, paths under a root."""
import fcntl
import json
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

import opts
from run import files
from run.console import UserError
from run.spec import MEANS, FrameSpec, Given, Protocol

SCRIPTS = {
    "generate_video_jpgs.py": opts.generate_options,
    "convert_to_paddle.py": opts.convert_options,
    "train.py": opts.train_options,
    "test.py": opts.test_options,
    "eval_accuracy.py": opts.eval_options,
    "tools/predict.py": lambda argv: opts.predict_options(["a.mp4", *argv]),
    "tools/export_model.py": lambda argv: opts.export_options(["--to", "torch", *argv]),
    "tools/summarise_runs.py": lambda argv: opts.summarise_options(["results", *argv]),
}
# Runs a script's main with options that note which of them are read.
RECORD = """
import argparse, importlib, sys
read = set()
class Recording(argparse.Namespace):
    def __getattribute__(self, name):
        read.add(name)
        return super().__getattribute__(name)
root, script, parser, *arguments = sys.argv[1:]
sys.path[:0] = [root]
import opts
options = getattr(opts, parser)(arguments)
names = set(vars(options)) - {"quiet", "root_path"}  # read by the parser itself
spec = importlib.util.spec_from_file_location(script, f"{root}/{script}.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.main(Recording(**vars(options)))
print("unread:", *sorted(names - read))
"""


@pytest.mark.parametrize(
    "script, parser, arguments",
    [
        ("train", "train_options", [*SMALL_TRAINING, "--n_epochs", "1"]),
        ("eval_accuracy", "eval_options", ["--report", "--ignore"]),
    ],
)
def test_every_option_is_read_when_its_script_runs(small_set, script, parser, arguments):
    if script == "eval_accuracy":
        video = {"v_run_g07_c01": [{"label": "run", "score": 0.9}, {"label": "Jump", "score": 0.1}]}
        (small_set / "results").mkdir()
        (small_set / "results/val.json").write_text(json.dumps({"results": video}))
    done = subprocess.run(
        [sys.executable, "-c", RECORD, str(ROOT), script, parser, *arguments],
        cwd=small_set, capture_output=True, text=True,
    )
    assert done.stdout.splitlines()[-1:] == ["unread:"], done.stdout + done.stderr


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
    assert "root_path ROOT_PATH" in text
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
        ["--model", "vgg"],
        ["--recipe", "none"],
        ["--multistep_milestones", "0"],
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
    "script, arguments, told",
    [
        ("tools/predict.py", ["b", "--render", "o.mp4"], "exactly one video"),
        ("tools/predict.py", ["-", "--render", "o.mp4"], "exactly one video"),
        ("tools/predict.py", ["--render", "o.avi"], "o.avi does not end in .mp4"),
        ("tools/predict.py", ["--features", "o.npz", "--json"], "features only"),
        ("tools/predict.py", ["--features", "o.txt"], "o.txt does not end in .npz"),
        ("tools/export_model.py", ["--to", "caffe"], "invalid choice: 'caffe'"),
        ("test.py", ["--features", "o.npz", "--inference_no_average"], "clips and videos"),
        ("test.py", ["--video", "a.mp4"], "python tools/predict.py a.mp4"),
        ("convert_to_paddle.py", ["--to", "onnx"], "python tools/export_model.py --to onnx"),
        ("generate_video_jpgs.py", ["a", "b", "ucf101", "--val_fraction", "0.5"], "not for ucf101"),
        ("generate_video_jpgs.py", ["a", "b", "folder", "--annotation_dir_path", "x"], "not for folder"),
        ("generate_video_jpgs.py", ["a", "b", "folder", "--split_by", "("], "not a regular expression"),
    ],
)
def test_options_that_contradict_each_other_exit_with_2(script, arguments, told, capsys):
    with pytest.raises(SystemExit) as leaving:
        SCRIPTS[script](arguments)
    assert leaving.value.code == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["--batch-size", "8"], "--batch-size is no option, --batch_size is one; train.py --help lists all"),
        (["--quux=1"], "--quux is no option; train.py --help lists all"),
        (["--n_epochs", "x"], "argument --n_epochs: 'x' is not a whole number"),
    ],
)
def test_a_mistyped_option_gives_one_line_and_the_name_that_is_near(arguments, line, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py"])
    with pytest.raises(SystemExit):
        opts.train_options(arguments)
    assert capsys.readouterr().err == f"error: {line}\n"


def test_help_tells_defaults_of_0_and_1_and_the_ranges(capsys):
    with pytest.raises(SystemExit):
        opts.train_options(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for told in (
        "0 for none (default: 0; at least 0)",
        "conv1's kernel",
        "seed of weights, clips and order (default: 1; at least 0)",
        "momentum of SGD (default: 0.9; at least 0, at most 1)",
        "at milestones (default: plateau)",
    ):
        assert told in text, told


def test_only_what_was_given_is_returned_of_the_specs():
    assert opts.train_options([]).given == Given()
    given = opts.train_options(
        "--recipe paper2_finetune --model resnet --model_depth 18 --mean_dataset 0.5 --sample_size 64 "
        "--amp off --multistep_milestones 3 4".split()
    ).given
    mean, std, _ = MEANS["0.5"]
    assert given == Given(
        recipe_name="paper2_finetune",
        model="resnet",
        network={"model_depth": 18},
        clip={"sample_size": 64, "mean": mean, "std": std, "scale": 255.0},
        recipe={"amp": "off", "multistep_milestones": (3, 4)},
    )
    assert opts.test_options(["--output_topk", "3"]).protocol == Protocol(output_topk=3)
    options = opts.generate_options(["--fps", "12.5"])
    assert options.frame_spec == FrameSpec(fps=12.5)
    assert options.source_options == {"annotation_dir_path": None, "dir_path": options.dir_path}


def test_the_users_own_videos_start_from_the_root_too():
    options = opts.predict_options(["--root_path", "/data", "a.mp4", "/b.mp4", "-", "--timeline"])
    assert options.videos == [Path("/data/a.mp4"), Path("/b.mp4"), "-"]


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
from run import console
opts.eval_options(sys.argv[1:])
with console.progress_bar(total=3, unit="clip", desc="counting", mininterval=0, miniters=1) as bar:
    for _ in range(3):
        bar.update()
        console.note("half way")
        console.note("all is well", of_success=True)
with console.working("thinking"):
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


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a" / "b.json"
    files.atomic_write(path, "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UserError, match="b.json: No space left on device; 3 bytes are needed"):
        files.atomic_write(path, "new")
    assert path.read_text() == "old" and [p.name for p in path.parent.iterdir()] == ["b.json"]
