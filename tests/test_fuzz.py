"""Properties of sampling, files and weight names on drawn inputs, and 12,500 bad files.

Draws are the same in every run. More files, with another seed: `python tests/bad_files.py --help`.
"""
import io
import json
import math
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from bad_weights import small_spec, small_weights
from conftest import ROOT, cut
from spoiling import STRANGE_VALUES

pytest.importorskip("hypothesis")
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from datasets import plain_annotation
from datasets.annotation import SUBSETS, annotation_json, read_annotation, read_results
from datasets.plain_annotation import read_plain
from datasets.samples import Sample, Samples, default_folder
from datasets.spatial import (
    CORNER_SCALES,
    box_crop,
    center_crop,
    corner_box,
    random_resized_box,
    short_side_crop,
)
from datasets.temporal import center_window, even_windows, random_window, sliding_windows
from model import networks
from model.weights import from_torch, load_weights, weights_of
from report.accuracy import top_k_accuracy
from run.console import UserError


def drawn(n_examples):
    return settings(max_examples=n_examples, derandomize=True, database=None, deadline=None)


# Windows --------------------------------------------------------------------------------------

FRAMES = st.builds(
    lambda begin, n_frames, stride: range(begin, begin + n_frames)[::stride],
    st.integers(1, 50), st.integers(1, 300), st.integers(1, 9),
)  # fmt: skip
SIZES = st.integers(1, 40)


def assert_window(window, frames, size):
    """Assert `size` numbers of the video: a run of it, or its last frames repeated from their first."""
    assert len(window) == size
    start = frames.index(window[0])
    own = list(frames[start : start + size])
    assert list(window) == (own * size)[:size]


@drawn(300)
@given(FRAMES, SIZES, st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_every_window_has_its_size_and_only_frames_of_the_video(frames, size, number, seed):
    random_one = random_window(frames, size, np.random.default_rng(seed))
    even = even_windows(frames, size, number)
    sliding = sliding_windows(frames, size, number)
    for window in [random_one, center_window(frames, size), *even, *sliding]:
        assert_window(window, frames, size)
    assert 1 <= len(even) <= number
    assert random_one == random_window(frames, size, np.random.default_rng(seed))


@drawn(300)
@given(FRAMES, SIZES, st.data())
def test_sliding_windows_cover_every_frame(frames, size, data):
    stride = data.draw(st.integers(1, size))
    covered = set().union(*sliding_windows(frames, size, stride))
    assert covered == set(frames)


# Boxes ----------------------------------------------------------------------------------------

SIDES = st.one_of(st.integers(1, 12), st.integers(1, 2000))
SEEDS = st.integers(0, 2**32 - 1)


@drawn(200)
@given(SIDES, SIDES, SEEDS, st.floats(0.01, 1), st.floats(0.05, 0.99))
def test_a_random_box_lies_in_the_frame_with_a_permitted_area_and_ratio(w, h, seed, scale, ratio):
    x, y, width, height = random_resized_box(w, h, np.random.default_rng(seed), scale, ratio)
    assert 0 <= x and 0 <= y and width >= 1 and height >= 1
    assert x + width <= w and y + height <= h
    # Sides are rounded, each by half a pixel at most.
    assert (width + 0.5) / max(height - 0.5, 1e-9) >= ratio * 0.999
    assert (height + 0.5) / max(width - 0.5, 1e-9) >= ratio * 0.999
    is_fallback = (x, y) == ((w - width) // 2, (h - height) // 2) and (width == w or height == h)
    assert is_fallback or (width + 0.5) * (height + 0.5) >= scale * w * h * 0.999


def test_a_random_box_can_be_held_to_squares():
    _, _, width, height = random_resized_box(320, 240, np.random.default_rng(0), 0.25, 1.0)
    assert width == height


@drawn(300)
@given(st.integers(2, 2000), st.integers(2, 2000), SEEDS)
def test_a_corner_box_is_a_square_of_a_known_scale_at_a_corner_or_the_centre(w, h, seed):
    x, y, side, same_side = corner_box(w, h, np.random.default_rng(seed))
    assert side == same_side and side in [int(min(w, h) * scale) for scale in CORNER_SCALES]
    places = [(0, 0), (w - side, 0), (0, h - side), (w - side, h - side)]
    places.append((round((w - side) / 2), round((h - side) / 2)))
    assert (x, y) in places and x + side <= w and y + side <= h


@drawn(60)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(1, 3), SEEDS)
def test_a_clip_has_its_shape_for_any_size_of_frames(width, height, size, n_frames, seed):
    rng = np.random.default_rng(seed)
    frames = [rng.integers(0, 256, (height, width, 3), np.uint8) for _ in range(n_frames)]
    expected = (n_frames, size, size, 3)
    assert cut(frames, center_crop(width, height, size)).shape == expected
    assert cut(frames, box_crop(random_resized_box(width, height, rng), size)).shape == expected
    clip = cut(frames, short_side_crop(width, height, size))
    assert clip.shape[0] == n_frames and min(clip.shape[1:3]) == size and clip.dtype == np.uint8


# Files ----------------------------------------------------------------------------------------

LETTERS = st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters="/\\")
NAMES = st.text(LETTERS, min_size=1, max_size=12)
NAMES = NAMES.filter(lambda name: name not in (".", "..") and name.isprintable())


@st.composite
def annotations(draw):
    labels = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    subsets = {subset: Samples() for subset in SUBSETS}
    for key in draw(st.lists(NAMES, min_size=1, max_size=8, unique=True)):
        subset = draw(st.sampled_from(SUBSETS))
        index = draw(st.integers(-1 if subset == "testing" else 0, len(labels) - 1))
        folder = f"{'test' if index < 0 else labels[index]}/{key}"
        if draw(st.booleans()):
            folder = "/".join(draw(st.lists(NAMES, min_size=1, max_size=3)))
        begin = draw(st.integers(1, 10**8 - 1))
        subsets[subset].append(*Sample(key, folder, index, begin, draw(st.integers(begin + 1, 10**8))))
    return labels, subsets


@drawn(100)
@given(annotations())
def test_an_annotation_is_read_as_it_was_written(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "annotation.json"
    path.write_text(annotation_json(*content))
    assert read_annotation(path) == content


@st.composite
def scored_videos(draw):
    n_labels = draw(st.integers(1, 6))
    labels = [f"c{i}" for i in range(n_labels)]
    n_listed = draw(st.integers(1, n_labels))
    truth = {f"v{i}": draw(st.sampled_from(labels)) for i in range(draw(st.integers(1, 12)))}
    results = {}
    for name in draw(st.lists(st.sampled_from(list(truth)), min_size=1, unique=True)):
        scores = draw(st.lists(st.floats(0, 1), min_size=n_listed, max_size=n_listed))
        results[name] = list(zip(draw(st.permutations(labels)), sorted(scores, reverse=True)))
    return truth, results, draw(st.integers(1, 7))


@drawn(300)
@given(scored_videos())
def test_the_accuracy_of_results_read_back_equals_an_independent_count(tmp_path_factory, scored):
    truth, results, k = scored
    path = tmp_path_factory.getbasetemp() / "val.json"
    listed = {}
    for name, pairs in results.items():
        listed[name] = [{"label": label, "score": score} for label, score in pairs]
    path.write_text(json.dumps({"results": listed}))
    assert read_results(path) == results
    n_right = 0
    for name, class_name in truth.items():
        for rank, item in enumerate(listed.get(name, [])):
            n_right += rank < k and item["label"] == class_name
    assert top_k_accuracy(truth, read_results(path), k) == n_right / len(truth)
    assert top_k_accuracy(truth, read_results(path), k, ignore=True) == n_right / len(results)


# Weights --------------------------------------------------------------------------------------

NET = networks.build(small_spec())
WEIGHTS = small_weights()


def torch_names(weights):
    """Name and lay out Paddle weights as a torch checkpoint does; written apart from model/weights.py."""
    renamed = {"._mean": ".running_mean", "._variance": ".running_var"}
    state_dict = {}
    for name, array in weights.items():
        for own, other in renamed.items():
            name = name.replace(own, other)
        state_dict[name] = array.T.copy() if name == "fc.weight" else array.copy()
        if name.endswith("running_var"):
            state_dict[name.replace("running_var", "num_batches_tracked")] = np.array(7)
    return state_dict


def spoil(state_dict, kind, name, other, number):
    """Change one tensor; return whether what results is a state dict of the same network."""
    array = state_dict[name]
    if kind == "drop":
        del state_dict[name]
    elif kind == "rename":
        state_dict[other] = state_dict.pop(name)
    elif kind == "swap":
        state_dict[name], state_dict[other] = state_dict[other], array
        return state_dict[name].shape == array.shape
    elif kind == "reshape":
        state_dict[name] = array.reshape(-1)[None]
    elif kind == "longer":
        state_dict[name] = np.concatenate([array, array])
    elif kind == "not finite":
        array.flat[number % array.size] = [np.nan, np.inf, -np.inf][number % 3]
    elif kind == "too large":
        state_dict[name] = array.astype(np.float64)
        state_dict[name].flat[number % array.size] = 1e39
    elif kind == "dtype":
        state_dict[name] = array.astype(["i4", "c8", "?", "u1", object][number % 5])
    elif kind == "precision":
        state_dict[name] = array.astype(["f8", ">f4", "f2"][number % 3])
        return True
    elif kind == "prefix":
        state_dict[f"module.{name}"] = state_dict.pop(name)
        return True
    elif kind == "twice":
        state_dict[f"module.{name}"] = array
    return False


KINDS = ["drop", "rename", "swap", "reshape", "longer", "not finite", "too large", "dtype", "precision",
         "prefix", "twice", "nothing"]  # fmt: skip
STRANGE_NAMES = [value for value in STRANGE_VALUES if isinstance(value, str)]


@drawn(400)
@given(st.data())
def test_a_changed_state_dict_is_refused_or_mapped_exactly(data):
    state_dict = torch_names(WEIGHTS)
    names = [name for name in state_dict if not name.endswith("num_batches_tracked")]
    kind = data.draw(st.sampled_from(KINDS))
    name = data.draw(st.sampled_from(names))
    other = data.draw(st.sampled_from([*names, name + "x", f"{name}._mean", *STRANGE_NAMES]))
    assume(other != name and (kind != "swap" or other in state_dict))
    keeps = spoil(state_dict, kind, name, other, data.draw(st.integers(0, 10**6))) or kind == "nothing"
    before = weights_of(NET)
    try:
        weights = from_torch(state_dict)
        spec = networks.recognise({name: array.shape for name, array in weights.items()})
        load_weights(NET, weights)
    except UserError:
        after = weights_of(NET)
        assert not keeps and all(np.array_equal(after[name], before[name]) for name in before)
        return
    assert keeps and spec == small_spec()
    expected = {name.removeprefix("module."): array for name, array in state_dict.items()}
    for name, array in torch_names(weights_of(NET)).items():
        np.testing.assert_array_equal(array, np.asarray(expected[name], array.dtype))


# Bad files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, n_files", [("annotations", 5000), ("results", 5000), ("weights", 2500)])
def test_bad_files_are_refused_in_one_line_or_read_right(kind, n_files):
    # In a process of its own, with a bound on its memory: a crash is no test's to survive.
    command = [sys.executable, str(ROOT / "tests/bad_files.py"), kind, str(n_files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    outcomes = json.loads(done.stdout.splitlines()[-1])
    assert outcomes["refused"] + outcomes["right"] == n_files
    assert outcomes["refused"] > 0.9 * n_files and outcomes["right"] > 0.01 * n_files
    assert not math.isnan(outcomes["peak_mb"]) and outcomes["peak_mb"] < 1500


# The two ways to read an annotation -----------------------------------------------------------

PRINTABLE = st.characters(min_codepoint=32, max_codepoint=126, exclude_characters='/\\"')
NAMES = st.text(PRINTABLE, min_size=1, max_size=99).filter(lambda name: name.strip("."))
SEGMENTS = st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)).map(lambda pair: (pair[0], sum(pair)))
ENTRIES = st.dictionaries(
    st.one_of(NAMES, st.tuples(NAMES, NAMES).map("/".join)),
    st.tuples(st.sampled_from(SUBSETS), st.none() | NAMES, st.integers(-1, 9), SEGMENTS),
    min_size=1,
    max_size=5,
)


@drawn(300)
@given(
    st.lists(NAMES, min_size=1, max_size=4, unique=True), ENTRIES,
    st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(b'0{}[]", :/.\\x-\n\xff'))),
    st.booleans(),
)  # fmt: skip
def test_an_annotation_is_the_same_read_in_pieces_and_as_a_whole(class_names, entries, spoilt, is_spoilt):
    subsets = {subset: Samples() for subset in SUBSETS}
    for key, (subset, folder, index, segment) in entries.items():
        index = index % len(class_names) if subset != "testing" or index >= 0 else -1
        folder = folder or default_folder(key, None if index < 0 else class_names[index])
        subsets[subset].append(key, folder, index, *segment)
    text = bytearray(annotation_json(class_names, subsets).encode())
    for place, byte in spoilt if is_spoilt else ():
        text[place % len(text)] = byte
    read = read_plain(io.BytesIO(text), SUBSETS)
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        file.write(b" " + text)  # the blank makes it json's
        file.flush()
        try:
            expected = tuple(read_annotation(file.name))
        except UserError:
            expected = None
    if read is not None or not is_spoilt:
        assert read == expected


def test_a_large_annotation_is_read_in_pieces(monkeypatch):
    samples = Samples(Sample(f"v{i}", f"a b/v{i}", 0, 1, i + 2) for i in range(300))
    text = annotation_json(["a b", "c"], {"training": samples, "validation": Samples(), "testing": Samples()})
    for size in (40, 57, 1000, len(text) - 1, len(text), len(text) + 1):
        monkeypatch.setattr(plain_annotation, "_PIECE", size)
        read = read_plain(io.BytesIO(text.encode() + b"\n"), SUBSETS)
        assert read[1]["training"] == samples and len(read[1]["testing"]) == 0
        assert read_plain(io.BytesIO(text[:-1].encode()), SUBSETS) is None
        assert read_plain(io.BytesIO(text.encode() + b" x"), SUBSETS) is None
