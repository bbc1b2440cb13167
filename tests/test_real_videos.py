"""What a user sees of the files that people bring: in stage 1, in prediction, in the rendered video."""
import itertools
import json
import os
import shutil
import signal
import struct
import sys
import time
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
from conftest import ROOT
from test_labelled_video import write_grey

sys.path.insert(0, str(ROOT / "benchmarks"))
from torture_files import make

from datasets.pixels import _orientation
from datasets.timing import at_new_rate, at_own_rate
from datasets.video import open_video, read_frames
from datasets.wholeness import wholeness
from prediction import video_clips
from prediction.rendered_video import write_labelled_video
from prediction.video_clips import LimitedClips, VideoClips
from run.console import UserError
from run.spec import ClipSpec

needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is not installed")
CLIP = ClipSpec(sample_size=8, sample_duration=4, frame_rates=(25.0, 25.0, 29.97))


@pytest.fixture
def folder(tmp_path):
    """A function that makes files of the torture set, twice each, as the class A of own data."""

    def made(*names):
        assert not make(tmp_path / "made", names)
        (tmp_path / "videos/A").mkdir(parents=True)
        for name in names:
            for copy in "12":
                stem, suffix = name.split(".")
                suffix = {"mp3": "mp4"}.get(suffix, suffix)
                shutil.copy(tmp_path / "made" / name, tmp_path / f"videos/A/{stem}{copy}.{suffix}")
        return tmp_path

    return made


def stage_1(run_script, root, *options):
    return run_script(
        "generate_video_jpgs.py", root / "videos", root / "jpg", "folder", "--val_fraction", 0.5, *options
    )


@needs_ffmpeg
def test_a_song_with_a_cover_among_the_videos_ends_no_run(folder, run_script):
    root = folder("song.mp3", "trim.mp4")
    code, out, err = stage_1(run_script, root)
    assert code == 0 and "4 videos, 1 classes, 102 frames" in out and "Traceback" not in err
    assert "2 of 4 videos have a frame rate far from the median" in err and "A/song1 (90000)" in err
    assert "2 videos are of a kind that does not say how long it should be" in err


@needs_ffmpeg
def test_a_size_that_changes_leaves_frames_that_a_check_finds_whole(folder, run_script):
    root = folder("size.ts")
    code, _, err = stage_1(run_script, root, "--size", 60)
    assert code == 0, err
    assert stage_1(run_script, root, "--check")[1].endswith("98 frames: all whole\n")


@needs_ffmpeg
def test_an_unusual_frame_rate_is_noted_and_fps_makes_it_usual(folder, run_script):
    root = folder("fast.mp4", "base.mp4", "long.mp4")
    code, _, err = stage_1(run_script, root, "--size", 30)
    assert code == 0 and "2 of 6 videos have a frame rate far from the median of 25" in err
    assert "A/fast1 (120), A/fast2 (120); --fps 25, into another folder" in err
    shutil.rmtree(root / "jpg")
    code, _, err = stage_1(run_script, root, "--size", 30, "--fps", 25)
    assert code == 0 and "far from the median" not in err
    lines = [json.loads(line) for line in (root / "jpg/frames.jsonl").read_text().splitlines()[1:]]
    assert {line["video"]: line["n_frames"] for line in lines}["A/fast1"] == 25


@needs_ffmpeg
def test_a_phone_video_of_25_frames_a_second_is_not_resampled_to_a_guessed_120(folder, capsys):
    path = folder("phone.mp4") / "made/phone.mp4"
    n_real = len({frame.pts for frame, _ in read_frames(path)})
    with open_video(path) as video:
        average = video.average_rate
        assert video.rate == 120 and 24 < average < 32
    for rates in ((25.0, 25.0, 29.97), None):
        clips = VideoClips(path, ClipSpec(sample_size=8, sample_duration=4, frame_rates=rates), 4)
        assert sum(1 for _ in clips) and abs(clips.n_frames - n_real) <= 2
        assert abs(clips.frame_rate - average) < 0.01
    assert "on average (its time stamps allow 120)" in capsys.readouterr().err
    own = VideoClips(path, CLIP, 4, fps=120)
    assert sum(1 for _ in own) and own.n_frames > 270
    steady = VideoClips(path.with_name("base.mp4"), CLIP, 4)
    assert steady.fps is None and "note" not in capsys.readouterr().err


@needs_ffmpeg
def test_a_rendered_video_keeps_the_shape_that_its_pixels_give_it(folder):
    path = folder("wide_pixels.mp4") / "made/wide_pixels.mp4"  # 72x64 pixels of 64:45, shown as 8:5
    write_labelled_video(path, path.with_name("out.mp4"), [None] * 25, Fraction(25))
    with av.open(str(path.with_name("out.mp4"))) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (102, 64)


@needs_ffmpeg
def test_a_rendered_video_whose_size_changes_has_the_first_size(folder):
    path = folder("size.ts") / "made/size.ts"
    write_labelled_video(path, path.with_name("out.mp4"), [None] * 49, Fraction(25))
    with av.open(str(path.with_name("out.mp4"))) as container:
        assert [(f.width, f.height) for f in container.decode(video=0)] == [(160, 120)] * 49


@needs_ffmpeg
def test_a_jump_in_time_and_a_cover_claim_no_millions_of_frames_before_the_start(folder):
    made = folder("jump_back.ts", "song.mp3", "late.ts") / "made"
    claimed = {}
    for name in ("jump_back.ts", "song.mp3", "late.ts"):
        with open_video(made / name) as video:
            claimed[name] = video.n_claimed()
    assert claimed["jump_back.ts"] < 10_000 and claimed["song.mp3"] == 1 and 50 <= claimed["late.ts"] <= 80


@pytest.mark.parametrize("at", ["open_video", "rgb_frame"])
def test_a_decoder_that_hangs_in_prediction_is_ended(tmp_path, monkeypatch, at):
    path = write_grey(tmp_path / "v.mkv", 30, 24, 32)
    monkeypatch.setattr(video_clips, at, lambda *_: time.sleep(60))
    begin = time.monotonic()
    with pytest.raises(UserError, match=r"v.mkv: not done after 1 s \(--time_limit\)"):
        list(LimitedClips(path, CLIP, 4, time_limit=1.0).batches(2))
    assert time.monotonic() - begin < 20


def test_a_decoder_that_crashes_in_prediction_is_one_line(tmp_path, monkeypatch):
    path = write_grey(tmp_path / "v.mkv", 30, 24, 32)
    monkeypatch.setattr(video_clips, "rgb_frame", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(UserError, match=r"v.mkv: the process that read it died \(signal 9\)"):
        list(LimitedClips(path, CLIP, 4).batches(2))


def test_clips_from_a_process_are_those_of_this_one_and_a_slow_network_is_not_late(tmp_path):
    path = write_grey(tmp_path / "v.mkv", 40, 24, 32, [6 * i for i in range(40)])
    ours, theirs = VideoClips(path, CLIP, 4), LimitedClips(path, CLIP, 4, time_limit=1.0)
    for (windows, clips), (their_windows, their_clips) in zip(ours.batches(4), theirs.batches(4)):
        time.sleep(0.6)
        assert windows == their_windows
        np.testing.assert_array_equal(clips, their_clips)
    assert (ours.n_frames, ours.frame_rate, ours.fps) == (40, 25, None)
    assert (theirs.n_frames, theirs.frame_rate, theirs.fps) == (40, 25, None)


def test_a_video_that_is_too_slow_ends_alone_in_predict(tmp_path, run_script):
    pytest.importorskip("paddle")
    from test_own_videos import CLASSES, save_network

    save_network(tmp_path / "results/best.pdparams", class_names=CLASSES)
    write_grey(tmp_path / "v.mkv", 30, 24, 32)
    (tmp_path / "text.mkv").write_text("no video")
    code, out, err = run_script("tools/predict.py", "v.mkv", "v.mkv", "--time_limit", 1e-9, cwd=tmp_path)
    assert code == 1 and out == ""
    late = "not done after 1e-09 s (--time_limit)"
    assert [line.split(": ", 2)[2] for line in err.splitlines()] == [late] * 2
    code, out, err = run_script("tools/predict.py", "v.mkv", "text.mkv", cwd=tmp_path)
    assert code == 1 and out.startswith("v.mkv: 30 frames, 1.20 s, 1 clips")
    assert err == "error: text.mkv: not a video, or of a kind that ffmpeg does not know\n"


def copies(times, rate, is_alone=False, fps=None):
    timed = [(i, Fraction(time)) for i, time in enumerate(times)]
    if fps:
        return list(at_new_rate(timed, Fraction(fps), is_alone, 1 / Fraction(rate)))
    return list(at_own_rate(timed, Fraction(rate), is_alone))


def test_the_last_frame_is_repeated_by_the_median_of_the_last_three():
    times = [0, 1, 5, 9, 13]  # pauses of three slots
    assert copies(times, 1) == [(0, 1), (1, 1), (1, 2), (2, 2), (2, 2), (3, 2), (3, 2), (4, 2), (4, 2)]
    assert copies([0, 1, 2, 6], 1)[-2:] == [(2, 2), (3, 2)]  # one pause alone is no habit


def test_a_late_first_frame_is_repeated_only_beside_another_stream():
    assert sum(n for _, n in copies([5, 6], 1)) == 7
    assert sum(n for _, n in copies([5, 6], 1, is_alone=True)) == 2
    assert sum(n for _, n in copies([5, 6], 1, fps=2)) == 14
    assert sum(n for _, n in copies([5, 6], 1, is_alone=True, fps=2)) == 4


def test_times_that_ask_for_more_frames_than_the_file_can_hold_are_refused(tmp_path, monkeypatch):
    path = write_grey(tmp_path / "v.mkv", 10, 24, 32)
    jumping = ((frame, time if i < 5 else time + 50_000) for i, (frame, time) in enumerate(timed(path)))
    with open_video(path) as video:
        monkeypatch.setattr(video, "_timed", lambda: jumping)
        with pytest.raises(UserError, match=r"damaged: its time stamps jump at frame 6 and ask for 1,250,0"):
            list(video.frames())


def timed(path):
    with open_video(path) as video:
        yield from video._timed()


@pytest.mark.parametrize(
    "content, kind",
    [
        (b"RIFF\x10", None),
        (b"RIFF" + b"\0" * 60, "avi"),
        (b"\x1a\x45\xdf\xa3\x9f", "matroska"),
        (b"\x1a\x45\xdf\xa3\x00" * 9, "matroska"),
        (b"FLV\x01\x05\0\0\0\x09\0\0\0\0", "flv"),
        (b"OggS" + b"\0" * 99, "ogg"),
        (b"\0\0\0\x18ftypisom", "mp4"),
        (b"\0\0\0\x08moov\0\0\0\x01mdat\0\0", "mp4"),
        (b"\0\0\1\xba" + b"\0" * 9, "mpeg"),
        (b"\0" * 2000, None),
        (os.urandom(3000), None),
    ],
)
def test_a_header_of_any_bytes_is_read_without_a_fault(tmp_path, content, kind):
    path = tmp_path / "v"
    path.write_bytes(content)
    assert wholeness(path).kind in (kind, "avi" if content[:4] == b"RIFF" else kind)
    for end in range(1, len(content), 7):
        path.write_bytes(content[:end])
        wholeness(path)


def test_every_way_to_stand_is_the_one_of_the_matrix():
    content = np.zeros((8, 16), np.uint8)
    content[:4, :8] = 1  # the upper left
    places = {}
    for a, b, c, d in itertools.product((-1, 0, 1), repeat=4):
        if (a == d == 0) == (b == c == 0) or a * a != d * d or b * b != c * c:
            continue
        matrix = struct.pack("=9i", *(round(n * 65536) for n in (a, b, 0, c, d, 0, 0, 0, 16384)))
        turn, angle = _orientation(SimpleNamespace(side_data={"DISPLAYMATRIX": matrix}))
        turned = turn(content)
        height, width = turned.shape
        assert (width, height) == ((16, 8) if a else (8, 16)) and angle == 0
        upper, left = turned[: height // 2].any(), turned[:, : width // 2].any()
        places[a, b, c, d] = f"{'upper' if upper else 'lower'} {'left' if left else 'right'}"
    assert places == {
        (1, 0, 0, 1): "upper left", (-1, 0, 0, 1): "upper right", (1, 0, 0, -1): "lower left",
        (-1, 0, 0, -1): "lower right", (0, 1, -1, 0): "upper right", (0, -1, 1, 0): "lower left",
        (0, 1, 1, 0): "upper left", (0, -1, -1, 0): "lower right",
    }  # fmt: skip
