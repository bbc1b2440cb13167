"""Checkpoints: what is written is read, what is not data is refused."""
import json
import os
import pickle
import tracemalloc

import numpy as np
import paddle
import pytest
from conftest import ROOT, network

from model import networks
from model.checkpoint import Best, Metadata, TrainingState, load_checkpoint, load_network, save_checkpoint
from model.training.run_folder import RunFolder, newest_checkpoint
from model.weights import weights_of
from run.console import UserError
from run.spec import MEANS, ClipSpec, NetworkSpec, Published, Recipe

NET = network(10, 3, resnet_widen_factor=0.125, conv1_t_size=3)
METADATA = Metadata(NET.spec, class_names=["a", "b", "c"])


def weights_only():
    return {"weights": weights_of(NET)}


class Evil:
    """Pickles to a call of os.system that leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "new folder" / "a.pdparams"
    groups = {**weights_only(), "velocity": {"fc.bias": np.arange(3, dtype=np.float32)}}
    metadata = Metadata(
        NET.spec,
        ClipSpec(sample_size=64, mean=(0.1, 0.2, 0.3), frame_rates=(25.0, 25.0, 29.97)),
        ["a", "b", "c"],
        Recipe(ft_begin_module="layer4", multistep_milestones=(3,)),
        "paper2_finetune",
        Published(0.9, "top-1", 10, 3, "a paper"),
        Best(2, 0.5, 1.25),
        TrainingState(3, 1, {"loss": 2.5}, 2, 6, 123, {"last_epoch": 3, "last_lr": 0.1}, {"scale": [32.0]}),
    )
    save_checkpoint(path, groups, metadata)
    read = load_checkpoint(path)
    assert read.metadata == metadata
    assert read.groups.keys() == groups.keys()
    for part, arrays in groups.items():
        assert read.groups[part].keys() == arrays.keys()
        for name in arrays:
            np.testing.assert_array_equal(read.groups[part][name], arrays[name])
    assert [entry.name for entry in path.parent.iterdir()] == ["a.pdparams"]


def test_the_network_of_a_checkpoint_evaluates_with_its_weights(tmp_path):
    path = tmp_path / "a.pdparams"
    save_checkpoint(path, weights_only(), METADATA)
    net, metadata = load_network(path)
    assert metadata == METADATA and not net.training and not net.layer4[0].bn1.training
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
    save_checkpoint(tmp_path / "a.pdparams", {"weights": weights}, METADATA)
    with pytest.raises(UserError, match=f"a.pdparams: .*1 of .*{told}"):
        load_network(tmp_path / "a.pdparams")


def test_paddle_itself_reads_a_checkpoint(tmp_path):
    path = tmp_path / "a.pdparams"
    save_checkpoint(path, {**weights_only(), "velocity": {"fc.bias": np.zeros(3, np.float32)}}, METADATA)
    net = network(10, 3, resnet_widen_factor=0.125, conv1_t_size=3)
    missing, unexpected = net.set_state_dict(paddle.load(str(path)))
    assert missing == [] and set(unexpected) == {"metadata@@", "velocity@@"}
    for name, array in weights_of(net).items():
        np.testing.assert_array_equal(array, weights_of(NET)[name])


@pytest.mark.parametrize("content", [lambda: NET.state_dict(), lambda: dict(NET.named_parameters())])
def test_what_paddle_saves_is_read(tmp_path, content):
    path = tmp_path / "a.pdparams"
    paddle.save(content(), str(path))
    read = load_checkpoint(path)
    assert read.metadata == Metadata(NET.spec)
    np.testing.assert_array_equal(read.groups["weights"]["fc.weight"], NET.fc.weight.numpy())


@pytest.mark.parametrize("place", ["whole", "weight", "velocity@@", "metadata@@", "facts@@"])
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
    save_checkpoint(tmp_path / "whole", weights_only(), METADATA)
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
        lambda whole: pickle.dumps({**weights_of(NET), "metadata@@": "{"}),
        lambda whole: pickle.dumps({**weights_of(NET), "metadata@@": "[]"}),
        lambda whole: pickle.dumps({**weights_of(NET), "metadata@@": {}}),
        lambda whole: pickle.dumps({**weights_of(NET), "velocity@@": 3}),
    ],
)
def test_a_broken_file_is_one_error_with_its_name(tmp_path, content):
    path = tmp_path / "broken.pdparams"
    path.write_bytes(content(whole_file(tmp_path)))
    with pytest.raises(UserError, match="broken.pdparams"):
        load_checkpoint(path)


def changed(*path, value):
    """Return the JSON of a checkpoint that can be resumed, with one value in it replaced, or left out."""
    state = TrainingState(1, 0, {}, 1, 6, 7, {"last_lr": 0.1}, {})
    metadata = Metadata(NET.spec, ClipSpec(), ["a", "b", "c"], Recipe(), None, None, Best(1, 0.5, 1.0), state)
    content = json.loads(json.dumps(metadata.to_json()))
    place = content
    for name in path[:-1]:
        place = place[name]
    if value is LEFT_OUT:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return content


LEFT_OUT = object()


@pytest.mark.parametrize(
    "path, value, told",
    [
        (("network", "arguments", "n_classes"), 10**5, "class_names are not 100000 names"),
        (("network", "arguments", "resnet_widen_factor"), 1000.0, "another network than the weights"),
        (("network", "arguments", "conv1_t_stride"), 0, "conv1_t_stride"),
        (("network", "arguments", "unknown"), 1, "unknown"),
        (("network", "name"), "nothing", "nothing"),
        (("network",), None, "no network"),
        (("network",), LEFT_OUT, "no network"),
        (("clip", "sample_size"), 10**6, "clip: sample_size is 1000000, expected a whole number"),
        (("clip", "sample_size"), "112", "clip: sample_size"),
        (("clip", "mean"), [0.4, 0.4], "3 channels, not a mean of 2"),
        (("clip", "std"), [0.4, 0.4, 0.0], "clip: std"),
        (("clip", "frame_rates"), [25], "clip: frame_rates"),
        (("clip", "colour"), "blue", "clip: unknown field 'colour'"),
        (("class_names",), ["a", "b"], "class_names are not 3 names"),
        (("class_names",), ["a", "b", 3], "class_names are not 3 names"),
        (("recipe", "batch_size"), 0, "recipe: batch_size is 0, expected a whole number, at least 1"),
        (("recipe", "lr_scheduler"), "cosine", "recipe: lr_scheduler is 'cosine', expected one of plateau"),
        (("best", "epoch"), None, "best: epoch is None"),
        (("training", "epoch"), -1, "training: epoch is -1, expected a whole number, at least 0"),
        (("training", "scheduler"), [1], "training: scheduler"),
        (("training", "sums"), {"loss": {}}, "training: sums"),
        (("version",), 3, "of version 3, this program reads up to 2"),
        (("more",), 3, "unknown field 'more'"),
    ],
)
def test_metadata_that_do_not_belong_to_the_weights_are_refused(tmp_path, path, value, told):
    file = tmp_path / "a.pdparams"
    text = json.dumps(changed(*path, value=value))
    file.write_bytes(pickle.dumps({**weights_of(NET), "metadata@@": text}, protocol=4))
    with pytest.raises(UserError, match="a.pdparams: metadata@@") as error:
        load_checkpoint(file)
    assert told in str(error.value)


@pytest.mark.parametrize("key", ["metadata@@", "facts@@"])
def test_metadata_nested_too_deeply_are_refused(tmp_path, key):
    path = tmp_path / "a.pdparams"
    path.write_bytes(pickle.dumps({**weights_of(NET), key: "[" * 100_000}, protocol=4))
    with pytest.raises(UserError, match=f"{key} is broken"):
        load_checkpoint(path)


def test_a_network_may_have_what_leaves_no_trace_in_the_weights(tmp_path):
    spec = NET.spec.replace(conv1_t_stride=2, no_max_pool=True)
    save_checkpoint(tmp_path / "a.pdparams", weights_only(), Metadata(spec))
    assert load_checkpoint(tmp_path / "a.pdparams").metadata.network == spec
    # Arguments at their default may be left out.
    content = {"version": 2, "network": NetworkSpec("resnet", dict(OLD_MODEL)).to_json()}
    path = tmp_path / "b.pdparams"
    path.write_bytes(pickle.dumps({**weights_of(NET), "metadata@@": json.dumps(content)}, protocol=4))
    assert load_checkpoint(path).metadata == Metadata(NET.spec)


OLD_MODEL = {"model_depth": 10, "n_classes": 3, "resnet_widen_factor": 0.125, "conv1_t_size": 3}
LEGACY = ROOT / "tests/legacy"


def test_a_checkpoint_of_version_1_is_read_and_can_be_resumed():
    groups, metadata = load_checkpoint(LEGACY / "save_3.pdparams")
    assert metadata.network == networks.checked(
        NetworkSpec("resnet", {**OLD_MODEL, "n_classes": 4, "resnet_widen_factor": 0.0625}), "here"
    )
    mean, std, _ = MEANS["activitynet"]
    assert metadata.clip == ClipSpec(sample_size=32, sample_duration=8, mean=mean, std=std)
    assert metadata.class_names == ["MoveDown", "MoveUp", "ShapeGrows", "ShapeShrinks"]
    assert metadata.recipe == Recipe(ft_begin_module="layer4", batch_size=4)
    assert metadata.best.epoch == 1 and metadata.best.val_clip_accuracy == 0.25
    state = metadata.training
    assert (state.epoch, state.step, state.n_videos, state.n_ranks, state.data) == (3, 0, 28, 1, None)
    assert state.scheduler["last_epoch"] == 3
    assert set(groups) == {"weights", "velocity"}
    assert {name.split(".")[0] for name in groups["velocity"]} == {"layer4", "fc"}


@pytest.mark.parametrize(
    "spoil, told",
    [
        (lambda facts: facts["run"].pop("scheduler"), "run: no scheduler"),
        (lambda facts: facts["run"].pop("ft_begin_module"), "run: no ft_begin_module"),
        (lambda facts: facts["run"].pop("options"), "run: options: expected an object"),
        (lambda facts: facts["run"]["options"].update(batch_size="4"), "recipe: batch_size is '4'"),
        (lambda facts: facts["input"].update(mean_dataset="imagenet"), "mean_dataset is 'imagenet'"),
        (lambda facts: facts["input"].update(sample_size=0), "clip: sample_size is 0"),
        (lambda facts: facts.update(run=[]), "run: expected an object"),
    ],
)
def test_a_broken_checkpoint_of_version_1_is_one_line(tmp_path, spoil, told):
    content = pickle.loads((LEGACY / "save_3.pdparams").read_bytes())
    facts = json.loads(content["facts@@"])
    spoil(facts)
    content["facts@@"] = json.dumps(facts)
    (tmp_path / "a.pdparams").write_bytes(pickle.dumps(content, protocol=4))
    with pytest.raises(UserError, match="a.pdparams: facts@@: ") as error:
        load_checkpoint(tmp_path / "a.pdparams")
    assert told in str(error.value)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_every_protocol_of_paddle_save_is_read(tmp_path, protocol):
    path = tmp_path / "a.pdparams"
    paddle.save(NET.state_dict(), str(path), protocol=protocol)
    read = load_checkpoint(path).groups["weights"]
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
    read = load_checkpoint(tmp_path / "a.pdparams").groups["weights"]
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
    RunFolder(tmp_path, keep=2, is_writer=True).prune()
    left = {path.stem for path in tmp_path.iterdir()}
    assert left == {"save_2", "save_10", "save_11_8", "best"}
