"""Videos with labels: at the right frames, in any shape, whole or not at all."""
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from conftest import ROOT

from datasets.video import read_frames
from prediction.rendered_video import write_labelled_video


def write_grey(path, n_frames, height, width, level=200, pix_fmt="yuv420p", rate=25):
    """Write a video without losses, of one grey, or a list with one for each frame."""
    levels = np.broadcast_to(np.array(level, np.uint8), n_frames)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        for i in range(n_frames):
            content = np.full((height, width, 3), levels[i], np.uint8)
            frame = av.VideoFrame.from_ndarray(content, format="rgb24")
            frame.pts, frame.time_base = i, 1 / Fraction(rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def labelled(path, labels, fps=None):
    out_path = path.with_name("out.mp4")
    write_labelled_video(path, out_path, labels, Fraction(fps or 25), fps)
    with av.open(str(out_path)) as container:
        return [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_label_is_legible_on_any_ground_in_its_frames_alone(tmp_path, level):
    # Every frame twice: what is drawn into one copy is not in the other. Rows of 256 samples have no
    # margin in the decoder's memory, so that older PyAV hands them out as they are.
    path = write_grey(tmp_path / "v.mkv", 12, 128, 256, level)
    frames = labelled(path, ["Jump 0.97"] * 7 + [None] * 10 + ["run"] * 7, fps=50)
    assert len(frames) == 24 and frames[0].shape == (128, 256, 3)
    for i, frame in enumerate(frames):
        place = frame[:20, :40]
        if 7 <= i < 17:
            assert np.abs(frame - level).max() < 10, i
        else:
            # White on a ground no lighter than a quarter.
            assert place.max() > 220 and np.percentile(place, 10) < level // 4 + 12, i
            assert np.abs(frame[40:] - level).max() < 10
    assert np.abs(frames[0][:16] - frames[-1][:16]).max() > 100  # two texts


def test_odd_and_tiny_sides_become_even(tmp_path):
    for height, width in ((33, 45), (1, 1), (3, 200), (200, 3)):
        path = write_grey(tmp_path / f"{height}.mkv", 2, height, width, pix_fmt="yuv444p")
        frames = labelled(path, ["A long name of a class 0.97", None])
        assert [frame.shape for frame in frames] == [(height + height % 2, width + width % 2, 3)] * 2


def test_letters_that_a_font_may_lack_are_no_reason_to_fail(tmp_path):
    path = write_grey(tmp_path / "v.mkv", 4, 60, 80)
    assert len(labelled(path, ["跳 0.5", "é\nü", "", " "])) == 4


def test_a_rotated_video_is_written_upright(clips_path, tmp_path):
    path = clips_path / "odd/decord__video_90.mov"
    write_labelled_video(path, tmp_path / "out.mp4", [None] * 3, Fraction(30))
    with av.open(str(tmp_path / "out.mp4")) as container:
        written = [frame.to_ndarray(format="gray").astype(int) for frame in container.decode(video=0)]
    for frame, (original, _) in zip(written, read_frames(path)):
        turned = np.rot90(original.to_ndarray(format="gray"), original.rotation // 90)
        assert frame.shape == turned.shape == (568, 320) and np.abs(frame - turned).mean() < 3


def test_a_full_disk_leaves_no_file_and_is_one_error(tmp_path):
    path = tmp_path / "v.avi"
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for i in range(20):
            shifted = np.ascontiguousarray(np.roll(noise, 7 * i, axis=1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shifted, format="rgb24")))
        container.mux(stream.encode())
    code = """
import resource, signal, sys
from fractions import Fraction
from pathlib import Path
from prediction.rendered_video import write_labelled_video
from run.console import UserError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
path = Path(sys.argv[1])
try: write_labelled_video(path, path.with_name("out.mp4"), ["a"] * 20, Fraction(25))
except UserError as error: print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == "" and done.stdout.startswith(f"{tmp_path}/out.mp4: File too large; nothing was")
    assert [p.name for p in tmp_path.iterdir()] == ["v.avi"]
