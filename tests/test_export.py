"""Checkpoints for other programs: each file is read back by the program that it is for."""
import json
import re
import subprocess
import sys

import numpy as np
import paddle
import paddle.inference
import pytest
from conftest import ROOT, golden, network
from golden_networks import own

import convert_to_paddle
import model.export
from model import networks, torch_checkpoint
from model.checkpoint import Best, Metadata, save_checkpoint
from model.weights import weights_of
from opts import convert_options, export_options
from run.console import UserError
from run.spec import ClipSpec, NetworkSpec
from tools import export_model

NETWORKS = [
    {"model_depth": 10, "resnet_widen_factor": 0.25},
    {"model_depth": 18, "resnet_widen_factor": 0.125, "resnet_shortcut": "A", "conv1_t_size": 3},
    {"model_depth": 50, "resnet_widen_factor": 0.125, "conv1_t_stride": 2, "no_max_pool": True},
    {"model_depth": 18, "resnet_widen_factor": 0.125, "n_input_channels": 2, "name": "resnet2p1d"},
    {"model_depth": 10, "name": "preresnet"},
    {"model_depth": 50, "name": "resnext", "resnext_cardinality": 2},
    {"model_depth": 121, "name": "densenet", "conv1_t_size": 3, "no_max_pool": True},
]
NAMES = ["Move up", "Wave", "ÜberSprung"]


def export(*arguments):
    export_model.main(export_options([str(argument) for argument in arguments]))


@pytest.fixture
def write_checkpoint(tmp_path):
    """Return a function that writes best.pdparams for a network, and gives its path and the network."""

    def write(**arguments):
        paddle.seed(1)
        net = network(n_classes=3, **arguments)
        rng = np.random.default_rng(1)
        for name, tensor in net.state_dict().items():
            if name.endswith(("_mean", "_variance", "bias")):  # as trained ones are: none at 0 or 1
                tensor.set_value(rng.uniform(0.5, 1.5, tensor.shape).astype(np.float32))
        n = net.n_input_channels
        modality = "rgb" if n == 3 else "flow"
        clip = ClipSpec(sample_size=40, sample_duration=8, modality=modality, mean=(0.5,) * n, std=(0.5,) * n)
        path = tmp_path / "best.pdparams"
        metadata = Metadata(net.spec, clip, class_names=NAMES, best=Best(7, 0.5, 1.5))
        save_checkpoint(path, {"weights": weights_of(net)}, metadata)
        net.eval()
        return path, net

    return write


def assert_same_logits(run, net):
    """Hold a program's network against the eager one, for batches and clips of several sizes."""
    for n, *shape in [(2, 8, 40, 40), (1, 8, 40, 40), (3, 11, 33, 48)]:
        clips = np.random.default_rng(0).standard_normal((n, net.n_input_channels, *shape), np.float32)
        clips *= np.float32(4) ** np.arange(n, dtype=np.float32).reshape(n, 1, 1, 1, 1)  # unlike each other
        with paddle.no_grad():
            expected = net(paddle.to_tensor(clips)).numpy()
        # Not a dead network, whose logits are its biases.
        assert len(clips) == 1 or np.ptp(expected, axis=0).max() > 1e-2 * np.abs(expected).max()
        # Other orders of sums; 3.3e-6 was seen, for depth 50.
        assert np.abs(run(clips) - expected).max() <= 2e-5 * np.abs(expected).max()


def assert_reported(out, path):
    """Check that the difference and the file are reported, and that nothing else is left in its folder."""
    network, difference, *_, size = out.splitlines()
    words = r"[\w -]*(DenseNet3D-121|(\w+3D|R\(2\+1\)D)-\d+, shortcut [AB]), .*3 classes, \d+ tensors, "
    assert re.match(rf"{re.escape(str(path.with_name('best.pdparams')))}: {words}[\d,]+ parameters$", network)
    assert float(difference.split(": ")[1].split()[0]) < 2e-5
    n_bytes = sum(file.stat().st_size for file in (path, *path.glob("*")) if file.is_file())
    assert size == f"{path}: {n_bytes / 1e6:.0f} MB"
    assert {entry.name for entry in path.parent.iterdir()} == {"best.pdparams", path.name}


CARD = {
    "scale": 255.0,
    "sample_size": 40,
    "sample_duration": 8,
    "sample_t_stride": 1,
    "frame_rates": None,
    "class_names": NAMES,
}


def assert_card(card, net):
    """Check what the card of an exported network says."""
    n = net.n_input_channels
    channels = {3: "RGB", 2: "horizontal and vertical optical flow"}[n]
    own = {
        "network": networks.title(net.spec),
        "input": f"clips [N, {n}, T, H, W] float32, {channels}: (pixel / 255 - mean) / std",
        "modality": "rgb" if n == 3 else "flow",
        "mean": [0.5] * n,
        "std": [0.5] * n,
    }
    assert {**CARD, **own} == {name: value for name, value in card.items() if name != "output"}


@pytest.mark.parametrize("network", NETWORKS[1:])
def test_paddle_inference_gives_the_same_logits(write_checkpoint, capsys, network):
    path, net = write_checkpoint(**network)
    export(path, "--to", "inference")
    folder = path.with_name("best_inference")
    assert_reported(capsys.readouterr().out, folder)
    (graph,) = {"inference.json", "inference.pdmodel"} & {entry.name for entry in folder.iterdir()}
    config = paddle.inference.Config(str(folder / graph), str(folder / "inference.pdiparams"))
    config.disable_gpu()
    predictor = paddle.inference.create_predictor(config)

    def run(clips):
        predictor.get_input_handle("clips").copy_from_cpu(clips)
        predictor.run()
        (name,) = predictor.get_output_names()
        return predictor.get_output_handle(name).copy_to_cpu()

    assert_same_logits(run, net)
    assert_card(json.loads((folder / "card.json").read_text()), net)


@pytest.mark.parametrize("network", NETWORKS[1:])
def test_onnx_runtime_gives_the_same_logits(write_checkpoint, capfd, network):
    pytest.importorskip("paddle2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    path, net = write_checkpoint(**network)
    export(path, "--to", "onnx")
    out, err = capfd.readouterr()
    assert_reported(out, path.with_name("best.onnx"))
    assert "onnx" not in err.lower()  # no word of paddle2onnx or of ONNX Runtime
    session = onnxruntime.InferenceSession(path.with_name("best.onnx"), providers=["CPUExecutionProvider"])
    (clips,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (clips.name, clips.shape) == ("clips", ["N", net.n_input_channels, "T", "H", "W"])
    assert (logits.name, logits.shape) == ("logits", ["N", 3])
    assert_same_logits(lambda clips: session.run(["logits"], {"clips": clips})[0], net)
    card = session.get_modelmeta().custom_metadata_map
    assert_card({name: json.loads(value) for name, value in card.items()}, net)


@pytest.mark.parametrize("network", NETWORKS[1:])
def test_torch_gets_the_references_checkpoint(write_checkpoint, capsys, network):
    torch = pytest.importorskip("torch")
    from model import torch_forward

    path, net = write_checkpoint(**network)
    export(path, "--to", "torch")
    out = capsys.readouterr().out
    assert_reported(out, path.with_name("best.pth"))
    content = torch.load(path.with_name("best.pth"), weights_only=True)
    assert list(content) == ["epoch", "arch", "state_dict", "metadata"]
    assert (content["epoch"], content["arch"]) == (7, f"{net.spec.name}-{network['model_depth']}")
    key = f"{net.spec.name}{network['model_depth']}"
    shapes = {**golden("family_state_dict_shapes.json"), **golden("state_dict_shapes.json")}
    order = list(shapes.get(key) or shapes[f"{key}_2020"])
    if network.get("resnet_shortcut") == "A":
        order = [name for name in order if ".downsample." not in name]
    assert list(content["state_dict"]) == order
    counts = [t for name, t in content["state_dict"].items() if name.endswith("num_batches_tracked")]
    assert {(count.dtype, count.shape) for count in counts} == {(torch.int64, torch.Size([]))}
    assert_same_logits(lambda clips: torch_forward.logits(own(content["state_dict"]), clips, net.spec), net)
    line = out.splitlines()[2]
    assert line.startswith(f"options of 3D-ResNets-PyTorch: --model {net.spec.name} --model_depth ")
    options = {name: value for name, value in network.items() if name not in ("name", "n_input_channels")}
    assert all(f" --{name} {value}" in line for name, value in options.items() if name != "no_max_pool")
    assert (" --no_max_pool" in line) == ("no_max_pool" in network)
    assert " --sample_size 40 --sample_duration 8" in line and "--sample_t_stride" not in line
    if net.n_input_channels == 3:
        assert line.endswith(" --mean_dataset 0.5")
    else:
        assert line.endswith(" --input_type flow --mean_dataset 0.5")


@pytest.mark.parametrize("prefix", ["", "module."])
def test_from_pth_and_back_every_number_stays_bit_for_bit(tmp_path, prefix):
    torch = pytest.importorskip("torch")
    shapes = golden("state_dict_shapes.json")["resnet10"].items()
    before = {}
    for name, shape in shapes:
        shape = [max(1, n // 8) if n > 7 and name != "conv1.weight" else n for n in shape]  # narrow
        shape = [8, 3, 3, 7, 7] if name == "conv1.weight" else shape
        before[name] = torch.tensor(5) if name.endswith("tracked") else torch.randn(shape)
    path = tmp_path / "r3d.pth"
    torch.save({"arch": "resnet-10", "state_dict": {prefix + n: t for n, t in before.items()}}, path)
    convert_to_paddle.main(convert_options([str(path), "--no_verify"]))
    export(path.with_suffix(".pdparams"), tmp_path / "back.pth", "--to", "torch", "--no_verify")
    after = torch.load(tmp_path / "back.pth", weights_only=True)["state_dict"]
    assert list(after) == list(before)
    for name, tensor in before.items():
        assert (after[name].dtype, after[name].shape) == (tensor.dtype, tensor.shape)
        if tensor.is_floating_point():
            assert after[name].numpy().tobytes() == tensor.numpy().tobytes()


def test_what_differs_is_not_written_unless_the_check_is_left_out(write_checkpoint, monkeypatch):
    pytest.importorskip("torch")
    path, _ = write_checkpoint(**NETWORKS[0])
    whole = torch_checkpoint.to_torch
    monkeypatch.setattr(torch_checkpoint, "to_torch", lambda w: {**whole(w), "fc.bias": w["fc.bias"] + 0.1})
    with pytest.raises(UserError, match="best.pdparams: the networks differ, nothing was written"):
        export(path, "--to", "torch")
    assert [entry.name for entry in path.parent.iterdir()] == ["best.pdparams"]
    export(path, "--to", "torch", "--no_verify")
    assert path.with_name("best.pth").exists()


@pytest.mark.parametrize("missing", ["paddle2onnx", "onnxruntime"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(write_checkpoint, monkeypatch, missing):
    path, _ = write_checkpoint(**NETWORKS[0])
    monkeypatch.setattr(model.export.importlib.util, "find_spec", lambda name: None if name == missing else 1)
    with pytest.raises(UserError, match=rf"^ONNX needs {missing}: pip install paddle2onnx==\d") as refusal:
        export(path, "--to", "onnx")
    assert ("--no_verify leaves out the check" in str(refusal.value)) == (missing == "onnxruntime")
    assert [entry.name for entry in path.parent.iterdir()] == ["best.pdparams"]


def test_a_paddle2onnx_that_fails_ends_in_one_line(write_checkpoint, tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    path, _ = write_checkpoint(**NETWORKS[0])
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/paddle2onnx.py").write_text("raise ValueError('for another Paddle')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "bad"))
    monkeypatch.setattr(model.export.importlib.util, "find_spec", lambda name: 1)
    with pytest.raises(UserError) as refusal:
        export(path, "--to", "onnx", "--no_verify")
    start = f"{path}: paddle2onnx fails (ValueError: for another Paddle); this Paddle needs: pip install p"
    assert str(refusal.value).startswith(start)
    assert not path.with_name("best.onnx").exists()


def test_a_folder_of_something_else_is_not_replaced(write_checkpoint):
    path, _ = write_checkpoint(**NETWORKS[0])
    export(path, "--to", "inference", "--no_verify")
    export(path, "--to", "inference", "--no_verify")  # its own is
    (path.with_name("best_inference") / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="^[^:]*best_inference: holds notes.txt, which"):
        export(path, "--to", "inference", "--no_verify")
    assert path.with_name("best_inference").is_dir() and len(list(path.parent.iterdir())) == 2


def test_the_default_paths_and_the_wrong_file_are_reported(tmp_path, run_script):
    code, out, err = run_script("tools/export_model.py", "--to", "inference", cwd=tmp_path)
    assert (code, out) == (1, "") and err == "error: results/best.pdparams: no such weights\n"
    (tmp_path / "a.pth").write_text("hello")
    code, _, err = run_script("tools/export_model.py", "a.pth", "--to", "inference", cwd=tmp_path)
    assert code == 1 and err.startswith("error: a.pth: not a .pdparams file") and err.count("\n") == 1


@pytest.mark.parametrize("entry", ["network", "resnet3d"])
def test_the_hub_gives_the_network(write_checkpoint, tmp_path, entry):
    path, net = write_checkpoint(**NETWORKS[0])
    code = f"""
import numpy, paddle
net = paddle.hub.load({str(ROOT)!r}, {entry!r}, source="local", checkpoint={str(path)!r})
assert not net.training and net.metadata.class_names == {NAMES!r} and net.metadata.clip.sample_size == 40
with paddle.no_grad():
    numpy.save("logits.npy", net(paddle.ones([1, 3, 8, 40, 40])).numpy())
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)
    with paddle.no_grad():
        expected = net(paddle.ones([1, 3, 8, 40, 40])).numpy()
    # One thread there, all cores here: 1e-6 of the largest logit is the rounding of either.
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, rtol=1e-5, atol=1e-5)


def test_what_the_reference_has_no_option_for_is_named():
    wide = NetworkSpec("wideresnet", {"conv1_width": 64, "n_classes": 400, "wide_resnet_k": 3})
    assert model.export.reference_options(networks.checked(wide, "here"), ClipSpec()) == (
        "--model wideresnet --model_depth 50 --n_classes 400 --wide_resnet_k 3; "
        "it has no option for conv1_width 64"
    )


def test_the_tool_works_from_any_folder(write_checkpoint, tmp_path, run_script):
    path, _ = write_checkpoint(**NETWORKS[0])
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    code, out, err = run_script("tools/export_model.py", path, "--to", "inference", cwd=folder)
    assert code == 0, err
    assert out.splitlines()[-1].startswith(f"{path.with_name('best_inference')}: ")


def test_the_command_that_exported_until_now_names_the_new_one(tmp_path, run_script):
    code, out, err = run_script("convert_to_paddle.py", "--to", "onnx", cwd=tmp_path)
    assert (code, out) == (2, "") and err.splitlines()[-1].endswith("python tools/export_model.py --to onnx")
