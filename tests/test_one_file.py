"""A data set and a frame store are one new file each: no line of the checkout knows of them."""
import json
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

pytest.importorskip("cv2")
import numpy as np
from moving_shapes import draw_video, write_video

# Videos in one folder, `<person> <Class>.avi`, of which each gives two samples, and some without a label.
SOURCE = '''"""Films: the class stands in the file's name, and each half of a film is a sample."""
from datasets.class_folders import sorted_names
from datasets.sources import SourceVideo

OPTIONS = {"test_person": {"type": "str", "default": "p9", "help": "whose films have no label"}}


def find_videos(dir_path, options):
    paths = sorted(dir_path.glob("*.avi"))
    return [_video(path, *path.stem.split(" "), options["test_person"]) for path in paths]


def _video(path, person, class_name, test_person):
    folder = f"films/{path.stem}"
    return SourceVideo(path, folder, path.stem, None if person == test_person else class_name)


def class_names(videos, options):
    return sorted_names(video.class_name for video in videos if video.class_name)[::-1]


def annotation_paths(dst_path):
    return [dst_path.parent / "films.json"]


def splits(videos, options):
    subsets = {"p1": "training", "p2": "validation", options["test_person"]: "testing"}
    return [{video.key: subsets[video.key.split(" ")[0]] for video in videos}]


def samples(video, n_frames, fps, options):
    assert fps == 25
    middle = n_frames // 2
    halves = ("first", 1, middle), ("second", middle, n_frames + 1)
    return [(f"{video.key} {half}", video.class_name, begin, end) for half, begin, end in halves]
'''

# A zip of stored jpgs for each video.
STORE = '''"""A zip file for each video."""
import contextlib
import os
import zipfile

import simplejpeg

from datasets.stores import FrameReader, FrameStore


def recognises(path):
    return next(path.glob("*/*.zip"), None) is not None


class Store(FrameStore):
    def place(self, folder):
        return self.path / f"{folder}.zip"

    def videos(self):
        paths = self.path.glob("[!.]*/[!.]*.zip")
        return [path.relative_to(self.path).as_posix().removesuffix(".zip") for path in paths]

    def count(self, folder, begin, end):
        if not self.place(folder).exists():
            return None
        with zipfile.ZipFile(self.place(folder)) as file:
            return len(range(begin, min(end, len(file.namelist()) + 1)))

    def reader(self, folder):
        return Reader(self.place(folder))

    @contextlib.contextmanager
    def writer(self, folder):
        temporary = self.temporary_path(folder)
        temporary.parent.mkdir(parents=True, exist_ok=True)
        try:
            with zipfile.ZipFile(temporary, "w") as file:
                yield lambda content: file.writestr(f"{len(file.namelist()) + 1}.jpg", content)
            os.replace(temporary, self.place(folder))
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def verify(self, folder, n_frames):
        if self.count(folder, 1, n_frames + 1) != n_frames:
            return ["frames are missing"]
        with self.reader(folder) as reader:
            sizes = {min(reader.size(number)) for number in range(1, n_frames + 1)}
        return [] if sizes == {self.spec.size} else ["of another size"]


class Reader(FrameReader):
    def __init__(self, path):
        self.file = zipfile.ZipFile(path)

    def size(self, number):
        return simplejpeg.decode_jpeg_header(self.file.read(f"{number}.jpg"))[:2]

    def decode(self, number, colorspace="RGB", reduction=1):
        content = self.file.read(f"{number}.jpg")
        return simplejpeg.decode_jpeg(content, colorspace, fastdct=False, fastupsample=False)

    def close(self):
        self.file.close()
'''


@pytest.fixture
def checkout(tmp_path):
    """A copy of the checkout, to add files to."""
    ignored = shutil.ignore_patterns(".*", "__pycache__", "demo", "docs", "benchmarks")
    shutil.copytree(ROOT, tmp_path / "checkout", ignore=ignored)
    return tmp_path / "checkout"


def run(checkout, script, *arguments):
    """Run a script of the copy in the folder above it; return its stdout."""
    command = [sys.executable, str(checkout / script), *map(str, arguments)]
    done = subprocess.run(command, cwd=checkout.parent, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_code(checkout, code):
    done = subprocess.run([sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def films(tmp_path):
    rng = np.random.default_rng(0)
    for person in ("p1", "p2", "p9"):
        for class_name in ("MoveUp", "ShapeGrows"):
            path = tmp_path / "films" / f"{person} {class_name}.avi"
            write_video(path, draw_video(class_name, 30, rng))
    return tmp_path / "films"


def test_a_data_set_is_one_file(checkout, films):
    (checkout / "datasets/sources/films.py").write_text(SOURCE)
    text = run(checkout, "generate_video_jpgs.py", "--help")
    assert "{films,folder,hmdb51,kinetics,ucf101}" in text
    assert "--test_person" in text and "whose films" in text
    arguments = "films", "jpg", "films", "--size", 40
    out = run(checkout, "generate_video_jpgs.py", *arguments)
    assert out == (
        "jpg: 6 videos, 2 classes, 180 frames\n"
        "films.json: 4 training, 4 validation, 4 testing samples\n"
    )
    content = json.loads((films.parent / "films.json").read_text())
    assert content["labels"] == ["ShapeGrows", "MoveUp"]
    assert content["database"]["p1 MoveUp second"] == {
        "subset": "training",
        "video_path": "films/p1 MoveUp",
        "annotations": {"label": "MoveUp", "segment": [15, 31]},
    }
    assert content["database"]["p9 MoveUp first"]["annotations"] == {"segment": [1, 15]}
    assert run(checkout, "generate_video_jpgs.py", *arguments, "--check").endswith("180 frames: all whole\n")
    out = run_code(
        checkout,
        "from pathlib import Path\n"
        "from datasets.annotation import read_annotation\n"
        "from datasets.clips import WindowClips\n"
        "from datasets.stores import open_store\n"
        "from run.spec import ClipSpec\n"
        "samples = read_annotation(Path('../films.json')).subsets['testing']\n"
        "store = open_store('../jpg')\n"
        "store.check(samples)\n"
        "clip = ClipSpec(sample_size=32, sample_duration=8)\n"
        "clips = WindowClips(store, samples, clip, ('sliding', 8))\n"
        "print(len(clips), clips.request(2), store.frame_rates(samples))\n",
    )
    window = [*range(15, 23)]
    assert out == f"8 ('films/p9 MoveUp', {window}) (25.0, 25.0, 25.0)\n"


READ_CLIP = """
import sys
from datasets.samples import Sample, Samples
from datasets.clips import TrainingClips
from datasets.stores import open_store
from run.spec import ClipSpec, Recipe
store = open_store(sys.argv[1])
samples = Samples([Sample("v", "MoveUp/v_MoveUp_g01_c01", 0, 1, 31)])
store.check(samples)
clip, _ = TrainingClips(store, samples, ClipSpec(sample_size=32), Recipe())[1, 0]
print(store.__module__, clip.shape, clip.tobytes().hex())
"""


def test_a_frame_store_is_one_file(checkout, tmp_path):
    (checkout / "datasets/stores/zips.py").write_text(STORE)
    rng = np.random.default_rng(0)
    for group in range(1, 4):
        write_video(tmp_path / f"UCF-101/MoveUp/v_MoveUp_g{group:02d}_c01.avi", draw_video("MoveUp", 30, rng))
    assert "{jpg_folders,zips}" in run(checkout, "generate_video_jpgs.py", "--help")
    run(checkout, "generate_video_jpgs.py", "UCF-101", "jpg", "--size", 40)
    packed = "UCF-101", "packed", "--size", 40, "--store", "zips"
    assert run(checkout, "generate_video_jpgs.py", *packed).startswith("packed: 3 videos, 1 classes, 90")
    names = [f"v_MoveUp_g{group:02d}_c01.zip" for group in range(1, 4)]
    assert sorted(path.name for path in (tmp_path / "packed/MoveUp").iterdir()) == names

    (tmp_path / "packed/MoveUp" / names[1]).unlink()
    command = [sys.executable, str(checkout / "generate_video_jpgs.py"), "UCF-101", "packed", "--check"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == "MoveUp/v_MoveUp_g02_c01: frames are missing\n", done.stderr
    out = run(checkout, "generate_video_jpgs.py", *packed, "--repair")
    assert "MoveUp/v_MoveUp_g02_c01: decoded again, 30 frames\n" in out

    def clip_of(name):
        command = [sys.executable, "-c", READ_CLIP, str(tmp_path / name)]
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.split(" ", 1)

    assert clip_of("packed")[0] == "datasets.stores.zips"
    assert clip_of("packed")[1] == clip_of("jpg")[1]  # the same bytes of every frame, so of the clip
    (tmp_path / "packed/frames.jsonl").unlink()
    assert clip_of("packed")[0] == "datasets.stores.zips"  # recognised by what lies in it
