"""Checkpoints: what is written is read, what is not data is refused."""
import os
import pickle
import tracemalloc

import numpy as np
import paddle
import pytest

from model.checkpoint import (
    DEFAULT_INPUT,
    load_checkpoint,
    load_network,
    newest_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)
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


def test_the_network_of_a_checkpoint_evaluates_with_its_weights(tmp_path):
    path = tmp_path / "a.pdparams"
    save_checkpoint(path, weights_of(NET), FACTS)
    net, facts = load_network(path)
    assert facts == FACTS and not net.training and not net.layer4[0].bn1.training
    for name, array in weights_of(net).items():
        np.testing.assert_array_equal(array, weights_of(NET)[name])


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda w: w.pop("bn1.bias"), "bn1.bias is missing"),
        (lambda w: w.update(more=np.zeros(2, np.float32)), "more is not the network's"),
        (lambda w: w["fc.bias"].fill(np.nan), "fc.bias is not finite"),
    ],
)
def test_weights_that_are_not_the_networks_make_none(tmp_path, change, told):
    weights = {name: array.copy() for name, array in weights_of(NET).items()}
    change(weights)
    save_checkpoint(tmp_path / "a.pdparams", weights, {})
    with pytest.raises(UserError, match=f"a.pdparams: 1 of .*{told}"):
        load_network(tmp_path / "a.pdparams")


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


FACTS = {
    "model": architecture_of(weights_of(NET)),
    "input": DEFAULT_INPUT,
    "class_names": ["a", "b", "c"],
}


@pytest.mark.parametrize(
    "key, value",
    [
        ("model", {**FACTS["model"], "n_classes": 10**9}),
        ("model", {**FACTS["model"], "resnet_widen_factor": 1000.0}),
        ("model", {**FACTS["model"], "conv1_t_stride": 0}),
        ("model", {**FACTS["model"], "unknown": 1}),
        ("model", None),
        ("input", {**DEFAULT_INPUT, "sample_size": 10**6}),
        ("input", {**DEFAULT_INPUT, "sample_size": "112"}),
        ("input", {}),
        ("class_names", ["a", "b"]),
        ("class_names", ["a", "b", 3]),
    ],
)
def test_facts_that_do_not_belong_to_the_weights_are_refused(tmp_path, key, value):
    path = tmp_path / "a.pdparams"
    save_checkpoint(path, weights_of(NET), FACTS)
    assert load_checkpoint(path).facts == FACTS
    save_checkpoint(path, weights_of(NET), {**FACTS, key: value})
    with pytest.raises(UserError, match="a.pdparams: facts@@ is"):
        load_checkpoint(path)


def test_facts_nested_too_deeply_are_refused(tmp_path):
    path = tmp_path / "a.pdparams"
    path.write_bytes(pickle.dumps({**weights_of(NET), "facts@@": "[" * 100_000}, protocol=4))
    with pytest.raises(UserError, match="facts@@ is broken"):
        load_checkpoint(path)


def test_a_network_may_have_what_leaves_no_trace_in_the_weights(tmp_path):
    # What train.py writes where only some options were given.
    model = {"model_depth": 10, "n_classes": 3, "resnet_widen_factor": 0.125, "conv1_t_size": 3}
    facts = {**FACTS, "model": {**model, "conv1_t_stride": 2, "no_max_pool": True}}
    for each in (facts, {**FACTS, "model": model}):
        save_checkpoint(tmp_path / "a.pdparams", weights_of(NET), each)
        assert load_checkpoint(tmp_path / "a.pdparams").facts == each


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_every_protocol_of_paddle_save_is_read(tmp_path, protocol):
    path = tmp_path / "a.pdparams"
    paddle.save(NET.state_dict(), str(path), protocol=protocol)
    read = load_checkpoint(path).weights
    for name, array in weights_of(NET).items():
        np.testing.assert_array_equal(read[name], array)


def test_an_optimizers_state_is_refused_in_one_line(tmp_path):
    net = paddle.nn.Linear(2, 3)
    rate = paddle.optimizer.lr.StepDecay(0.1, 1)
    optimizer = paddle.optimizer.Momentum(rate, parameters=net.parameters())
    net(paddle.zeros([1, 2])).sum().backward()
    optimizer.step()
    paddle.save(optimizer.state_dict(), str(tmp_path / "a.pdopt"))
    with pytest.raises(UserError, match="a.pdopt: an optimizer's state; give the .pdparams") as error:
        load_checkpoint(tmp_path / "a.pdopt")
    assert "\n" not in str(error.value)


def test_arrays_are_read_in_fortrans_order_and_the_other_byte_order_too(tmp_path):
    weights = weights_of(NET)
    weights["fc.weight"] = np.asfortranarray(weights["fc.weight"])
    weights["fc.bias"] = weights["fc.bias"].astype(">f4")
    (tmp_path / "a.pdparams").write_bytes(pickle.dumps(weights, protocol=4))
    read = load_checkpoint(tmp_path / "a.pdparams").weights
    for name in weights:
        np.testing.assert_array_equal(read[name], weights[name])
    assert read["fc.bias"].dtype.isnative and read["fc.bias"].flags.writeable


def amplifiers():
    """Return pickles of a megabyte that ask for gigabytes: the memo hands the same bytes to many calls."""
    n, again = 2**20, 2000
    data, length = bytes(n), n.to_bytes(4, "little")
    begin = b"\x80\x04}\x8c\x01x]("
    none = b"J\xff\xff\xff\xff"
    dtype = b"cnumpy\ndtype\n\x8c\x02f4\x89\x88\x87R(K\x03\x8c\x01<NNN" + none * 2 + b"K\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nK\x00\x85C\x01b\x87q\x01R"
    shape = b"J" + (n // 4).to_bytes(4, "little") + b"\x85"
    state = b"(K\x01" + shape + dtype + b"\x89B" + length + data + b"tq\x02b"
    text = b"c_codecs\nencode\nq\x00X" + length + b"a" * n + b"\x8c\x06latin1\x86q\x01R"
    members = b"cbuiltins\ntuple\nq\x00](" + b"N" * 200_000 + b"e\x85q\x01R"
    return {
        "arrays": begin + array + state + b"h\x00h\x01Rh\x02b" * again + b"es.",
        "bytes": begin + text + b"h\x00h\x01R" * again + b"es.",
        "tuples": begin + members + b"h\x00h\x01R" * again + b"es.",
        # A name that is a tuple of 2**60 empty ones.
        "text": b"\x80\x04)" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(60)) + b"\x8c\x01x\x93.",
    }


@pytest.mark.parametrize("kind", amplifiers())
def test_a_file_that_asks_for_far_more_memory_than_its_size_is_refused(tmp_path, kind):
    path = tmp_path / "a.pdparams"
    path.write_bytes(amplifiers()[kind])
    tracemalloc.start()  # numpy's arrays too
    try:
        with pytest.raises(UserError, match="a.pdparams: .*(more memory|makes no array|code and not data)"):
            load_checkpoint(path)
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


def test_a_mark_is_never_kept_as_a_value(tmp_path):
    path = tmp_path / "a.pdparams"
    path.write_bytes(b"\x80\x04(\x94h\x00t.")
    with pytest.raises(UserError, match="a mark in the place of a value"):
        load_checkpoint(path)


def test_a_missing_file_or_a_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="none.pdparams: no such weights"):
        load_checkpoint(tmp_path / "none.pdparams")
    with pytest.raises(UserError, match="a folder"):
        load_checkpoint(tmp_path)


def test_a_folder_stands_for_its_last_epoch(tmp_path):
    for name in ("save_2.pdparams", "save_10_3.pdparams", "best.pdparams", ".save_11.pdparams.1.tmp"):
        (tmp_path / name).touch()
    assert newest_checkpoint(tmp_path).name == "save_10_3.pdparams"
    for name in ("save_10.pdparams", "save_9.pdparams"):
        (tmp_path / name).touch()
    assert newest_checkpoint(tmp_path).name == "save_10.pdparams"
    assert newest_checkpoint(tmp_path / "save_2.pdparams").name == "save_2.pdparams"
    with pytest.raises(UserError, match="no save_<epoch>.pdparams"):
        newest_checkpoint(tmp_path.parent)


def test_old_checkpoints_go_and_the_best_stays(tmp_path):
    for name in ("save_1", "save_2", "save_2_5", "save_10", "save_11_4", "save_11_8", "best"):
        (tmp_path / f"{name}.pdparams").touch()
    prune_checkpoints(tmp_path, keep=2)
    left = {path.stem for path in tmp_path.iterdir()}
    assert left == {"save_2", "save_10", "save_11_8", "best"}
