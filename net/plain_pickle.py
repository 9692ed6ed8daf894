"""Pickles that can carry nothing but data.

A pickle is a program for a small stack machine; a hostile one imports and calls what it likes. Of that machine only
the instructions that build None, bool, int, float, str, bytes, list, tuple and dict are let through, and the bytes
are checked against that list before the unpickler sees them. What is left out on purpose: everything that looks up or
calls (GLOBAL, REDUCE, BUILD, INST, OBJ, NEWOBJ, EXT, PERSID, ...) and the PUTs with a number, of which ten bytes can
claim gigabytes of memory.
"""

import io
import pickle
import struct
from typing import Any, NoReturn

from utils.errors import ProtocolError

PROTOCOL = 5
MAX_DEPTH = 16
MAX_TUPLES = 1024  # tuples can be dictionary keys, and hashing a nested one recurses in C
MAX_VALUES = 65_536  # values met when walking the result; a GET may show one value in many places

_FIXED = {  # instructions with an argument of fixed size
    pickle.NONE: 0,
    pickle.NEWTRUE: 0,
    pickle.NEWFALSE: 0,
    pickle.BININT: 4,
    pickle.BININT1: 1,
    pickle.BININT2: 2,
    pickle.BINFLOAT: 8,
    pickle.EMPTY_LIST: 0,
    pickle.EMPTY_DICT: 0,
    pickle.EMPTY_TUPLE: 0,
    pickle.MARK: 0,
    pickle.TUPLE: 0,
    pickle.TUPLE1: 0,
    pickle.TUPLE2: 0,
    pickle.TUPLE3: 0,
    pickle.APPEND: 0,
    pickle.APPENDS: 0,
    pickle.SETITEM: 0,
    pickle.SETITEMS: 0,
    pickle.MEMOIZE: 0,
    pickle.BINGET: 1,
    pickle.LONG_BINGET: 4,
    pickle.FRAME: 8,
    pickle.STOP: 0,
}
_COUNTED = {  # instructions with a length and that many bytes
    pickle.LONG1: "<B",
    pickle.SHORT_BINUNICODE: "<B",
    pickle.BINUNICODE: "<I",
    pickle.SHORT_BINBYTES: "<B",
    pickle.BINBYTES: "<I",
}
_ARGUMENT_BYTES = {code[0]: size for code, size in _FIXED.items()}
_LENGTH = {code[0]: struct.Struct(form) for code, form in _COUNTED.items()}
_TUPLES = frozenset(code[0] for code in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3))
_START = pickle.PROTO + bytes([PROTOCOL])
_PLAIN = (type(None), bool, int, float, str, bytes)


class PlainPickleError(ProtocolError):
    """These bytes are not a pickle of plain data."""

    code = "MALFORMED"


def dumps(value: Any) -> bytes:
    """Pickle plain data. Raises TypeError for anything else: that is a bug on this side."""
    try:
        _walk(value)
    except PlainPickleError as error:
        raise TypeError(str(error)) from None
    return pickle.dumps(value, protocol=PROTOCOL)


def loads(data: bytes) -> Any:
    """Read a pickle of plain data. Raises PlainPickleError for every other input, and nothing else."""
    check_instructions(data)
    try:
        value = _DataUnpickler(io.BytesIO(data)).load()
    except (
        pickle.UnpicklingError,
        ValueError,
        TypeError,
        AttributeError,
        LookupError,
        EOFError,
        OverflowError,
        MemoryError,
        RecursionError,
    ) as error:
        raise PlainPickleError(f"not a well-formed pickle ({type(error).__name__})") from None
    _walk(value)
    return value


class _DataUnpickler(pickle.Unpickler):
    """The second lock: nothing is ever looked up, whatever the instructions say."""

    def find_class(self, module_name: str, global_name: str, /) -> NoReturn:
        raise PlainPickleError("a pickle that looks up a class")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise PlainPickleError("a pickle with a persistent id")


def check_instructions(data: bytes) -> None:
    """Walk over the instructions without running them; raise PlainPickleError at the first that is not allowed."""
    if data[:2] != _START:
        raise PlainPickleError(f"not a pickle of protocol {PROTOCOL}")
    position, tuples, code = 2, 0, -1
    while position < len(data):
        code = data[position]
        position += 1
        if code in _ARGUMENT_BYTES:
            position += _ARGUMENT_BYTES[code]
        elif code in _LENGTH:
            position = _skip_counted(data, position, _LENGTH[code])
        else:
            raise PlainPickleError(f"pickle instruction {code:#04x} is not allowed")
        tuples += code in _TUPLES
        if code == pickle.STOP[0]:
            break
    if code != pickle.STOP[0] or position != len(data):
        raise PlainPickleError("the pickle does not end where the header ends")
    if tuples > MAX_TUPLES:
        raise PlainPickleError(f"more than {MAX_TUPLES} tuples")


def _skip_counted(data: bytes, position: int, length: struct.Struct) -> int:
    start = position + length.size
    if start > len(data):
        raise PlainPickleError("the pickle ends inside an instruction")
    return start + int(length.unpack_from(data, position)[0])


def _walk(value: Any) -> None:
    """Check that a value is plain, of limited depth and size; a list that holds itself is met as too deep."""
    todo = [(value, 0)]
    met = 0
    while todo:
        item, depth = todo.pop()
        met += 1
        if met > MAX_VALUES or depth > MAX_DEPTH:
            raise PlainPickleError(f"more than {MAX_VALUES} values or {MAX_DEPTH} levels")
        if type(item) in (list, tuple):
            todo.extend((inner, depth + 1) for inner in item)
        elif type(item) is dict:
            todo.extend((inner, depth + 1) for pair in item.items() for inner in pair)
        elif type(item) not in _PLAIN:
            raise PlainPickleError(f"{type(item).__name__} is not plain data")
