"""Windows: equal to the reference's for many lengths, and sound for all."""
import json
import weakref
from types import SimpleNamespace

import pytest
from conftest import golden

from datasets.temporal import (
    center_window,
    even_windows,
    random_window,
    sliding_windows,
    streamed_windows,
)

GOLDEN = golden("temporal_windows.json")


def numbered(n_frames, t_stride=1):
    return range(1, n_frames + 1)[::t_stride]


def possible_starts(frames, size):
    """Return the first frame of the window for every integer that the generator could have drawn."""
    bounds = []
    rng = SimpleNamespace(integers=lambda low, high: bounds.append((low, high)) or low)
    random_window(frames, size, rng)
    drawn = range(*bounds[0])
    return [random_window(frames, size, SimpleNamespace(integers=lambda *_, i=i: i))[0] for i in drawn]


def other_windows(n_frames):
    """Return the kinds of windows that are not the reference's for a video of so many frames."""
    frames = numbered(n_frames)
    windows = {
        "even_16x3": even_windows(frames, 16, 3),
        "sliding_16_16": sliding_windows(frames, 16, 16),
        "sliding_16_8": sliding_windows(frames, 16, 8),
        "center_16": [center_window(frames, 16)],
    }
    if n_frames > 100:  # of the longer ones the golden file holds first and last frames
        windows = {kind: [[w[0], w[-1]] for w in listed] for kind, listed in windows.items()}
    expected = GOLDEN[str(n_frames)]
    others = [kind for kind, listed in windows.items() if listed != expected[kind]]
    starts = possible_starts(frames, 16)
    # Each start from one integer: uniform.
    is_uniform = [min(starts), max(starts), len(set(starts))] == expected["random_16_starts"]
    return others if is_uniform and len(set(starts)) == len(starts) else [*others, "random"]


@pytest.mark.parametrize("n_frames", [int(n) for n in GOLDEN])
def test_windows_equal_the_reference(n_frames):
    assert other_windows(n_frames) == []


def test_a_random_window_is_of_consecutive_frames():
    window = random_window(numbered(50), 16, SimpleNamespace(integers=lambda low, high: high - 1))
    assert window == list(range(34, 50))  # the last possible start, 35, is never drawn


def test_windows_of_a_frame_stride_are_cut_from_the_subsampled_frames():
    frames = numbered(50, t_stride=3)  # 1, 4, ... 49: 17 frames
    assert sliding_windows(frames, 8, 8) == [
        [1, 4, 7, 10, 13, 16, 19, 22],
        [25, 28, 31, 34, 37, 40, 43, 46],
        [49] * 8,
    ]
    assert even_windows(frames, 8, 2)[1] == [25, 28, 31, 34, 37, 40, 43, 46]
    assert center_window(frames, 8) == [13, 16, 19, 22, 25, 28, 31, 34]
    assert possible_starts(frames, 8) == [1, 4, 7, 10, 13, 16, 19, 22, 25]


@pytest.mark.parametrize("n_frames", (1, 16, 17, 100))
def test_one_even_window_is_the_centre_window(n_frames):
    frames = numbered(n_frames)
    assert even_windows(frames, 16, 1) == [center_window(frames, 16)]


def test_a_video_shorter_than_a_clip_is_looped_from_its_first_frame():
    looped = [1, 2, 3, 1, 2, 3, 1, 2]
    frames = numbered(3)
    assert center_window(frames, 8) == looped
    assert even_windows(frames, 8, 3) == [looped]
    assert sliding_windows(frames, 8, 4) == [looped]
    assert possible_starts(frames, 8) == [1]


def test_every_window_is_full_of_consecutive_frames_of_the_video():
    for n_frames in range(1, 70):
        for size in (1, 2, 7, 16):
            frames = numbered(n_frames)
            windows = [center_window(frames, size)]
            for number in (1, 3, 5, 16, 20):
                even = even_windows(frames, size, number)
                assert 1 <= len(even) <= number
                windows += even + sliding_windows(frames, size, number)
            for window in windows:
                assert len(window) == size
                n_own = len(set(window))  # looping repeats a window's own frames, nothing else
                first = window[0]
                assert 1 <= first <= first + n_own - 1 <= n_frames
                assert window == [first + i % n_own for i in range(size)]


def test_sliding_windows_of_their_own_stride_hold_every_frame_once():
    for n_frames in range(1, 70):
        for size in (1, 2, 7, 16):
            *whole, last = sliding_windows(numbered(n_frames), size, size)
            held = [number for window in whole for number in window] + sorted(set(last))
            assert held == list(range(1, n_frames + 1))


def test_split_1_has_the_known_number_of_windows(reference_path):
    database = json.loads((reference_path / "ucf101_01.json").read_text())["database"]
    segments = [v["annotations"]["segment"] for v in database.values() if v["subset"] == "validation"]
    windows = [sliding_windows(range(*segment), 16, 16) for segment in segments]
    assert len(windows) == 3783
    assert sum(map(len, windows)) == 45307
    assert sum(len(set(of_video[-1])) < 16 for of_video in windows) == 3485


@pytest.mark.parametrize("size", range(1, 7))
def test_streamed_windows_are_the_sliding_ones(size):
    for stride in range(1, 10):
        for n_frames in range(1, 30):
            frames = range(1, n_frames + 1)
            assert list(streamed_windows(iter(frames), size, stride)) == list(
                map(list, sliding_windows(frames, size, stride))
            )


@pytest.mark.parametrize("stride", [1, 3, 5, 8])
def test_streamed_windows_hold_one_window_of_a_video_of_any_length(stride):
    class Frame:
        pass

    alive, most = weakref.WeakSet(), 0

    def frames():
        for _ in range(500):
            frame = Frame()
            alive.add(frame)
            yield frame

    for window in streamed_windows(frames(), 5, stride):
        assert len(window) == 5
        most = max(most, len(alive))
    assert 5 <= most <= 6  # this window, and the frame that came last
