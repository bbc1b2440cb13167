"""An exported model labels videos as its checkpoint does, with nothing of the training code."""
import json
import re
import shutil

import numpy as np
import paddle
import pytest
from conftest import ROOT, network, run_program
from moving_shapes import draw_video, write_video

from model.checkpoint import Metadata, save_checkpoint
from model.weights import weights_of
from run.spec import ClipSpec

NAMES = ["MoveLeft", "MoveUp", "Grow"]

@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a checkpoint, what it is exported to, and a video."""
    pytest.importorskip("paddle2onnx")
    pytest.importorskip("onnxruntime")
    path = tmp_path_factory.mktemp("exported")
    paddle.seed(3)
    net = network(n_classes=3, model_depth=10, resnet_widen_factor=0.125)
    net.fc.weight.set_value(4 * net.fc.weight)  # so that the scores are far from equal
    metadata = Metadata(net.spec, ClipSpec(sample_size=40, sample_duration=8), NAMES)
    save_checkpoint(path / "best.pdparams", {"weights": weights_of(net)}, metadata)
    write_video(path / "video.avi", draw_video("MoveUp", 40, np.random.default_rng(0)))
    for to in ("onnx", "inference"):
        code, _, err = run_program("tools/export_model.py", "best.pdparams", "--to", to, cwd=path)
        assert code == 0, err
    return path


def predicted(run_script, folder, resume_path, **options):
    code, out, err = run_script(
        "tools/predict.py", "video.avi", "--json", "--resume_path", resume_path, cwd=folder, **options
    )
    assert code == 0, err
    return json.loads(out)


@pytest.mark.parametrize("exported", ["best.onnx", "best_inference"])
def test_an_exported_model_labels_a_video_as_its_checkpoint_does(exported, folder, run_script, tmp_path):
    # Paddle Inference needs Paddle, ONNX Runtime does not: there it cannot even be imported.
    (tmp_path / "paddle.py").write_text("raise ImportError('Paddle is not to be imported')\n")
    env = {"PYTHONPATH": str(tmp_path)} if exported.endswith(".onnx") else {}
    expected = predicted(run_script, folder, "best.pdparams")
    found = predicted(run_script, folder, exported, env=env)
    assert [item["label"] for item in found["result"]] == [item["label"] for item in expected["result"]]
    scores, of_checkpoint = ([item["score"] for item in each["result"]] for each in (found, expected))
    assert np.abs(np.subtract(scores, of_checkpoint)).max() <= 1e-5
    assert len({round(score, 3) for score in scores}) == 3


def test_an_exported_model_needs_nothing_of_the_training_code(folder, run_script, tmp_path):
    tree = tmp_path / "tree"
    for name in ("run", "datasets", "prediction", "tools", "opts.py", "recipes"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tree / name) if (ROOT / name).is_dir() else copy(ROOT / name, tree)
    (tree / "model/networks").mkdir(parents=True)
    for name in ("__init__", "exported", "scorer", "device", "inference"):
        shutil.copy(ROOT / f"model/{name}.py", tree / "model")
    for path in (folder / "best_inference", folder / "best.onnx"):
        code, out, err = run_script(
            tree / "tools/predict.py", folder / "video.avi", "--resume_path", path, cwd=tmp_path
        )
        assert code == 0 and NAMES[0] in out, err


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda f: (f / "best_inference/card.json").unlink(), "a folder without inference.json"),
        (lambda f: (f / "best_inference/card.json").write_text("{}"), "does not say how its clips are made"),
        (lambda f: (f / "best_inference/card.json").write_text("{"), "its metadata are not those of"),
        (lambda f: (f / "best.onnx").write_bytes(b"hello"), "not an ONNX model, or a broken one"),
        (lambda f: (f / "best.onnx").unlink(), "no such model"),
    ],
)
def test_what_is_no_exported_model_is_one_line(folder, run_script, tmp_path, spoil, message):
    copy = shutil.copytree(folder, tmp_path / "copy")
    spoil(copy)
    exported = copy / ("best.onnx" if "onnx" in message.lower() or "such" in message else "best_inference")
    code, out, err = run_script("tools/predict.py", copy / "video.avi", "--resume_path", exported)
    assert (code, out, err.count("\n")) == (1, "", 1) and message in err and exported.name in err


def test_features_are_the_checkpoints(folder, run_script):
    arguments = ["tools/predict.py", "video.avi", "--features", "f.npz", "--resume_path", "best.onnx"]
    code, _, err = run_script(*arguments, cwd=folder)
    assert code == 1 and "no --features; give a checkpoint" in err and err.count("\n") == 1


def test_the_example_of_the_documents_labels_a_video_by_itself(folder, run_script, tmp_path):
    text = (ROOT / "docs/export.md").read_text()
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "onnxruntime" in block)
    assert example.count("\n") <= 40
    imported = set(re.findall(r"^(?:import|from) (\w+)", example, re.M))
    assert imported == {"json", "sys", "av", "numpy", "onnxruntime"}
    (tmp_path / "label.py").write_text(example)
    code, out, err = run_script(tmp_path / "label.py", "best.onnx", "video.avi", cwd=folder)
    assert code == 0, err
    result = predicted(run_script, folder, "best.pdparams")["result"]
    expected = {item["label"]: item["score"] for item in result}
    lines = [line.rsplit(" ", 1) for line in out.splitlines()]
    assert [name for name, _ in lines] == list(expected)
    # It scales with ffmpeg, not as Pillow does: other pixels.
    assert max(abs(float(score) - expected[name]) for name, score in lines) < 0.05
