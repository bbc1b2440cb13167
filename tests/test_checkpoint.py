"""Checkpoints: what is written is read, what is not data is refused."""
import os
import pickle

import numpy as np
import paddle
import pytest

from model.checkpoint import DEFAULT_INPUT, load_checkpoint, newest_checkpoint, save_checkpoint
from model.resnet3d import ResNet3D
from model.weights import architecture_of, weights_of
from opts import UserError

NET = ResNet3D(10, 3, resnet_widen_factor=0.125, conv1_t_size=3)


class Evil:
    """Pickles to a call of os.system that leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "new folder" / "a.pdparams"
    weights, velocity = weights_of(NET), {"fc.bias": np.arange(3, dtype=np.float32)}
    facts = {"model": architecture_of(weights), "input": DEFAULT_INPUT, "class_names": ["a", "b", "c"]}
    save_checkpoint(path, weights, facts, velocity)
    read = load_checkpoint(path)
    assert read.facts == facts
    assert read.weights.keys() == weights.keys() and read.velocity.keys() == velocity.keys()
    for name in weights:
        np.testing.assert_array_equal(read.weights[name], weights[name])
    np.testing.assert_array_equal(read.velocity["fc.bias"], velocity["fc.bias"])
    assert [entry.name for entry in path.parent.iterdir()] == ["a.pdparams"]


def test_paddle_itself_reads_a_checkpoint(tmp_path):
    path = tmp_path / "a.pdparams"
    save_checkpoint(path, weights_of(NET), {"class_names": None}, {"fc.bias": np.zeros(3, np.float32)})
    net = ResNet3D(10, 3, resnet_widen_factor=0.125, conv1_t_size=3)
    missing, unexpected = net.set_state_dict(paddle.load(str(path)))
    assert missing == [] and set(unexpected) == {"facts@@", "velocity@@"}
    for name, array in weights_of(net).items():
        np.testing.assert_array_equal(array, weights_of(NET)[name])


@pytest.mark.parametrize("content", [lambda: NET.state_dict(), lambda: dict(NET.named_parameters())])
def test_what_paddle_saves_is_read(tmp_path, content):
    path = tmp_path / "a.pdparams"
    paddle.save(content(), str(path))
    read = load_checkpoint(path)
    assert read.facts["model"] == architecture_of(weights_of(NET))
    assert read.facts["input"] == DEFAULT_INPUT
    np.testing.assert_array_equal(read.weights["fc.weight"], NET.fc.weight.numpy())


@pytest.mark.parametrize("place", ["whole", "weight", "velocity@@", "facts@@"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path, place):
    mark, path = tmp_path / "was_run", tmp_path / "a.pdparams"
    evil = Evil(mark)
    content = evil if place == "whole" else {**weights_of(NET), place: evil}
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match="a.pdparams.*was not run"):
        load_checkpoint(path)
    assert not mark.exists()
    pickle.loads(path.read_bytes())  # Python's own reader does run it
    assert mark.exists()


def whole_file(tmp_path):
    save_checkpoint(tmp_path / "whole", weights_of(NET), {})
    return (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize(
    "content",
    [
        lambda whole: b"",
        lambda whole: b"not a pickle",
        lambda whole: whole[: len(whole) // 2],
        lambda whole: pickle.dumps([1, 2]),
        lambda whole: pickle.dumps({"conv1.weight": "text"}),
        lambda whole: pickle.dumps({"conv1.weight": np.array([object()])}),
        lambda whole: pickle.dumps({**weights_of(NET), "facts@@": "{"}),
        lambda whole: pickle.dumps({**weights_of(NET), "facts@@": "[]"}),
        lambda whole: pickle.dumps({**weights_of(NET), "velocity@@": 3}),
    ],
)
def test_a_broken_file_is_one_error_with_its_name(tmp_path, content):
    path = tmp_path / "broken.pdparams"
    path.write_bytes(content(whole_file(tmp_path)))
    with pytest.raises(UserError, match="broken.pdparams"):
        load_checkpoint(path)


def test_a_missing_file_or_a_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="none.pdparams: no such weights"):
        load_checkpoint(tmp_path / "none.pdparams")
    with pytest.raises(UserError, match="a folder"):
        load_checkpoint(tmp_path)


def test_a_folder_stands_for_its_last_epoch(tmp_path):
    for name in ("save_2.pdparams", "save_10.pdparams", "best.pdparams", ".save_11.pdparams.1.tmp"):
        (tmp_path / name).touch()
    assert newest_checkpoint(tmp_path).name == "save_10.pdparams"
    assert newest_checkpoint(tmp_path / "save_2.pdparams").name == "save_2.pdparams"
    with pytest.raises(UserError, match="no save_<epoch>.pdparams"):
        newest_checkpoint(tmp_path.parent)
