"""Read a pickle as data: arrays of floating-point numbers, numbers, text and containers, and no code.

Paddle's own loader (2.6.2 and 3.3.1) runs whatever code a pickle asks for.
"""
import functools
import io
import math
import pickle
from typing import NamedTuple

import numpy as np

from run.console import UserError

# What builds data, in protocols 2 to 4. Not here: what makes other objects (INST, OBJ, NEWOBJ, sets), finds
# them outside of the file (EXT, PERSID, NEXT_BUFFER), or is protocol 0's text.
_OPCODES = (
    "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE "
    "SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET "
    "GLOBAL STACK_GLOBAL REDUCE BUILD"
).split()
# 200 layers with their velocity take 60,000; a file of nothing but opcodes would take 50 times its size.
_MOST_OPCODES = 1_000_000


class DataReader(pickle._Unpickler):
    """Carries out those opcodes of a pickle that build arrays, numbers, text and containers.

    A restricted `find_class` alone makes no unpickler safe: Python's C one fills gigabytes for a memo index,
    the hash of a deep tuple overflows the C stack, and numpy's `__setstate__` takes any state. So this is the
    standard library's unpickler in Python, whose memo is a dictionary, with `_OPCODES` alone, no read beyond
    the end of the file, no key but text, and stand-ins for what a name means: nothing is imported, nothing of
    the file is called, and arrays are made here, from a state that was checked.

    It relies on these internals, the same in Python 3.9 to 3.13 (tests/test_data_pickle.py): an opcode's
    function is looked up in `self.dispatch`, by its code; the functions' names; a mark moves `self.stack`
    away until `pop_mark`, and is never a value in it.
    """

    def __init__(self, content):
        super().__init__(_File(content))
        self.content = content
        self.n_made = 0
        self.dispatch = _Dispatch()
        for opcode in _OPCODES:
            code = getattr(pickle, opcode)[0]
            function = pickle._Unpickler.dispatch[code]
            self.dispatch[code] = getattr(DataReader, function.__name__)  # the one below where there is one

    def read(self):
        """Return the pickled object; `array_of` gives its arrays. Raises UserError for all but data."""
        _refuse_torch(self.content)
        try:
            return self.load()
        except UserError:
            raise
        except IndexError:
            raise UserError("holds a mark in the place of a value, or no value there") from None
        except Exception as error:  # a broken pickle raises nearly anything
            raise UserError(f"not a .pdparams file, or a broken one ({error!s:.200})") from None

    def find_class(self, module, name):
        """Return the stand-in for a name; numpy 1 and numpy 2 name their modules differently."""
        is_text = type(module) is type(name) is str  # first: the text of nested tuples can grow without end
        full_name = f"{module}.{name}" if is_text else "a name that is no text"
        full_name = full_name.replace("numpy._core.", "numpy.core.")
        if full_name not in _MAKERS:
            raise UserError(f"holds {ascii(full_name)[1:-1]:.80}, which is code and not data; it was not run")
        return _Name(full_name)

    def load_stack_global(self):
        name, module = self.stack.pop(), self.stack.pop()
        self.append(self.find_class(module, name))

    def load_reduce(self):
        arguments, callee = self.stack.pop(), self.stack.pop()
        if type(callee) is not _Name or type(arguments) is not tuple:
            raise UserError("calls what is not a name")
        made = _MAKERS[callee.full_name](arguments)
        if made is None:
            raise UserError(f"calls {callee.full_name} in a way that makes no array")
        self._count(len(made) if type(made) is bytes else 0)
        self.append(made)

    def load_build(self):
        state, built = self.stack.pop(), self.stack[-1]
        if type(built) is not _Built or built.content is not None or type(state) is not tuple:
            raise UserError("gives a state to what is no new array")
        built.content = built.finish(state)
        self._count(built.content.nbytes if type(built.content) is np.ndarray else 0)

    def load_setitem(self):
        items = [self.stack.pop(), self.stack.pop()][::-1]
        self._set_items(items)

    def load_setitems(self):
        self._set_items(self.pop_mark())

    def _set_items(self, items):
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise UserError("holds a key without a value or a dictionary")
        for key, value in zip(items[::2], items[1::2]):
            if type(key) is not str or not key.isprintable():
                kind = ascii(key) if type(key) is str else f"of type {type(key).__name__}"
                raise UserError(f"holds the key {kind:.80}, expected names")
            if key in target:
                raise UserError(f"holds {key!r:.80} twice")
            target[key] = value

    def _count(self, n_bytes):
        # The memo can hand the same bytes to call after call. What is written honestly is made once:
        # bytes from text, and an array from these.
        self.n_made += n_bytes
        if self.n_made > 2 * len(self.content):
            raise UserError("asks for more memory than its own size explains")


def array_of(name, value):
    """Return the array that was read under a name. Raises UserError for any other value."""
    # paddle.save stores a parameter of a plain dictionary as the pair (its name, its array).
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        value = value[1]
    if not isinstance(value, _Built) or not isinstance(value.content, np.ndarray):
        raise UserError(f"{name!r:.80} is not an array of floating-point numbers")
    return value.content


class _Dispatch(dict):
    """The functions by their opcodes; counts how often one is asked for."""

    n_asked = 0

    def __getitem__(self, code):
        self.n_asked += 1
        if self.n_asked > _MOST_OPCODES:
            raise UserError(f"has more than {_MOST_OPCODES:,} opcodes")
        return super().__getitem__(code)

    def __missing__(self, code):
        raise UserError(f"holds the opcode {bytes([code])!r}, which data does not need; nothing was run")


class _File(io.BytesIO):
    """A file in memory that gives all that is asked for, or an error."""

    def read(self, n_bytes):
        taken = super().read(n_bytes)
        if len(taken) < n_bytes:
            raise UserError("ends too early")
        return taken


def _refuse_torch(content):
    # A zip whose first entry is data.pkl; before PyTorch 1.6, a pickle of this number.
    is_zip = content.startswith(b"PK\x03\x04") and b"data.pkl" in content[:300]
    if is_zip or content.startswith(pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)):
        raise UserError("a PyTorch checkpoint: convert it with python convert_to_paddle.py <this file>")


class _Name(NamedTuple):
    """A module's member that a pickle names."""

    full_name: str


class _Built:
    """What a pickle builds by a call, an array or a dtype: `finish(state)` gives its content."""

    def __init__(self, finish):
        self.finish = finish
        self.content = None


def _dtype(code, state):
    if code not in ("f2", "f4", "f8") or state not in _DTYPE_STATES:
        raise UserError(f"holds an array of {code!r:.20}, expected floating-point numbers")
    return np.dtype(state[1] + code)


_DTYPE_STATES = [(3, order, None, None, None, -1, -1, 0) for order in "<>"]


def _array(state):
    """Make an array of numpy's state `(version, shape, dtype, in Fortran's order, bytes)`."""
    if len(state) != 5 or state[0] != 1:
        raise UserError("holds an array that is not described by five values")
    _, shape, dtype, is_fortran, data = state
    if type(dtype) is not _Built or not isinstance(dtype.content, np.dtype):
        raise UserError("holds an array of an unknown type, expected floating-point numbers")
    is_shape = type(shape) is tuple and len(shape) <= 5 and all(type(n) is int and n >= 0 for n in shape)
    if not is_shape or type(is_fortran) is not bool or type(data) is not bytes:
        raise UserError("holds an array whose shape or content is none")
    if dtype.content.itemsize * math.prod(shape) != len(data):
        raise UserError(f"holds an array of shape {list(shape)!r:.80} with {len(data):,} bytes")
    # In this machine's byte order; a copy, so that the array can be written to.
    array = np.frombuffer(data, dtype.content).astype(dtype.content.newbyteorder("="))
    return array.reshape(shape, order="F" if is_fortran else "C")


# What the pickles of numpy and Paddle name, as functions of the arguments of a call; None: no such call.
_MAKERS = {
    "numpy.core.multiarray._reconstruct": lambda arguments: (
        _Built(_array) if arguments == (_Name("numpy.ndarray"), (0,), b"b") else None
    ),
    "numpy.ndarray": lambda arguments: None,
    "numpy.dtype": lambda arguments: (
        _Built(functools.partial(_dtype, arguments[0]))
        if arguments[1:] == (False, True) and type(arguments[0]) is str
        else None
    ),
    # How paddle.save writes a parameter, and how protocol 2 writes bytes.
    "builtins.tuple": lambda arguments: (
        arguments[0] if len(arguments) == 1 and type(arguments[0]) is tuple else None
    ),
    "_codecs.encode": lambda arguments: (
        arguments[0].encode("latin1")
        if arguments[1:] == ("latin1",) and type(arguments[0]) is str
        else None
    ),
}
