"""The released weights: each is recognised by its tensors, and by its name if these do not tell."""
import numpy as np
import pytest
from conftest import golden
from golden_networks import of_2018, spec_of_key, torch_shapes
from moving_shapes import make_checkpoint

from convert_to_paddle import described, released_as
from model import networks
from model.checkpoint import load_checkpoint
from run.released import released_files
from run.spec import ClipSpec, Given, NetworkSpec

FILES = {row.file: row for row in released_files()}
COUNTER = "bn1.num_batches_tracked"


def shapes_of(row):
    spec = NetworkSpec(row.model, {**row.arguments, "n_classes": row.n_classes})
    return networks.shapes_of(networks.checked(spec, row.file))


def found(row, file_name, is_counted=None):
    is_counted = row.is_counted if is_counted is None else is_counted
    names = [COUNTER] if is_counted else []
    return [each.file for each in released_as(networks.recognise(shapes_of(row)), names, file_name)]


@pytest.mark.parametrize("row", FILES.values(), ids=FILES)
def test_a_released_file_is_known_by_its_tensors_and_its_name(row):
    assert found(row, row.file) == [row.file]
    assert found(row, row.file.replace(".pth", " (1).pth")) == [row.file]  # as a browser saves a second copy
    renamed = found(row, "weights.pth")
    if row.n_classes < 400:  # anyone's network of so few classes has these tensors
        assert renamed == []
    else:
        assert row.file in renamed
        assert all(FILES[name].mean_dataset == row.mean_dataset for name in renamed)


@pytest.mark.parametrize(
    "file, key",
    [
        ("resnet-18-kinetics.pth", "resnet18_A"),
        ("resnet-34-kinetics.pth", "resnet34_A"),
        ("resnet-152-kinetics.pth", "resnet152"),
        ("preresnet-200-kinetics.pth", "preresnet200"),
        ("wideresnet-50-kinetics.pth", "wideresnet50_2018"),
        ("resnext-101-64f-kinetics.pth", "resnext101_2018"),
        ("densenet-121-kinetics.pth", "densenet121_2018"),
        ("densenet-201-kinetics.pth", "densenet201_2018"),
        ("r3d200_K_200ep.pth", "resnet200"),
        ("r2p1d34_K_200ep.pth", "resnet2p1d34"),
    ],
)
def test_the_network_of_a_released_file_is_the_references(file, key):
    row, counts = FILES[file], golden("parameter_counts.json")[key]
    shapes = shapes_of(row)
    learnt = [s for name, s in shapes.items() if not name.endswith(("._mean", "._variance"))]
    assert sum(int(np.prod(s)) for s in learnt) == counts[str(row.n_classes)]
    assert networks.recognise(shapes) == spec_of_key(key, row.n_classes)


def test_weights_trained_by_somebody_are_taken_for_no_release():
    assert found(FILES["resnet-101-kinetics-ucf101_split1.pth"], "best.pth", is_counted=True) == []
    assert found(FILES["resnet-50-kinetics.pth"], "mine.pth", is_counted=True) == []  # torch of today
    assert found(FILES["r3d50_KM_200ep.pth"], "r3d50_K_200ep.pth") == ["r3d50_KM_200ep.pth"]  # 1,039 classes


def test_64_frames_are_told_by_the_name_and_asked_for_without():
    row = FILES["resnext-101-64f-kinetics.pth"]
    shapes = shapes_of(row)
    network = networks.recognise(shapes)
    files = released_as(network, [], row.file)
    clip = described(network, shapes, None, files, Given()).clip
    assert (clip.sample_duration, clip.mean_dataset, clip.scale) == (64, "2018", 1.0)
    files = released_as(network, [], "weights.pth")
    assert [each.sample_duration for each in files] == [16, 64]
    clip = described(network, shapes, None, files, Given(clip={"sample_duration": 64})).clip
    assert (clip.sample_duration, clip.mean_dataset) == (64, "2018")


def test_a_file_of_2018_converts_with_its_pixels_and_class_names(tmp_path, run_script):
    torch = pytest.importorskip("torch")
    path = tmp_path / "densenet-121-kinetics.pth"
    row = FILES[path.name]
    spec = networks.checked(NetworkSpec(row.model, {**row.arguments, "n_classes": 400}), "here")
    make_checkpoint(path, {of_2018(name): shape for name, shape in torch_shapes(spec).items()}, 400)
    content = torch.load(path, weights_only=True)
    content["state_dict"] = {f"module.{name}": tensor for name, tensor in content["state_dict"].items()}
    torch.save(content, path)
    code, out, err = run_script("convert_to_paddle.py", path, "--no_verify")
    assert (code, err) == (0, "")
    assert "taken for the released densenet-121-kinetics.pth, of Kinetics-400" in out
    assert "pixels 0 to 255, less (114.775, 107.735, 99.475)" in out and "70.8 %" in out
    metadata = load_checkpoint(path.with_suffix(".pdparams")).metadata
    assert metadata.clip == ClipSpec(mean=(114.7748, 107.7354, 99.475), std=(1.0,) * 3, scale=1.0)
    assert len(metadata.class_names) == 400 and metadata.class_names[:2] == ["abseiling", "air drumming"]


def test_the_list_of_released_files_is_printed_at_once(run_script):
    code, out, err = run_script("convert_to_paddle.py", "--list")
    assert (code, err) == (0, "")
    assert all(f"  {file}\n" in out for file in FILES)
    assert max(map(len, out.splitlines()[1:])) <= 90  # an address is not broken
    assert out.count("drive.google.com") == 2 and "No checksum was published" in out


def test_each_file_stands_once_and_the_class_names_are_kinetics():
    assert len(released_files()) == len(FILES) == 42
    names = FILES["resnet-50-kinetics.pth"].class_names()
    assert len(set(names)) == 400 and names == sorted(names)
