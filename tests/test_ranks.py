"""Several processes on a CPU (gloo): the numbers of one process, one writer, and an end for all at once."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, SMALL_TRAINING, TWO_ON_CPU
from test_train import assert_same_file, log, without_times

from model.checkpoint import load_checkpoint


def start(script, *arguments, cwd):
    """Start a script on two processes, which see no GPU; return the launcher."""
    launch = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", "log"]
    return subprocess.Popen(
        [*launch, str(ROOT / script), *map(str, arguments)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **TWO_ON_CPU},
    )


def launch(script, *arguments, cwd):
    process = start(script, *arguments, cwd=cwd)
    out, _ = process.communicate(timeout=180)
    return process.returncode, out


def training(*options):
    at = SMALL_TRAINING.index("--batch_size")
    # At 40 pixels, layer4 has 4 values a channel of one clip, which a process may have alone.
    return [*SMALL_TRAINING[:at], *SMALL_TRAINING[at + 2 :], "--sample_size", 40, *options]


def test_two_processes_compute_the_gradients_of_one(small_set, run_script):
    # Without decay, the momentum after one step is the gradient; 6 clips against 2 x 3.
    one_step = training("--batch_size", 6, "--n_epochs", 1, "--weight_decay", 0)
    code, _, err = run_script("train.py", *one_step, "--result_path", "one", cwd=small_set)
    assert code == 0, err
    code, out = launch("train.py", *one_step, "--batchnorm_sync", "--result_path", "two", cwd=small_set)
    assert code == 0, out
    one, two = (load_checkpoint(small_set / run / "save_1.pdparams") for run in ("one", "two"))
    assert one.groups.keys() == two.groups.keys() == {"weights", "velocity"}
    assert one.groups["velocity"].keys() == two.groups["velocity"].keys()
    for part in ("velocity", "weights"):
        ours, expected = two.groups[part], one.groups[part]
        for name in expected:
            # Sums in another order; BatchNorms over few values a channel in layer4 amplify it.
            largest = np.abs(expected[name]).max()
            assert np.abs(ours[name] - expected[name]).max() <= 3e-4 * largest + 1e-7, (part, name)
    one, two = (log(small_set, run)[1][0] for run in ("one", "two"))
    for name in ("train_loss", "val_loss"):
        assert two[name] == pytest.approx(one[name], rel=1e-4)
    for name in ("train_clip_accuracy", "val_clip_accuracy"):
        assert two[name] == one[name]  # counts, each clip once


def val_run(root):
    """Return what val_run.json says, except for the speed."""
    run = json.loads((root / "results/val_run.json").read_text())
    del run["clips_per_second"]
    return run


def test_two_processes_score_as_one_and_only_the_first_writes(small_set, run_script):
    # Batches of 4 and 2 clips; 12 validation clips in 3 batches, 2 and 1 by process.
    code, out = launch("train.py", *training("--batch_size", 4, "--n_epochs", 2), cwd=small_set)
    assert code == 0, out
    headers, epochs = log(small_set)
    assert len(headers) == 1 and headers[0]["n_ranks"] == 2 and [e["epoch"] for e in epochs] == [1, 2]
    written = {path.name for path in (small_set / "results").iterdir()}
    weights = {"best.pdparams", "save_1.pdparams", "save_2.pdparams"}
    assert written == {".train.lock", "train.jsonl", "curves.png", *weights}

    contents, outputs = [], []
    for more in ([], ["--inference_no_average"], ["--inference_crop", "nocrop"]):
        arguments = ["--n_threads", 0, "--inference_batch_size", 3, *more]
        code, one, err = run_script("test.py", *arguments, cwd=small_set)
        assert code == 0, err
        contents.append((small_set / "results/val.json").read_bytes())
        run_of_one = val_run(small_set)
        (small_set / "results/val.json").unlink()
        (small_set / "results/val_run.json").unlink()
        code, two = launch("test.py", *arguments, cwd=small_set)
        assert code == 0 and all(line in two for line in one.splitlines()), two
        assert (small_set / "results/val.json").read_bytes() == contents[-1]
        assert val_run(small_set) == run_of_one
        outputs.append(one)
    assert len(set(contents)) == 3 and len(json.loads(contents[0])["results"]) == 4

    arguments = ["--n_threads", 0, "--inference_batch_size", 3, "--features"]
    code, one, err = run_script("test.py", *arguments, "one.npz", cwd=small_set)
    assert code == 0, err
    code, two = launch("test.py", *arguments, "two.npz", cwd=small_set)
    assert code == 0 and "two.npz: 4 videos, 8 clips" in two, two
    with np.load(small_set / "one.npz") as expected, np.load(small_set / "two.npz") as found:
        assert expected.files == found.files
        for name in expected.files:
            np.testing.assert_array_equal(found[name], expected[name])
    launched = {"PADDLE_TRAINERS_NUM": "2", "PADDLE_TRAINER_ENDPOINTS": "a:1,b:1"}
    code, out, err = run_script("tools/predict.py", "x.avi", env=launched)
    assert code == 1 and err.startswith("error: tools/predict.py works in one process")


def test_a_process_that_fails_ends_all_with_its_message(small_set):
    arguments = training("--batch_size", 2, "--n_epochs", 1)
    assert launch("train.py", *arguments, cwd=small_set)[0] == 0
    before = {p.name: p.read_bytes() for p in (small_set / "results").glob("*.pdparams")}
    # The second clip of the second epoch's first batch belongs to the second process.
    index = np.random.default_rng([1, 2]).permutation(6)[1]
    name = f"v_{('Jump', 'run')[index % 2]}_g{index:02d}_c01"
    for path in (small_set / "dataset/UCF-101-jpg").glob(f"*/{name}/*.jpg"):
        path.write_bytes(b"")
    again = training("--batch_size", 2, "--n_epochs", 2, "--resume_path", "results")
    begin = time.monotonic()
    code, out = launch("train.py", *again, cwd=small_set)
    assert code != 0 and time.monotonic() - begin < 60
    assert "error: rank 1: " in out or "error: dataset" in out  # the launcher shows one log or the other
    assert f"{name}/image_" in out and "Traceback" not in out
    assert {p.name: p.read_bytes() for p in (small_set / "results").glob("*.pdparams")} == before


def wait_for(path, process):
    deadline = time.monotonic() + 90
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def ranks_of(root):
    """Return the processes that the launcher started, by their logs' own folder."""
    pids = []
    for folder in os.listdir("/proc"):
        try:
            line = open(f"/proc/{folder}/cmdline").read() if folder.isdigit() else ""
            is_rank = "train.py" in line and "launch" not in line
            if is_rank and os.readlink(f"/proc/{folder}/cwd") == str(root):
                pids.append(int(folder))
        except OSError:
            pass
    return sorted(pids)


# train.py with steps of more than a second: longer than the launcher takes to repeat its SIGTERM.
SLOW_TRAINING = """
import os, pathlib, sys, time
sys.path.insert(0, {root!r})
import train
from opts import train_options
from run.console import run_script

step = train.Trainer.step
def slow_step(*arguments):
    pathlib.Path("at_work" + os.environ["PADDLE_TRAINER_ID"]).touch()
    time.sleep(1.2)
    return step(*arguments)
train.Trainer.step = slow_step
run_script(train.main, train_options())
"""


# train.py --amp O1 with Paddle's scaler on a CPU. In step 2 of each epoch, a gradient of the last rank alone
# is infinite. After each epoch the ranks compare their weights and their scale.
AMP_TRAINING = """
import os, sys, zlib
sys.path.insert(0, {root!r})
import model
import paddle, paddle.amp.grad_scaler
from types import SimpleNamespace
import train
from opts import train_options
from run.console import run_script

os.environ["FLAGS_conv_workspace_size_limit"] = "512"  # a CPU's Paddle does not have it
place = SimpleNamespace(is_gpu_place=lambda: True)
paddle.amp.grad_scaler._dygraph_tracer = lambda: SimpleNamespace(_expected_place=place)
train.require_amp = lambda amp: None
backward, end_epoch = train.Trainer._backward, train.TrainingRun.end_epoch

def overflowing(self, clips, classes, n_clips, draw):
    figures = backward(self, clips, classes, n_clips, draw)
    if draw[2] == 2 and self.ranks.rank == self.ranks.n - 1:
        parameter = next(iter(self.trained.values()))
        parameter.grad = paddle.full_like(parameter, float("inf"))
    return figures

def compared(self, *arguments):
    crcs = [zlib.crc32(tensor.numpy().tobytes()) for tensor in self.trainer.net.state_dict().values()]
    self.ranks.require_same("weights and scale", [crcs, self.trainer.states()["scaler"]["scale"]])
    return end_epoch(self, *arguments)

train.Trainer._backward, train.TrainingRun.end_epoch = overflowing, compared
run_script(train.main, train_options())
"""


def test_an_overflow_on_one_rank_is_skipped_by_all_and_halves_one_scale(small_set):
    script = small_set / "amp_training.py"
    script.write_text(AMP_TRAINING.format(root=str(ROOT)))
    code, out = launch(script, *training("--batch_size", 2, "--amp", "O1", "--n_epochs", 2), cwd=small_set)
    assert code == 0, out
    assert [epoch["skipped_steps"] for epoch in log(small_set)[1]] == [1, 1]
    state = load_checkpoint(small_set / "results/save_2.pdparams").metadata.training
    assert state.scaler["scale"] == [2.0**14]  # 65,536, halved twice
    assert all("Found inf" not in path.read_text() for path in (small_set / "log").glob("workerlog.*"))


def test_a_signal_saves_and_a_killed_process_ends_all_and_both_go_on(small_set):
    common = training("--batch_size", 2, "--checkpoint_steps", 1)
    code, out = launch("train.py", *common, "--n_epochs", 12, "--result_path", "whole", cwd=small_set)
    assert code == 0, out
    (small_set / "slow_training.py").write_text(SLOW_TRAINING.format(root=str(ROOT)))
    process = start(
        small_set / "slow_training.py", *common, "--checkpoint_steps", 0, "--n_epochs", 12, cwd=small_set
    )
    for rank in range(2):  # one that still prepares has nothing to save, and ends at once
        wait_for(small_set / f"at_work{rank}", process)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=90)
    assert process.returncode != 0
    (saved,) = (small_set / "results").glob("save_*.pdparams")
    assert saved.name in ("save_1_1.pdparams", "save_1_2.pdparams")  # this step, or the next
    for rank in range(2):
        said = (small_set / f"log/workerlog.{rank}").read_text()
        assert said.count("SIGTERM: saving after this step") == 1 and "interrupted" not in said

    resume = [*common, "--n_epochs", 12, "--resume_path", "results"]
    n_headers = len(log(small_set)[0])
    process = start("train.py", *resume, cwd=small_set)
    while len(log(small_set)[0]) == n_headers:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(ranks_of(small_set)[-1], signal.SIGKILL)
    out, _ = process.communicate(timeout=90)
    assert process.returncode != 0 and not ranks_of(small_set)

    code, out = launch("train.py", *resume, cwd=small_set)
    assert code == 0, out
    for name in ("save_12.pdparams", "best.pdparams"):
        assert_same_file(small_set / "whole" / name, small_set / "results" / name)
    assert without_times(log(small_set)[1]) == without_times(log(small_set, "whole")[1])
