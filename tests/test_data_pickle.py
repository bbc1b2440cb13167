"""The reader of weight files by itself; test_checkpoint.py and test_fuzz.py have whole files."""
import pickle
import tracemalloc

import numpy as np
import pytest
from bad_pickles import array_pickle, malicious_values

from model import data_pickle
from model.data_pickle import DataReader, array_of
from run.console import UserError

CONTENT = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": {"c": [1, -2.5, "é", None, True, ()]},
}
ALLOWED = {getattr(pickle, name)[0] for name in data_pickle._OPCODES}


def refusal(content):
    """Return the one line with which a pickle is refused."""
    with pytest.raises(UserError) as error:
        DataReader(content).read()
    message = str(error.value)
    assert message.isprintable() and len(message) < 300
    return message


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_arrays_numbers_text_and_containers_are_read(protocol):
    content = {**CONTENT, "d": CONTENT["a.weight"].T.astype(">f8")}
    content["e"] = (2**70, "x" * 300, "y" * 70_000, b"z")
    read = DataReader(pickle.dumps(content, protocol=protocol)).read()
    assert list(read) == list(content) and read["b"] == content["b"] and read["e"] == content["e"]
    for name in ("a.weight", "d"):
        array = array_of(name, read[name])
        np.testing.assert_array_equal(array, content[name])
        assert array.dtype.isnative and array.flags.writeable


def test_only_the_opcodes_of_data_have_a_function():
    for code in set(range(256)) - ALLOWED:
        opcode = bytes([code])
        assert refusal(b"\x80\x04" + opcode + b".").startswith(f"holds the opcode {opcode!r}, ")


def test_the_internals_of_pythons_unpickler_are_as_the_reader_needs_them():
    names = {code: pickle._Unpickler.dispatch[code].__name__ for code in ALLOWED}
    own = {name for name in vars(DataReader) if name.startswith("load")}
    assert own == {"load_reduce", "load_build", "load_setitem", "load_setitems", "load_stack_global"}
    assert own < set(names.values())
    reader = DataReader(b"\x80\x04(]q\x01.")
    for code, name in names.items():
        assert reader.dispatch[code] is getattr(DataReader, name)
    assert reader.load() == [] and type(reader.memo) is dict
    # The mark has moved the first stack away, and is no value in the second.
    assert reader.metastack == [[]] and reader.stack == [] and reader.memo == {1: []}


def test_pythons_own_loading_is_never_reached(monkeypatch):
    reached = []
    for name in ("find_class", "load_reduce", "load_build", "load_newobj", "get_extension", "_instantiate"):
        monkeypatch.setattr(pickle._Unpickler, name, lambda *arguments, name=name: reached.append(name))
    values = malicious_values()
    n_refused = 0
    for value in values.values():
        try:
            DataReader(b"\x80\x04" + value + b".").read()
        except UserError:
            n_refused += 1
    assert not reached and n_refused > 0.8 * len(values)


def test_a_pickle_that_is_cut_short_anywhere_is_refused():
    for protocol in (2, 4):
        content = pickle.dumps(CONTENT, protocol=protocol)
        told = {refusal(content[:n_bytes]) for n_bytes in range(len(content))}
        assert "ends too early" in told and (len(told) == 1 or protocol == 2)  # half a name


def test_opcodes_without_end_are_refused():
    assert refusal(b"\x80\x04" + b"N" * 1_000_001) == "has more than 1,000,000 opcodes"


@pytest.mark.parametrize(
    "content",
    [
        b"Nr\xff\xff\xff\x7f.",  # Python's C unpickler makes its memo this long
        b"B\xff\xff\xff\xff.",
        b"\x8e" + b"\xff" * 7 + b"\x7f.",
        b"\x95" + b"\xff" * 7 + b"\x7f.",
        b"X\xff\xff\xff\xff.",
        b")" + b"\x85" * 100_000 + b".",
        b"}" + b")" + b"\x85" * 100_000 + b"Ns.",  # whose hash overflows the C stack
        array_pickle(b"J\xff\xff\xff\x7f\x85") + b".",
        *(value + b"." for name, value in malicious_values().items() if "2**60" in name),
    ],
)
def test_a_small_file_takes_little_memory(content):
    tracemalloc.start()
    try:
        DataReader(b"\x80\x04" + content).read()
    except UserError:
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000


@pytest.mark.parametrize(
    "content, told",
    [
        (b"}N)s.", "holds the key of type NoneType, expected names"),
        (b"}\x8c\x02a\nNs.", "holds the key 'a\\n', expected names"),
        (b"}(\x8c\x01aN\x8c\x01aNu.", "holds 'a' twice"),
        (b"}(\x8c\x01au.", "holds a key without a value or a dictionary"),
        (b"](\x8c\x01aNu.", "holds a key without a value or a dictionary"),
        (b"}}b.", "gives a state to what is no new array"),
        (b"N)R.", "calls what is not a name"),
        (b"N\x93.", "holds a mark in the place of a value, or no value there"),
        (b"(\x94h\x00t.", "holds a mark in the place of a value, or no value there"),
        (b"N)\x93.", "holds a name that is no text, which is code and not data; it was not run"),
        (b"cos\nsystem\n.", "holds os.system, which is code and not data; it was not run"),
    ],
)
def test_what_is_not_data_is_one_plain_line(content, told):
    assert refusal(b"\x80\x04" + content) == told


def test_what_is_no_array_is_refused_by_its_name():
    unfinished = array_pickle(state=b"")[:-1]
    read = DataReader(b"\x80\x04}(\x8c\x01aN\x8c\x01b" + unfinished + b"u.").read()
    for name in ("a", "b"):
        with pytest.raises(UserError, match=f"^'{name}' is not an array of floating-point numbers$"):
            array_of(name, read[name])


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pytorch_checkpoint_is_told_how_it_is_converted(tmp_path, is_zip):
    torch = pytest.importorskip("torch")
    path = tmp_path / "a.pdparams"
    torch.save({"state_dict": {"a": torch.zeros(2)}}, path, _use_new_zipfile_serialization=is_zip)
    told = "a PyTorch checkpoint: convert it with python convert_to_paddle.py"
    assert refusal(path.read_bytes()).startswith(told)
