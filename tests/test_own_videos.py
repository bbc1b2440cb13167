"""test.py on videos of one's own and its features, from the outside."""
import json

import av
import numpy as np
import paddle
import pytest

pytest.importorskip("cv2")
from moving_shapes import draw_video, write_video
from PIL import Image

from datasets.temporal import sliding_windows
from datasets.video import read_frames, rgb_frame
from datasets.video_clips import named_videos
from model.checkpoint import load_network, save_checkpoint
from model.resnet3d import ResNet3D
from model.weights import weights_of

CLASSES = ["MoveDown", "MoveUp", "ShapeGrows"]
INPUT = {"sample_size": 32, "sample_duration": 8, "sample_t_stride": 2, "mean_dataset": "0.5"}
MODEL = {"model_depth": 10, "n_classes": 3, "resnet_widen_factor": 0.125, "conv1_t_size": 3}


def save_network(path, **facts):
    """Save a network of random weights that tells one window from another."""
    paddle.seed(4)
    weights = weights_of(ResNet3D(**MODEL))
    weights["fc.weight"] *= 3
    save_checkpoint(path, weights, {"model": MODEL, "input": INPUT, **facts})


def make_video(path, n_frames, class_name="MoveDown"):
    frames = draw_video(class_name, n_frames, np.random.default_rng(n_frames))
    write_video(path.with_name("v.avi"), frames)  # OpenCV reads more into some names
    return path.with_name("v.avi").rename(path)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A network and a folder of videos: three whole, a broken one, and what does not count."""
    root = tmp_path_factory.mktemp("own")
    save_network(root / "results/best.pdparams", class_names=CLASSES)
    (root / "videos/sub").mkdir(parents=True)
    make_video(root / "videos/long [a] b!.avi", 70, "ShapeGrows")
    make_video(root / "videos/-short.avi", 5)
    make_video(root / "videos/sub/12:30.AVI", 40)
    whole = (root / "videos/-short.avi").read_bytes()
    (root / "videos/broken.avi").write_bytes(whole[:-100])
    (root / "videos/._long.avi").write_bytes(b"of a Mac")
    (root / "videos/notes.txt").write_bytes(b"no video")
    (root / "empty").mkdir()
    return root


def expected_scores(root, path, stride):
    """Return `(frame numbers from 0, scores)` of each window, by plain loops and the eager network."""
    net, _ = load_network(root / "results/best.pdparams")
    frames = []
    for frame in [frame for frame, n in read_frames(path) for _ in range(n)][::2]:
        image = Image.fromarray(rgb_frame(frame, 240)).resize((42, 32), Image.BILINEAR).crop((5, 0, 37, 32))
        frames.append((np.asarray(image, np.float32) / 255 - 0.5) / 0.5)
    windows = list(sliding_windows(range(len(frames)), 8, stride))
    clips = np.stack([np.stack([frames[i] for i in window]).transpose(3, 0, 1, 2) for window in windows])
    with paddle.no_grad():
        scores = paddle.nn.functional.softmax(net(paddle.to_tensor(clips))).numpy()
    return [sorted({2 * i for i in window}) for window in windows], scores


def test_a_folder_of_videos_is_labelled_in_order_and_a_broken_one_stops_no_other(root, run_script):
    arguments = ["--json", "--timeline", "--inference_stride", 5, "--inference_batch_size", 3]
    code, out, err = run_script("test.py", "--video", "videos", *arguments, cwd=root)
    assert code == 1
    assert err.startswith("error: videos/broken.avi: cut short: ") and err.count("\n") == 1
    results = [json.loads(line) for line in out.splitlines()]
    names = ["videos/-short.avi", "videos/long [a] b!.avi", "videos/sub/12:30.AVI"]
    assert [result["video"] for result in results] == names
    for result, n_frames in zip(results, (5, 70, 40)):
        windows, scores = expected_scores(root, root / result["video"], stride=5)
        assert np.ptp(scores[:, 0]) > 0.01 or len(scores) == 1  # else windows could be mixed up unseen
        assert (result["n_frames"], result["n_clips"]) == (n_frames, len(windows))
        assert result["seconds"] == n_frames / 25
        assert_labels(result["result"], scores.mean(axis=0))
        assert [item["second"] for item in result["timeline"]] == list(range(-(-n_frames // 25)))
        for item in result["timeline"]:
            covers = [any(number // 25 == item["second"] for number in window) for window in windows]
            assert_labels([item], scores[covers].mean(axis=0))


def test_an_empty_list_is_an_error(root):
    (error,) = named_videos(["-"], root, [b"\n"])
    assert str(error) == "no path on stdin"


def assert_labels(items, scores):
    best = np.argsort(-scores)[: len(items)]
    assert [item["label"] for item in items] == [CLASSES[label] for label in best]
    # The eager network against oneDNN's, as in test_engine.py.
    np.testing.assert_allclose([item["score"] for item in items], scores[best], atol=1e-5)


def test_a_list_on_stdin_is_labelled_as_text_and_classes_without_names_by_number(root, run_script):
    save_network(root / "bare.pdparams")
    _, scores = expected_scores(root, root / "videos/-short.avi", stride=16)
    best = np.argsort(-scores[0])[:2]
    stdin = "-short.avi\n\nnothing.avi\r\n../empty\n/dev/null\nsub\n"
    arguments = ["--resume_path", "../bare.pdparams", "--output_topk", 2, "--root_path", root / "videos"]
    code, out, err = run_script("test.py", "--video", "-", *arguments, "--timeline", stdin=stdin)
    lines = out.splitlines()
    assert code == 1 and lines[:4] == [
        f"{root}/videos/-short.avi: 5 frames, 0.20 s, 1 clips",
        *(f"  {scores[0, label]:.4f} class {label}" for label in best),
        f"  0:00 {scores[0, best[0]]:.4f} class {best[0]}",
    ]
    assert lines[4] == f"{root}/videos/sub/12:30.AVI: 40 frames, 1.60 s, 2 clips" and len(lines) == 9
    told = err.splitlines()
    assert "bare.pdparams: has no class names" in told[0]
    assert told[1] == f"error: {root}/videos/nothing.avi: No such file or directory"
    assert told[2].startswith(f"error: {root}/videos/../empty: no video in this folder")
    assert told[3].startswith("error: /dev/null: not a file") and len(told) == 4


def test_a_video_is_written_again_with_its_labels(root, run_script):
    path = root / "videos/long [a] b!.avi"
    arguments = ["--video", path, "--inference_stride", 5, "--fps", 50]
    code, out, err = run_script("test.py", *arguments, "--render", "new/out.mp4", cwd=root)
    assert code == 0 and err == "note: new/out.mp4: written, 140 frames\n"
    assert out.startswith(f"{path}: 140 frames, 2.80 s, 14 clips")
    assert [p.name for p in (root / "new").iterdir()] == ["out.mp4"]
    with av.open(str(root / "new/out.mp4")) as container:
        assert container.streams.video[0].average_rate == 50
        luma = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    originals = [frame.to_ndarray(format="gray") for frame, n in read_frames(path, 50) for _ in range(n)]
    assert len(luma) == len(originals) == 140 and luma[0].shape == (60, 80)
    for frame, original in zip(luma, originals):
        # At 60 pixels the label is 24 high at most; below it only H.264 changes a little.
        assert np.abs(frame[32:].astype(int) - original[32:]).mean() < 6
        assert frame[:20, :40].max() > 180 and np.percentile(frame[:20, :40], 20) < 60

    code, out, err = run_script("test.py", "--video", "new/out.mp4", "--render", "new/out.mp4", cwd=root)
    assert code == 1 and out == "" and "would write over this video itself" in err
    code, out, err = run_script("test.py", "--video", "videos", "--render", "new/more.mp4", cwd=root)
    assert code == 1 and err == (
        "error: new/more.mp4: one file, and 4 videos in videos; give --render one of them\n"
    )


def test_features_and_fc_give_the_scores_and_videos_give_those_of_their_jpgs(tmp_path, run_script):
    save_network(tmp_path / "results/best.pdparams", class_names=CLASSES)
    for i, class_name in enumerate(CLASSES):
        folder = tmp_path / "dataset/UCF-101" / class_name
        folder.mkdir(parents=True)
        make_video(folder / f"v_{class_name}_g01_c01.avi", (5, 40, 70)[i], class_name)
    for script, *arguments in [
        ("generate_video_jpgs.py", "--quality", 100),
        ("test.py", "--output_topk", 3, "--n_threads", 0),
        ("test.py", "--features", "jpgs.npz", "--n_threads", 0),
        ("test.py", "--features", "videos.npz", "--video", "dataset/UCF-101"),
    ]:
        code, out, err = run_script(script, *arguments, cwd=tmp_path)
        assert code == 0, err
    assert out == "videos.npz: 3 videos, 6 clips, 64 features of each\n"
    results = json.loads((tmp_path / "results/val.json").read_text())["results"]
    net, _ = load_network(tmp_path / "results/best.pdparams")
    fc = net.fc.weight.numpy(), net.fc.bias.numpy()
    found = {}
    for name in ("jpgs", "videos"):
        with np.load(tmp_path / f"{name}.npz", allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        logits = arrays["clip_features"] @ fc[0] + fc[1]
        scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        for i, class_name in enumerate(CLASSES):
            is_own = arrays["clip_video"] == i
            own = scores[is_own].mean(axis=0)
            expected = {item["label"]: item["score"] for item in results[f"v_{class_name}_g01_c01"]}
            # The same clips, else a jpg of quality 100 apart, of which 0.003 was seen.
            atol = 1e-5 if name == "jpgs" else 0.02
            np.testing.assert_allclose(own, [expected[label] for label in CLASSES], atol=atol)
            mean = arrays["clip_features"][is_own].mean(axis=0)
            np.testing.assert_allclose(arrays["video_features"][i], mean, rtol=1e-5)
        assert arrays["clip_features"].dtype == arrays["video_features"].dtype == np.float32
        assert arrays["class_names"].tolist() == CLASSES
        found[name] = arrays
    jpgs, videos = found["jpgs"], found["videos"]
    assert jpgs["labels"].tolist() == [0, 1, 2] and "labels" not in videos
    assert jpgs["video_names"].tolist() == list(results)
    assert [name.rsplit("/", 1)[1] for name in videos["video_names"]] == [f"{name}.avi" for name in results]
    assert jpgs["clip_video"].tolist() == [0, 1, 1, 2, 2, 2]
    assert jpgs["clip_segments"].tolist() == [[1, 6], [1, 16], [33, 40], [1, 16], [33, 48], [65, 70]]
    np.testing.assert_array_equal(jpgs["clip_segments"], videos["clip_segments"])
