"""Fixtures: the golden numbers, the real clips where they are, and small data made on the spot."""
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(GOLDEN)]

# The bounds are those of float32 on a CPU; a GPU's TF32 and its order of sums are others. Only the tests that
# take the fixture `gpu` see one.
VISIBLE_GPUS = os.environ.get("CUDA_VISIBLE_DEVICES", "0,1")  # what is not there is not seen
os.environ["CUDA_VISIBLE_DEVICES"] = ""

from datasets.resize import bilinear
from datasets.stores.jpg_folders import Reader, frame_name
from model import networks
from model.device import prepare_device
from run.spec import NetworkSpec

prepare_device()  # all cores: Paddle alone computes on one


def network(model_depth=10, n_classes=3, name="resnet", **arguments):
    """Return a network with freshly drawn weights; arguments that are not given have their default."""
    arguments = {"model_depth": model_depth, "n_classes": n_classes, **arguments}
    return networks.build(NetworkSpec(name, arguments))


def golden(name):
    """Return a golden JSON file's content."""
    return json.loads((GOLDEN / name).read_text())


def outside_path(variable, what):
    """Return the folder that an environment variable names, or skip the test and say so."""
    path = Path(os.environ.get(variable, ""))
    if not os.environ.get(variable) or not path.is_dir():
        pytest.skip(f"{what} are not here; set {variable} to their folder")
    return path


@pytest.fixture
def clips_path():
    """Folder of real videos: ucf101/, hmdb51/, weizmann4/, odd/."""
    return outside_path("CLIPS_PATH", "the real clips")


@pytest.fixture
def reference_path():
    """Folder of the reference's files that are too large or not free to copy: frames/, ucf101_01.json."""
    return outside_path("REFERENCE_PATH", "the reference's frames")


def run_program(script, *arguments, cwd=ROOT, timeout=300, env=None, stdin=""):
    """Run a script of the project and return `(exit code, stdout, stderr)`."""
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, arguments)],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **(env or {})},
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def run_script():
    """The function `run_program`."""
    return run_program


# For Paddle's launcher: two ranks that see no GPU. It counts the names, not the devices.
TWO_ON_CPU = {"CUDA_VISIBLE_DEVICES": "-1,-1", "PADDLE_DISTRI_BACKEND": "gloo"}


@pytest.fixture(scope="session")
def gpu():
    """The environment that shows the GPUs to a program; skips the test, and says why, where there is none."""
    import paddle

    if not paddle.is_compiled_with_cuda():
        pytest.skip("this Paddle is built for CPUs")
    shown = {"CUDA_VISIBLE_DEVICES": VISIBLE_GPUS}
    names = VISIBLE_GPUS.split(",")
    count = "import model, paddle; print(paddle.device.cuda.device_count())"
    done = subprocess.run(
        [sys.executable, "-c", count], env={**os.environ, **shown}, cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode or not int(done.stdout):
        pytest.skip(f"Paddle sees no GPU here {done.stderr[-300:]}")
    return {"CUDA_VISIBLE_DEVICES": ",".join(names[: int(done.stdout)])}


def make_frames(folder, n_frames, seed=0, height=60, width=80):
    """Write frames of noise that changes from frame to frame."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(1, n_frames + 1):
        coarse = rng.integers(0, 256, (height // 10, width // 10, 3), np.uint8)
        frame = np.ascontiguousarray(coarse.repeat(10, 0).repeat(10, 1))
        (folder / frame_name(number)).write_bytes(simplejpeg.encode_jpeg(frame, quality=80))


@pytest.fixture
def small_set(tmp_path):
    """Frames and annotation of 6 training and 4 validation videos of 2 classes; returns their root."""
    database = {}
    for i in range(10):
        class_name, n_frames = ("Jump", "run")[i % 2], 18 + i
        name = f"v_{class_name}_g{i:02d}_c01"
        make_frames(tmp_path / "dataset/UCF-101-jpg" / class_name / name, n_frames, seed=i)
        database[name] = {
            "subset": "training" if i < 6 else "validation",
            "annotations": {"label": class_name, "segment": [1, n_frames + 1]},
        }
    content = {"labels": ["Jump", "run"], "database": database}
    (tmp_path / "dataset/ucf101_01.json").write_text(json.dumps(content))
    return tmp_path


def cut(frames, crop):
    """Return the clip that a crop makes of some frames."""
    clip = np.empty((len(frames), *crop.shape, 3), np.uint8)
    resize = bilinear(*crop)
    for frame, out in zip(frames, clip):
        resize(frame, out)
    return clip


def read_frame(path):
    """Decode one jpg of a folder of frames."""
    return Reader(path.parent).decode(int(path.stem.removeprefix("image_")))


def pillow_resize(image, size):
    """Resize along the rows first, as Pillow itself does before version 13."""
    return image.resize((size[0], image.height), Image.BILINEAR).resize(size, Image.BILINEAR)


# A network that trains in well under a second a step on two cores.
SMALL_TRAINING = (
    "--pretrain_path none --model_depth 10 --resnet_widen_factor 0.125 --conv1_t_size 3 "
    "--sample_size 32 --sample_duration 8 --batch_size 4 --n_threads 0 --learning_rate 0.01"
).split()
