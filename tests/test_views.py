"""The 10 x 3 views of many papers: which clips they are, and that the files say so."""
import json

import numpy as np
import pytest
from conftest import SMALL_TRAINING, cut, read_frame
from moving_shapes import draw_video, write_video
from test_clips import FRAMES, samples_of, window_clips

from datasets.spatial import center_crop, short_side_crop
from datasets.stores.jpg_folders import frame_name
from datasets.temporal import spread_windows
from prediction.video_clips import VideoClips
from run.console import UserError
from run.spec import ClipSpec, Protocol


def test_ten_clips_are_evenly_spaced_from_the_first_frame_to_the_last():
    windows = spread_windows(range(1, 101), 10, 10)
    assert [window[0] for window in windows] == list(range(1, 92, 10)) and windows[-1][-1] == 100
    assert spread_windows(range(1, 12), 10, 10) == [list(range(1, 11)), list(range(2, 12))]
    assert spread_windows(range(1, 4), 5, 10) == [[1, 2, 3, 1, 2]]
    assert spread_windows(range(1, 12), 3, 1) == [[5, 6, 7]]


@pytest.mark.parametrize("width, height", [(80, 60), (60, 80), (60, 60)])
def test_the_three_crops_are_both_ends_and_the_centre_of_the_long_side(small_set, width, height):
    clips = window_clips(small_set, ("spread", 2), crop="three")
    frames = list(np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8))
    whole = cut(frames, short_side_crop(width, height, 32))
    first, centre, last = (cut(frames, clips._plan_crop(place, width, height)) for place in range(3))
    np.testing.assert_array_equal(first, whole[:, :32, :32])
    np.testing.assert_array_equal(centre, cut(frames, center_crop(width, height, 32)))
    np.testing.assert_array_equal(last, whole[:, -32:, -32:])


def test_a_set_has_three_clips_a_window(small_set):
    clips, single = (window_clips(small_set, ("spread", 2), crop=crop) for crop in ("three", "center"))
    assert len(clips) == 60 == 3 * len(single)
    np.testing.assert_array_equal(clips[4][0], single[1][0])  # the centre of the second window
    folder = small_set / FRAMES / samples_of(small_set)[9].folder
    frames = [read_frame(folder / frame_name(number)) for number in clips.windows[59]]
    np.testing.assert_array_equal(clips[59][0], cut(frames, short_side_crop(80, 60, 32))[:, :, -32:])


def test_the_results_of_10_x_3_views_are_means_over_them_and_every_stage_names_them(small_set, run_script):
    def run(script, *arguments):
        code, out, err = run_script(script, *arguments, cwd=small_set)
        assert code == 0, err
        return out, err

    run("train.py", *SMALL_TRAINING, "--n_epochs", 1)
    views = ["--n_clips", 10, "--inference_crop", "three", "--n_threads", 0]
    out, _ = run("test.py", *views)
    n = 4 * 30  # 25 to 28 frames have ten starts and more for clips of 8
    assert f"4 videos, {n} clips, 10 x 3 views a video" in out and "\nmean class accuracy " in out
    record = json.loads((small_set / "results/val_run.json").read_text())
    assert (record["protocol"]["n_clips"], record["protocol"]["inference_crop"]) == (10, "three")
    assert run("eval_accuracy.py")[1] == "note: results/val.json: scored by 10 x 3 views a video\n"
    results = json.loads((small_set / "results/val.json").read_text())["results"]
    # A journal of other views is not continued.
    header = {**record, "protocol": {**record["protocol"], "n_clips": 5}}
    (small_set / "results/.val.jsonl").write_text(json.dumps(header) + "\n")
    assert "n_clips was 5 and is 10" in run("test.py", *views)[1]
    assert json.loads((small_set / "results/val.json").read_text())["results"] == results


def test_the_three_crops_of_a_video_file_are_both_ends_and_the_centre(tmp_path):
    write_video(tmp_path / "v.avi", draw_video("MoveUp", 20, np.random.default_rng(0)))
    clip = ClipSpec(sample_size=32, sample_duration=8)
    one, three, whole = (
        list(VideoClips(tmp_path / "v.avi", clip, 8, crop)) for crop in ("center", "three", "nocrop")
    )
    assert len(three) == 3 * len(one) == 9
    for i, (window, middle) in enumerate(one):
        assert [each[0] for each in three[3 * i : 3 * i + 3]] == [window] * 3
        ends = whole[i][1][:, :, :32], whole[i][1][:, :, -32:]
        for (_, found), expected in zip(three[3 * i :], (ends[0], middle, ends[1])):
            np.testing.assert_array_equal(found, expected)
        assert (ends[0] != ends[1]).any()


def test_a_result_a_window_and_three_crops_exclude_each_other():
    with pytest.raises(UserError, match="--inference_no_average"):
        Protocol.of({"inference_no_average": True, "inference_crop": "three"})
    assert Protocol().views == "" and Protocol(n_clips=4).views == "4 x 1 views"
