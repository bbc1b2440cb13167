"""Several processes on a CPU (gloo): the numbers of one process, one writer, and an end for all at once."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, SMALL_TRAINING
from test_train import assert_same_file, log, without_times

from model.checkpoint import load_checkpoint


def start(script, *arguments, cwd):
    """Start a script on two processes; return the launcher."""
    # The launcher takes an empty CUDA_VISIBLE_DEVICES for a list of one device.
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    launch = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", "log"]
    return subprocess.Popen(
        [*launch, str(ROOT / script), *map(str, arguments)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def launch(script, *arguments, cwd):
    process = start(script, *arguments, cwd=cwd)
    out, _ = process.communicate(timeout=180)
    return process.returncode, out


def training(*options):
    at = SMALL_TRAINING.index("--batch_size")
    return [*SMALL_TRAINING[:at], *SMALL_TRAINING[at + 2 :], *options]


def test_two_processes_compute_the_gradients_of_one(small_set, run_script):
    # Without decay, the momentum after one step is the gradient; 6 clips against 2 x 3.
    one_step = training("--batch_size", 6, "--n_epochs", 1, "--weight_decay", 0)
    code, _, err = run_script("train.py", *one_step, "--result_path", "one", cwd=small_set)
    assert code == 0, err
    code, out = launch("train.py", *one_step, "--batchnorm_sync", "--result_path", "two", cwd=small_set)
    assert code == 0, out
    one, two = (load_checkpoint(small_set / run / "save_1.pdparams") for run in ("one", "two"))
    assert one.velocity.keys() == two.velocity.keys()
    for part in ("velocity", "weights"):
        ours, expected = getattr(two, part), getattr(one, part)
        for name in expected:
            # Sums in another order; BatchNorms over 6 values a channel in layer4 amplify it.
            largest = np.abs(expected[name]).max()
            assert np.abs(ours[name] - expected[name]).max() <= 3e-4 * largest + 1e-7, (part, name)
    one, two = (log(small_set, run)[1][0] for run in ("one", "two"))
    for name in ("train_loss", "val_loss"):
        assert two[name] == pytest.approx(one[name], rel=1e-4)
    for name in ("train_clip_accuracy", "val_clip_accuracy"):
        assert two[name] == one[name]  # counts, each clip once


def run_facts(root):
    """Return what val_run.json says, but for the speed."""
    facts = json.loads((root / "results/val_run.json").read_text())
    del facts["clips_per_second"]
    return facts


def test_two_processes_score_as_one_and_the_first_alone_writes(small_set, run_script):
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
        run_of_one = run_facts(small_set)
        (small_set / "results/val.json").unlink()
        (small_set / "results/val_run.json").unlink()
        code, two = launch("test.py", *arguments, cwd=small_set)
        assert code == 0 and all(line in two for line in one.splitlines()), two
        assert (small_set / "results/val.json").read_bytes() == contents[-1]
        assert run_facts(small_set) == run_of_one
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
    code, out, err = run_script("test.py", "--video", "x.avi", env={"PADDLE_TRAINERS_NUM": "2"})
    assert code == 1 and err.startswith("error: --video works in one process")


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


def test_a_signal_saves_and_a_killed_process_ends_all_and_both_go_on(small_set):
    common = training("--batch_size", 2, "--checkpoint_steps", 1)
    code, out = launch("train.py", *common, "--n_epochs", 12, "--result_path", "whole", cwd=small_set)
    assert code == 0, out
    process = start("train.py", *common, "--n_epochs", 12, cwd=small_set)
    wait_for(small_set / "results/save_1_1.pdparams", process)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=90)
    assert process.returncode != 0
    assert list((small_set / "results").glob("save_*.pdparams"))

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
