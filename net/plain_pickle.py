"""Pickles that contain only data. Pure.

A pickle is a program for a small stack machine; a hostile one imports and calls what it likes. Here is a machine that
knows only the instructions that build None, bool, int, float, str, bytes, list, tuple and dict, so there is nothing to
misuse: no name is ever looked up, and Python's unpickler never sees untrusted bytes. What `pickle.dumps` of protocol
5 writes for plain data it reads, and any unpickler reads what it writes. It is written for speed: while an untrusted
header is read, no other thread has the interpreter.

Three rules keep small programs from making large or slow values: keys are text, so that nothing nested is ever hashed;
only text and bytes may be taken from the memo, so that the value is a tree no larger than its program; an int has at
most eight bytes. docs/wire.md is the specification.
"""

import pickle
import struct
from collections.abc import Callable, Iterable
from typing import Any

from edgecloud.utils.errors import ProtocolError

PROTOCOL = 5
MAX_DEPTH = 16
MAX_INT_BYTES = 8

_START = pickle.PROTO + bytes([PROTOCOL])


class PlainPickleError(ProtocolError):
    """These bytes are not a pickle of plain data."""

    code = "MALFORMED"


def dumps(value: Any) -> bytes:
    """Pickle plain data. Raises TypeError for anything else: that is a bug on this side."""
    return pickle.dumps(_copy(value, 0), protocol=PROTOCOL)


def loads(data: bytes) -> Any:
    """Read a pickle of plain data. Raises PlainPickleError for every other input, and nothing else."""
    if data[: len(_START)] != _START:
        raise PlainPickleError(f"not a pickle of protocol {PROTOCOL}")
    try:
        value = _run(data)
    except (IndexError, struct.error):  # of the program, or of what it has on its stack
        raise PlainPickleError("the pickle is truncated, or its stack is empty") from None
    except UnicodeDecodeError:
        raise PlainPickleError("text is not UTF-8") from None
    _check_depth(value)
    return value


def _copy(value: Any, depth: int) -> Any:
    """Copy plain data, so that no list or tuple is in it twice, which the reader would refuse."""
    kind = type(value)
    if depth >= MAX_DEPTH and kind in _NESTED and value:
        raise TypeError(f"more than {MAX_DEPTH} levels")
    if kind is list or kind is tuple:
        return kind([item if type(item) in _ATOMS else _copy(item, depth + 1) for item in value])
    if kind is dict and _TEXT.issuperset(map(type, value)):
        return {key: item if type(item) in _ATOMS else _copy(item, depth + 1) for key, item in value.items()}
    if kind is int:
        if not -(1 << 63) <= value < 1 << 63:
            raise TypeError(f"an int has at most {MAX_INT_BYTES} bytes")
    elif kind not in _ATOMS:
        raise TypeError(f"{kind.__name__} is not plain data, or a key is not a string")
    return value


def _check_depth(value: Any) -> None:
    """Level by level: a value is a tree, so that each of its nodes is looked at once."""
    level: Iterable[Any] = (value,)
    for _ in range(MAX_DEPTH):
        containers = [item for item in level if type(item) in _NESTED and item]
        if not containers:
            return
        level = [inner for item in containers for inner in (item.values() if type(item) is dict else item)]
    if any(type(item) in _NESTED and item for item in level):
        raise PlainPickleError(f"more than {MAX_DEPTH} levels")


_NESTED = frozenset({list, tuple, dict})
_ATOMS = frozenset({type(None), bool, float, str, bytes})
"""Without int, which has a range."""
_TEXT = frozenset({str})


def _run(data: bytes) -> Any:
    """What a program leaves when it stops, at its last byte. Raises IndexError or struct.error where it ends early or
    takes what is not there, UnicodeDecodeError for text that is none.

    The stack holds what came after the latest MARK, and `below` the stacks from before: so an instruction finds an
    empty stack where it would reach below a mark. The commonest instructions are here, the others have a function each.
    """
    stack: list[Any] = []
    memo: list[Any] = []
    below: list[list[Any]] = []
    position = len(_START)
    while (code := data[position]) != _STOP:
        position += 1
        if code == _SHORT_TEXT:
            end = position + 1 + data[position]
            stack.append(str(data[position + 1 : end], "utf-8"))
            if data[end] == _MEMOIZE:  # what `pickle.dumps` writes behind almost every text
                memo.append(stack[-1])
                end += 1
            position = end
        elif code == _FLOAT:
            stack.append(_unpack_float(data, position)[0])
            position += 8
        elif code == _SHORT_INT:
            stack.append(data[position])
            position += 1
        elif code == _MEMOIZE:
            memo.append(stack[-1])
        elif code == _MARK:
            below.append(stack)
            stack = []
        elif code in _AFTER_MARK:
            items, stack = stack, below.pop()
            _AFTER_MARK[code](stack, items)
        else:
            position = _OTHERS[code](data, position, stack, memo)
    if position + 1 != len(data) or below or len(stack) != 1:
        raise PlainPickleError("the pickle does not end at the end of the header")
    return stack[0]


# --- instructions that take what came after a mark


def _append_all(stack: list[Any], items: list[Any]) -> None:
    if type(stack[-1]) is not list:
        raise PlainPickleError("APPEND to something other than a list")
    stack[-1].extend(items)


def _set_all(stack: list[Any], items: list[Any]) -> None:
    if type(stack[-1]) is not dict or len(items) % 2:
        raise PlainPickleError("SETITEM on something other than a dictionary")
    keys = items[::2]
    if not _TEXT.issuperset(map(type, keys)):
        raise PlainPickleError("a key is not a string")
    stack[-1].update(zip(keys, items[1::2], strict=True))


# --- all others, each of which returns the position behind it


def _empty_list(data: bytes, position: int, stack: list[Any], memo: list[Any]) -> int:
    stack.append([])
    return position


def _empty_dict(data: bytes, position: int, stack: list[Any], memo: list[Any]) -> int:
    stack.append({})
    return position


def _constant(value: Any) -> "_Instruction":
    def push(data: bytes, position: int, stack: list[Any], memo: list[Any]) -> int:
        stack.append(value)
        return position

    return push


def _append_one(data: bytes, position: int, stack: list[Any], memo: list[Any]) -> int:
    value = stack.pop()
    _append_all(stack, [value])
    return position


def _set_one(data: bytes, position: int, stack: list[Any], memo: list[Any]) -> int:
    value, key = stack.pop(), stack.pop()
    _set_all(stack, [key, value])
    return position


def _single(data: bytes, position: int, stack: list[Any], memo: list[Any]) -> int:
    stack[-1] = (stack[-1],)
    return position


def _pair(data: bytes, position: int, stack: list[Any], memo: list[Any]) -> int:
    last = stack.pop()
    stack[-1] = (stack[-1], last)
    return position


def _triple(data: bytes, position: int, stack: list[Any], memo: list[Any]) -> int:
    last, middle = stack.pop(), stack.pop()
    stack[-1] = (stack[-1], middle, last)
    return position


def _past(data: bytes, end: int) -> int:
    """The end of an argument, which has to be within the program."""
    if end > len(data):
        raise IndexError
    return end


def _number(form: struct.Struct) -> "_Instruction":
    def push(data: bytes, position: int, stack: list[Any], memo: list[Any]) -> int:
        stack.append(form.unpack_from(data, position)[0])
        return position + form.size

    return push


def _long(data: bytes, position: int, stack: list[Any], memo: list[Any]) -> int:
    size = data[position]
    if size > MAX_INT_BYTES:
        raise PlainPickleError(f"an int has at most {MAX_INT_BYTES} bytes")
    end = _past(data, position + 1 + size)
    stack.append(int.from_bytes(data[position + 1 : end], "little", signed=True))
    return end


def _text(length: struct.Struct) -> "_Instruction":
    def push(data: bytes, position: int, stack: list[Any], memo: list[Any]) -> int:
        start = position + length.size
        end = _past(data, start + length.unpack_from(data, position)[0])
        stack.append(str(data[start:end], "utf-8"))
        return end

    return push


def _bytes(length: struct.Struct) -> "_Instruction":
    def push(data: bytes, position: int, stack: list[Any], memo: list[Any]) -> int:
        start = position + length.size
        end = _past(data, start + length.unpack_from(data, position)[0])
        stack.append(data[start:end])
        return end

    return push


def _get(index: struct.Struct) -> "_Instruction":
    def push(data: bytes, position: int, stack: list[Any], memo: list[Any]) -> int:
        value = memo[index.unpack_from(data, position)[0]]
        if type(value) not in (str, bytes):
            raise PlainPickleError("only text and bytes may be memoized")
        stack.append(value)
        return position + index.size

    return push


def _forbidden(data: bytes, position: int, stack: list[Any], memo: list[Any]) -> int:
    raise PlainPickleError(f"pickle instruction {data[position - 1]:#04x} is not allowed")


def _skip_frame(data: bytes, position: int, stack: list[Any], memo: list[Any]) -> int:
    return _past(data, position + 8)


_Instruction = Callable[[bytes, int, list[Any], list[Any]], int]
_U8, _U16, _U32, _I32, _F64 = (struct.Struct(form) for form in ("<B", "<H", "<I", "<i", ">d"))
_STOP, _MEMOIZE, _MARK = pickle.STOP[0], pickle.MEMOIZE[0], pickle.MARK[0]
_SHORT_TEXT, _SHORT_INT = pickle.SHORT_BINUNICODE[0], pickle.BININT1[0]
_FLOAT, _unpack_float = pickle.BINFLOAT[0], _F64.unpack_from
_AFTER_MARK: dict[int, Callable[[list[Any], list[Any]], None]] = {
    pickle.TUPLE[0]: lambda stack, items: stack.append(tuple(items)),
    pickle.APPENDS[0]: _append_all,
    pickle.SETITEMS[0]: _set_all,
}
_KNOWN: dict[bytes, _Instruction] = {
    pickle.NONE: _constant(None),
    pickle.NEWTRUE: _constant(True),
    pickle.NEWFALSE: _constant(False),
    pickle.EMPTY_TUPLE: _constant(()),
    pickle.EMPTY_LIST: _empty_list,
    pickle.EMPTY_DICT: _empty_dict,
    pickle.TUPLE1: _single,
    pickle.TUPLE2: _pair,
    pickle.TUPLE3: _triple,
    pickle.APPEND: _append_one,
    pickle.SETITEM: _set_one,
    pickle.BININT: _number(_I32),
    pickle.BININT2: _number(_U16),
    pickle.LONG1: _long,
    pickle.BINUNICODE: _text(_U32),
    pickle.SHORT_BINBYTES: _bytes(_U8),
    pickle.BINBYTES: _bytes(_U32),
    pickle.BINGET: _get(_U8),
    pickle.LONG_BINGET: _get(_U32),
    pickle.FRAME: _skip_frame,
}
_OTHERS = tuple(_KNOWN.get(bytes([code]), _forbidden) for code in range(256))
