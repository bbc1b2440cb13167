"""test.py from the outside, against the reference's scores of real clips, and on small data."""
import json
import os
import platform
import shutil
import zlib

import numpy as np
import paddle
import pytest
import seeded
from conftest import SMALL_TRAINING, golden

from datasets.temporal import sliding_windows
from model.checkpoint import DEFAULT_INPUT, load_checkpoint, save_checkpoint
from model.resnet3d import ResNet3D
from model.weights import architecture_of, from_torch, weights_of


def test_scores_of_real_clips_equal_the_references_through_the_files(tmp_path, reference_path, run_script):
    expected = golden("inference.json")
    labels = json.loads((reference_path / "ucf101_01.json").read_text())["labels"]
    shapes = golden("state_dict_shapes.json")[f"resnet{expected['depth']}"]
    shapes = {n: [101, *s[1:]] if n.startswith("fc.") else s for n, s in shapes.items()}
    state_dict = {name: seeded.tensor(name, shape, expected["seed"]) for name, shape in shapes.items()}
    state_dict["fc.weight"] = state_dict["fc.weight"] * np.float32(expected["fc_weight_scale"])
    weights = from_torch(state_dict)
    facts = {"model": architecture_of(weights), "input": DEFAULT_INPUT, "class_names": labels}
    save_checkpoint(tmp_path / "results/best.pdparams", weights, facts)
    database = {}
    for name, video in expected["videos"].items():
        class_name = name.split("_")[1]
        frames = tmp_path / "dataset/UCF-101-jpg" / class_name / name
        shutil.copytree(reference_path / "frames" / name, frames)
        segment = [1, video["n_frames"] + 1]
        database[name] = {
            "subset": "validation",
            "annotations": {"label": class_name, "segment": segment},
        }
    annotation = {"labels": labels, "database": database}
    (tmp_path / "dataset/ucf101_01.json").write_text(json.dumps(annotation))
    # All scores, so that each can be compared.
    code, out, err = run_script("test.py", "--output_topk", 101, cwd=tmp_path)
    assert code == 0, err
    assert f"2 videos, {sum(v['n_clips'] for v in expected['videos'].values())} clips" in out
    results = json.loads((tmp_path / "results/val.json").read_text())["results"]
    for name, video in expected["videos"].items():
        scores = {item["label"]: item["score"] for item in results[name]}
        found = np.array([scores[label] for label in labels])
        assert np.abs(found - video["average_scores"]).max() < 1e-5  # 6.0e-9 was seen
        assert [i["label"] for i in results[name][:5]] == [i["label"] for i in video["top5"]]


@pytest.fixture
def trained_set(small_set, run_script):
    code, out, err = run_script("train.py", *SMALL_TRAINING, "--n_epochs", 1, cwd=small_set)
    assert code == 0, err
    return small_set


def expected_scores(root, stride, nocrop=False):
    """Score the validation videos with plain loops and the eager network."""
    from PIL import Image

    checkpoint = load_checkpoint(root / "results/best.pdparams")
    net = ResNet3D(**checkpoint.facts["model"])
    net.set_state_dict({k: paddle.to_tensor(v) for k, v in checkpoint.weights.items()})
    net.eval()
    mean, std = np.array([0.4345, 0.4051, 0.3775]), np.array([0.2768, 0.2713, 0.2737])
    scores = {}
    database = json.loads((root / "dataset/ucf101_01.json").read_text())["database"]
    for name, entry in database.items():
        if entry["subset"] != "validation":
            continue
        folder = root / "dataset/UCF-101-jpg" / entry["annotations"]["label"] / name
        frames = []
        for number in range(*entry["annotations"]["segment"]):
            image = Image.open(folder / f"image_{number:05d}.jpg").convert("RGB").resize((42, 32), 2)
            image = image if nocrop else image.crop((5, 0, 37, 32))
            frames.append((np.asarray(image) / 255 - mean) / std)
        clips = [
            np.stack([frames[n] for n in window]).transpose(3, 0, 1, 2)
            for window in sliding_windows(range(len(frames)), 8, stride)
        ]
        with paddle.no_grad():
            logits = net(paddle.to_tensor(np.stack(clips).astype(np.float32)))
        scores[name] = paddle.nn.functional.softmax(logits).numpy()
    return scores


@pytest.mark.parametrize("options, stride", [([], 16), (["--inference_stride", 4], 4)])
def test_a_videos_score_is_the_mean_over_its_windows(trained_set, run_script, options, stride):
    expected = expected_scores(trained_set, stride)
    code, out, err = run_script(
        "test.py", *options, "--inference_batch_size", 3, "--n_threads", 2, cwd=trained_set
    )
    assert code == 0, err
    results = json.loads((trained_set / "results/val.json").read_text())["results"]
    assert list(results) == list(expected)
    for name, clip_scores in expected.items():
        scores = {item["label"]: item["score"] for item in results[name]}
        found = [scores["Jump"], scores["run"]]
        np.testing.assert_allclose(found, clip_scores.mean(axis=0), atol=1e-5)
        assert results[name][0]["score"] == max(found)
    truth = [int("run" in name) for name in expected]
    clips = [scores.argmax() == t for t, s in zip(truth, expected.values()) for scores in s]
    videos = [s.mean(axis=0).argmax() == t for t, s in zip(truth, expected.values())]
    assert f"clip accuracy {np.mean(clips):.4f}, video accuracy {np.mean(videos):.4f}" in out
    run = json.loads((trained_set / "results/val_run.json").read_text())
    assert run["videos"] == {
        name: [int((s.argmax(axis=1) == t).sum()), len(s)] for t, (name, s) in zip(truth, expected.items())
    }
    assert run["n_clips"] == len(clips) and run["clip_accuracy"] == pytest.approx(np.mean(clips))
    assert run["results_crc32"] == zlib.crc32((trained_set / "results/val.json").read_bytes())
    assert run["checkpoint"] == "results/best.pdparams" and run["device"] == "cpu"
    assert run["versions"] == {
        "python": platform.python_version(), "paddle": paddle.__version__, "numpy": np.__version__,
    }  # fmt: skip
    assert run["options"]["inference_stride"] == stride and not set(run["options"]) & set(os.environ)

    code, out, err = run_script("eval_accuracy.py", cwd=trained_set)
    assert code == 0 and out.endswith(f"top-1 accuracy: {np.mean(videos)}\n")


def test_clips_can_be_written_without_averaging_and_without_a_crop(trained_set, run_script):
    expected = expected_scores(trained_set, 16, nocrop=True)
    code, out, err = run_script(
        "test.py", "--inference_no_average", "--inference_crop", "nocrop", cwd=trained_set
    )
    assert code == 0, err
    results = json.loads((trained_set / "results/val.json").read_text())["results"]
    for name, clip_scores in expected.items():
        assert [r["segment"] for r in results[name]][0] == [1, 9]
        assert results[name][-1]["segment"][0] == 17
        for entry, scores in zip(results[name], clip_scores):
            found = {item["label"]: item["score"] for item in entry["result"]}
            np.testing.assert_allclose([found["Jump"], found["run"]], scores, atol=1e-5)
    code, out, err = run_script("eval_accuracy.py", cwd=trained_set)
    assert code == 1 and "run test.py without --inference_no_average" in err


def test_the_training_subset_can_be_scored_and_names_its_file(trained_set, run_script):
    code, out, err = run_script("test.py", "--inference_subset", "train", cwd=trained_set)
    assert code == 0, err
    assert len(json.loads((trained_set / "results/train.json").read_text())["results"]) == 6


def save(root, n_classes, facts):
    weights = weights_of(ResNet3D(10, n_classes, resnet_widen_factor=0.125))
    save_checkpoint(root / "results/best.pdparams", weights, facts)


def test_bare_weights_serve_where_their_class_count_fits(small_set, run_script):
    save(small_set, 2, {})
    code, out, err = run_script("test.py", "--n_threads", 0, cwd=small_set)
    assert code == 0, err


@pytest.mark.parametrize(
    "spoil, options, message",
    [
        (lambda r: None, [], "results/best.pdparams: no such weights"),
        (lambda r: save(r, 39, {}), [], "weights for 39 classes, the annotation has 2"),
        (lambda r: save(r, 2, {"class_names": ["a", "b"]}), [], "weights for other classes"),
        (lambda r: save(r, 2, {}), ["--inference_subset", "test"], "no video of the subset testing"),
        (lambda r: save(r, 2, {}), ["--video_path", "x"], "x: no such folder of frames"),
    ],
)
def test_a_mistake_is_one_line(small_set, run_script, spoil, options, message):
    spoil(small_set)
    code, out, err = run_script("test.py", *options, cwd=small_set)
    assert code == 1
    assert err.startswith("error: ") and message in err and err.count("\n") == 1
    assert not (small_set / "results/val.json").exists()


def test_a_test_that_was_ended_goes_on_behind_the_finished_videos(trained_set, run_script):
    # Batches of 3: the second video ends in the middle of one. Its broken frame stands in for a kill.
    arguments = ["--inference_batch_size", 3, "--n_threads", 0, "--inference_stride", 4]
    code, whole, err = run_script("test.py", *arguments, cwd=trained_set)
    assert code == 0, err
    results, journal = trained_set / "results/val.json", trained_set / "results/.val.jsonl"
    expected = results.read_bytes()
    results.unlink()
    frame = trained_set / "dataset/UCF-101-jpg/Jump/v_Jump_g08_c01/image_00020.jpg"
    content = frame.read_bytes()
    frame.write_bytes(b"")
    code, out, err = run_script("test.py", *arguments, cwd=trained_set)
    assert code == 1 and "image_00020.jpg" in err and not results.exists()
    done = [json.loads(line)["video"] for line in journal.read_text().splitlines()[1:]]
    assert done == ["v_Jump_g06_c01", "v_run_g07_c01"]
    frame.write_bytes(content)
    with open(journal, "a") as file:
        file.write('{"video": "v_Jump_g08')  # a line that a kill cut short
    kept = journal.read_bytes()
    code, out, err = run_script("test.py", *arguments, cwd=trained_set)
    assert code == 0 and "2 videos are done already" in err
    assert results.read_bytes() == expected and out == whole and not journal.exists()

    # Another checkpoint or other options do not go on with it.
    journal.write_bytes(kept)
    code, out, err = run_script("test.py", *arguments, "--output_topk", 1, cwd=trained_set)
    assert code == 0 and "of another run" in err
    first = json.loads(results.read_text())["results"]["v_Jump_g06_c01"]
    assert len(first) == 1 and first[0] == json.loads(expected)["results"]["v_Jump_g06_c01"][0]
