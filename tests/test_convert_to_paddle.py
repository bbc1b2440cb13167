"""The converter on checkpoints in each released layout, and on files that are none."""
import argparse
import os
import pickle
import re
import zipfile

import numpy as np
import pytest
from conftest import ROOT, golden, network

from model.checkpoint import Metadata, load_checkpoint, save_checkpoint
from model.device import normalise
from model.weights import from_torch, to_torch, weights_of

torch = pytest.importorskip("torch")

from golden_networks import spec_of_key, torch_shapes
from moving_shapes import make_checkpoint, narrow_resnet10_shapes

from convert_to_paddle import main
from model import networks
from opts import convert_options
from run.console import UserError
from run.spec import ClipSpec, NetworkSpec


def convert(*paths):
    main(convert_options([str(path) for path in paths]))


def released_checkpoint(path, depth, n_classes, prefix=""):
    """Write a random checkpoint with the names and layout of a released one."""
    make_checkpoint(path, golden("state_dict_shapes.json")[f"resnet{depth}"], n_classes, seed=depth)
    content = torch.load(path, weights_only=True)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in content["state_dict"].items():  # statistics that a mix-up would show in
        if name.endswith(("running_mean", "running_var", "bias")) and tensor.ndim == 1:
            tensor += 0.1 * torch.rand(tensor.shape, generator=generator)
    content["state_dict"] = {prefix + name: t for name, t in content["state_dict"].items()}
    torch.save(content, path)
    return {name[len(prefix) :]: t.numpy() for name, t in content["state_dict"].items()}


@pytest.mark.parametrize(
    "depth, n_classes, prefix",
    [(18, 700, "module."), (34, 339, ""), (50, 1039, ""), (50, 1139, "module.")],
)
def test_a_released_layout_converts_tensor_by_tensor(tmp_path, capsys, depth, n_classes, prefix):
    state_dict = released_checkpoint(tmp_path / "r3d.pth", depth, n_classes, prefix)
    convert(tmp_path / "r3d.pth")
    out = capsys.readouterr().out
    assert f"ResNet3D-{depth}, shortcut B, widen factor 1, {n_classes} classes" in out
    difference = float(out.split("PyTorch to Paddle: ")[1].split()[0])
    assert difference < 1e-5  # 4e-7 to 2e-6 seen
    weights = load_checkpoint(tmp_path / "r3d.pdparams").groups["weights"]
    expected = from_torch(state_dict)
    assert weights.keys() == expected.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(array, expected[name])


def test_a_bare_state_dict_and_the_default_paths_serve_too(tmp_path, run_script):
    path = tmp_path / "weights" / "r3d50_KM_200ep.pth"
    make_checkpoint(path, narrow_resnet10_shapes())
    torch.save(torch.load(path, weights_only=True)["state_dict"], path)
    code, out, err = run_script("convert_to_paddle.py", "--no_verify", cwd=tmp_path)
    assert code == 0, err
    assert "difference" not in out
    metadata = load_checkpoint(path.with_suffix(".pdparams")).metadata
    assert (metadata.network.arguments["n_classes"], metadata.clip) == (39, ClipSpec())
    assert (metadata.class_names, metadata.recipe, metadata.training) == (None, None, None)


def test_shortcut_a_is_verified_too(tmp_path, capsys):
    shapes = {n: s for n, s in narrow_resnet10_shapes().items() if "downsample" not in n}
    make_checkpoint(tmp_path / "a.pth", shapes)
    convert(tmp_path / "a.pth", tmp_path / "b.pdparams")
    assert "shortcut A" in capsys.readouterr().out and (tmp_path / "b.pdparams").exists()


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def change(path, function):
    content = torch.load(path, weights_only=True)
    function(content["state_dict"])
    torch.save(content, path)


def zip_bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(10**8))


def test_half_and_double_precision_convert_too(tmp_path):
    path = tmp_path / "half.pth"
    make_checkpoint(path, narrow_resnet10_shapes())
    change(path, lambda s: s.update({"fc.bias": s["fc.bias"].double(), "fc.weight": s["fc.weight"].half()}))
    convert(path)
    weights = load_checkpoint(tmp_path / "half.pdparams").groups["weights"]
    state_dict = torch.load(path, weights_only=True)["state_dict"]
    np.testing.assert_array_equal(weights["fc.weight"], state_dict["fc.weight"].float().numpy().T)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda p: p.unlink(), "no such checkpoint"),
        (lambda p: p.write_bytes(b""), "not a checkpoint of PyTorch"),
        (lambda p: p.write_text("hello"), "not a checkpoint of PyTorch"),
        (lambda p: p.write_bytes(p.read_bytes()[:5000]), "not a checkpoint of PyTorch"),
        (lambda p: zipfile.ZipFile(p, "w").writestr("a", "b"), "not a checkpoint of PyTorch"),
        (lambda p: zip_bomb(p), "bytes that unpack to 100,000,000"),
        (lambda p: (p.unlink(), p.mkdir()), "a folder, expected a .pth"),
        (lambda p: torch.save({"fc.bias": torch.zeros(1).expand(10**12)}, p), "with all its numbers"),
        (lambda p: torch.save({"fc.bias": torch.zeros(2).to_sparse()}, p), "fc.bias"),
        (lambda p: torch.save({3: torch.zeros(2)}, p), "is not a tensor"),
        (lambda p: change(p, lambda s: s.update({"a\nb": torch.zeros(1)})), "is not a tensor"),
        *(
            (lambda p, d=d: change(p, lambda s: s.update({"fc.bias": s["fc.bias"].to(d)})), f"holds {d}")
            for d in (torch.int64, torch.bool, torch.complex64)
        ),
        (lambda p: change(p, lambda s: s.update({"fc.bias": s["fc.bias"].double() + 1e300})), "not finite"),
        (
            lambda p: change(p, lambda s: s.update({"bn1._mean": s.pop("bn1.running_mean")})),
            "bn1._mean' is a name of Paddle's",
        ),
        (lambda p: torch.save([1, 2], p), "no state dict"),
        (lambda p: torch.save({"state_dict": {"a": 1}}, p), "is not a tensor"),
        (lambda p: torch.save(Evil(p.parent / "was_run"), p), "holds posix.system, which is code"),
        (lambda p: p.write_bytes(pickle.dumps(Evil(p.parent / "was_run"))), "not a checkpoint"),
        (lambda p: change(p, lambda s: s.pop("layer3.0.bn1.bias")), "layer3.0.bn1.bias is missing"),
        (lambda p: change(p, lambda s: s.update(odd=torch.zeros(1))), "odd is not the network's"),
        (
            lambda p: change(p, lambda s: s.update({"bn1.weight": torch.zeros(3)})),
            "bn1.weight is [3], not [16]",
        ),
        (lambda p: change(p, lambda s: s["fc.bias"].fill_(float("nan"))), "fc.bias is not finite"),
    ],
)
def test_what_is_no_checkpoint_is_refused_by_name_and_not_run(tmp_path, spoil, message):
    path = tmp_path / "bad.pth"
    make_checkpoint(path, narrow_resnet10_shapes())
    spoil(path)
    with pytest.raises(UserError) as refusal:
        convert(path)
    assert message in str(refusal.value) and "bad.pth" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "bad.pdparams").exists() and not (tmp_path / "was_run").exists()


def test_a_mistake_is_one_line_on_stderr_and_exit_code_1(tmp_path, run_script):
    (tmp_path / "bad.pth").write_text("hello")
    code, out, err = run_script("convert_to_paddle.py", "bad.pth", cwd=tmp_path)
    assert (code, out) == (1, "")
    assert err.startswith("error: bad.pth: not a checkpoint of PyTorch") and err.count("\n") == 1


def test_a_network_that_differs_is_not_written(tmp_path, monkeypatch, capsys):
    path = tmp_path / "r3d.pth"
    make_checkpoint(path, narrow_resnet10_shapes())
    from model import torch_forward

    whole = torch_forward.logits
    monkeypatch.setattr(torch_forward, "logits", lambda *arguments: whole(*arguments) + 0.1)
    with pytest.raises(UserError, match="^[^:]*r3d.pth: the networks differ, nothing was written$"):
        convert(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["r3d.pth"]
    convert(path, "--no_verify")
    assert (tmp_path / "r3d.pdparams").exists()


def test_a_path_is_named_once_whatever_goes_wrong(tmp_path, run_script):
    # One whose name is the beginning of every message.
    path = tmp_path / "not"
    path.write_text("hello")
    code, _, err = run_script("convert_to_paddle.py", "not", "out.pdparams", cwd=tmp_path)
    assert code == 1 and err.startswith("error: not: not a checkpoint of PyTorch")
    make_checkpoint(path, narrow_resnet10_shapes())
    (tmp_path / "taken").write_text("a file, not a folder")
    code, out, err = run_script("convert_to_paddle.py", "not", "taken/out.pdparams", cwd=tmp_path)
    assert code == 1 and err.startswith("error: ") and err.count("\n") == 1
    assert "not:" not in err and "taken" in err


@pytest.mark.parametrize(
    "name, arguments, text",
    [
        ("resnet2p1d", {"model_depth": 18, "resnet_widen_factor": 0.125}, "R(2+1)D-18, shortcut B"),
        ("resnet2p1d", {"resnet_widen_factor": 0.125, "resnet_shortcut": "A"}, "R(2+1)D-50, shortcut A"),
        ("wideresnet", {"wide_resnet_k": 1, "conv1_width": 16}, "-50, shortcut B, k 1, conv1 16 wide"),
        ("preresnet", {"model_depth": 10, "resnet_shortcut": "A"}, "Pre-activation ResNet3D-10, shortcut A"),
        ("resnext", {"resnext_cardinality": 2, "conv1_width": 64}, "shortcut B, cardinality 2, conv1 64"),
        ("densenet", {"model_depth": 121, "conv1_t_size": 3}, "DenseNet3D-121"),
    ],
)
def test_other_families_convert_and_are_verified(tmp_path, capsys, name, arguments, text):
    spec = networks.checked(NetworkSpec(name, arguments), "here")
    make_checkpoint(tmp_path / "net.pth", torch_shapes(spec), n_classes=5)
    convert(tmp_path / "net.pth")
    out = capsys.readouterr().out
    assert text in out and ", 5 classes" in out
    assert float(out.split("PyTorch to Paddle: ")[1].split()[0]) < 1e-5
    metadata = load_checkpoint(tmp_path / "net.pdparams").metadata
    assert metadata.network == spec.replace(n_classes=5)


def test_the_wide_resnet_of_2018_has_its_own_first_convolution(tmp_path, capsys):
    shapes = golden("family_state_dict_shapes.json")["wideresnet50_2018"]
    narrow = {name: [max(1, n // 2) if n >= 128 else n for n in shape] for name, shape in shapes.items()}
    make_checkpoint(tmp_path / "wide.pth", narrow, n_classes=3)
    convert(tmp_path / "wide.pth", "--no_verify")
    assert "Wide ResNet3D-50, shortcut B, k 1, 3 classes" in capsys.readouterr().out  # 64 is the stage's
    make_checkpoint(tmp_path / "wide.pth", shapes, n_classes=3)
    convert(tmp_path / "wide.pth", "--no_verify")
    assert "k 2, conv1 64 wide, 3 classes" in capsys.readouterr().out
    found = load_checkpoint(tmp_path / "wide.pdparams").metadata.network
    assert found == spec_of_key("wideresnet50_2018", 3)


def test_only_what_reads_or_writes_a_pth_imports_torch():
    rooms = ("run", "datasets", "model", "prediction", "report", "tools")
    sources = [*ROOT.glob("*.py"), *(path for room in rooms for path in (ROOT / room).rglob("*.py"))]
    importing = {
        str(path.relative_to(ROOT))
        for path in sources
        if re.search(r"^ *(import|from) torch\b", path.read_text(), re.MULTILINE)
    }
    forwards = {name for name in importing if name.startswith("model/torch_forward/")}
    assert forwards and importing - forwards == {"model/torch_checkpoint.py"}


def small_state_dict():
    net = network(10, 3, resnet_widen_factor=0.125, conv1_t_size=3)
    return {name: torch.from_numpy(array) for name, array in to_torch(weights_of(net)).items()}


def saved(path, content):
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    "wrap, told",
    [
        (lambda s: {"state_dict": {f"module.module.{k}": v for k, v in s.items()}}, "module.module."),
        (lambda s: {"state_dict": {f"_orig_mod.{k}": v for k, v in s.items()}}, "_orig_mod."),
        (lambda s: {f"net.backbone.{k}": v for k, v in s.items()}, "net.backbone."),
        (lambda s: {"model": s, "optimizer": {"state": {}, "param_groups": []}}, "from the key model"),
        (lambda s: {"epoch": 3, "model_state": s}, "from the key model_state"),
        (lambda s: {"state_dict": s, "args": argparse.Namespace(lr=1)}, "argparse.Namespace beside"),
        (lambda s: {"state_dict": s, "best": np.float64(0.5)}, "multiarray.scalar, numpy.dtype"),
        (
            lambda s: {k: torch.nn.Parameter(v) if v.is_floating_point() else v for k, v in s.items()},
            "does not tell conv1's stride",
        ),
    ],
)
def test_weights_that_other_programs_saved_are_converted_with_a_note(tmp_path, run_script, wrap, told):
    state_dict = small_state_dict()
    plain = saved(tmp_path / "plain.pth", {"state_dict": state_dict})
    other = saved(tmp_path / "other.pth", wrap(state_dict))
    for path in (plain, other):
        code, _, err = run_script("convert_to_paddle.py", path, path.with_suffix(".pdparams"), "--no_verify")
        assert code == 0, err
    assert told in err
    a, b = (load_checkpoint(path.with_suffix(".pdparams")).groups["weights"] for path in (plain, other))
    assert a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)


def test_of_several_state_dicts_one_is_asked_for(tmp_path, run_script):
    state_dict = small_state_dict()
    ema = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in state_dict.items()}
    path = saved(tmp_path / "two.pth", {"state_dict": state_dict, "state_dict_ema": ema})
    code, _, err = run_script("convert_to_paddle.py", path, "--no_verify")
    assert code == 1 and "2 state dicts, state_dict, state_dict_ema; name one with --key" in err
    code, _, err = run_script("convert_to_paddle.py", path, "--no_verify", "--key", "ema")
    assert code == 1 and "holds no ema; there are state_dict, state_dict_ema" in err
    code, _, err = run_script("convert_to_paddle.py", path, "--no_verify", "--key", "state_dict_ema")
    weights = load_checkpoint(path.with_suffix(".pdparams")).groups["weights"]
    assert code == 0 and (weights["conv1.weight"] == ema["conv1.weight"].numpy()).all()


@pytest.mark.parametrize(
    "content, told",
    [
        (b"\n<!DOCTYPE html><html>", "a web page and no checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (pickle.dumps({"conv1.weight": np.zeros(1)}, protocol=4), "it begins as Paddle's files do"),
    ],
)
def test_what_is_no_checkpoint_of_pytorch_is_said_in_words(tmp_path, run_script, content, told):
    (tmp_path / "a.pth").write_bytes(content)
    code, _, err = run_script("convert_to_paddle.py", tmp_path / "a.pth")
    assert code == 1 and told in err and err.count("\n") == 1 and "\x1b" not in err


def test_safetensors_are_read(tmp_path, run_script):
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    safetensors.save_file(small_state_dict(), tmp_path / "a.safetensors")
    code, _, err = run_script("convert_to_paddle.py", tmp_path / "a.safetensors", "--no_verify")
    assert code == 0 and (tmp_path / "a.pdparams").exists(), err
    (tmp_path / "b.safetensors").write_bytes(b"no tensors here")
    code, _, err = run_script("convert_to_paddle.py", tmp_path / "b.safetensors")
    assert code == 1 and "not a .safetensors file" in err and err.count("\n") == 1


def test_what_leaves_no_trace_can_be_given(tmp_path, run_script):
    path = saved(tmp_path / "a.pth", {"state_dict": small_state_dict()})
    arguments = "--no_max_pool --conv1_t_stride 2 --sample_size 64 --mean_dataset activitynet".split()
    code, _, err = run_script("convert_to_paddle.py", path, *arguments)
    assert (code, err) == (0, "")
    metadata = load_checkpoint(tmp_path / "a.pdparams").metadata
    assert metadata.network.arguments["no_max_pool"] and metadata.network.arguments["conv1_t_stride"] == 2
    assert metadata.clip.sample_size == 64 and metadata.clip.mean_dataset == "activitynet"


def test_a_file_of_2018_gets_the_pixels_that_it_was_trained_on(tmp_path):
    make_checkpoint(tmp_path / "net.pth", narrow_resnet10_shapes(), n_classes=3)
    convert(tmp_path / "net.pth", "--mean_dataset", "2018")
    clip = load_checkpoint(tmp_path / "net.pdparams").metadata.clip
    pixels = np.random.default_rng(0).integers(0, 256, (1, 2, 4, 4, 3), np.uint8)
    expected = pixels.transpose(0, 4, 1, 2, 3) - np.reshape([114.7748, 107.7354, 99.475], (1, 3, 1, 1, 1))
    np.testing.assert_allclose(normalise(pixels, clip).numpy(), expected, atol=1e-4)


def test_a_round_trip_through_pth_keeps_the_clip_spec_and_the_class_names(tmp_path, run_script):
    net = network(10, 3, resnet_widen_factor=0.125, conv1_t_size=3, no_max_pool=True)
    metadata = Metadata(net.spec, ClipSpec(sample_size=32, sample_duration=8), ["a", "b", "c"])
    save_checkpoint(tmp_path / "a.pdparams", {"weights": weights_of(net)}, metadata)
    code, _, err = run_script("tools/export_model.py", tmp_path / "a.pdparams", "--to", "torch")
    assert code == 0, err
    code, _, err = run_script("convert_to_paddle.py", tmp_path / "a.pth", tmp_path / "b.pdparams")
    assert (code, err) == (0, "")
    assert load_checkpoint(tmp_path / "b.pdparams").metadata == metadata


def test_paddle_weights_in_place_of_a_pth_are_told_what_they_are(tmp_path, run_script):
    (tmp_path / "w.pdparams").write_bytes(pickle.dumps({"conv1.weight": 1}, 4))
    code, _, err = run_script("convert_to_paddle.py", "w.pdparams", cwd=tmp_path)
    assert code == 1 and "begins as Paddle's files do, which need no conversion" in err
