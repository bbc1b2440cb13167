"""tools/predict.py and the features of test.py, from the outside."""
import json
import os
import subprocess
import sys

import av
import numpy as np
import paddle
import pytest

pytest.importorskip("cv2")
from conftest import ROOT
from moving_shapes import draw_video, write_video
from PIL import Image

from datasets.pixels import rgb_frame
from datasets.temporal import sliding_windows
from datasets.video import read_frames
from model import networks
from model.checkpoint import Metadata, load_network, save_checkpoint
from model.weights import weights_of
from prediction.finding import named_videos
from run.spec import ClipSpec, NetworkSpec, Recipe

CLASSES = ["MoveDown", "MoveUp", "ShapeGrows"]
CLIP = {
    "sample_size": 32,
    "sample_duration": 8,
    "sample_t_stride": 2,
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
}
MODEL = {"model_depth": 10, "n_classes": 3, "resnet_widen_factor": 0.125, "conv1_t_size": 3}


def save_network(path, frame_rates=None, **metadata):
    """Save a network of random weights that tells one window from another."""
    paddle.seed(4)
    net = networks.build(NetworkSpec("resnet", MODEL))
    weights = weights_of(net)
    weights["fc.weight"] *= 3
    clip = ClipSpec(**CLIP, frame_rates=frame_rates)
    save_checkpoint(path, {"weights": weights}, Metadata(net.spec, clip, **metadata))


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
    code, out, err = run_script("tools/predict.py", "videos", *arguments, cwd=root)
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
    os.mkfifo(root / "pipe.avi")
    stdin = "-short.avi\n\nnothing.avi\r\n../empty\n../pipe.avi\nsub\n"
    arguments = ["--resume_path", "../bare.pdparams", "--output_topk", 2, "--root_path", root / "videos"]
    code, out, err = run_script("tools/predict.py", "-", *arguments, "--timeline", stdin=stdin)
    lines = out.splitlines()
    assert code == 1 and lines[:4] == [
        f"{root}/videos/-short.avi: 5 frames, 0.20 s, 1 clips",
        *(f"  {scores[0, label]:.4f} class {label}" for label in best),
        f"  0:00 {scores[0, best[0]]:.4f} class {best[0]}",
    ]
    assert lines[4] == f"{root}/videos/sub/12:30.AVI: 40 frames, 1.60 s, 2 clips" and len(lines) == 9
    reported = err.splitlines()
    assert "bare.pdparams: has no class names" in reported[0]
    assert reported[1] == f"error: {root}/videos/nothing.avi: No such file or directory"
    assert reported[2].startswith(f"error: {root}/videos/../empty: no video in this folder")
    assert reported[3].startswith(f"error: {root}/videos/../pipe.avi: not a file") and len(reported) == 4


def test_a_video_is_written_again_with_its_labels(root, run_script):
    path = root / "videos/long [a] b!.avi"
    arguments = [path, "--inference_stride", 5, "--fps", 50]
    code, out, err = run_script("tools/predict.py", *arguments, "--render", "new/out.mp4", cwd=root)
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

    code, out, err = run_script("tools/predict.py", "new/out.mp4", "--render", "new/out.mp4", cwd=root)
    assert code == 1 and out == "" and "would write over this video itself" in err
    code, out, err = run_script("tools/predict.py", "videos", "--render", "new/more.mp4", cwd=root)
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
        ("tools/predict.py", "--features", "videos.npz", "dataset/UCF-101"),
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


def test_a_video_far_from_the_trainings_frame_rates_is_resampled_and_one_near_them_is_not(root, run_script):
    save_network(root / "fast.pdparams", (50.0, 48.0, 60.0), class_names=CLASSES)
    save_network(root / "near.pdparams", (30.0, 30.0, 30.0), class_names=CLASSES, recipe=Recipe())
    path = root / "videos/-short.avi"  # 5 frames, 25 a second
    results = {}
    for name, arguments, note in [
        ("fast", [], "25 frames a second, the network was trained on 48 to 60; resampled to 50 (--fps 25 "),
        ("fast", ["--fps", 25], ""),
        ("near", [], ""),
        ("near", ["--fps", 50], ""),
        ("near", ["--inference_crop", "nocrop"], ""),
    ]:
        command = [path, "--json", "--resume_path", f"{name}.pdparams", *arguments]
        code, out, err = run_script("tools/predict.py", *command, cwd=root)
        assert code == 0 and err.count("\n") == bool(note) and note in err, err
        results[(name, *arguments)] = json.loads(out)
    of_25, of_50 = results[("near",)], results["near", "--fps", 50]
    assert (of_25["n_frames"], of_50["n_frames"]) == (5, 10) and of_25["result"] != of_50["result"]
    assert results[("fast",)] == of_50 and results["fast", "--fps", 25] == of_25
    assert of_50["seconds"] == of_25["seconds"] == 0.2
    assert results["near", "--inference_crop", "nocrop"]["result"] != of_25["result"]

    command = [path, "--resume_path", "fast.pdparams", "--render", "new/resampled.mp4"]
    code, out, err = run_script("tools/predict.py", *command, cwd=root)
    assert code == 0 and "new/resampled.mp4: written, 10 frames" in err
    with av.open(str(root / "new/resampled.mp4")) as container:
        assert container.streams.video[0].average_rate == 50


def test_test_py_names_the_tool_that_its_option_became(run_script):
    code, out, err = run_script("test.py", "--video", "a.mp4", "b.mp4", "--root_path", ".")
    assert code == 2 and err.endswith(
        "error: --video is now a tool of its own: python tools/predict.py a.mp4 b.mp4\n"
    )


def test_what_is_no_video_stops_no_other_and_a_closed_pipe_is_no_videos_fault(root, run_script, tmp_path):
    for place in ("list/closed", "list/sub.avi"):
        (tmp_path / place).mkdir(parents=True)
    for name in ("a.avi", "bug.avi", "sub.avi/c.avi", "closed/d.avi"):
        make_video(tmp_path / "list" / name, 9)
    (tmp_path / "list/gone.avi").symlink_to("/gone/clip.avi")
    (tmp_path / "list/round.avi").symlink_to("round.avi")
    # A bug in this program, for one video.
    wrapper = tmp_path / "wrapper.py"
    wrapper.write_text(
        "import runpy, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from prediction.video_clips import VideoClips\n"
        "scored = VideoClips.scored\n"
        "def broken(clips, *rest):\n"
        "    return 1 / (clips.path.name != 'bug.avi') and scored(clips, *rest)\n"
        "VideoClips.scored = broken\n"
        f"runpy.run_path({str(ROOT / 'tools/predict.py')!r}, run_name='__main__')\n"
    )
    command = [tmp_path / "list", "--resume_path", root / "results/best.pdparams"]
    code, out, err = run_script(wrapper, *command, "--json")
    assert code == 1 and "Traceback" not in err
    names = [json.loads(line)["video"] for line in out.splitlines()]
    assert names == [f"{tmp_path}/list/{name}" for name in ("a.avi", "closed/d.avi", "sub.avi/c.avi")]
    bug, gone, loop = err.splitlines()
    why = "ZeroDivisionError: division by zero (wrapper.py, "
    assert bug.startswith(f"error: {tmp_path}/list/bug.avi: {why}")
    assert bug.endswith("a fault of this program, please report it")
    assert gone.startswith(f"error: {tmp_path}/list/gone.avi: ")
    assert loop == f"error: {tmp_path}/list/round.avi: Too many levels of symbolic links"
    code, out, err = run_script(wrapper, *command, "--features", tmp_path / "f.npz")
    assert code == 1 and out == f"{tmp_path}/f.npz: 3 videos, 3 clips, 64 features of each\n", err

    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, wrapper, *command, "--json"], **pipes, text=True)
    process.stdout.close()  # as `| head` does
    err = process.stderr.read()
    assert process.wait() == 128 + 13 and "error" not in err


def test_a_folder_in_a_folder_that_cannot_be_read_is_an_error_beside_the_videos(tmp_path, monkeypatch):
    (tmp_path / "open").mkdir()
    (tmp_path / "open/a.avi").touch()
    (tmp_path / "shut").mkdir()
    scandir = os.scandir

    def scan(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", scan)
    found, error = named_videos([tmp_path], tmp_path, [])
    assert found == tmp_path / "open/a.avi" and error.filename == str(tmp_path / "shut")
