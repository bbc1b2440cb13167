"""The stages on a GPU, where there is one: near a CPU's numbers, in each way that only a GPU has."""
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, SMALL_TRAINING
from test_train import log

from model.checkpoint import load_checkpoint

pytestmark = pytest.mark.gpu

# TF32 has 10 bits of mantissa, and a few BatchNorms over few values amplify that; float16 and bfloat16 alike.
NEAR = 0.05


@pytest.fixture
def trained(small_set, run_script, gpu):
    """One epoch on a CPU; returns the folder and a function that runs a script there on the GPU."""
    start = [*SMALL_TRAINING, "--sample_size", 40, "--batchnorm_sync", "--n_epochs", 1]
    code, _, err = run_script("train.py", *start, cwd=small_set)
    assert code == 0, err

    def on_gpu(script, *arguments):
        code, out, err = run_script(script, *arguments, cwd=small_set, env=gpu)
        assert code == 0, err
        return out

    return small_set, on_gpu


def test_an_epoch_on_a_gpu_continues_a_cpus_with_its_losses(trained, run_script):
    root, on_gpu = trained
    resume = ["--resume_path", "results", "--n_epochs", 2, "--result_path"]
    on_gpu("train.py", *resume, "gpu")
    code, _, err = run_script("train.py", *resume, "cpu", cwd=root)
    assert code == 0, err
    (header,), (epoch,) = log(root, "gpu")
    _, (expected,) = log(root, "cpu")
    assert header["device"].startswith("gpu")
    for name in ("train_loss", "val_loss"):
        assert epoch[name] == pytest.approx(expected[name], rel=NEAR)
    paths = (root / run / "save_2.pdparams" for run in ("gpu", "cpu"))
    weights, others = (load_checkpoint(path).groups["weights"] for path in paths)
    for name, expected in others.items():
        assert np.abs(weights[name] - expected).max() <= NEAR * max(1, np.abs(expected).max()), name


def scores(root):
    results = json.loads((root / "results/val.json").read_text())["results"]
    return {(video, each["label"]): each["score"] for video, labels in results.items() for each in labels}


def test_a_test_on_a_gpu_gives_a_cpus_scores(trained, run_script):
    root, on_gpu = trained
    on_gpu("test.py")
    found = scores(root)
    assert json.loads((root / "results/val_run.json").read_text())["device"].startswith("gpu")
    code, _, err = run_script("test.py", cwd=root)
    assert code == 0, err
    assert found == {key: pytest.approx(score, abs=NEAR) for key, score in scores(root).items()}


@pytest.mark.parametrize("amp", ["O1", "bf16"])
def test_amp_trains_validates_and_tests_in_its_own_numbers(amp, small_set, run_script, gpu):
    more = ["--n_epochs", 2, "--accumulate", 2, "--sample_size", 40, "--amp", amp]
    code, _, err = run_script("train.py", *SMALL_TRAINING, *more, cwd=small_set, env=gpu)
    if code and "needs a card of compute capability" in err:
        pytest.skip(err.strip())
    assert code == 0, err
    _, epochs = log(small_set)
    assert all(np.isfinite([epoch["train_loss"], epoch["val_loss"]]).all() for epoch in epochs)
    code, _, err = run_script("test.py", cwd=small_set, env=gpu)
    assert code == 0 and json.loads((small_set / "results/val_run.json").read_text())["amp"] == amp, err
    found = scores(small_set)
    code, _, err = run_script("test.py", cwd=small_set)
    assert code == 0 and "computing in float32" in err, err
    assert found == {key: pytest.approx(score, abs=NEAR) for key, score in scores(small_set).items()}


def test_the_speedups_train_to_the_same_losses(trained):
    root, on_gpu = trained
    resume = ["--resume_path", "results", "--n_epochs", 2, "--result_path"]
    on_gpu("train.py", *resume, "plain")
    on_gpu("train.py", *resume, "fast", "--speedups", "pinned_copies", "multi_tensor")
    (expected,), (found,) = (log(root, run)[1] for run in ("plain", "fast"))
    for name in ("train_loss", "val_loss"):
        assert found[name] == pytest.approx(expected[name], rel=NEAR)


@pytest.mark.parametrize("more", [[], ["--speedups", "paddle_sync_batchnorm"]])
def test_two_gpus_train_to_the_losses_of_one(more, trained, gpu):
    root, on_gpu = trained
    if "," not in gpu["CUDA_VISIBLE_DEVICES"]:
        pytest.skip("Paddle sees one GPU here")
    resume = ["--resume_path", "results", "--n_epochs", "2", "--result_path"]
    on_gpu("train.py", *resume, "one")
    launch = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", "log"]
    done = subprocess.run(
        [*launch, str(ROOT / "train.py"), *resume, "two", *more],
        cwd=root, env={**os.environ, **gpu}, capture_output=True, text=True, timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (expected,), (found,) = (log(root, run)[1] for run in ("one", "two"))
    for name in ("train_loss", "val_loss"):
        assert found[name] == pytest.approx(expected[name], rel=NEAR)


def test_memory_that_ends_on_a_gpu_is_one_line(gpu):
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from model.device import explained\nimport paddle\n"
        "with explained('use less'):\n    paddle.zeros([1 << 45])"
    )
    shown = {**os.environ, **gpu}
    done = subprocess.run([sys.executable, "-c", code], env=shown, capture_output=True, text=True)
    assert "UserError: " in done.stderr and ": use less" in done.stderr
