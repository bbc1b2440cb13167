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
from conftest import SMALL_TRAINING, golden, run_program

from datasets.temporal import sliding_windows
from model import networks
from model.checkpoint import Metadata, load_checkpoint, save_checkpoint
from model.weights import from_torch, weights_of
from run.spec import ClipSpec, NetworkSpec, Protocol, Recipe


def score_difference(root, reference_path):
    """Score two real clips with `test.py` in an empty folder; return the largest difference of a score from
    the reference's.
    """
    expected = golden("inference.json")
    labels = json.loads((reference_path / "ucf101_01.json").read_text())["labels"]
    shapes = golden("state_dict_shapes.json")[f"resnet{expected['depth']}"]
    shapes = {n: [101, *s[1:]] if n.startswith("fc.") else s for n, s in shapes.items()}
    state_dict = {name: seeded.tensor(name, shape, expected["seed"]) for name, shape in shapes.items()}
    state_dict["fc.weight"] = state_dict["fc.weight"] * np.float32(expected["fc_weight_scale"])
    weights = from_torch(state_dict)
    spec = networks.recognise({name: list(array.shape) for name, array in weights.items()})
    metadata = Metadata(spec, ClipSpec(), labels)
    save_checkpoint(root / "results/best.pdparams", {"weights": weights}, metadata)
    database = {}
    for name, video in expected["videos"].items():
        class_name = name.split("_")[1]
        shutil.copytree(reference_path / "frames" / name, root / "dataset/UCF-101-jpg" / class_name / name)
        segment = [1, video["n_frames"] + 1]
        entry = {"subset": "validation", "annotations": {"label": class_name, "segment": segment}}
        database[name] = entry
    annotation = {"labels": labels, "database": database}
    (root / "dataset/ucf101_01.json").write_text(json.dumps(annotation))
    # All scores, so that each can be compared.
    code, out, err = run_program("test.py", "--output_topk", 101, cwd=root)
    assert code == 0, err
    assert f"2 videos, {sum(v['n_clips'] for v in expected['videos'].values())} clips" in out
    results = json.loads((root / "results/val.json").read_text())["results"]
    differences = []
    for name, video in expected["videos"].items():
        scores = {item["label"]: item["score"] for item in results[name]}
        found = np.array([scores[label] for label in labels])
        differences.append(np.abs(found - video["average_scores"]).max())
        assert [i["label"] for i in results[name][:5]] == [i["label"] for i in video["top5"]]
    return max(differences)


SCORE_BOUND = 1e-5


def test_scores_of_real_clips_equal_the_references_through_the_files(tmp_path, reference_path):
    assert score_difference(tmp_path, reference_path) < SCORE_BOUND


@pytest.fixture
def trained_set(small_set, run_script):
    code, out, err = run_script("train.py", *SMALL_TRAINING, "--n_epochs", 1, cwd=small_set)
    assert code == 0, err
    return small_set


def expected_scores(root, stride, nocrop=False):
    """Score the validation videos with plain loops and the eager network."""
    from PIL import Image

    checkpoint = load_checkpoint(root / "results/best.pdparams")
    net = networks.build(checkpoint.metadata.network)
    net.set_state_dict({k: paddle.to_tensor(v) for k, v in checkpoint.groups["weights"].items()})
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
    protocol = Protocol.from_json(run["protocol"], "val_run.json")
    assert protocol == Protocol(inference_stride=stride, inference_batch_size=3)
    network, clip = NetworkSpec.from_json(run["network"], ""), ClipSpec.from_json(run["clip"], "")
    assert network.name == "resnet" and network.arguments["model_depth"] == 10
    assert (clip.sample_size, clip.sample_duration, clip.frame_rates) == (32, 8, None)
    assert run["version"] == 2 and run["published"]["accuracy"] == 0.929
    assert run["options"]["n_threads"] == 2 and run["options"]["inference_subset"] == "val"
    assert not set(run["options"]) & (set(os.environ) | set(Protocol.kinds()))

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


def save(root, n_classes, **metadata):
    spec = NetworkSpec("resnet", {"model_depth": 10, "n_classes": n_classes, "resnet_widen_factor": 0.125})
    net = networks.build(spec)
    path = root / "results/best.pdparams"
    save_checkpoint(path, {"weights": weights_of(net)}, Metadata(net.spec, **metadata))


def test_bare_weights_serve_if_their_class_count_fits(small_set, run_script):
    net = networks.build(NetworkSpec("resnet", {"model_depth": 10, "n_classes": 2, "n_input_channels": 3}))
    (small_set / "results").mkdir()
    paddle.save(net.state_dict(), str(small_set / "results/best.pdparams"))
    code, out, err = run_script("test.py", "--n_threads", 0, cwd=small_set)
    assert code == 0, err
    assert json.loads((small_set / "results/val_run.json").read_text())["published"] is None


def test_a_note_says_if_the_network_was_validated_on_other_pixels(small_set, run_script):
    save(small_set, 2, recipe=Recipe(fast_decode=True), class_names=["Jump", "run"])
    for arguments, notes in (
        ([], "note: results/best.pdparams: validated with --fast_decode, here without: other pixels\n"),
        (["--fast_decode"], ""),
    ):
        code, out, err = run_script("test.py", "--n_threads", 0, *arguments, cwd=small_set)
        assert (code, err) == (0, notes)


def test_a_testing_subset_without_classes_is_scored_into_results_without_an_accuracy(small_set, run_script):
    save(small_set, 2)
    path = small_set / "dataset/ucf101_01.json"
    content = json.loads(path.read_text())
    scored = [name for name, entry in content["database"].items() if entry["subset"] == "validation"]
    for name in scored:
        entry = content["database"][name]
        entry["subset"] = "testing"
        class_name = entry["annotations"].pop("label")
        entry["video_path"] = f"{class_name}/{name}"  # where the frames of labelled videos lie
    path.write_text(json.dumps(content))
    code, out, err = run_script("test.py", "--inference_subset", "test", "--n_threads", 0, cwd=small_set)
    assert code == 0, err
    assert out.splitlines()[1:] == ["no accuracy: the annotation does not give every video's class"]
    results = json.loads((small_set / "results/test.json").read_text())["results"]
    assert list(results) == scored and {len(result) for result in results.values()} == {2}
    assert json.loads((small_set / "results/test_run.json").read_text())["clip_accuracy"] is None


@pytest.mark.parametrize(
    "spoil, options, message",
    [
        (lambda r: None, [], "results/best.pdparams: no such weights"),
        (lambda r: save(r, 39), [], "weights for 39 classes, the annotation has 2"),
        (lambda r: save(r, 2, class_names=["a", "b"]), [], "weights for other classes"),
        (lambda r: save(r, 2), ["--inference_subset", "test"], "no video of the subset testing"),
        (lambda r: save(r, 2), ["--video_path", "x"], "x: no such folder of frames"),
    ],
)
def test_a_mistake_is_one_line(small_set, run_script, spoil, options, message):
    spoil(small_set)
    code, out, err = run_script("test.py", *options, cwd=small_set)
    assert code == 1
    assert err.startswith("error: ") and message in err and err.count("\n") == 1
    assert not (small_set / "results/val.json").exists()


def test_a_test_that_was_ended_continues_after_the_finished_videos(trained_set, run_script):
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

    # A test with another checkpoint or other options does not continue with it.
    journal.write_bytes(kept)
    code, out, err = run_script("test.py", *arguments, "--output_topk", 1, cwd=trained_set)
    assert code == 0 and "of another run (output_topk was 5 and is 1); starting again" in err
    first = json.loads(results.read_text())["results"]["v_Jump_g06_c01"]
    assert len(first) == 1 and first[0] == json.loads(expected)["results"]["v_Jump_g06_c01"][0]
