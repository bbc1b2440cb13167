"""Bad weight files, and the judge of what is made of them; for `bad_files.py`."""
import io
import itertools
import json
import pickle
import pickletools
from pathlib import Path

import numpy as np
from bad_pickles import HUGE, malicious_values, text_opcode
from spoiling import refusal, with_changed_bytes, with_strange_value

from run.console import UserError

LEGACY = Path(__file__).resolve().parent / "legacy/save_3.pdparams"


def small_spec():
    """Return the spec of the narrowest ResNet3D-10: 25 kB."""
    from model import networks
    from run.spec import NetworkSpec

    arguments = {"model_depth": 10, "n_classes": 2, "resnet_widen_factor": 1 / 64, "conv1_t_size": 1}
    return networks.checked(NetworkSpec("resnet", arguments), "small")


def small_weights():
    """Return the weights of the network of `small_spec`."""
    from model import networks
    from model.weights import weights_of

    return weights_of(networks.build(small_spec()))


def _described(spec):
    """Return what a checkpoint in mid-training says of its weights, in both versions, by its key."""
    from model.checkpoint import Best, Metadata, TrainingState
    from model.data_pickle import DataReader
    from run.spec import ClipSpec, Published, Recipe

    facts = json.loads(DataReader(LEGACY.read_bytes()).read()["facts@@"])  # as version 1 wrote them
    older = ("model_depth", "n_classes", "resnet_shortcut", "resnet_widen_factor", "conv1_t_size",
             "conv1_t_stride", "no_max_pool")  # fmt: skip
    facts["model"] = {name: spec.arguments[name] for name in older}
    facts["class_names"] = ["a", "b"]
    state = TrainingState(
        3, 2, {"loss": 1.5}, 1, 28, 7, {"last_lr": 0.003, "last_epoch": 3}, {"scale": 2.0}
    )
    published = Published(0.929, "top-1", 3783, 101, "paper")
    metadata = Metadata(
        spec, ClipSpec(frame_rates=(25, 25, 29.97)), ["a", "b"], Recipe(), "r", published, Best(2), state
    )
    return {"facts@@": facts, "metadata@@": metadata.to_json()}


def bad_weights(rng, n):
    """Yield `n` spoilt `.pdparams` files as bytes; the first ones are the malicious ones, once each."""
    weights, described = small_weights(), _described(small_spec())
    files = itertools.chain(_malicious(rng, weights), _spoilt(rng, weights, described))
    yield from itertools.islice(files, n)


def _malicious(rng, weights):
    """Yield each malicious value by itself and in the places of a file."""
    bare = pickle.dumps(weights, protocol=4)
    # After the protocol and the dictionary that all is put into; the frame, then too short, is left out.
    begin, rest = bare[:2] + bare[11:13], bare[13:]
    velocity_key = text_opcode("velocity@@")
    for value in malicious_values().values():
        name, key = map(text_opcode, (rng.choice(list(weights)), rng.choice(["facts@@", "metadata@@"])))
        yield b"\x80\x04" + value + b"."
        yield begin + name + value + b"s" + rest
        yield begin + key + value + b"s" + rest
        yield begin + velocity_key + value + b"s" + rest
        yield begin + velocity_key + b"}" + text_opcode("fc.bias") + value + b"ss" + rest


def _spoilt(rng, weights, described):
    """Yield files without end that are spoilt in any way."""
    whole = pickle.dumps({**weights, "metadata@@": json.dumps(described["metadata@@"])}, protocol=4)
    # Half of the changes are made to a pickle without a frame, so that no frame's length gives them away.
    wholes = [whole, whole[:2] + whole[11:]]
    strange = [value for value in malicious_values().values() if len(value) < 1000]
    strange += [bytes([code]) for code in range(256)]
    while True:
        change = rng.randrange(8)
        if change <= 2:
            yield _with_changed_opcodes(rng, rng.choice(wholes), strange)
        elif change == 3:
            yield with_changed_bytes(rng, rng.choice(wholes), strange)
        elif change == 4:  # random opcodes
            yield b"\x80\x04" + b"".join(rng.choice(strange) for _ in range(rng.randrange(40))) + b"."
        elif change == 5:
            key = rng.choice(list(described))
            content = with_strange_value(rng, described[key]) if rng.random() < 0.9 else described[key]
            yield pickle.dumps({**weights, key: json.dumps(content)}, protocol=4)
        else:
            protocol = rng.choice([2, 3, 4, 5] if change == 6 else [3, 4])
            yield pickle.dumps(_with_another_array(rng, weights, change == 6), protocol=protocol)


def _with_changed_opcodes(rng, content, strange):
    # Where the opcodes lie: most bytes are numbers, whose changes are no mistakes.
    opcodes = [at for _, _, at in pickletools.genops(content)]
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4])):
        at = rng.choice(opcodes) + rng.randrange(3)
        kind = rng.randrange(4)
        if kind == 0:
            content[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            content[at:at] = rng.choice(strange)
        elif kind == 2:
            del content[at : at + rng.choice([1, 2, 9])]
        else:
            content[at : at + 4] = rng.choice(HUGE)
    return bytes(content)


def _with_another_array(rng, weights, is_type):
    """Change the type of one array, or its name, shape, numbers or order."""
    spoilt = dict(weights)
    name = rng.choice(list(weights))
    if is_type:
        dtypes = ["f8", "f2", "i4", "u1", "c8", "?", object, "S4", "U4", ">f4", np.longdouble]
        spoilt[name] = weights[name].astype(rng.choice(dtypes))
        return spoilt
    array = spoilt.pop(name)
    kind = rng.randrange(6)
    if kind == 0:
        names = [name + "x", name + "\n", "é", 3, None, ("a",), rng.choice(list(weights))]
        spoilt[rng.choice(names)] = array
    elif kind == 1:
        spoilt[name] = array.reshape(-1)
    elif kind == 2:
        spoilt[name] = np.full_like(array, rng.choice([np.nan, np.inf]))
    elif kind == 3:
        spoilt[name] = np.zeros((rng.choice([0, 1, 3, 500]), *array.shape[1:]), np.float32)
    elif kind == 4:
        spoilt[name] = np.asfortranarray(array)
    return spoilt


class _NumpysReader(pickle.Unpickler):
    """An independent reader: Python's opcodes and numpy's arrays. For files that were accepted."""

    def find_class(self, module, name):
        assert (module, name) in (
            ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"), ("numpy", "dtype"), ("builtins", "tuple"), ("_codecs", "encode"),
        ), f"{module}.{name} was accepted"  # fmt: skip
        return super().find_class(module, name)


def judge_weights(content, path):
    """Return "refused" or "right" for a `.pdparams` file, up to the network that takes its weights."""
    from model import networks
    from model.checkpoint import load_checkpoint
    from model.weights import load_weights, weights_of

    def read(path):
        checkpoint = load_checkpoint(path)
        net = networks.build(checkpoint.metadata.network)
        try:
            load_weights(net, checkpoint.groups["weights"])
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        return checkpoint, weights_of(net)

    message, done = refusal(read, path, content)
    if message:
        return "refused"
    (groups, metadata), loaded = done
    plain = _NumpysReader(io.BytesIO(content)).load()
    texts = [plain.pop(key, None) for key in ("metadata@@", "facts@@")]
    plain.pop("StructuredToParameterName@@", None)
    others = {key[:-2]: plain.pop(key) for key in [key for key in plain if key.endswith("@@")]}
    assert groups.keys() == {"weights", *others}
    for key, found in groups.items():
        given = others.get(key, plain)
        assert given.keys() == found.keys()
        for name, array in given.items():
            array = array[1] if isinstance(array, tuple) else array
            assert array.dtype.kind == "f" and array.shape == found[name].shape
            np.testing.assert_array_equal(array, found[name])
    for name, array in loaded.items():
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(array, np.asarray(groups["weights"][name], np.float32))
        assert np.isfinite(array).all()
    if texts[0] is not None:
        assert_within(json.loads(texts[0]), metadata.to_json())
    elif texts[1] is not None:
        _judge_facts(json.loads(texts[1]), metadata)
    return "right"


def assert_within(given, found):
    """Assert that all that is given is found, None and what has no value standing for a default."""
    if isinstance(given, dict) and isinstance(found, dict):
        for key, value in given.items():
            if value is not None:
                assert_within(value, found[key])
    elif type(found) is float and type(given) is int:
        assert found == float(given)
    else:
        found = json.loads(json.dumps(found))
        assert found == given or repr(found) == repr(given)  # nan


def _judge_facts(facts, metadata):
    """Assert that metadata say what facts of version 1 say."""
    assert_within(facts.get("model", {}), metadata.network.arguments)
    clip = dict(facts.get("input") or {})
    clip.pop("mean_dataset", None)
    assert_within(clip, metadata.clip.to_json())
    assert metadata.class_names == facts.get("class_names")
    run = facts.get("run")
    assert (metadata.training is None) == (run is None)
    if run is not None:
        for name in ("epoch", "step", "sums", "n_ranks", "n_videos", "scheduler", "scaler"):
            assert getattr(metadata.training, name) == run[name]
        recipe, options = metadata.recipe.to_json(), run["options"]
        assert recipe.pop("ft_begin_module") == run.get("ft_begin_module")  # None among the options: derived
        assert_within({name: options[name] for name in recipe if name in options}, recipe)
