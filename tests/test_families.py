"""Each family of networks through stages 2 to 5 and the exports; a new one is two new files."""
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from golden_networks import torch_shapes
from moving_shapes import make_checkpoint

from model import networks
from run.spec import NetworkSpec

torch = pytest.importorskip("torch")

# Another head, other stages, a grouped convolution with a bias, no depth.
NETWORK = '''"""A network of two convolutions."""
import paddle.nn as nn

from model.layers import StagedNetwork

NAME = "tiny"
TITLE = "TinyNet"
OPTIONS = {
    "n_classes": {"type": "int", "default": 101, "low": 1},
    "n_input_channels": {"type": "int", "default": 3, "low": 1},
    "tiny_width": {"type": "int", "default": 8, "low": 2, "help": "channels, an even number"},
}


class TinyNet(StagedNetwork):
    head = "classifier"
    fine_tune_from = "second"

    def __init__(self, n_classes, n_input_channels, tiny_width):
        super().__init__(n_input_channels)
        self.norm = nn.BatchNorm3D(tiny_width)
        self.second = nn.Conv3D(tiny_width, 2 * tiny_width, 3, groups=2, padding=1)
        self.first = nn.Conv3D(n_input_channels, tiny_width, 3, stride=2, padding=1)
        self.relu, self.pool, self.flatten = nn.ReLU(), nn.AdaptiveAvgPool3D(1), nn.Flatten()
        self.classifier = nn.Linear(2 * tiny_width, n_classes)

    def stages(self):
        return {
            "first": [self.first],
            "norm": [self.norm, self.relu],
            "second": [self.second, self.relu, self.pool, self.flatten],
            "classifier": [self.classifier],
        }


def arguments_of(shapes):
    if not {"first.weight", "classifier.weight"} <= set(shapes):
        return None
    width, n_input_channels, *_ = shapes["first.weight"]
    n_classes = shapes["classifier.weight"][1]
    return {"n_classes": n_classes, "n_input_channels": n_input_channels, "tiny_width": width}


def describe(arguments):
    return f"TinyNet, {arguments['tiny_width']} wide"
'''
FORWARD = '''"""TinyNet with PyTorch's functions."""
import torch.nn.functional as F

NAME = "tiny"


def logits(tensors, clips, arguments):
    t = lambda name: tensors[name]
    x = F.conv3d(clips, t("first.weight"), t("first.bias"), stride=2, padding=1)
    x = F.batch_norm(x, *(t(f"norm.{n}") for n in ("running_mean", "running_var", "weight", "bias")))
    x = F.relu(F.conv3d(F.relu(x), t("second.weight"), t("second.bias"), padding=1, groups=2))
    return F.linear(x.mean((2, 3, 4)), t("classifier.weight"), t("classifier.bias"))
'''
TINY_SHAPES = {
    "first.weight": [6, 3, 3, 3, 3],
    "first.bias": [6],
    **{f"norm.{name}": [6] for name in ("weight", "bias", "running_mean", "running_var")},
    "norm.num_batches_tracked": [],
    "second.weight": [12, 3, 3, 3, 3],
    "second.bias": [12],
    "classifier.weight": [39, 12],
    "classifier.bias": [39],
}
SMALL = "--sample_size 32 --sample_duration 8 --batch_size 4 --n_threads 0 --n_epochs 1".split()


def run(program, *arguments, cwd):
    """Run a program of a checkout; return its stdout."""
    command = [sys.executable, str(program), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return done.stdout


def through_all_stages(checkout, folder, description, *training, exports=("torch", "inference")):
    """Convert net.pth, fine-tune it, test and evaluate, export; return the tensors that were exported."""
    out = run(checkout / "convert_to_paddle.py", "net.pth", cwd=folder)
    assert out.startswith(f"net.pth: {description}, 39 classes")
    assert float(out.split("PyTorch to Paddle: ")[1].split()[0]) < 1e-5
    run(checkout / "train.py", "--pretrain_path", "net.pdparams", *SMALL, *training, cwd=folder)
    run(checkout / "test.py", cwd=folder)
    accuracy = run(checkout / "eval_accuracy.py", cwd=folder)
    assert accuracy and len(json.loads((folder / "results/val.json").read_text())["results"]) == 4
    for to in exports:
        other = {"torch": "PyTorch", "inference": "Paddle Inference"}[to]
        out = run(checkout / "tools/export_model.py", "--to", to, cwd=folder)
        assert out.startswith(f"results/best.pdparams: {description}, 2 classes")
        assert float(out.split(f"Paddle to {other}: ")[1].split()[0]) < 2e-5
    return torch.load(folder / "results/best.pth", weights_only=True)


def unchanged(before, after):
    """Return the names of the tensors that a training left as they were."""
    return {name for name in before if torch.equal(before[name], after[name])}


@pytest.mark.parametrize(
    "name, arguments, description, training",
    [
        (
            "resnet2p1d",
            {"model_depth": 18, "resnet_widen_factor": 0.125},
            "R(2+1)D-18, shortcut B, widen factor 0.125",
            [],
        ),
        (
            "wideresnet",
            {"wide_resnet_k": 1, "conv1_width": 16, "conv1_t_size": 3},
            "Wide ResNet3D-50, shortcut B, k 1, conv1 16 wide",
            ["--ft_begin_module", "fc"],  # the rest has 40 million parameters
        ),
        (
            "preresnet",
            {"model_depth": 10, "resnet_shortcut": "A"},
            "Pre-activation ResNet3D-10, shortcut A",
            ["--ft_begin_module", "fc"],
        ),
        (
            "resnext",
            {"conv1_width": 64},
            "ResNeXt3D-50, shortcut B, cardinality 32, conv1 64 wide",
            ["--ft_begin_module", "fc"],
        ),
        (
            "densenet",
            {"model_depth": 121},
            "DenseNet3D-121",
            ["--ft_begin_module", "classifier", "--sample_duration", "16", "--sample_size", "32"],
        ),
    ],
)
def test_a_family_goes_through_all_stages(small_set, name, arguments, description, training):
    spec = networks.checked(NetworkSpec(name, arguments), "here")
    make_checkpoint(small_set / "net.pth", torch_shapes(spec))
    before = torch.load(small_set / "net.pth", weights_only=True)["state_dict"]
    # Of the large one what proves most: a pass through PyTorch.
    exports = ("torch",) if training else ("torch", "inference")
    content = through_all_stages(ROOT, small_set, description, *training, exports=exports)
    assert content["arch"] == f"{name}-{spec.arguments['model_depth']}"
    after = content["state_dict"]
    assert [tensor for tensor in after if not tensor.endswith("tracked")] == list(before)
    heads = ("fc.", "classifier.")
    trained = {tensor for tensor in before if tensor.startswith(heads if training else ("fc.", "layer4."))}
    statistics = {tensor for tensor in before if "running" in tensor}
    assert unchanged(before, after) - statistics == set(before) - trained - statistics


def test_a_new_family_is_one_file_and_one_for_its_forward(small_set):
    checkout = small_set / "checkout"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "demo", "docs", "benchmarks", "tests")
    shutil.copytree(ROOT, checkout, ignore=ignored)
    (checkout / "model/networks/tiny_net.py").write_text(NETWORK)
    (checkout / "model/torch_forward/tiny_net.py").write_text(FORWARD)
    assert "--tiny_width" in run(checkout / "train.py", "--help", cwd=small_set)
    make_checkpoint(small_set / "net.pth", TINY_SHAPES)
    content = torch.load(small_set / "net.pth", weights_only=True)
    content["state_dict"]["norm.running_mean"] += 0.3
    torch.save(content, small_set / "net.pth")

    exported = through_all_stages(checkout, small_set, "TinyNet, 6 wide")
    assert exported["arch"] == "tiny" and list(exported["state_dict"])[0] == "norm.weight"
    same = unchanged(content["state_dict"], exported["state_dict"])
    assert same == {"first.weight", "first.bias", "norm.weight", "norm.bias", "norm.num_batches_tracked"}
    # From scratch, and the features of a network whose head is another.
    scratch = ["--pretrain_path", "none", "--model", "tiny", "--tiny_width", 4, *SMALL]
    run(checkout / "train.py", *scratch, "--result_path", "scratch", cwd=small_set)
    best = ["--resume_path", "scratch/best.pdparams", "--features", "features.npz"]
    run(checkout / "test.py", *best, cwd=small_set)
    with np.load(small_set / "features.npz") as arrays:
        assert arrays["clip_features"].shape[1] == 8
