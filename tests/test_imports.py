"""Every module imports alone and in any order, silently, and with the same number of threads."""
import importlib.util
import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT, TWO_ON_CPU

ROOMS = ("run", "datasets", "model", "prediction", "report")
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for room in ROOMS
    for path in (ROOT / room).rglob("*.py")
)
N_THREADS = 3  # neither Paddle's own 1 nor the cores of a machine
# What a program does: import, set up the device, and look how many threads oneDNN would use. Modules outside
# model/ are asked only if they import Paddle, which they may not.
PROGRAM = f"""
import ctypes, importlib, json, sys
sys.path.insert(0, {str(ROOT)!r})
for name in sys.argv[1:]:
    importlib.import_module(name)
n_threads = None
if "paddle" in sys.modules or sys.argv[1].startswith("model"):
    from model.device import prepare_device
    prepare_device()
    paths = {{line.split()[-1] for line in open("/proc/self/maps") if "libiomp5.so" in line}}
    n_threads = [ctypes.CDLL(path).omp_get_max_threads() for path in paths]
print(json.dumps({{"n_threads": n_threads, "torch": "torch" in sys.modules}}))
"""


def start(*modules, **variables):
    """Import modules in a process of their own; return what it found, and what it had to say."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *modules],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    *notes, found = done.stdout.splitlines()
    return json.loads(found), "\n".join(notes) + done.stderr


def assert_threads(found, n):
    # An empty list: a Paddle of another OpenMP, whose number cannot be read.
    assert found["n_threads"] in ([n], [])


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_alone(module):
    needs_torch = module.startswith("model.torch_forward")
    if needs_torch:
        pytest.importorskip("torch")
    found, notes = start(module, OMP_NUM_THREADS=str(N_THREADS))
    # Not even Paddle's three lines on OMP_NUM_THREADS.
    assert notes == ""
    assert found["torch"] == needs_torch, "torch is for what reads or writes a .pth"
    if module.split(".")[0] == "model":
        assert_threads(found, N_THREADS)
    else:
        assert found["n_threads"] is None, "Paddle is imported in model/ alone"


@pytest.mark.parametrize("is_reversed", [False, True])
def test_all_modules_import_in_any_order(is_reversed):
    has_torch = importlib.util.find_spec("torch") is not None
    modules = [name for name in MODULES if has_torch or not name.startswith("model.torch_forward")]
    found, notes = start(*(reversed(modules) if is_reversed else modules))
    assert notes == ""
    assert_threads(found, len(os.sched_getaffinity(0)))


@pytest.mark.parametrize("script", ["convert_to_paddle.py", "tools/export_model.py --to torch", "test.py"])
def test_a_script_is_silent_about_threads(script, tmp_path, run_script):
    name, *options = script.split()
    code, _, err = run_script(name, *options, cwd=tmp_path, env={"OMP_NUM_THREADS": str(N_THREADS)})
    assert code == 1 and err.startswith("error: ") and err.count("\n") == 1


# The launcher imports Paddle, and so passes OMP_NUM_THREADS=1 on to the processes that it starts.
RANK = f"""
import json, os, sys
sys.path.insert(0, {str(ROOT)!r})
started_with = os.environ.get("OMP_NUM_THREADS")
from model.device import n_cpu_threads
with open("rank" + os.environ["PADDLE_TRAINER_ID"] + ".json", "w") as file:
    json.dump([started_with, n_cpu_threads()], file)
"""


@pytest.mark.parametrize("given", [None, "5"])
def test_the_threads_of_the_launchers_processes_are_the_users(given, tmp_path):
    (tmp_path / "rank.py").write_text(RANK)
    environment = {**os.environ, **TWO_ON_CPU}
    environment.pop("OMP_NUM_THREADS", None)
    if given:
        environment["OMP_NUM_THREADS"] = given
    launch = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", "log"]
    done = subprocess.run(
        [*launch, "rank.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stdout + done.stderr
    expected = int(given) if given else len(os.sched_getaffinity(0))
    for rank in range(2):
        started_with, n_threads = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert n_threads == expected
        assert given or started_with == "1"
