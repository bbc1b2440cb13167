"""The clips of a video file: when it is resampled, and what a scorer gets; without a network."""
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from conftest import ROOT
from test_labelled_video import write_grey

from datasets.video import frame_rate
from prediction.features import write_features
from prediction.labels import label_video
from prediction.video_clips import VideoClips
from run.console import UserError
from run.spec import ClipSpec

NTSC = 30000 / 1001
CLIP = {"sample_size": 8, "sample_duration": 4}


def video_of(path, rate, n_frames=30):
    """Write a video in which every frame has a grey of its own; return its path."""
    return write_grey(path, n_frames, 24, 32, [8 * i for i in range(n_frames)], rate=Fraction(rate))


def clips_of(path, frame_rates, fps=None):
    """Return the clips of a video for a network that was trained on some frame rates, read."""
    clips = VideoClips(path, ClipSpec(frame_rates=frame_rates, **CLIP), inference_stride=4, fps=fps)
    return clips, list(clips)


@pytest.mark.parametrize("rate", [20, 25, Fraction(30000, 1001), 31])
def test_a_video_near_the_trainings_frame_rates_keeps_its_own(tmp_path, capsys, rate):
    # UCF-101 mixes 25 and 29.97; 20 is 0.8 of its least.
    path = video_of(tmp_path / "v.mkv", rate)
    clips, read = clips_of(path, (25.0, 25.0, NTSC))
    _, unknown = clips_of(path, None)
    assert clips.fps is None and clips.frame_rate == frame_rate(path) == rate and clips.n_frames == 30
    for (window, clip), (own_window, own_clip) in zip(read, unknown):
        assert window == own_window
        np.testing.assert_array_equal(clip, own_clip)
    assert len(read) == len(unknown) == 8 and "note" not in capsys.readouterr().err


@pytest.mark.parametrize("rate, n_frames", [(10, 75), (19, 39), (60, 12)])
def test_a_video_far_from_them_is_resampled_to_the_median_and_a_note_says_so(
    tmp_path, capsys, rate, n_frames
):
    path = video_of(tmp_path / "v.mkv", rate)
    clips, read = clips_of(path, (25.0, 25.0, NTSC))
    assert clips.fps == clips.frame_rate == 25 and clips.n_frames == n_frames  # 30 frames of 1/rate s, at 25
    given, by_hand = clips_of(path, None, fps=25.0)
    assert [window for window, _ in read] == [window for window, _ in by_hand]
    np.testing.assert_array_equal([clip for _, clip in read], [clip for _, clip in by_hand])
    assert given.n_frames == n_frames
    assert capsys.readouterr().err == (
        f"note: {path}: {rate} frames a second, the network was trained on 25 to 29.97; resampled to 25 "
        f"(--fps {rate} keeps its own)\n"
    )


def test_a_given_rate_wins_and_without_known_rates_every_video_keeps_its_own(tmp_path, capsys):
    path = video_of(tmp_path / "v.mkv", 60)
    for rates in (None, (25.0, 25.0, 25.0)):
        for fps, rate, n_frames in ((60.0, 60, 30), (12.5, Fraction(25, 2), 6)):
            clips, _ = clips_of(path, rates, fps=fps)
            assert (clips.fps, clips.frame_rate, clips.n_frames) == (fps, rate, n_frames)
    clips, _ = clips_of(path, None)
    assert (clips.fps, clips.frame_rate, clips.n_frames) == (None, 60, 30)
    assert "note" not in capsys.readouterr().err


def test_the_median_of_ntsc_videos_is_exact(tmp_path):
    # As a decimal number it would not fit into the 32 bits of a container's frame rate.
    clips, _ = clips_of(video_of(tmp_path / "v.mkv", 60), (NTSC, NTSC, NTSC))
    assert clips.frame_rate == Fraction(30000, 1001)


def test_a_file_that_is_no_video_and_one_that_breaks_off_are_errors(tmp_path):
    near = ClipSpec(frame_rates=(25.0, 25.0, 25.0), **CLIP)
    (tmp_path / "text.mkv").write_bytes(b"no video")
    with pytest.raises(UserError, match="text.mkv: not a video, or of a kind that ffmpeg does not know"):
        VideoClips(tmp_path / "text.mkv", near, 4)
    with pytest.raises(FileNotFoundError):
        VideoClips(tmp_path / "none.mkv", near, 4)
    path = video_of(tmp_path / "v.avi", 25)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match="v.avi: cut short"):
        list(VideoClips(path, near, 4))


def test_a_scorer_gets_the_videos_clips_in_batches_and_classes_without_names_have_numbers(tmp_path):
    clips = VideoClips(video_of(tmp_path / "v.mkv", 25, 10), ClipSpec(**CLIP), inference_stride=3)
    shapes = []

    def score(clips_nthwc):  # the mean grey is the score of class 1
        shapes.append((clips_nthwc.shape, clips_nthwc.dtype))
        grey = clips_nthwc.mean(axis=(1, 2, 3, 4)) / 255
        return np.stack([1 - grey, grey], axis=1).astype(np.float32)

    scored = list(clips.scored(score, batch_size=3))
    assert shapes == [((3, 4, 8, 8, 3), np.uint8), ((1, 4, 8, 8, 3), np.uint8)]
    assert [window for window, _ in scored] == [[1, 2, 3, 4], [4, 5, 6, 7], [7, 8, 9, 10], [10] * 4]
    greys = np.array([np.mean([8 * (n - 1) for n in window]) for window, _ in scored]) / 255
    np.testing.assert_allclose([values[1] for _, values in scored], greys, atol=0.01)
    result, _ = label_video(clips, clips.scored(score, 3), None, k=2)
    assert [item["label"] for item in result["result"]] == ["class 0", "class 1"]
    assert result["n_frames"] == 10 and result["result"][1]["score"] == pytest.approx(greys.mean(), abs=0.01)


def test_features_of_videos_without_classes_have_no_labels(tmp_path):
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    windows = [[1, 2], [3, 3], [1, 2]]
    write_features(tmp_path / "f.npz", rows, [0, 0, 1], windows, ["a", "b"])
    with np.load(tmp_path / "f.npz") as file:
        assert set(file.files) == {
            "clip_features", "video_features", "video_names", "clip_video", "clip_segments",
        }  # fmt: skip
        assert file["video_features"].tolist() == [[1, 2], [4, 5]]
        assert file["clip_segments"].tolist() == [[1, 3], [3, 4], [1, 3]]


def test_nothing_here_imports_paddle():
    names = sorted(path.stem for path in (ROOT / "prediction").glob("*.py"))
    code = "import importlib, sys\n" + "".join(
        f"importlib.import_module('prediction.{name}')\n" for name in names if name != "__init__"
    )
    code += "assert 'paddle' not in sys.modules\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
