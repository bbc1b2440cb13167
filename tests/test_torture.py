"""The files that people bring: ffmpeg's frames for every whole one, a reason for every other.

`benchmarks/torture_files.py` says how each is made and what is right. These are the findings in real files,
each under what a user would see, and then all the others.
"""
import fcntl
import shutil
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from torture import ours
from torture_files import FILES, make

pytestmark = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is not installed: no files")

FINDINGS = {
    "joined recordings and jumps in time keep all their frames and make no more": (
        "joined.ts", "joined.mpg", "joined.mts", "jump_forth.ts", "jump_back.ts", "two_jumps.ts",
        "jump_5s.ts", "wrap.ts", "time_jumps.mkv", "nonsense_time.mkv",
    ),
    "a cut without encoding is not refused as cut short": ("trim.mp4", "trim.mov", "middle.mp4"),
    "an avi with dropped frames is whole": ("drop3.avi", "drop_many.avi"),
    "the picture of a song is a frame and not a traceback": ("song.mp3", "song.m4a", "sound_only.mp4"),
    "half a file is refused if the file says how long it should be": (
        "half.mkv", "most.mkv", "half.webm", "half.wmv", "half.avi", "half.mp4", "half_index_first.mp4",
        "half_trim.mov", "half_fragments.mp4", "half.flv", "head.mp4",
    ),
    "half a file that does not say so is a note": ("half.ts", "half.mpg", "half.ogv", "live.mkv"),
    "later frames of another size are scaled to the first one's": ("size.ts", "size.264"),
    "still moments of theora decode": ("static.ogv", "static.mkv", "moving.ogv", "late.ogv"),
    "interlaced video is not combed": ("interlaced.mp4", "interlaced.mpg", "interlaced.ts", "dv.avi"),
    "mirrored and turned video stands as it is shown": (
        "mirrored.mp4", "upside_down.mp4", "transposed.mp4", "transposed_back.mp4", "turned_45.mp4",
        "turned_90.mp4", "turned_180.mp4", "turned_270.mp4",
    ),
    "the stream that ffmpeg shows is taken, and the film of a motion photo": (
        "two.mp4", "two_programs.ts", "default_first.mkv", "cover_first.mkv", "cover.mp4", "motion_photo.mp4",
    ),
    "no frame is added before a video that begins after its sound": (
        "late.ts", "late.mpg", "late_video.mp4", "late_video.mkv", "late_alone.mkv",
    ),
    "the last frame of a variable rate is repeated as often as ffmpeg does": (
        "vfr.mkv", "vfr.mp4", "pause.mkv", "phone.mp4", "jitter.mkv",
    ),
    "what is no video, encrypted or damaged is called so": (
        "text.mp4", "page.avi", "zeros.mov", "empty.mkv", "encrypted.mp4", "damaged.avi", "damaged.webm",
    ),
}  # fmt: skip
FINDINGS["every other file"] = tuple(sorted(set(FILES).difference(*FINDINGS.values())))


@pytest.fixture(scope="session")
def torture_path(tmp_path_factory):
    """A folder with all files, made once for all test processes."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if base.name.startswith("popen-") else base
    with open(base / "torture.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (base / "torture").exists():
            failed = make(base / "torture.part")
            for name in failed:  # what another ffmpeg cannot make is not ours to decode
                (base / "torture.part" / name).unlink(missing_ok=True)
            (base / "torture.part").rename(base / "torture")
    return base / "torture"


@pytest.mark.parametrize("finding", FINDINGS)
def test_a_file_gives_ffmpegs_frames_or_a_reason(torture_path, finding):
    names = [name for name in FINDINGS[finding] if (torture_path / name).exists()]
    assert names
    wrong = ours(torture_path, names)
    assert {name: text for name, text in wrong.items() if text} == {}


def test_this_ffmpeg_makes_almost_all_files(torture_path):
    assert len(FILES) >= 60
    assert sum((torture_path / name).exists() for name in FILES) > 0.9 * len(FILES)
