"""Bad annotation, results and weight files by the thousand, and judges of what is made of them.

    python tests/bad_files.py weights 3000 --seed 7

prints how many files were refused and how many were read right; ends with an error at the first one
that was read wrong, ran for more than ten seconds, or raised anything but UserError.
"""
import argparse
import io
import json
import os
import pickle
import pickletools
import random
import resource
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from datasets.annotation import SUBSETS, Video, annotation_json, read_annotation, read_results
from eval_accuracy import check_results, top_k_accuracy
from opts import UserError

LABELS = ["Jump", "run", "Fence"]
VIDEOS = {
    "training": [Video("v_a", "Jump", 0, 1, 30), Video("v_é", "run", 1, 5, 6)],
    "validation": [Video("v_b", "Fence", 2, 1, 17), Video("v_c", "Jump", 0, 2, 9)],
    "testing": [],
}
RESULTS = {
    name: [{"label": label, "score": score} for label, score in pairs]
    for name, pairs in {
        "v_b": [("Fence", 0.6), ("run", 0.3), ("Jump", 0.1)],
        "v_c": [("run", 1), ("Jump", 0), ("Fence", -1e-9)],
    }.items()
}

# Text -----------------------------------------------------------------------------------------

STRANGE_VALUES = [
    None, True, False, 0, -1, 1, 2, 10**8, 10**8 + 1, 2**63, 10**40, 0.5, 1e308, -0.0, "", "..", "/", "Jump",
    "run", "training", "validation", "a\0b", "a\nb", "\ud800", "é" * 200, "x" * 300, [], {}, [1], [1, 2],
    [1, 30], [[]], {"label": "Jump"}, {"label": "run", "score": 0.9}, {"segment": [1, 17]}, float("nan"),
    float("inf"), -float("inf"), [float("nan")] * 2,
]  # fmt: skip
STRANGE_TEXTS = [
    b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\x00", b"NaN", b"Infinity", b"-Infinity", b"1e999",
    b"-1e999", b"9" * 50, b"9" * 5000, b"1e-999", b"0x10", b"01", b'"\\ud800"', b"\xed\xa0\x80", b"\xc0\xaf",
    b"\\u0000", b"[" * 3000, b'{"a":' * 3000, b"[" * 950 + b"]" * 950, b",", b":", b'"', b"\\", b"//",
    b"null", b"true", b"{}", b"[]", b'"labels":[],', b'"database":{},', b'"v_b":[],',
    b'"subset":"training",', b'"score":1,', b'"label":"run",',
]  # fmt: skip


def _places(content, keys=()):
    """List the key paths of all values in nested dictionaries and lists."""
    yield keys
    if isinstance(content, (dict, list)):
        for key in content if isinstance(content, dict) else range(len(content)):
            yield from _places(content[key], (*keys, key))


def _with_strange_value(rng, content):
    content = json.loads(json.dumps(content))
    keys = rng.choice(list(_places(content))[1:])
    parent = content
    for key in keys[:-1]:
        parent = parent[key]
    change = rng.randrange(4)
    if change == 0:
        del parent[keys[-1]]
    elif change == 1 and isinstance(parent, dict):
        name = rng.choice([value for value in STRANGE_VALUES if isinstance(value, str)])
        parent[name] = parent.pop(keys[-1])
    elif change == 2 and isinstance(parent, list):
        parent.insert(rng.randrange(len(parent) + 1), parent[rng.randrange(len(parent))])
    else:
        parent[keys[-1]] = rng.choice(STRANGE_VALUES)
    return content


def _with_changed_bytes(rng, content, strange=STRANGE_TEXTS):
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        at = rng.randrange(len(content) + 1)
        length = rng.choice([1, 1, 2, 8, 40])
        change = rng.randrange(6)
        if change == 0 and at < len(content):
            content[at] ^= 1 << rng.randrange(8)
        elif change == 1:
            del content[at:]
        elif change == 2:
            del content[at : at + length]
        elif change == 3:
            content[at:at] = rng.choice(strange)
        elif change == 4:
            content[at : at + length] = rng.choice(strange)
        else:
            begin = rng.randrange(len(content) + 1)
            content[at:at] = content[begin : begin + length]
    return bytes(content)


def _bad_texts(rng, n, content):
    for _ in range(n):
        changed = content
        for _ in range(rng.choice([0, 1, 1, 2, 3])):
            changed = _with_strange_value(rng, changed)
            if not isinstance(changed, dict) or len(list(_places(changed))) < 2:
                break
        text = json.dumps(changed, ensure_ascii=rng.random() < 0.5)
        content_bytes = text.encode("utf-8", "surrogatepass")
        if changed is content or rng.random() < 0.4:
            content_bytes = _with_changed_bytes(rng, content_bytes)
        yield content_bytes


def bad_annotations(rng, n):
    """Yield `n` spoilt annotation files as bytes, the same for the same `random.Random`."""
    return _bad_texts(rng, n, json.loads(annotation_json(LABELS, VIDEOS)))


def bad_results(rng, n):
    """Yield `n` spoilt results files as bytes."""
    return _bad_texts(rng, n, {"results": RESULTS})


def _refusal(read, path, content):
    """Write the file and read it; return None and the content, or a one-line refusal and None."""
    path.write_bytes(content)
    try:
        return None, read(path)
    except UserError as error:
        message = str(error)
    assert str(path) in message and "\n" not in message and len(message) < 2000, message
    return message, None


def _pairs_once(pairs):
    assert len({key for key, _ in pairs}) == len(pairs), "a key that comes twice was read"
    return dict(pairs)


def judge_annotation(content, path):
    """Return "refused" or "right" for an annotation file; raise AssertionError where it is read wrong."""
    message, annotation = _refusal(read_annotation, path, content)
    if message:
        return "refused"
    plain = json.loads(content.decode(), object_pairs_hook=_pairs_once)
    assert annotation.labels == plain["labels"]
    n_videos = 0
    for subset in SUBSETS:
        for video in annotation.videos[subset]:
            entry = plain["database"][video.name]
            assert entry["subset"] == subset
            assert entry["annotations"]["label"] == video.class_name == plain["labels"][video.label]
            assert entry["annotations"]["segment"] == [video.begin, video.end]
            assert type(video.begin) is type(video.end) is int and 0 < video.begin < video.end
            n_videos += 1
    assert n_videos == len(plain["database"])
    return "right"


def judge_results(content, path):
    """Return "refused" or "right" for a results file, top-1 to top-3 accuracy included."""
    truth = {video.name: video.class_name for video in VIDEOS["validation"]}
    path.with_name("truth.json").write_text(annotation_json(LABELS, VIDEOS))
    annotation = read_annotation(path.with_name("truth.json"))

    def read(path):
        results = read_results(path)
        check_results(results, annotation, "validation", 1, path)
        return results

    message, results = _refusal(read, path, content)
    if message:
        return "refused"
    plain = json.loads(content.decode(), object_pairs_hook=_pairs_once)["results"]
    for name, result in plain.items():
        assert results[name] == [(item["label"], item["score"]) for item in result]
        scores = [item["score"] for item in result]
        assert scores == sorted(scores, reverse=True) and all(type(s) in (int, float) for s in scores)
        assert all(abs(score) < float("inf") for score in scores)
    for k in (1, 2, 3):
        n_right = 0
        for name, result in plain.items():
            n_right += any(item["label"] == truth[name] for item in result[:k])
        assert top_k_accuracy(truth, results, k) == n_right / len(truth)
        assert top_k_accuracy(truth, results, k, ignore=True) == n_right / len(plain)
    return "right"


# Weights --------------------------------------------------------------------------------------


def small_weights():
    """Return the weights of the narrowest ResNet3D-10: 25 kB."""
    from model.resnet3d import ResNet3D
    from model.weights import weights_of

    return weights_of(ResNet3D(10, 2, resnet_widen_factor=1 / 64, conv1_t_size=1))


def _text(text):
    return b"\x8c" + bytes([len(text)]) + text.encode()


def _global(module, name):
    return _text(module) + _text(name) + b"\x93"


def array_pickle(shape=b"K\x02\x85", dtype="f4", state=None, data=b"C\x08" + bytes(8), order="<"):
    """Return the opcodes of one array, each part of which can be spoilt."""
    begin = _global("numpy.core.multiarray", "_reconstruct") + _global("numpy", "ndarray")
    begin += b"K\x00\x85C\x01b\x87R"
    dtype = _global("numpy", "dtype") + _text(dtype) + b"\x89\x88\x87R(K\x03" + _text(order)
    dtype += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    return begin + (b"(K\x01" + shape + dtype + b"\x89" + data + b"t" if state is None else state) + b"b"


CALLS = [("os", "system"), ("posix", "system"), ("builtins", "eval"), ("builtins", "exec"),
         ("builtins", "getattr"), ("builtins", "__import__"), ("subprocess", "Popen"), ("numpy", "load"),
         ("numpy.core.multiarray", "scalar"), ("numpy", "memmap"), ("numpy.f2py", "compile"),
         ("builtins", "bytearray"), ("collections", "OrderedDict"), ("_codecs", "encode"),
         ("model.checkpoint", "_build"), ("numpy", "ndarray.__setstate__"), ("a\nb", "c\nd"),
         ("copyreg", "_reconstructor"), ("copyreg", "add_extension"), ("numpy.testing", "measure")]
HUGE = [b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\x00\x00\x00\x40"]


def malicious_values():
    """Return opcodes of values that a weight file must not hold, by what they try."""
    values = {}
    for module, name in CALLS:
        line = f"c{module}\n{name}\n".encode()
        for how, begin in (("STACK_GLOBAL", _global(module, name)), ("GLOBAL", line)):
            values[f"{how} {module}.{name}"] = begin
            values[f"{how} REDUCE {module}.{name}"] = begin + _text("exit 3") + b"\x85R"
            values[f"{how} NEWOBJ {module}.{name}"] = begin + b")\x81"
            values[f"{how} BUILD {module}.{name}"] = begin + b"}" + _text("a") + b"K\x01sb"
    values["INST"] = b"(" + _text("exit 3") + b"ios\nsystem\n"
    values["OBJ"] = b"(" + _global("os", "system") + _text("exit 3") + b"o"
    values["NEWOBJ_EX"] = _global("numpy", "ndarray") + b")}\x92"
    values["NEWOBJ ndarray"] = _global("numpy", "ndarray") + b"J\x00\x00\x00\x40\x85\x85\x81"
    values["REDUCE ndarray"] = _global("numpy", "ndarray") + b"J\x00\x00\x00\x40\x85\x85R"
    values["REDUCE tuple of a number"] = _global("builtins", "tuple") + b"K\x05\x85R"
    for code in (b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00"):
        values[f"EXT {code[:1].hex()}"] = code
    values["PERSID"], values["BINPERSID"] = b"P1\n", b"K\x01Q"
    values["BUILD on ndarray"] = _global("numpy", "ndarray") + b"}" + _text("a") + b"K\x01sb"
    values["BUILD on tuple"] = _global("builtins", "tuple") + b"}b"
    values["BUILD on a number"], values["BUILD on a dict"] = b"K\x01}b", b"}}b"
    reconstruct = _global("numpy.core.multiarray", "_reconstruct")
    values["slots BUILD"] = reconstruct + b"N}" + _text("__defaults__") + b"Ns\x86b"
    values["_reconstruct of int"] = reconstruct + b"K\x01K\x00\x85C\x01b\x87R"
    values["array without state"] = array_pickle(state=b"")[:-1]
    for i, state in enumerate((b")", b"}", b"N", b"K\x01", b"K\x01K\x02\x86", b"NN\x86")):
        values[f"array state {i}"] = array_pickle(state=state)
    values["array built twice"] = array_pickle() + b"}b"
    shapes = {
        "negative": b"J\xff\xff\xff\xff\x85", "negative pair": b"J\xfe\xff\xff\xffJ\xff\xff\xff\xff\x86",
        "huge": b"J\xff\xff\xff\x7f\x85", "overflowing": b"\x8a\x08" + b"\x00" * 7 + b"\x40K\x08\x86",
        "overflowing to 2": b"\x8a\x09" + b"\x02" + b"\x00" * 7 + b"\x01\x85", "empty": b"K\x00\x85",
        "true": b"\x88\x85", "float": b"G\x40\x00" + bytes(6) + b"\x85", "text": _text("2") + b"\x85",
        "none": b"N", "list": b"]K\x02a", "number": b"K\x02", "many axes": b"(" + b"K\x01" * 60 + b"K\x02t",
        "no axis": b")", "one too few": b"K\x01\x85", "one too many": b"K\x03\x85",
    }  # fmt: skip
    for name, shape in shapes.items():
        values[f"shape {name}"] = array_pickle(shape)
    dtypes = ["O8", "O", "U1", "S8", "V8", "i4", "i8", "u1", "b1", "c8", "c16", "M8[s]", "f16", "g", "",
              "f3", "f", "f4,f4", "2f4", "(2)f4", "object", "float32", ">f4", "f999999999", "\0",
              "int8", "S99999999"]  # fmt: skip
    for dtype in dtypes:
        values[f"dtype {dtype}"] = array_pickle(dtype=dtype)
    for order in ("O", "|", "", "<<", "="):
        values[f"byte order {order}"] = array_pickle(order=order)
    datas = {"list": b"]", "objects": b"](K\x01K\x02e", "text": _text("12345678"), "none": b"N",
             "short": b"C\x04abcd", "long": b"C\x0912345678\0", "pointer": b"K\x07",
             "bytearray": b"\x96\x08" + bytes(15)}
    for name, data in datas.items():
        values[f"data {name}"] = array_pickle(data=data)
    for length in HUGE:
        for opcode in (b"X", b"B", b"\x8b", b"T", b"r", b"j"):
            values[f"huge {opcode.hex()} {length.hex()}"] = b"K\x01" + opcode + length
        for opcode in (b"\x8d", b"\x8e", b"\x96", b"\x95"):
            values[f"huge {opcode.hex()} {length.hex()}"] = opcode + length + length
    values["huge PUT"], values["huge GET"] = b"K\x01p99999999999\n", b"g99999999999\n"
    values["long INT"], values["long LONG"] = b"I" + b"9" * 9000 + b"\n", b"L" + b"9" * 9000 + b"L\n"
    values["deep tuple"] = b")" + b"\x85" * 60_000
    values["deep tuple as key"] = b"}" + b")" + b"\x85" * 60_000 + b"K\x01s"
    values["deep list"], values["deep dict"] = b"]" * 60_000 + b"a" * 59_999, b"}" * 60_000
    values["name of 2**60 parts"] = (
        b")" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(60)) + _text("x") + b"\x93"
    )
    values["mark in the memo"] = b"(\x94h\x00t"
    values["list in itself"] = b"]\x94h\x00a"
    values["list as key"], values["number as key"] = b"}]K\x01s", b"}K\x01K\x01s"
    values["frozenset"], values["set"] = b"(\x91", b"\x8f(K\x01\x90"
    values["buffers"] = b"\x97\x98"
    values["stack underflow"], values["mark"] = b"\x87" * 9, b"((("
    values["number"], values["text"], values["none"], values["dict"] = b"K\x01", _text("1"), b"N", b"}"
    return values


def _facts_of(rng, facts):
    facts = _with_strange_value(rng, facts)
    return json.dumps(facts)


def bad_weights(rng, n):
    """Yield `n` spoilt `.pdparams` files as bytes; the first ones are the malicious ones, once each."""
    weights = small_weights()
    model = {"model_depth": 10, "n_classes": 2, "resnet_shortcut": "B", "resnet_widen_factor": 1 / 64,
             "conv1_t_size": 1, "conv1_t_stride": 1, "no_max_pool": False}  # fmt: skip
    inputs = {"sample_size": 112, "sample_duration": 16, "sample_t_stride": 1, "mean_dataset": "kinetics"}
    facts = {"model": model, "input": inputs, "class_names": ["a", "b"]}
    whole = pickle.dumps({**weights, "facts@@": json.dumps(facts)}, protocol=4)
    # Where the opcodes lie: most bytes are numbers, whose changes are no mistakes.
    opcodes = [at for _, _, at in pickletools.genops(whole)]
    names = list(weights)
    values = list(malicious_values().values())
    bare = pickle.dumps(weights, protocol=4)
    n_given = 0
    for value in values:
        # After the protocol, the first frame's length, and the dictionary that all is put into.
        begin, rest = bare[:13], bare[13:]
        for content in (b"\x80\x04" + value + b".",
                        begin + _text(rng.choice(names)) + value + b"s" + rest,
                        begin + _text("facts@@") + value + b"s" + rest,
                        begin + _text("velocity@@") + value + b"s" + rest,
                        begin + _text("velocity@@") + b"}" + _text("fc.bias") + value + b"ss" + rest):
            if n_given == n:
                return
            n_given += 1
            yield content
    strange = [value for value in values if len(value) < 1000]
    strange += [bytes([code]) for code in range(256)]
    dtypes = ["f8", "f2", "i4", "u1", "c8", "?", object, "S4", "U4", ">f4", np.longdouble]
    while n_given < n:
        n_given += 1
        change = rng.randrange(8)
        spoilt = dict(weights)
        name = rng.choice(names)
        if change <= 2:
            content = bytearray(whole)
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
            yield bytes(content)
        elif change == 3:
            yield _with_changed_bytes(rng, whole, strange)
        elif change == 4:  # random opcodes
            yield b"\x80\x04" + b"".join(rng.choice(strange) for _ in range(rng.randrange(40))) + b"."
        elif change == 5:
            spoilt["facts@@"] = _facts_of(rng, facts)
            content = pickle.dumps(spoilt, protocol=4)
            yield content
        elif change == 6:
            spoilt[name] = weights[name].astype(rng.choice(dtypes))
            yield pickle.dumps(spoilt, protocol=rng.choice([2, 3, 4, 5]))
        else:
            array = spoilt.pop(name)
            kind = rng.randrange(6)
            if kind == 0:
                spoilt[rng.choice([name + "x", name + "\n", "é", 3, None, ("a",), rng.choice(names)])] = array
            elif kind == 1:
                spoilt[name] = array.reshape(-1)
            elif kind == 2:
                spoilt[name] = np.full_like(array, rng.choice([np.nan, np.inf]))
            elif kind == 3:
                spoilt[name] = np.zeros((rng.choice([0, 1, 3, 500]), *array.shape[1:]), np.float32)
            elif kind == 4:
                spoilt[name] = np.asfortranarray(array)
            yield pickle.dumps(spoilt, protocol=rng.choice([3, 4]))


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
    from model.checkpoint import load_checkpoint
    from model.resnet3d import ResNet3D
    from model.weights import load_weights, weights_of

    def read(path):
        checkpoint = load_checkpoint(path)
        net = ResNet3D(**checkpoint.facts["model"])
        try:
            load_weights(net, checkpoint.weights)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        return checkpoint, weights_of(net)

    message, done = _refusal(read, path, content)
    if message:
        return "refused"
    checkpoint, loaded = done
    plain = _NumpysReader(io.BytesIO(content)).load()
    facts, velocity = plain.pop("facts@@", "{}"), plain.pop("velocity@@", None)
    plain.pop("StructuredToParameterName@@", None)
    for given, found in ((plain, checkpoint.weights), (velocity or {}, checkpoint.velocity or {})):
        assert given.keys() == found.keys()
        for name, array in given.items():
            array = array[1] if isinstance(array, tuple) else array
            assert array.dtype.kind == "f" and array.shape == found[name].shape
            np.testing.assert_array_equal(array, found[name])
    for name, array in loaded.items():
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(array, np.asarray(checkpoint.weights[name], np.float32))
        assert np.isfinite(array).all()
    for key, value in json.loads(facts).items():
        assert checkpoint.facts[key] == value
    return "right"


KINDS = {
    "annotations": (bad_annotations, judge_annotation),
    "results": (bad_results, judge_results),
    "weights": (bad_weights, judge_weights),
}


def judge_all(kind, n, seed, folder):
    """Judge `n` files of a kind; return how many were refused and how many right.

    Raises AssertionError, with the file's beginning, where one is read wrong.
    """
    generate, judge = KINDS[kind]
    outcomes = Counter()
    for i, content in enumerate(generate(random.Random(seed), n)):
        signal.setitimer(signal.ITIMER_PROF, 10)  # of its own computing: other processes may be busy
        try:
            outcomes[judge(content, Path(folder) / "bad")] += 1
        except BaseException as error:
            raise AssertionError(
                f"{kind} {i} of seed {seed}: {type(error).__name__}: {error}; {content[:300]!r}"
            ) from error
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    return dict(outcomes)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("n", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    next(KINDS[options.kind][0](random.Random(0), 1))  # imports all, before the bound on memory
    n_pages = int(Path("/proc/self/statm").read_text().split()[0])
    bound = n_pages * resource.getpagesize() + 2 * 10**9
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))

    def too_long(*_):
        raise TimeoutError("longer than ten seconds")

    signal.signal(signal.SIGPROF, too_long)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # opening a file takes 2 ms on a disk
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        outcomes = judge_all(options.kind, options.n, options.seed, folder)
    # Not getrusage's, which begins with the peak of the process that started this one.
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    outcomes["peak_mb"] = int(peak.split()[1]) // 1000
    print(json.dumps({"kind": options.kind, "n": options.n, "seed": options.seed, **outcomes}))


if __name__ == "__main__":
    main()
