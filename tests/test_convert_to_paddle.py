"""The converter on checkpoints in each released layout, and on files that are none."""
import os
import pickle
import zipfile

import numpy as np
import pytest
from conftest import golden

from model.checkpoint import load_checkpoint
from model.weights import from_torch

torch = pytest.importorskip("torch")

from moving_shapes import make_checkpoint, narrow_resnet10_shapes

from convert_to_paddle import main
from opts import UserError, convert_options


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
    weights = load_checkpoint(tmp_path / "r3d.pdparams").weights
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
    assert load_checkpoint(path.with_suffix(".pdparams")).facts["model"]["n_classes"] == 39


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
    weights = load_checkpoint(tmp_path / "half.pdparams").weights
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
        (lambda p: torch.save(Evil(p.parent / "was_run"), p), "not a checkpoint of PyTorch"),
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


def test_only_the_converter_imports_torch():
    from conftest import ROOT

    sources = [*ROOT.glob("*.py"), *ROOT.glob("model/*.py"), *ROOT.glob("datasets/*.py")]
    importing = [path.name for path in sources if "import torch" in path.read_text()]
    assert importing == ["convert_to_paddle.py"]
