"""Read a pickle as data: arrays of floating-point numbers, numbers, text and containers, and no code.

Paddle's own loader (2.6.2 and 3.3.1) runs whatever code a pickle asks for.
"""
import io
import math
import struct
from typing import NamedTuple

import numpy as np

from opts import UserError

# The names that pickled arrays need, under numpy 1's and numpy 2's module names, and `tuple`, by a
# call of which paddle.save writes a parameter.
_NAMES = {
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.ndarray",
    "numpy.dtype",
    "builtins.tuple",
    "_codecs.encode",  # how protocol 2 writes bytes
}
_MARK = object()
_CONSTANTS = {b"N": None, b"\x88": True, b"\x89": False}
# Opcodes of text and bytes: how many bytes tell the length.
_TEXTS = {b"\x8c": 1, b"X": 4, b"\x8d": 8}
_BYTES = {b"C": 1, b"B": 4, b"\x8e": 8}
_UNSIGNED = {b"K": 1, b"M": 2}
_TUPLES = {b")": 0, b"\x85": 1, b"\x86": 2, b"\x87": 3}
# 200 layers with their velocity take 60,000; a file of nothing but opcodes would take 50 times its size.
_MOST_OPCODES = 1_000_000


_DTYPE_STATES = [(3, order, None, None, None, -1, -1, 0) for order in "<>"]


class _Name(NamedTuple):
    """A module's member that a pickle names; nothing is imported."""

    full_name: str


class Built:
    """What a pickle builds by a call: an array or a dtype, its `content` None until its state comes."""

    def __init__(self, kind, argument=None):
        self.kind = kind
        self.argument = argument
        self.content = None


class DataReader:
    """Carries out those opcodes of a pickle that build arrays, numbers, text and containers.

    Python's own unpickler is not safe here even with a restricted `find_class`: it fills gigabytes for
    a memo index, overflows the C stack in the hash of a deep tuple, and numpy's `__setstate__` takes
    any state. So no object of numpy or Python gets a state from the file: arrays are made here.
    """

    def __init__(self, content):
        self.file = io.BytesIO(content)
        self.n_bytes = len(content)
        self.n_made = 0
        self.stack = []
        self.memo = {}

    def read(self):
        """Return the pickled object. Raises UserError for an opcode or a name that is not data's."""
        for _ in range(_MOST_OPCODES):
            opcode = self._take(1)
            if opcode == b".":
                return self._pop()
            self._do(opcode)
        raise UserError(f"has more than {_MOST_OPCODES:,} opcodes")

    def _take(self, n_bytes):
        taken = self.file.read(n_bytes)
        if len(taken) < n_bytes:
            raise UserError("ends too early")
        return taken

    def _number(self, n_bytes, signed=False):
        return int.from_bytes(self._take(n_bytes), "little", signed=signed)

    def _pop(self):
        value = self.stack.pop()
        if value is _MARK:
            raise UserError("holds a mark in the place of a value")
        return value

    def _pop_to_mark(self):
        values = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def _unmarked_top(self):
        if self.stack[-1] is _MARK:
            raise UserError("holds a mark in the place of a value")
        return self.stack[-1]

    def _count(self, n_bytes):
        # The memo can hand the same bytes to call after call. What is written honestly is made once:
        # bytes from text, and an array from these.
        self.n_made += n_bytes
        if self.n_made > 2 * self.n_bytes:
            raise UserError("asks for more memory than its own size explains")

    def _top(self, kind):
        if type(self.stack[-1]) is not kind:
            raise UserError(f"fills what is no {kind.__name__}")
        return self.stack[-1]

    def _do(self, opcode):
        stack, memo = self.stack, self.memo
        if opcode == b"\x94":
            memo[len(memo)] = self._unmarked_top()
        elif opcode in b"qr":
            memo[self._number(1 if opcode == b"q" else 4)] = self._unmarked_top()
        elif opcode in b"hj":
            stack.append(memo[self._number(1 if opcode == b"h" else 4)])
        elif opcode in _TEXTS:
            stack.append(self._take(self._number(_TEXTS[opcode])).decode())
        elif opcode in _BYTES:
            stack.append(self._take(self._number(_BYTES[opcode])))
        elif opcode in _UNSIGNED:
            stack.append(self._number(_UNSIGNED[opcode]))
        elif opcode == b"J":
            stack.append(self._number(4, signed=True))
        elif opcode == b"\x8a":
            stack.append(self._number(self._number(1), signed=True))
        elif opcode == b"G":
            stack.append(struct.unpack(">d", self._take(8))[0])
        elif opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
        elif opcode == b"(":
            stack.append(_MARK)
        elif opcode in b"]}":
            stack.append([] if opcode == b"]" else {})
        elif opcode in _TUPLES:
            stack.append(tuple([self._pop() for _ in range(_TUPLES[opcode])][::-1]))
        elif opcode == b"t":
            stack.append(tuple(self._pop_to_mark()))
        elif opcode in b"ae":
            values = [self._pop()] if opcode == b"a" else self._pop_to_mark()
            self._top(list).extend(values)
        elif opcode in b"su":
            values = [self._pop(), self._pop()][::-1] if opcode == b"s" else self._pop_to_mark()
            self._set_items(self._top(dict), values)
        elif opcode == b"c":
            module, name = (self.file.readline().rstrip(b"\n").decode() for _ in range(2))
            stack.append(_name(module, name))
        elif opcode == b"\x93":
            name, module = self._pop(), self._pop()
            stack.append(_name(module, name))
        elif opcode == b"R":
            arguments, callee = self._pop(), self._pop()
            made = _call(callee, arguments)
            self._count(len(made) if type(made) is bytes else 0)
            stack.append(made)
        elif opcode == b"b":
            state = self._pop()
            built = self._top(Built)
            _build(built, state)
            self._count(built.content.nbytes if built.kind == "array" else 0)
        elif opcode == b"\x80":
            if self._number(1) not in (2, 3, 4, 5):
                raise UserError("is of an unknown pickle protocol")
        elif opcode == b"\x95":
            if self._number(8) > self.n_bytes - self.file.tell():  # a frame's length
                raise UserError("ends too early")
        else:
            raise UserError(f"holds the opcode {opcode!r}, which data does not need; nothing was run")

    def _set_items(self, target, values):
        if len(values) % 2:
            raise UserError("holds a key without a value")
        for key, value in zip(values[::2], values[1::2]):
            if type(key) is not str:
                raise UserError(f"holds a key of type {type(key).__name__}, expected names")
            if not key.isprintable():
                raise UserError(f"holds the key {ascii(key):.80}, expected names")
            if key in target:
                raise UserError(f"holds {key!r:.80} twice")
            target[key] = value


def _name(module, name):
    is_text = type(module) is type(name) is str  # first: the text of nested tuples can grow without end
    full_name = f"{module}.{name}" if is_text else "a name that is no text"
    if full_name not in _NAMES:
        raise UserError(f"holds {ascii(full_name)[1:-1]:.80}, which is code and not data; it was not run")
    return _Name(full_name.replace("numpy._core", "numpy.core"))


def _call(callee, arguments):
    """Do what numpy's and Paddle's pickles do by calls: begin an array or a dtype, make a tuple or bytes."""
    if type(callee) is not _Name or type(arguments) is not tuple:
        raise UserError("calls what is not a name")
    if callee.full_name == "builtins.tuple" and len(arguments) == 1 and type(arguments[0]) is tuple:
        return arguments[0]
    if callee.full_name == "_codecs.encode" and arguments[1:] == ("latin1",) and type(arguments[0]) is str:
        return arguments[0].encode("latin1")
    if callee.full_name == "numpy.dtype" and arguments[1:] == (False, True) and type(arguments[0]) is str:
        return Built("dtype", arguments[0])
    if callee.full_name.endswith("._reconstruct") and arguments == (_Name("numpy.ndarray"), (0,), b"b"):
        return Built("array")
    raise UserError(f"calls {callee.full_name} in a way that makes no array")


def _build(built, state):
    """Give an array or a dtype its content: `(version, byte order, ...)` or
    `(version, shape, dtype, in Fortran's order, bytes)`.
    """
    if built.content is not None or type(state) is not tuple:
        raise UserError("gives a second state to an array")
    if built.kind == "dtype":
        if built.argument not in ("f2", "f4", "f8") or state not in _DTYPE_STATES:
            raise UserError(f"holds an array of {built.argument!r:.20}, expected floating-point numbers")
        built.content = np.dtype(state[1] + built.argument)
        return
    if len(state) != 5 or state[0] != 1:
        raise UserError("holds an array without its five facts")
    _, shape, dtype, is_fortran, data = state
    if type(dtype) is not Built or not isinstance(dtype.content, np.dtype):
        raise UserError("holds an array of an unknown type, expected floating-point numbers")
    is_shape = type(shape) is tuple and len(shape) <= 5 and all(type(n) is int and n >= 0 for n in shape)
    if not is_shape or type(is_fortran) is not bool or type(data) is not bytes:
        raise UserError("holds an array whose shape or content is none")
    if dtype.content.itemsize * math.prod(shape) != len(data):
        raise UserError(f"holds an array of shape {list(shape)!r:.80} with {len(data):,} bytes")
    order = "F" if is_fortran else "C"
    # In this machine's byte order; a copy, so that the array can be written to.
    built.content = np.frombuffer(data, dtype.content).astype(dtype.content.newbyteorder("=")).reshape(
        shape, order=order
    )
