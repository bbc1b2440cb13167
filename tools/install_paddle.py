"""Install the packages of this project, with the Paddle that goes with this machine. `make` calls it.

    .venv/bin/python tools/install_paddle.py --active python3

takes, in this order: the Paddle of the active Python, if it is good; on a machine with a GPU, the newest
one of Paddle's own index that has code for the card, else PyPI's 2.6.2, which needs CUDA and cuDNN on the
machine; else a Paddle for the CPU. Whichever it is computes a convolution before this ends. If none does,
one line says which library, card or version is in the way, before any video is decoded. Needs no package:
it runs before any is there.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from run.machine import nvidia_smi, version_numbers

LEAST_PADDLE, GPU_PADDLE, PYPI_GPU_PADDLE = (2, 6, 2), "3.3.1", "2.6.2"
PYPI_GPU_CARDS = ((6, 1), (8, 9))  # least and most compute capability that PyPI's wheel has code for
INDEX = "https://www.paddlepaddle.org.cn/packages/stable/{}/"
CPU_TORCH = "https://download.pytorch.org/whl/cpu"


class Wheels(NamedTuple):
    """A folder of Paddle's index: the cards that its wheels have code for, and the oldest driver."""

    name: str
    least: tuple  # compute capability, V100 is (7, 0), H100 (9, 0)
    most: tuple
    driver: tuple


# The first that fits is taken. cu126 first: the cuDNN of cu129 (9.9) is slow at Conv3D in float16. Drivers
# are those of NVIDIA's minor version compatibility, and of the first Blackwell cards.
WHEELS = (
    Wheels("cu126", (7, 0), (9, 0), (525, 60)),
    Wheels("cu118", (6, 0), (8, 9), (450, 80)),
    Wheels("cu129", (7, 5), (12, 1), (570, 0)),
)


class Card(NamedTuple):
    """A GPU as nvidia-smi has it; `capability` is None if its driver is too old to tell."""

    name: str
    driver: tuple
    capability: tuple


class Problem(Exception):
    """What keeps Paddle from computing here, and what to do, in one line."""


def cards_here():
    """Return the `Card`s of this machine, none without a driver or if the environment hides them all."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return []
    rows = nvidia_smi("--query-gpu=name,driver_version,compute_cap")
    if rows is None:
        rows = nvidia_smi("--query-gpu=name,driver_version") or []
    return [
        Card(name, version_numbers(driver), version_numbers(capability[0]) if capability else None)
        for name, driver, *capability in rows
    ]


def wheels_for(cards):
    """Return the `Wheels` for all cards. Raises Problem with the card or the driver that rules them out."""
    driver = min(card.driver for card in cards)
    known = [card.capability for card in cards if card.capability]
    by_card = [w for w in WHEELS if all(w.least <= capability <= w.most for capability in known)]
    by_driver = [w for w in by_card if driver >= w.driver]
    if not known:  # only drivers before 510 do not tell
        by_driver = [w for w in by_driver if w.name == "cu118"]
    if by_driver:
        return by_driver[0]
    names = ", ".join(f"{card.name} ({_text(card.capability or ())})" for card in cards)
    if not by_card:
        raise Problem(f"no Paddle has code for the cards here: {names}; docs/gpu.md says which it has")
    need = min(w.driver for w in by_card)
    raise Problem(
        f"the NVIDIA driver {_text(driver)} is too old for {names}: Paddle {GPU_PADDLE} needs {_text(need)} "
        "or newer; update the driver and run the same command again"
    )


def _text(numbers):
    return ".".join(map(str, numbers)) or "unknown"


# Run by a process of its own, which may crash and which sees what was just installed.
PROBE = """
import json
found = {"paddle": None}
try:
    import numpy
    import paddle
    found.update(paddle=paddle.__version__, numpy=numpy.__version__)
    found["device"] = paddle.get_device()
    ones = paddle.to_tensor(numpy.ones((1, 1, 3, 3, 3), "float32"))
    found["sum"] = float(paddle.nn.functional.conv3d(ones, ones).sum())
except ModuleNotFoundError as error:
    found["error"] = None if error.name in ("paddle", "numpy") else f"{error}"
except BaseException as error:
    found["error"] = f"{type(error).__name__}: {error}"
print("found" + json.dumps(found))
"""


def probe():
    """Return what this Python says of its Paddle, see PROBE: `paddle` is None if it has none."""
    command = [sys.executable, "-c", PROBE]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tempfile.gettempdir())
    line = next((line for line in done.stdout.splitlines() if line.startswith("found")), None)
    if line is None:  # it crashed
        return {"paddle": "unknown", "error": f"exit code {done.returncode}: {done.stderr.strip()[-300:]}"}
    return json.loads(line[len("found") :])


def require_good(found, cards):
    """Raise Problem unless the Paddle of `probe` computes here, on the GPU where there is one."""
    version, error = found["paddle"], found.get("error")
    if error:
        library = re.search(r"dynamic library \((\S+?)\)|(lib\w+\.so[\w.]*): cannot open", error)
        if library:
            name = library[1] or library[2]
            advice = (
                f"its library {name} is missing; install CUDA 11.8 and cuDNN 8 with their development files, "
                f"or a Paddle that brings them: {_install_line(cards)}"
            )
            raise Problem(f"Paddle {version} does not compute: {advice}")
        raise Problem(f"Paddle {version} does not compute: {' '.join(error.split())[:300]}; see docs/gpu.md")
    if (0, 0, 0) != version_numbers(version) < LEAST_PADDLE:  # 0.0.0 is a build of the day
        needed = f"{_text(LEAST_PADDLE)} or newer"
        raise Problem(f"Paddle {version} is too old, expected {needed}; {_install_line(cards)}")
    if found["sum"] != 27:
        raise Problem(
            f"Paddle {version} computes {found['sum']} in place of 27 with numpy {found['numpy']}: they "
            "do not go together; pip install 'numpy<2'"
        )
    if cards and not found["device"].startswith("gpu"):
        raise Problem(
            f"Paddle {version} computes on the {found['device']} and not on the {cards[0].name}; "
            f"{_install_line(cards)}, or hide the GPU: CUDA_VISIBLE_DEVICES="
        )


def _install_line(cards):
    """Return the command that installs the Paddle for the cards, for a message."""
    if not cards:
        return f"pip install 'paddlepaddle>={_text(LEAST_PADDLE)},<3.4'"
    try:
        index = INDEX.format(wheels_for(cards).name)
    except Problem as problem:
        return str(problem)
    return f"pip install paddlepaddle-gpu=={GPU_PADDLE} -i {index}"


def pip(*arguments):
    """Install packages; return whether it worked."""
    command = [sys.executable, "-m", "pip", "install", "-q", *arguments]
    return subprocess.run(command).returncode == 0


def install_requirements(name, paddle=None, numpy=None, with_torch=False):
    """Install the packages of a requirements file; `paddle` replaces its line, "" leaves it out.

    `numpy` is a version that stays as it is, since a Paddle is built against it.
    """
    lines = []
    for line in (ROOT / name).read_text().splitlines():
        package = re.match(r"[\w-]*", line)[0]
        if not package:  # a comment
            continue
        if package.startswith("paddlepaddle") and paddle is not None:
            lines += [f"{package}=={paddle}"] if paddle else []
        elif package == "numpy" and paddle:
            lines.append("numpy<2" if paddle.startswith("2") else "numpy>=1.21")
        elif package == "numpy" and numpy:
            lines.append(f"numpy=={numpy}")
        elif package != "torch":
            lines.append(line)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "requirements.txt"
        path.write_text("\n".join(lines) + "\n")
        if not pip("-r", str(path)):
            raise Problem(f"the packages of {name} do not install; what pip says is above")
    if with_torch:
        install_torch()


def install_torch():
    """Install PyTorch for the CPU, which spares gigabytes of CUDA, where PyTorch's own index is reached."""
    done = subprocess.run([sys.executable, "-c", "import torch"], capture_output=True)
    if done.returncode == 0 or pip("--retries", "0", "--index-url", CPU_TORCH, "torch"):
        return
    if not pip("torch==2.13.0") and not pip("torch"):
        raise Problem("torch does not install; what pip says is above")


def install_gpu_paddle(cards):
    """Install a Paddle for the cards from Paddle's index, else from PyPI. Raises Problem without one."""
    wheels = wheels_for(cards)
    if pip(f"paddlepaddle-gpu=={GPU_PADDLE}", "-i", INDEX.format(wheels.name)):
        return
    least, most = PYPI_GPU_CARDS
    if not all(least <= (card.capability or least) <= most for card in cards):
        raise Problem(
            f"Paddle's index cannot be reached, and PyPI's paddlepaddle-gpu {PYPI_GPU_PADDLE} has no code "
            f"for the {cards[0].name}; when it can be: {_install_line(cards)}"
        )
    print(f"note: Paddle's index cannot be reached; taking PyPI's {PYPI_GPU_PADDLE}", file=sys.stderr)
    if not pip(f"paddlepaddle-gpu=={PYPI_GPU_PADDLE}", "numpy<2", "setuptools"):
        raise Problem(f"no Paddle for a GPU installs; when the network is there: {_install_line(cards)}")


def link_active(python):
    """Lend this environment the packages of another Python, if that has a Paddle."""
    code = "import importlib.util as u; s = u.find_spec('paddle'); print(s.origin if s else '')"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    folder = str(Path(done.stdout.strip()).parent.parent) if done.stdout.strip() else ""
    (Path(sysconfig.get_path("purelib")) / "active.pth").write_text(folder + "\n")


def main(options):
    if not (3, 9) <= sys.version_info < (3, 13):
        raise Problem(f"Python {sys.version.split()[0]}: Paddle needs 3.9 to 3.12; make PYTHON=python3.11")
    cards = [] if options.cpu else cards_here()
    if options.active and not options.paddle and not options.cpu:
        link_active(options.active)
    found = probe()
    if found["paddle"] and not options.paddle:
        require_good(found, cards)
        name = "requirements.txt" if cards else "requirements-cpu.txt"
        install_requirements(name, paddle="", numpy=found["numpy"], with_torch=not cards)
    elif not cards:
        install_requirements("requirements-cpu.txt", options.paddle, with_torch=True)
    elif options.paddle:
        install_requirements("requirements.txt", options.paddle)
    else:
        install_gpu_paddle(cards)
        found = probe()
        require_good(found, cards)
        install_requirements("requirements.txt", paddle="", numpy=found["numpy"])
    require_good(probe(), cards)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--active", metavar="PYTHON", help="a Python whose Paddle is used if it has one")
    parser.add_argument("--paddle", metavar="VERSION", help="this version, from PyPI")
    parser.add_argument("--cpu", action="store_true", help="for the CPU, whatever the machine has")
    try:
        main(parser.parse_args())
    except Problem as problem:
        sys.exit(f"error: {problem}")
