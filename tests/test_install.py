"""What `make` installs on a machine: the decision, with stand-ins for pip, nvidia-smi and Paddle."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from tools import install_paddle as tool

V100, A100, H100 = (7, 0), (8, 0), (9, 0)


def card(capability, driver=(550, 54)):
    return tool.Card("a card", driver, capability)


@pytest.mark.parametrize(
    "capability, driver, expected",
    [
        (V100, (550, 54), "cu126"),
        ((7, 5), (525, 60), "cu126"),
        (A100, (535, 104), "cu126"),
        ((8, 9), (550, 54), "cu126"),
        (H100, (550, 54), "cu126"),
        ((10, 0), (580, 65), "cu129"),
        ((12, 0), (570, 86), "cu129"),
        ((6, 1), (550, 54), "cu118"),  # a 1080 Ti
        (A100, (470, 57), "cu118"),  # an old driver
        (None, (470, 57), "cu118"),  # one that does not tell the capability
    ],
)
def test_a_card_gets_the_wheels_that_have_code_for_it(capability, driver, expected):
    assert tool.wheels_for([card(capability, driver)]).name == expected


@pytest.mark.parametrize(
    "cards, said",
    [
        ([card((3, 7))], "no Paddle has code for the cards here: a card (3.7)"),
        ([card(H100, (470, 57))], "the NVIDIA driver 470.57 is too old for a card (9.0)"),
        (
            [card((12, 0), (550, 54))],
            "driver 550.54 is too old for a card (12.0): Paddle 3.3.1 needs 570.0 or newer",
        ),
        ([card((6, 1)), card((12, 0), (580, 1))], "no Paddle has code for the cards here"),
    ],
)
def test_a_card_or_a_driver_without_wheels_is_named(cards, said):
    with pytest.raises(tool.Problem) as problem:
        tool.wheels_for(cards)
    assert said in str(problem.value)


GOOD = {"paddle": "3.3.1", "numpy": "2.2.0", "device": "gpu:0", "sum": 27.0}


@pytest.mark.parametrize(
    "change, said",
    [
        ({}, None),
        ({"paddle": "2.6.2", "numpy": "1.26.4"}, None),
        ({"paddle": "2.6.1"}, "Paddle 2.6.1 is too old"),
        ({"paddle": "2.4.0.post112"}, "Paddle 2.4.0.post112 is too old"),
        ({"sum": 0.0}, "computes 0.0 in place of 27 with numpy 2.2.0"),
        ({"device": "cpu"}, "computes on the cpu and not on the a card"),
        (
            {"error": "RuntimeError: (PreconditionNotMet) The third-party dynamic library (libcudnn.so) that "
             "Paddle depends on is not configured correctly."},
            "its library libcudnn.so is missing; install CUDA 11.8 and cuDNN 8 with their development files",
        ),
        ({"error": "OSError: no kernel image is available"}, "does not compute: OSError: no kernel image"),
    ],
)  # fmt: skip
def test_an_active_paddle_is_taken_only_if_it_computes(change, said):
    if said is None:
        tool.require_good({**GOOD, **change}, [card(A100)])
        return
    with pytest.raises(tool.Problem) as problem:
        tool.require_good({**GOOD, **change}, [card(A100)])
    assert said in str(problem.value) and "\n" not in str(problem.value)


PIP = """
import json, os, pathlib, sys
lines = [" ".join(sys.argv[1:])]
for flag in ("-r",):
    if flag in sys.argv:
        lines.append(pathlib.Path(sys.argv[sys.argv.index(flag) + 1]).read_text())
with open(os.environ["PIP_LOG"], "a") as log:
    log.write("\\n".join(lines) + "\\n")
joined = " ".join(sys.argv)
if any(word and word in joined for word in os.environ["PIP_FAILS"].split(",")):
    sys.exit(1)
if "paddlepaddle-gpu==" in joined or (lines[1:] and "paddlepaddle>" in lines[1]):
    version = "2.6.2" if "2.6.2" in joined else "3.3.1"
    folder = pathlib.Path(os.environ["STUBS"]) / "paddle"
    folder.mkdir(exist_ok=True)
    (folder / "__init__.py").write_text(os.environ["PADDLE_STUB"].replace("VERSION", version))
"""
PADDLE = """
import os
__version__ = "VERSION"
class nn:
    class functional:
        @staticmethod
        def conv3d(a, b):
            return __import__("numpy").full(1, 27.0)
def get_device():
    return os.environ["PADDLE_DEVICE"]
def to_tensor(a):
    if __version__.startswith("2") and "NO_CUDNN" in os.environ:
        raise RuntimeError("The third-party dynamic library (libcudnn.so) of Paddle is not there")
    return a
"""


@pytest.fixture
def machine(tmp_path):
    """A function that runs the tool on a pretended machine; returns its exit code, stderr and pip's log."""

    def run(*options, gpu=None, fails="", active=None, device="gpu:0", **env):
        stubs, programs, log = tmp_path / "stubs", tmp_path / "bin", tmp_path / "pip.log"
        (stubs / "pip").mkdir(parents=True, exist_ok=True)
        programs.mkdir(exist_ok=True)
        (stubs / "pip/__main__.py").write_text(PIP)
        (stubs / "pip/__init__.py").write_text("")
        (stubs / "torch.py").write_text("")
        (stubs / "numpy.py").write_text(
            "__version__ = '1.26.4'\nclass A(list):\n  def sum(self): return self[0]\n"
            "def ones(*_): return A()\ndef full(n, x): return A([x])"
        )
        if active:
            (stubs / "paddle").mkdir()
            (stubs / "paddle/__init__.py").write_text(PADDLE.replace("VERSION", active))
        smi = programs / "nvidia-smi"
        smi.write_text(f"#!/bin/sh\n{f'echo {chr(39)}{gpu}{chr(39)}' if gpu else 'exit 9'}\n")
        smi.chmod(0o755)
        done = subprocess.run(
            [sys.executable, str(ROOT / "tools/install_paddle.py"), *options],
            capture_output=True, text=True, timeout=120,
            env={"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(stubs), "STUBS": str(stubs),
                 "PIP_LOG": str(log), "PIP_FAILS": fails, "PADDLE_STUB": PADDLE,
                 "PADDLE_DEVICE": device, **env},
        )  # fmt: skip
        return done.returncode, done.stderr, log.read_text() if log.exists() else ""

    return run


A100_LINE = "NVIDIA A100-SXM4-80GB, 535.104.05, 8.0"


def test_a_gpu_machine_gets_paddle_from_its_own_index_and_no_torch(machine):
    code, err, log = machine(gpu=A100_LINE)
    assert code == 0, err
    assert "paddlepaddle-gpu==3.3.1 -i https://www.paddlepaddle.org.cn/packages/stable/cu126/" in log
    assert "torch" not in log and "numpy==1.26.4" in log


def test_without_paddles_index_the_library_that_pypis_lacks_is_named_before_anything_else(machine):
    code, err, log = machine(gpu=A100_LINE, fails="packages/stable", NO_CUDNN="1")
    assert code == 1 and log.count("install") == 2  # no other package was installed
    assert "libcudnn.so is missing" in err.splitlines()[-1] and "Traceback" not in err


def test_without_paddles_index_pypis_is_taken_where_its_libraries_are(machine):
    code, err, log = machine(gpu=A100_LINE, fails="packages/stable")
    assert code == 0 and "taking PyPI's 2.6.2" in err and "paddlepaddle-gpu==2.6.2 numpy<2" in log


def test_an_h100_without_paddles_index_is_told_that_pypis_has_no_code_for_it(machine):
    code, err, _ = machine(gpu="NVIDIA H100, 550.54.15, 9.0", fails="packages/stable")
    assert code == 1 and "has no code for the NVIDIA H100" in err.splitlines()[-1]


def test_an_active_paddle_keeps_its_version_and_its_numpy(machine):
    code, err, log = machine(gpu=A100_LINE, active="3.1.0")
    assert code == 0, err
    assert "numpy==1.26.4" in log and "paddlepaddle" not in log.replace("install_paddle", "")


def test_an_active_paddle_that_is_too_old_stops_before_anything_is_installed(machine):
    code, err, log = machine(gpu=A100_LINE, active="2.5.2")
    assert code == 1 and log == "" and "Paddle 2.5.2 is too old" in err.splitlines()[-1]


def test_a_machine_without_a_gpu_gets_the_cpu_package(machine):
    code, err, log = machine(device="cpu")
    assert code == 0, err
    assert "paddlepaddle>=2.6.2,<3.4" in log and "paddlepaddle-gpu" not in log


def test_a_gpu_that_is_hidden_gets_the_cpu_package(machine):
    code, err, log = machine(gpu=A100_LINE, device="cpu", CUDA_VISIBLE_DEVICES="")
    assert code == 0, err
    assert "paddlepaddle>=2.6.2,<3.4" in log and "paddlepaddle-gpu" not in log


def test_the_requirements_of_gpu_and_cpu_differ_in_what_they_should():
    names = lambda path: {
        re.match(r"[\w-]+", line)[0] for line in Path(path).read_text().splitlines() if line[0] != "#"
    }
    gpu, cpu = (names(ROOT / name) for name in ("requirements.txt", "requirements-cpu.txt"))
    assert cpu - gpu == {"paddlepaddle", "opencv-python-headless", "torch"}
    assert gpu - cpu == {"paddlepaddle-gpu", "opencv-python"}


@pytest.mark.parametrize("gpu", [None, A100_LINE])
def test_a_gpu_is_checked_before_stage_1_and_pytorch_stays_out_of_its_environment(gpu, tmp_path):
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\n" + ("echo GPU 0: a card" if gpu else "exit 9"))
    smi.chmod(0o755)
    (tmp_path / "w.pth").write_bytes(b"")
    run = lambda *goals: subprocess.run(
        ["make", "-n", "-C", str(ROOT), *goals], capture_output=True, text=True, check=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": "0"},
    ).stdout.splitlines()  # fmt: skip
    lines = run("reproduce", "VIDEOS=videos", "WEIGHTS=w.pth")
    places = [next((i for i, line in enumerate(lines) if word in line), None) for word in
              ("gpu_check.py --quick", "generate_video_jpgs.py", "convert_to_paddle.py")]  # fmt: skip
    assert (places[0] is not None and places[0] < places[1] < places[2]) if gpu else places[0] is None
    assert (".venv-convert/bin/python convert_to_paddle.py" in lines[places[2]]) == bool(gpu)
    assert any("convert_to_paddle.py" in line for line in run(str(tmp_path / "w.pdparams")))


@pytest.mark.parametrize("hidden, is_checked", [("", False), ("-1", False), ("0", True), (None, True)])
def test_make_takes_a_hidden_gpu_for_none(hidden, is_checked, tmp_path):
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho GPU 0: a card")
    smi.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": hidden}
    done = subprocess.run(
        ["make", "-n", "-C", str(ROOT), "reproduce", "VIDEOS=v", "WEIGHTS=w.pth"],
        capture_output=True, text=True, check=True, env={k: v for k, v in env.items() if v is not None},
    )  # fmt: skip
    assert ("gpu_check.py --quick" in done.stdout) == is_checked
