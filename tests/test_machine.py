"""What a machine may lack: a home, a temporary folder, free file descriptors, a file's own place."""
import os
import subprocess
import sys
import tempfile

import pytest
from conftest import ROOT, SMALL_TRAINING, network

import opts
from model.checkpoint import load_checkpoint, save_checkpoint
from model.inference import class_scores
from run.console import UserError
from run.files import atomic_write
from run.machine import n_cores


def test_a_home_that_cannot_be_written_scores_and_trains(small_set, run_script):
    for home in ("/proc/none", "/proc/none/deeper"):  # not even root makes a folder there
        code, _, err = run_script(
            "train.py", *SMALL_TRAINING, "--n_epochs", 1, "--result_path", home.replace("/", "_"),
            cwd=small_set, env={"HOME": home},
        )
        assert code == 0, err
    checkpoint = small_set / "_proc_none/best.pdparams"
    code, out, err = run_script(
        "test.py", "--resume_path", checkpoint, cwd=small_set, env={"HOME": "/proc/none"}
    )
    assert code == 0 and "video accuracy" in out, err
    code, out, err = run_script(
        "tools/export_model.py", checkpoint, "--to", "inference", cwd=small_set, env={"HOME": "/proc/none"}
    )
    assert code == 0 and (checkpoint.parent / "best_inference/card.json").exists(), err


def test_compiling_leaves_nothing_in_the_home_and_the_home_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    import paddle

    class_scores(network(resnet_widen_factor=0.125, conv1_t_size=3))(paddle.rand([1, 3, 8, 32, 32]))
    assert os.environ["HOME"] == str(tmp_path) and not list(tmp_path.iterdir())


def test_no_temporary_folder_at_all_is_one_line(monkeypatch):
    import paddle

    def refuse(*_, **__):
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp', '/var/tmp']")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    with pytest.raises(UserError, match="temporary folder: No usable temporary directory.*TMPDIR names one"):
        class_scores(network(resnet_widen_factor=0.125, conv1_t_size=3))(paddle.rand([1, 3, 8, 32, 32]))


def test_a_file_that_cannot_be_written_is_named_by_its_own_name(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError) as error:
        atomic_write(tmp_path / "folder", b"x")
    assert error.value.filename == str(tmp_path / "folder")
    with pytest.raises(OSError) as error:
        atomic_write("/proc/none/a.json", b"x")
    assert ".tmp" not in str(error.value)


@pytest.mark.parametrize("script", ["generate_video_jpgs.py", "train.py"])
def test_too_few_file_descriptors_are_one_line(small_set, script):
    arguments = {
        "generate_video_jpgs.py": "videos jpg folder --n_jobs 8",
        "train.py": " ".join([*SMALL_TRAINING, "--n_epochs", "1", "--n_threads", "8"]),
    }[script]
    if script == "generate_video_jpgs.py":
        for name in "AB":
            for i in range(8):
                (small_set / "videos" / name).mkdir(parents=True, exist_ok=True)
                (small_set / f"videos/{name}/v{name}{i}.avi").write_bytes(b"RIFF")
    done = subprocess.run(
        f"ulimit -n 20; exec {sys.executable} {ROOT / script} {arguments}",
        shell=True, cwd=small_set, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    option = "--n_jobs" if script == "generate_video_jpgs.py" else "--n_threads"
    last = done.stderr.splitlines()[-1]
    assert "Too many open files" in last and f"fewer {option}" in last


@pytest.mark.parametrize(
    "files, share",
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
    ],
)
def test_a_container_with_a_few_cores_of_many_uses_no_more(files, share, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(96)))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert n_cores(tmp_path) == (share or 96)


@pytest.mark.parametrize("n, n_ranks, expected", [(96, "1", 16), (8, "1", 7), (8, "4", 1), (1, "1", 1)])
def test_the_readers_of_all_ranks_leave_each_a_core(n, n_ranks, expected, monkeypatch):
    monkeypatch.setattr("run.machine.n_cores", lambda: n)
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", n_ranks)
    monkeypatch.setenv("PADDLE_LOCAL_SIZE", n_ranks)
    assert opts.train_options([]).n_threads == opts.test_options([]).n_threads == expected


def test_a_disk_that_fills_up_while_the_network_is_compiled_is_one_line(small_set, run_script):
    code, _, err = run_script("train.py", *SMALL_TRAINING, "--n_epochs", 1, cwd=small_set)
    assert code == 0, err
    done = subprocess.run(
        f"ulimit -f 2; exec {sys.executable} {ROOT}/test.py --n_threads 0",  # files of 1 or 2 kB at most
        shell=True, cwd=small_set, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "error: the network" in done.stderr and "TMPDIR names another" in done.stderr


def test_a_kill_benchmark_tells_two_checkpoints_apart(tmp_path):
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from faults import arrays_digest

    groups, metadata = load_checkpoint(ROOT / "tests/legacy/save_3.pdparams")
    save_checkpoint(tmp_path / "same.pdparams", groups, metadata)
    groups["velocity"]["fc.weight"][0, 0] += 1
    save_checkpoint(tmp_path / "other.pdparams", groups, metadata)
    same, other = (arrays_digest(tmp_path / name) for name in ("same.pdparams", "other.pdparams"))
    assert same == arrays_digest(ROOT / "tests/legacy/save_3.pdparams") != other
