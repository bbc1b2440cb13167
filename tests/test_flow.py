"""Optical flow: what the levels mean, what the mirror does, and the stages on frames of flow."""
import json
import shutil
from itertools import chain

import numpy as np
import pytest
import simplejpeg
from conftest import SMALL_TRAINING, run_program

cv2 = pytest.importorskip("cv2")
from moving_shapes import write_video

from datasets.annotation import read_annotation
from datasets.clips import TrainingClips, WindowClips
from datasets.flow import FlowStream, encode_flow, flow_in, flow_size, levels, mirrored
from datasets.stores import open_store
from model import networks
from model.checkpoint import load_checkpoint
from model.weights import adapt_input
from run.spec import ClipSpec, NetworkSpec, Recipe

FLOW = ClipSpec(sample_size=32, sample_duration=8, modality="flow", mean=(0.5,) * 2, std=(0.5,) * 2)


def texture(seed, height=60, width=80):
    """Return a smooth picture `[H, W] uint8` without seams at its sides."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.float32)
    tiled = cv2.GaussianBlur(np.tile(noise, (3, 3)), (0, 0), 2)[height : 2 * height, width : 2 * width]
    return cv2.normalize(tiled, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def flow_of(frames):
    stream = FlowStream("v.avi")
    return list(chain(*(stream.add(frame) for frame in frames), stream.end()))


@pytest.mark.parametrize("dx, dy", [(3, 0), (-3, 0), (0, 2), (-1, -2)])
def test_a_texture_that_moves_gives_its_motion_in_levels_about_128(dx, dy):
    frames = [np.roll(texture(0), (i * dy, i * dx), (0, 1)) for i in range(3)]
    flows = flow_of(frames)
    assert len(flows) == 3  # as many as frames: the last is repeated
    np.testing.assert_array_equal(flows[2], flows[1])
    inner = flows[0][10:-10, 10:-10].reshape(-1, 2)
    # A twelfth of 60 pixels is 5, which 127 levels stand for.
    np.testing.assert_allclose(np.median(inner, 0), [128 + dx * 127 / 5, 128 + dy * 127 / 5], atol=0.6)


def test_a_still_picture_and_a_single_frame_have_no_motion():
    for frames in ([texture(1)] * 3, [texture(1)]):
        flows = flow_of(frames)
        assert len(flows) == len(frames) and all((flow == 128).all() for flow in flows)


def test_motion_beyond_a_twelfth_of_the_short_side_is_clipped():
    motion = np.zeros((60, 80, 2))
    motion[..., 0], motion[..., 1] = 7.0, -70.0
    assert (levels(motion) == [255, 1]).all()


def test_the_mirror_of_flow_is_exactly_the_flow_of_mirrored_motion():
    motion = np.random.default_rng(0).normal(0, 3, (60, 80, 2))
    flipped = motion[:, ::-1] * [-1, 1]
    np.testing.assert_array_equal(mirrored(levels(motion)), levels(flipped))


def test_the_flow_of_a_mirrored_video_is_the_mirrored_flow():
    frames = [np.roll(texture(2), (i, 2 * i), (0, 1)) for i in range(2)]
    found = flow_of([np.ascontiguousarray(frame[:, ::-1]) for frame in frames])[0]
    difference = np.abs(found.astype(int) - mirrored(flow_of(frames)[0]))[10:-10, 10:-10]
    assert difference.mean() < 1  # DIS itself goes from left to right


@pytest.mark.parametrize("height", [8, 59, 60, 64, 240])
@pytest.mark.parametrize("reduction", [1, 2, 8])
def test_u_and_v_stay_apart_in_a_jpg_of_any_height_at_any_reduction(height, reduction):
    flow = np.empty((height, 48, 2), np.uint8)
    flow[..., 0], flow[..., 1] = 20, 230
    content = encode_flow(flow, 80)
    size = simplejpeg.decode_jpeg_header(content)[:2]
    assert flow_size(size) == (height, 48)
    least = {"min_height": -(-size[0] // reduction), "min_width": 48 // reduction, "min_factor": reduction}
    picture = simplejpeg.decode_jpeg(content, "GRAY", **(least if reduction > 1 else {}))
    found = flow_in(picture, (height, 48), reduction)
    assert found.shape == (-(-height // reduction), 48 // reduction, 2)
    assert np.abs(found.astype(int) - [20, 230]).max() <= 2


@pytest.mark.parametrize(
    "name, arguments, n_changed",
    [(name, {}, 1) for name in ("resnet", "wideresnet", "resnext", "preresnet", "densenet", "resnet2p1d")],
)
def test_of_every_family_the_first_convolution_and_nothing_else_becomes_the_mean(name, arguments, n_changed):
    depth = {"wideresnet": 50, "resnext": 50, "densenet": 121}.get(name, 10)
    spec = networks.checked(NetworkSpec(name, {"model_depth": depth, "n_classes": 3}), "test")
    rgb, flow = (networks.shapes_of(spec.replace(n_input_channels=n)) for n in (3, 2))
    rng = np.random.default_rng(0)
    weights = {n: rng.random(shape, np.float32) for n, shape in rgb.items()}
    adapted, names = adapt_input(weights, flow)
    assert len(names) == n_changed and {n: a.shape for n, a in adapted.items()} == flow
    (first,) = names
    for channel in range(2):
        np.testing.assert_allclose(adapted[first][:, channel], weights[first].mean(1), rtol=1e-6)
    assert all(adapted[n] is weights[n] for n in weights if n != first)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Videos of textures that move left or right, their flow as stage 1 makes it, and a network of it."""
    root = tmp_path_factory.mktemp("toy")
    for i, (name, step) in enumerate([("Left", -2), ("Right", 2)] * 8):
        frames = [cv2.cvtColor(np.roll(texture(i), t * step, 1), cv2.COLOR_GRAY2BGR) for t in range(11)]
        write_video(root / f"videos/{name}/v{i:02d}.avi", np.stack(frames))
    made = run_program("generate_video_jpgs.py", root / "videos", root / "flow", "folder", "--flow",
                       "--quality", 95, "--val_fraction", 0.25)  # fmt: skip
    assert made[0] == 0, made[2]
    where = ["--video_path", root / "flow", "--annotation_path", root / "flow.json"]
    trained = run_program(
        "train.py", *where, "--result_path", root / "results", *SMALL_TRAINING, "--n_epochs", 8, "--no_hflip",
        "--train_crop_min_scale", 0.6,
    )  # fmt: skip
    assert trained[0] == 0, trained[2]
    tested = run_program(
        "test.py", *where, "--resume_path", root / "results/best.pdparams", "--result_path", root / "results",
        "--output_topk", 2, "--n_threads", 0, "--inference_stride", 8,
    )  # fmt: skip
    assert tested[0] == 0, tested[2]
    return root, tested[1]


def test_what_moves_left_and_what_moves_right_is_told_apart_by_flow(toy):
    root, printed = toy
    assert "clip accuracy 1.0000, video accuracy 1.0000\n" in printed
    metadata = load_checkpoint(root / "results/best.pdparams").metadata
    assert metadata.clip.modality == "flow" and metadata.clip.mean == (0.5, 0.5)
    assert metadata.network.arguments["n_input_channels"] == 2


def test_a_video_has_as_many_frames_of_flow_as_frames_and_the_journal_says_what_they_are(toy):
    root, _ = toy
    first, *lines = map(json.loads, (root / "flow/frames.jsonl").read_text().splitlines())
    assert first["modality"] == "flow" and {line["n_frames"] for line in lines} == {11}
    content = (root / "flow/Left/v00/image_00001.jpg").read_bytes()
    assert simplejpeg.decode_jpeg_header(content)[:3] == (480, 320, "Gray")


def test_a_mirrored_clip_shows_the_motion_the_other_way(toy):
    root, _ = toy
    store, samples = open_store(root / "flow"), read_annotation(root / "flow.json").subsets["training"]
    clips = TrainingClips(store, samples, FLOW, Recipe())
    is_left = [samples.class_indices[i] == 0 for i in range(len(samples))]
    turned = [np.median(clips[1, i][0][..., 0]) < 128 for i in range(len(samples))]
    both = list(zip(is_left, turned))
    assert {left == shown for left, shown in both} == {True, False}  # half of them are mirrored
    kept = TrainingClips(store, samples, FLOW, Recipe(no_hflip=True))
    assert [np.median(kept[1, i][0][..., 0]) < 128 for i in range(len(samples))] == is_left


def test_fast_decoding_shows_the_same_flow_nearly(toy):
    root, _ = toy
    store, samples = open_store(root / "flow"), read_annotation(root / "flow.json").subsets["validation"]
    slow, fast = (WindowClips(store, samples, FLOW, ("sliding", 8), fast_decode=f)[0][0] for f in (0, 1))
    difference = np.abs(slow.astype(int) - fast)
    assert slow.shape == (8, 32, 32, 2) and 0 < difference.mean() < 3


def test_a_video_file_gets_the_scores_of_its_frames_of_flow(toy):
    root, _ = toy
    results = json.loads((root / "results/val.json").read_text())["results"]
    paths = [next((root / "videos").glob(f"*/{key}.avi")) for key in results]
    code, out, err = run_program("tools/predict.py", *paths, "--json", "--inference_stride", 8,
                                 "--resume_path", root / "results/best.pdparams")  # fmt: skip
    assert code == 0, err
    for line, (key, result) in zip(map(json.loads, out.splitlines()), results.items()):
        assert line["n_frames"] == 11 and key in line["video"]
        scores = {item["label"]: item["score"] for item in line["result"]}
        for item in result:  # all that differs is what a jpg of quality 95 loses
            assert abs(scores[item["label"]] - item["score"]) < 0.02


def test_damaged_flow_is_found_and_made_again(toy, tmp_path):
    root, _ = toy
    shutil.copytree(root / "flow", tmp_path / "flow")
    whole = (tmp_path / "flow/Right/v01/image_00003.jpg").read_bytes()
    (tmp_path / "flow/Right/v01/image_00003.jpg").write_bytes(whole[:200])
    paths = root / "videos", tmp_path / "flow", "folder", "--flow", "--quality", 95
    code, out, err = run_program("generate_video_jpgs.py", *paths, "--check")
    assert code == 1 and "Right/v01: image_00003.jpg does not decode as jpg" in out, err
    code, out, err = run_program("generate_video_jpgs.py", *paths, "--repair")
    assert code == 0 and "Right/v01: decoded again, 11 frames" in out, err
    assert (tmp_path / "flow/Right/v01/image_00003.jpg").read_bytes() == whole
    code, _, err = run_program("generate_video_jpgs.py", *paths[:3], "--quality", 95)
    assert code == 1 and "holds other frames: modality was flow and is rgb" in err


def test_a_network_and_frames_of_another_kind_are_one_line(toy, small_set):
    root, _ = toy
    shutil.copy(root / "results/best.pdparams", small_set / "flow.pdparams")
    for script, option in (("test.py", "--resume_path"), ("train.py", "--pretrain_path")):
        code, _, err = run_program(script, "--root_path", small_set, option, small_set / "flow.pdparams")
        assert code == 1 and err.count("\n") == err.count("note:") + 1 and "flow" in err and "rgb" in err


def test_weights_of_rgb_start_a_training_on_flow_with_the_mean_and_a_note(toy, small_set):
    root, _ = toy
    code, _, err = run_program("train.py", "--root_path", small_set, *SMALL_TRAINING, "--n_epochs", 1)
    assert code == 0, err
    code, _, err = run_program(
        "train.py", "--video_path", root / "flow", "--annotation_path", root / "flow.json",
        "--pretrain_path", small_set / "results/best.pdparams", "--result_path", small_set / "of_flow",
        "--n_epochs", 1, "--n_threads", 0, "--batch_size", 4,
    )  # fmt: skip
    assert code == 0, err
    assert "weights of RGB; each channel of conv1.weight starts as the mean of the three" in err
    groups, metadata = load_checkpoint(small_set / "of_flow/best.pdparams")
    before = load_checkpoint(small_set / "results/best.pdparams").groups["weights"]["conv1.weight"]
    # layer4 and fc train, so that conv1 is as it was at the start.
    expected = np.repeat(before.mean(1, keepdims=True), 2, 1)
    np.testing.assert_allclose(groups["weights"]["conv1.weight"], expected, rtol=1e-6)
    assert metadata.clip.mean == metadata.clip.std == (0.5, 0.5) and metadata.clip.sample_size == 32


def test_without_opencv_flow_is_one_line(tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "none/cv2.py").write_text("raise ImportError('no cv2 here')\n")
    (tmp_path / "videos/A").mkdir(parents=True)
    code, _, err = run_program("generate_video_jpgs.py", tmp_path / "videos", tmp_path / "flow", "folder",
                               "--flow", env={"PYTHONPATH": str(tmp_path / "none")})  # fmt: skip
    needed = "error: optical flow needs OpenCV (no cv2 here): pip install opencv-python-headless\n"
    assert (code, err) == (1, needed)
