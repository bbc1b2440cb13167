"""Training from the outside: what it writes, that it resumes bit for bit, and what it refuses."""
import contextlib
import json
import math
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT, SMALL_TRAINING, network

from model.checkpoint import Metadata, load_checkpoint, save_checkpoint
from model.weights import weights_of
from report.curves import Curves, curves_png


def log(root, results="results"):
    lines = [json.loads(line) for line in (root / results / "train.jsonl").read_text().splitlines()]
    return [x for x in lines if "epoch" not in x], [x for x in lines if "epoch" in x]


def without_times(entries):
    return [{k: v for k, v in e.items() if "second" not in k} for e in entries]


def assert_same_file(a, b):
    """Compare two checkpoints bit for bit; only the number of epochs that were asked for may differ."""
    a, b = load_checkpoint(a), load_checkpoint(b)
    ours, other = (replace(c.metadata, recipe=replace(c.metadata.recipe, n_epochs=1)) for c in (a, b))
    assert ours == other and a.groups.keys() == b.groups.keys()
    for part, mine in a.groups.items():
        assert mine.keys() == b.groups[part].keys()
        for name in mine:
            np.testing.assert_array_equal(mine[name], b.groups[part][name], err_msg=name)


def save_weights(path, net):
    """Write a network's weights as a conversion does."""
    save_checkpoint(path, {"weights": weights_of(net)}, Metadata(net.spec))


def test_two_epochs_are_one_and_a_resume_and_one_bit_for_bit(small_set, run_script):
    def train(*options):
        code, out, err = run_script("train.py", *SMALL_TRAINING, *options, cwd=small_set)
        assert code == 0, err
        return out

    common = ["--checkpoint", 1, "--mixup_alpha", 0.2, "--label_smoothing", 0.1]
    out = train(*common, "--n_epochs", 2)
    assert "6 training videos" in out and "2 classes" in out and "epoch 2:" in out
    train(*common, "--n_epochs", 1, "--result_path", "again", "--n_threads", 2)
    train(*common, "--n_epochs", 2, "--result_path", "again", "--resume_path", "again")
    for name in ("save_1.pdparams", "save_2.pdparams", "best.pdparams"):
        assert_same_file(small_set / "results" / name, small_set / "again" / name)

    headers, epochs = log(small_set)
    assert [e["epoch"] for e in epochs] == [1, 2]
    assert headers[0]["n_training_videos"] == 6 and headers[0]["recipe"]["batch_size"] == 4
    assert set(epochs[0]) >= {"learning_rate", "train_loss", "val_loss", "val_clip_accuracy"}
    assert without_times(log(small_set, "again")[1]) == without_times(epochs)
    # The curves of a resumed run are those of all its epochs.
    for name in ("results", "again"):
        curves = (small_set / name / "curves.png").read_bytes()
        assert curves == curves_png(log(small_set, name)[1]) != curves_png(epochs[1:])
    metadata = load_checkpoint(small_set / "results/best.pdparams").metadata
    assert metadata.class_names == ["Jump", "run"] and metadata.clip.sample_size == 32
    assert metadata.recipe.mixup_alpha == 0.2 and metadata.training is None

    # Continuing in another folder takes the best along; going back behind a checkpoint is refused.
    train(*common, "--n_epochs", 2, "--result_path", "copy", "--resume_path", "again/save_1.pdparams")
    for name in ("save_2.pdparams", "best.pdparams"):
        assert_same_file(small_set / "results" / name, small_set / "copy" / name)
    code, _, err = run_script(
        "train.py", *SMALL_TRAINING, *common, "--resume_path", "results/save_1.pdparams", cwd=small_set
    )
    assert code == 1 and "holds save_2.pdparams, which is later than save_1.pdparams" in err

    # A third epoch after the end, with an epoch in the log that no checkpoint holds.
    with open(small_set / "again/train.jsonl", "a") as file:
        file.write('{"epoch": 3}\n')
    train(*common, "--n_epochs", 3, "--result_path", "again", "--resume_path", "again/save_2.pdparams")
    assert [e["epoch"] for e in log(small_set, "again")[1]] == [1, 2, 3]
    assert "train_loss" in log(small_set, "again")[1][-1]


def test_fine_tuning_starts_from_the_weights_and_moves_layer4_and_fc_only(small_set, run_script):
    arguments = [a for a in SMALL_TRAINING if a not in ("--pretrain_path", "none")]
    arguments = [str(a) for a in arguments]
    for name in ("--model_depth", "--resnet_widen_factor", "--conv1_t_size"):  # the weights decide
        at = arguments.index(name)
        del arguments[at : at + 2]
    net = network(10, 39, resnet_widen_factor=0.125, conv1_t_size=3)
    before = weights_of(net)
    save_weights(small_set / "weights/r3d50_KM_200ep.pdparams", net)
    code, out, err = run_script("train.py", *arguments, "--n_epochs", 1, cwd=small_set)
    assert code == 0, err
    assert "training layer4 on" in out
    after = load_checkpoint(small_set / "results/best.pdparams").groups["weights"]
    # And a resumed fine-tuning, over a fall of the rate, needs the checkpoint alone.
    more = ["--lr_scheduler", "multistep", "--multistep_milestones", 3]
    for name, epochs in (("whole", [4]), ("parts", [2, 4])):
        for n_epochs in epochs:
            resume = ["--resume_path", "parts"] if n_epochs != epochs[0] else []
            code, out, err = run_script(
                "train.py", *arguments, *more, "--n_epochs", n_epochs, "--result_path", name, *resume,
                cwd=small_set,
            )
            assert code == 0, err
            if resume == [] and name == "parts":
                (small_set / "weights/r3d50_KM_200ep.pdparams").unlink()
    assert log(small_set, "whole")[1][-1]["learning_rate"] == pytest.approx(0.001)
    assert_same_file(small_set / "whole/save_4.pdparams", small_set / "parts/save_4.pdparams")

    moved = {name.split(".")[0] for name in after if name.endswith(("weight", "bias"))
             and not np.array_equal(after[name], before[name])}
    assert moved == {"layer4", "fc"}
    assert after["fc.bias"].shape == (2,)
    assert not np.array_equal(after["layer1.0.bn1._mean"], before["layer1.0.bn1._mean"])


def test_freeze_bn_holds_the_frozen_statistics_and_resumes_bit_for_bit(small_set, run_script):
    net = network(10, 39, resnet_widen_factor=0.125, conv1_t_size=3)
    before = weights_of(net)
    save_weights(small_set / "weights/r3d50_KM_200ep.pdparams", net)
    data = "--sample_size 32 --sample_duration 8 --batch_size 4 --n_threads 0 --learning_rate 0.01".split()

    def train(*arguments):
        return run_script("train.py", *data, *arguments, cwd=small_set)

    assert train("--freeze_bn", "--n_epochs", 2)[0] == 0
    assert train("--freeze_bn", "--n_epochs", 1, "--result_path", "parts")[0] == 0
    resume = ["--n_epochs", 2, "--result_path", "parts", "--resume_path", "parts"]
    assert train(*resume)[0] == 0  # what is not given is the run's own
    assert_same_file(small_set / "results/save_2.pdparams", small_set / "parts/save_2.pdparams")

    after = load_checkpoint(small_set / "parts/save_2.pdparams").groups["weights"]
    changed = {name for name in after if name[:3] != "fc." and not np.array_equal(after[name], before[name])}
    assert changed == {name for name in after if name.startswith("layer4.")}

    code, _, err = train("--freeze_bn", "--ft_begin_module", "conv1", "--result_path", "all")
    assert code == 1 and "--freeze_bn: all modules are trained" in err and "Traceback" not in err


def spoil_frame(root):
    folder = root / "dataset/UCF-101-jpg/Jump/v_Jump_g02_c01"
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:300])


def add_best(root):
    (root / "results").mkdir()
    (root / "results/best.pdparams").touch()


@pytest.mark.parametrize(
    "spoil, options, message",
    [
        (lambda r: None, ["--annotation_path", "no.json"], "no.json: no such annotation"),
        (lambda r: None, ["--video_path", "nowhere"], "nowhere: no such folder of frames"),
        (lambda r: None, ["--batch_size", 7], "6 training videos are fewer than a batch"),
        (lambda r: None, ["--amp", "O1"], "needs a GPU"),
        (lambda r: None, ["--pretrain_path", "no.pdparams"], "no.pdparams: no such weights"),
        (lambda r: None, ["--resume_path", "no.pdparams"], "no.pdparams: no such weights"),
        (
            lambda r: [p.unlink() for p in (r / "dataset/UCF-101-jpg").rglob("image_00018.jpg")],
            [],
            "frames missing for 10 of 10 annotated videos: v_Jump_g00_c01 (17 of 18 frames), "
            "v_run_g01_c01 (18 of 19 frames), v_Jump_g02_c01 (19 of 20 frames), ...",
        ),
        (
            lambda r: shutil.rmtree(r / "dataset/UCF-101-jpg/run/v_run_g09_c01"),
            [],
            "frames missing for 1 of 10 annotated videos: v_run_g09_c01 (no folder)",
        ),
        (spoil_frame, ["--n_threads", 2], "v_Jump_g02_c01/image_"),
        (spoil_frame, ["--n_threads", 0], "v_Jump_g02_c01/image_"),
        (lambda r: None, ["--learning_rate", "1e30", "--batch_size", 2], "Videos of the batch: v_"),
        (add_best, [], "holds a run already"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_and_where(small_set, run_script, spoil, options, message):
    spoil(small_set)
    code, out, err = run_script(
        "train.py", *SMALL_TRAINING, "--n_epochs", 3, *options, cwd=small_set, timeout=120
    )
    assert code == 1, err
    line = err.strip().splitlines()[-1]
    assert line.startswith("error: ") and message in line
    assert "Traceback" not in err


def test_a_run_that_diverges_stops_and_leaves_its_checkpoints_as_they_were(small_set, run_script):
    code, out, err = run_script("train.py", *SMALL_TRAINING, "--n_epochs", 1, cwd=small_set)
    assert code == 0, err
    path = small_set / "results/save_1.pdparams"
    groups, metadata = load_checkpoint(path)
    velocity = {name: np.full_like(array, 3e38) for name, array in groups["velocity"].items()}
    save_checkpoint(path, {**groups, "velocity": velocity}, metadata)
    before = {p.name: p.read_bytes() for p in (small_set / "results").glob("*.pdparams")}
    code, out, err = run_script(
        "train.py", *SMALL_TRAINING, "--n_epochs", 2, "--resume_path", "results", cwd=small_set
    )
    assert code == 1 and "epoch 2" in err and "Try a lower --learning_rate" in err
    assert {p.name: p.read_bytes() for p in (small_set / "results").glob("*.pdparams")} == before


@pytest.mark.parametrize(
    "options, message",
    [
        (["--model_depth", 18], "weights with model_depth 10, --model_depth asks for 18"),
        (["--resnet_shortcut", "A"], "--resnet_shortcut asks for A"),
        (["--no_max_pool"], "--no_max_pool asks for True"),
    ],
)
def test_weights_of_another_architecture_are_refused(small_set, run_script, options, message):
    save_weights(small_set / "weights/r3d50_KM_200ep.pdparams", network(10, 39, resnet_widen_factor=0.125))
    code, out, err = run_script("train.py", "--batch_size", 4, *options, cwd=small_set)
    assert code == 1 and message in err


def test_a_resume_with_other_options_is_refused(small_set, run_script):
    code, out, err = run_script("train.py", *SMALL_TRAINING, "--n_epochs", 1, cwd=small_set)
    assert code == 0, err
    code, out, err = run_script(
        "train.py", *SMALL_TRAINING, "--momentum", 0.8, "--fast_decode", "--sample_size", 40,
        "--resume_path", "results", cwd=small_set
    )
    assert code == 1 and err.count("\n") == 1
    for change in ("momentum was 0.9 and is 0.8", "fast_decode was False and is True", "sample_size was 32"):
        assert change in err
    code, out, err = run_script(
        "train.py", *SMALL_TRAINING, "--resume_path", "results/best.pdparams", cwd=small_set
    )
    assert code == 1 and "weights only, nothing to resume" in err


def test_a_resume_takes_what_is_not_given_from_the_checkpoint(small_set, run_script):
    for n_epochs, result in ((2, "whole"), (1, "parts")):
        code, _, err = run_script(
            "train.py", *SMALL_TRAINING, "--n_epochs", n_epochs, "--result_path", result, cwd=small_set
        )
        assert code == 0, err
    code, _, err = run_script(
        "train.py", "--resume_path", "parts", "--result_path", "parts", "--n_epochs", 2, cwd=small_set
    )
    assert code == 0, err
    assert_same_file(small_set / "whole/save_2.pdparams", small_set / "parts/save_2.pdparams")


def test_a_resume_on_other_videos_of_equal_number_is_refused(small_set, run_script):
    code, _, err = run_script("train.py", *SMALL_TRAINING, "--n_epochs", 1, cwd=small_set)
    assert code == 0, err
    path = small_set / "dataset/ucf101_01.json"
    content = json.loads(path.read_text())
    a, b = (content["database"][name] for name in ("v_Jump_g00_c01", "v_Jump_g06_c01"))
    a["subset"], b["subset"] = b["subset"], a["subset"]
    path.write_text(json.dumps(content))
    code, _, err = run_script("train.py", "--resume_path", "results", "--n_epochs", 2, cwd=small_set)
    assert code == 1 and "started on other videos, subsets or segments" in err


def test_the_learning_rate_falls_by_the_schedule(small_set, run_script):
    code, out, err = run_script(
        "train.py", *SMALL_TRAINING, "--n_epochs", 3, "--lr_scheduler", "multistep",
        "--multistep_milestones", 1, 2, "--n_val_samples", 1, "--train_crop", "corner", "--nesterov",
        "--sample_t_stride", 2, "--train_t_crop", "center", "--mean_dataset", "0.5", cwd=small_set,
    )
    assert code == 0, err
    _, epochs = log(small_set)
    rates = [e["learning_rate"] for e in epochs]
    assert all(math.isclose(a, b) for a, b in zip(rates, (0.01, 0.001, 0.0001)))
    clip = load_checkpoint(small_set / "results/best.pdparams").metadata.clip
    assert clip.mean == clip.std == (0.5, 0.5, 0.5) and clip.sample_t_stride == 2


def start_training(root, *options):
    command = [sys.executable, str(ROOT / "train.py"), *SMALL_TRAINING, *options]
    return subprocess.Popen(
        list(map(str, command)), cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )


def end_when(process, path, signum, whole_group=False):
    """Send a signal once a file is there; return the exit code and what was said on stderr."""
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    (os.killpg if whole_group else os.kill)(process.pid, signum)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


def test_a_run_ended_by_signals_or_killed_continues_bit_for_bit(small_set, run_script):
    # Three steps an epoch; readers at work, which a terminal's Ctrl-C reaches too.
    common = ["--batch_size", 2, "--n_epochs", 4, "--mixup_alpha", 0.2]
    code, _, err = run_script("train.py", *SMALL_TRAINING, *common, "--result_path", "whole", cwd=small_set)
    assert code == 0, err
    common += ["--checkpoint_steps", 1, "--n_threads", 2]
    results = small_set / "results"
    process = start_training(small_set, *common)
    code, err = end_when(process, results / "save_1_1.pdparams", signal.SIGTERM)
    assert code == 143 and "continue with --resume_path results" in err and "Traceback" not in err
    # It waited for its end of step and then left; the place differs with the machine's load.
    resume = [*common, "--resume_path", "results"]
    for signum, expected in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        header = len(log(small_set)[0])
        process = start_training(small_set, *resume)
        deadline = time.monotonic() + 60
        while len(log(small_set)[0]) == header and time.monotonic() < deadline:
            time.sleep(0.01)
        code, err = end_when(process, results, signum, whole_group=signum == signal.SIGINT)
        # The first epoch of a resumed run may be over before the signal comes; never the fourth.
        assert code == expected and "Traceback" not in err, err
        assert "Killed" not in err
    code, _, err = run_script("train.py", *SMALL_TRAINING, *resume, cwd=small_set)
    assert code == 0, err
    for name in ("save_4.pdparams", "best.pdparams"):
        assert_same_file(small_set / "whole" / name, results / name)
    assert without_times(log(small_set)[1]) == without_times(log(small_set, "whole")[1])
    names = {path.name for path in results.iterdir()}
    assert not {name for name in names if name.endswith(".tmp") or name.count("_") == 2}


def test_a_second_run_in_the_same_folder_is_refused_until_the_first_is_gone(small_set, run_script):
    process = start_training(small_set, "--n_epochs", 500)
    deadline = time.monotonic() + 60
    while not (small_set / "results/save_1.pdparams").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    arguments = [*SMALL_TRAINING, "--n_epochs", 500, "--resume_path", "results"]
    code, _, err = run_script("train.py", *arguments, cwd=small_set)
    assert code == 1 and f"another run is at work here (process {process.pid} on" in err
    process.kill()
    process.wait()
    arguments[arguments.index(500)] = 1
    assert run_script("train.py", *arguments, cwd=small_set)[0] == 0


def test_a_killed_reader_ends_the_run_in_one_line(small_set):
    process = start_training(small_set, "--n_epochs", 500, "--n_threads", 2)
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if (small_set / "results/save_1.pdparams").exists() and children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(children[-1]), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    # Paddle's own thread may log a warning beside it.
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "a reader process died" in errors[0] and "Traceback" not in err


@pytest.mark.parametrize("limit", [100_000, 1_200_000])
def test_a_full_disk_leaves_the_last_checkpoint_whole(small_set, run_script, limit):
    # A limit on the size of a file stands in for a full disk: on best.pdparams, or on save_2 alone.
    code, _, err = run_script("train.py", *SMALL_TRAINING, "--n_epochs", 1, cwd=small_set)
    assert code == 0, err
    before = {p.name: p.read_bytes() for p in (small_set / "results").glob("*.pdparams")}
    assert len(before["best.pdparams"]) < 1_200_000 < len(before["save_1.pdparams"])
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *SMALL_TRAINING, "--n_epochs", "2",
         "--resume_path", "results"],
        cwd=small_set, capture_output=True, text=True, timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert re.search(r"results/(save_2|best)\.pdparams: File too large; [\d,]+ bytes are needed", line)
    assert (small_set / "results/save_1.pdparams").read_bytes() == before["save_1.pdparams"]
    assert not list((small_set / "results").glob(".*.tmp"))
    code, _, err = run_script(
        "train.py", *SMALL_TRAINING, "--n_epochs", 2, "--resume_path", "results", cwd=small_set
    )
    assert code == 0, err


def test_only_the_last_checkpoints_are_kept(small_set, run_script):
    arguments = ["--n_epochs", 4, "--keep", 2, "--batch_size", 2, "--checkpoint_steps", 2]
    code, _, err = run_script("train.py", *SMALL_TRAINING, *arguments, cwd=small_set)
    assert code == 0, err
    names = {path.name for path in (small_set / "results").glob("*.pdparams")}
    assert names == {"save_3.pdparams", "save_4.pdparams", "best.pdparams"}


def test_a_run_killed_between_its_first_best_and_its_first_checkpoint_can_be_started_again(
    small_set, run_script
):
    code, _, err = run_script("train.py", *SMALL_TRAINING, "--n_epochs", 1, cwd=small_set)
    assert code == 0, err
    (small_set / "results/save_1.pdparams").unlink()
    code, _, err = run_script("train.py", *SMALL_TRAINING, "--n_epochs", 2, cwd=small_set)
    assert code == 0, err
    assert [entry["epoch"] for entry in log(small_set)[1]] == [1, 2]


def fail_to_import(root, package):
    """Put a package on a path that cannot be imported; return the environment for it."""
    (root / "broken").mkdir(exist_ok=True)
    (root / f"broken/{package}.py").write_text(f"raise ImportError('{package} is not to be had')\n")
    return {"PYTHONPATH": str(root / "broken")}


def test_curves_that_cannot_be_drawn_are_one_note_and_end_nothing(small_set, run_script):
    env = fail_to_import(small_set, "matplotlib")
    code, out, err = run_script("train.py", *SMALL_TRAINING, "--n_epochs", 2, cwd=small_set, env=env)
    assert code == 0 and "epoch 2:" in out
    assert err == (
        "note: results/curves.png: not drawn (ImportError: matplotlib is not to be had); "
        "training continues without it\n"
    )
    assert not (small_set / "results/curves.png").exists()


def test_the_curves_leave_nothing_in_the_home(small_set, run_script):
    home = small_set / "home"
    home.mkdir()
    code, _, err = run_script(
        "train.py", *SMALL_TRAINING, "--n_epochs", 1, cwd=small_set, env={"HOME": str(home)}
    )
    assert (code, err) == (0, "") and (small_set / "results/curves.png").exists()
    assert not [path for path in home.rglob("*") if "matplotlib" in path.name]


STUB = """
class LogWriter:
    def __init__(self, logdir, file_name):
        import os
        os.makedirs(logdir, exist_ok=True)
        self.file = open(os.path.join(logdir, file_name), "w")
    def add_scalar(self, tag, value, step):
        self.file.write(f"{tag} {step} {value!r}\\n")
    def _get_file_writer(self):
        return self.file
"""


def test_visualdl_logs_every_epoch_once_over_a_resume(small_set, run_script):
    """With a stub of the package; `test_visualdl_itself_reads_the_log` has the real one where it is."""
    (small_set / "stub").mkdir()
    (small_set / "stub/visualdl.py").write_text(STUB)
    env = {"PYTHONPATH": str(small_set / "stub")}
    for more in (["--n_epochs", 1], ["--n_epochs", 2, "--resume_path", "results"]):
        code, _, err = run_script("train.py", *SMALL_TRAINING, "--visualdl", *more, cwd=small_set, env=env)
        assert code == 0, err
    (path,) = (small_set / "results/visualdl").iterdir()
    found = [line.split() for line in path.read_text().splitlines()]
    expected = [
        [tag, str(entry["epoch"]), repr(entry[key])]
        for entry in log(small_set)[1]
        for tag, key in (
            ("loss/train", "train_loss"),
            ("loss/validation", "val_loss"),
            ("clip_accuracy/train", "train_clip_accuracy"),
            ("clip_accuracy/validation", "val_clip_accuracy"),
            ("learning_rate", "learning_rate"),
        )
    ]
    assert found == expected and len(expected) == 10


def test_visualdl_itself_reads_the_log(tmp_path):
    visualdl = pytest.importorskip("visualdl", reason="visualdl, an optional package, is not installed")
    names = ("train_loss", "val_loss", "train_clip_accuracy", "val_clip_accuracy", "learning_rate")
    entries = [{"epoch": n, **{name: n + i / 8 for i, name in enumerate(names)}} for n in (1, 2, 3)]
    for start in (1, 3):  # the second run resumes
        curves = Curves(tmp_path, with_visualdl=True)
        for n in range(start, 4):
            curves.draw([{"command": []}, *entries[:n]])
    (path,) = (tmp_path / "visualdl").iterdir()
    reader = visualdl.LogReader(file_path=str(path))
    records = reader.get_data("scalar", "loss/validation")
    assert [(record.id, record.value) for record in records] == [(1, 1.125), (2, 2.125), (3, 3.125)]


def test_visualdl_that_is_missing_ends_before_the_training_with_one_line(small_set, run_script):
    env = fail_to_import(small_set, "visualdl")
    code, out, err = run_script("train.py", *SMALL_TRAINING, "--visualdl", cwd=small_set, env=env)
    assert (code, out) == (1, "") and err.count("\n") == 1
    assert err.startswith("error: --visualdl needs the package visualdl (ImportError: ")
    assert not (small_set / "results").exists()


def test_training_works_without_git_and_takes_no_other_repositorys_commit(small_set, run_script, tmp_path):
    (tmp_path / "no_git").mkdir()
    env = {"PATH": str(tmp_path / "no_git")}
    code, _, err = run_script("train.py", *SMALL_TRAINING, "--n_epochs", 1, cwd=small_set, env=env)
    assert code == 0, err
    assert log(small_set)[0][0]["git"] is None
    copy = tmp_path / "other" / "copy"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "dataset", "demo", "results*", "tests"))
    subprocess.run("git init -q . && git -c user.name=a -c user.email=b commit -q --allow-empty -m x",
                   shell=True, check=True, cwd=copy.parent)
    found = subprocess.run([sys.executable, "-c", "import train; print(train.git_commit())"],
                           cwd=copy, capture_output=True, text=True)
    assert found.stdout == "None\n", found.stderr


@pytest.mark.parametrize(
    "variables, told",
    [
        ({"PADDLE_TRAINER_ID": "1"}, None),  # left over: one process is the first
        ({"PADDLE_TRAINERS_NUM": ""}, "PADDLE_TRAINERS_NUM is '', expected a whole number, at least 1"),
        ({"PADDLE_TRAINERS_NUM": "abc"}, "PADDLE_TRAINERS_NUM is 'abc'"),
        ({"PADDLE_TRAINERS_NUM": "2"}, "PADDLE_TRAINER_ENDPOINTS is missing"),
        ({"PADDLE_TRAINERS_NUM": "2", "PADDLE_TRAINER_ID": "2"}, "PADDLE_TRAINER_ID is '2'"),
        ({"PADDLE_TRAINERS_NUM": "2", "PADDLE_LOCAL_SIZE": "0"}, "PADDLE_LOCAL_SIZE is '0'"),
    ],
)
def test_a_left_over_environment_of_the_launcher_trains_or_is_named(small_set, run_script, variables, told):
    code, out, err = run_script(
        "train.py", *SMALL_TRAINING, "--n_epochs", 1, cwd=small_set, env=variables
    )
    if told is None:
        assert code == 0 and "epoch 1:" in out and (small_set / "results/best.pdparams").exists(), err
    else:
        assert code == 1 and told in err and err.count("\n") == 1


def test_one_clip_of_which_batchnorm_sees_one_value_is_refused_at_the_start(small_set, run_script):
    # 6 clips in batches of 5 leave one; layer4 sees 1 x 1 x 1 of 8 frames of 32 pixels.
    arguments = [*SMALL_TRAINING, "--batch_size", 5, "--n_epochs", 1]
    code, _, err = run_script("train.py", *arguments, cwd=small_set)
    assert code == 1 and "sees one value a channel" in err and err.count("\n") == 1
    code, _, err = run_script("train.py", *arguments, "--sample_size", 40, cwd=small_set)
    assert code == 0, err


def test_a_small_set_gets_a_small_batch_and_a_note_unless_one_is_given(small_set, run_script):
    at = SMALL_TRAINING.index("--batch_size")
    arguments = [*SMALL_TRAINING[:at], *SMALL_TRAINING[at + 2 :], "--sample_size", 40, "--n_epochs", 1]
    code, _, err = run_script("train.py", *arguments, cwd=small_set)
    assert code == 0 and "note: 6 training videos are few: --batch_size 1 instead of 128" in err
    assert log(small_set)[0][0]["recipe"]["batch_size"] == 1
    code, out, err = run_script("train.py", "--resume_path", "results", "--n_epochs", 1, cwd=small_set)
    assert code == 0 and "note: 1 epochs are done; --n_epochs 1 asks for no more" in err


def test_a_full_or_closed_stdout_is_one_line(small_set):
    command = [sys.executable, str(ROOT / "train.py"), *SMALL_TRAINING, "--n_epochs", "1"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=small_set, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and done.stderr == "error: stdout: No space left on device\n"
    done = subprocess.run(
        f"{' '.join(command)} --result_path other 2>&-", shell=True, cwd=small_set, capture_output=True
    )
    assert done.returncode == 0 and b"epoch 1:" in done.stdout


def test_a_stdout_that_cannot_encode_a_name_gets_it_escaped(small_set, run_script):
    env = {"PYTHONIOENCODING": "ascii"}
    code, out, err = run_script(
        "train.py", *SMALL_TRAINING, "--n_epochs", 1, "--result_path", "é", cwd=small_set, env=env
    )
    assert code == 0 and r"\xe9/best.pdparams" in out, err


@pytest.fixture
def train_here(small_set, monkeypatch, capsys):
    """A function that trains in this process and returns what was printed and what was noted."""
    import train
    from opts import train_options
    from run import console

    monkeypatch.chdir(small_set)

    def run(*options):
        console.note.cache_clear()
        train.main(train_options([str(option) for option in [*SMALL_TRAINING, *options]]))
        return capsys.readouterr()

    return run


def test_validation_every_few_epochs_and_at_the_end_resumes_bit_for_bit(small_set, train_here):
    common = ["--val_every", 2, "--accumulate", 2, "--sample_size", 40]  # parts of one clip
    out, _ = train_here(*common, "--n_epochs", 5)
    _, epochs = log(small_set)
    assert [e["epoch"] for e in epochs if "val_loss" in e] == [2, 4, 5]
    lines = [line for line in out.splitlines() if line.startswith("epoch")]
    assert ["validation loss" in line for line in lines] == [False, True, False, True, True]
    assert curves_png(epochs) == (small_set / "results/curves.png").read_bytes()
    assert load_checkpoint(small_set / "results/best.pdparams").metadata.best.epoch in (2, 4, 5)

    parts = ["--result_path", "parts"]
    train_here(*common, *parts, "--n_epochs", 3)
    assert [e["epoch"] for e in log(small_set, "parts")[1] if "val_loss" in e] == [2, 3]
    train_here(*common, "--n_epochs", 4, "--result_path", "again")
    resume = ["--result_path", "again", "--resume_path", "again"]
    _, err = train_here(*common, *resume, "--n_epochs", 5)
    assert "--accumulate" not in err
    for name in ("save_5.pdparams", "best.pdparams"):
        assert_same_file(small_set / "results" / name, small_set / "again" / name)
    _, err = train_here("--sample_size", 40, *resume, "--n_epochs", 6, "--accumulate", 1)
    assert "started with --accumulate 2 and continues with 1: the BatchNorms see parts" in err


def test_a_batch_that_does_not_fit_ends_in_a_line_that_names_accumulate(train_here, monkeypatch):
    import train
    from run.console import UserError

    def no_room(*_):
        raise MemoryError("(ResourceExhausted) \n\nOut of memory error on GPU 0. Cannot allocate 2GB.\n")

    monkeypatch.setattr(train.Trainer, "_backward", no_room)
    with pytest.raises(UserError, match="Cannot allocate 2GB: use --accumulate 2 or more") as error:
        train_here()
    assert "\n" not in str(error.value)
