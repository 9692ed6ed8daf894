"""Pickles that can carry nothing but data.

A pickle is a program for a small stack machine; a hostile one imports and calls what it likes. Here is a machine that
knows only the instructions that build None, bool, int, float, str, bytes, list, tuple and dict, so there is nothing to
misuse: no name is ever looked up, and Python's unpickler never sees a stranger's bytes. What `pickle.dumps` of protocol
5 writes for plain data it reads, and any unpickler reads what it writes.

Three rules keep small programs from making large or slow values: keys are text, so that nothing nested is ever hashed;
only text and bytes may be taken from the memo, so that the value is a tree no larger than its program; an int has at
most eight bytes. docs/wire.md is the specification.
"""

import pickle
import struct
from collections.abc import Callable
from typing import Any

from utils.errors import ProtocolError

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
    if data[:2] != _START:
        raise PlainPickleError(f"not a pickle of protocol {PROTOCOL}")
    value = _Machine(data, len(_START)).run()
    _check_depth(value)
    return value


def _copy(value: Any, depth: int) -> Any:
    """Copy plain data, so that no list or tuple is in it twice, which the reader would refuse."""
    if depth > MAX_DEPTH:
        raise TypeError(f"more than {MAX_DEPTH} levels")
    kind = type(value)
    if kind in (list, tuple):
        return kind([_copy(item, depth + 1) for item in value])
    if kind is dict and all(type(key) is str for key in value):
        return {key: _copy(item, depth + 1) for key, item in value.items()}
    if kind not in (type(None), bool, int, float, str, bytes):
        raise TypeError(f"{kind.__name__} is not plain data, or a key is not text")
    if kind is int and not -(1 << 63) <= value < 1 << 63:
        raise TypeError(f"an int has at most {MAX_INT_BYTES} bytes")
    return value


def _check_depth(value: Any) -> None:
    todo = [(value, 0)]
    while todo:
        item, depth = todo.pop()
        if depth > MAX_DEPTH:
            raise PlainPickleError(f"more than {MAX_DEPTH} levels")
        if type(item) in (list, tuple):
            todo.extend((inner, depth + 1) for inner in item)
        elif type(item) is dict:
            todo.extend((inner, depth + 1) for inner in item.values())


_MARK = object()


class _Machine:
    """Runs one program. Every method is one kind of instruction; `_INSTRUCTIONS` says which."""

    def __init__(self, data: bytes, position: int) -> None:
        self._data = data
        self._position = position
        self._stack: list[Any] = []
        self._memo: list[Any] = []

    def run(self) -> Any:
        """The value that is left when the program stops, at the last byte."""
        stop = pickle.STOP[0]
        while (code := self._take(1)[0]) != stop:
            instruction = _INSTRUCTIONS.get(code)
            if instruction is None:
                raise PlainPickleError(f"pickle instruction {code:#04x} is not allowed")
            instruction(self)
        if self._position != len(self._data) or len(self._stack) != 1 or self._stack[0] is _MARK:
            raise PlainPickleError("the pickle does not end where the header ends")
        return self._stack[0]

    def _take(self, count: int) -> bytes:
        end = self._position + count
        if end > len(self._data):
            raise PlainPickleError("the pickle ends inside an instruction")
        taken = self._data[self._position : end]
        self._position = end
        return taken

    def _number(self, form: struct.Struct) -> Any:
        return form.unpack(self._take(form.size))[0]

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise PlainPickleError("the pickle takes more than there is")
        return self._stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        items: list[Any] = []
        while self._stack and self._stack[-1] is not _MARK:
            items.append(self._stack.pop())
        if not self._stack:
            raise PlainPickleError("the pickle takes more than there is")
        self._stack.pop()
        items.reverse()
        return items

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def push_number(self, form: struct.Struct) -> None:
        self._stack.append(self._number(form))

    def push_long(self) -> None:
        size = self._take(1)[0]
        if size > MAX_INT_BYTES:
            raise PlainPickleError(f"an int has at most {MAX_INT_BYTES} bytes")
        self._stack.append(int.from_bytes(self._take(size), "little", signed=True))

    def push_text(self, length: struct.Struct) -> None:
        try:
            self._stack.append(self._take(self._number(length)).decode("utf-8"))
        except UnicodeDecodeError:
            raise PlainPickleError("text that is not UTF-8") from None

    def push_bytes(self, length: struct.Struct) -> None:
        self._stack.append(self._take(self._number(length)))

    def push_tuple(self, size: int) -> None:
        items = [self._pop() for _ in range(size)]
        self._stack.append(tuple(reversed(items)))

    def push_marked_tuple(self) -> None:
        self._stack.append(tuple(self._pop_to_mark()))

    def append(self, items: list[Any]) -> None:
        if not self._stack or type(self._stack[-1]) is not list:
            raise PlainPickleError("something is appended to what is no list")
        self._stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        if not self._stack or type(self._stack[-1]) is not dict or len(items) % 2:
            raise PlainPickleError("something is put into what is no dictionary")
        keys = items[::2]
        if not all(type(key) is str for key in keys):
            raise PlainPickleError("a key that is not text")
        self._stack[-1].update(zip(keys, items[1::2], strict=True))

    def append_one(self) -> None:
        self.append([self._pop()])

    def append_marked(self) -> None:
        self.append(self._pop_to_mark())

    def set_one(self) -> None:
        value = self._pop()
        self.set_items([self._pop(), value])

    def set_marked(self) -> None:
        self.set_items(self._pop_to_mark())

    def memoize(self) -> None:
        top = self._pop()
        self._stack.append(top)
        self._memo.append(top)

    def get(self, form: struct.Struct) -> None:
        index = self._number(form)
        if index >= len(self._memo) or type(self._memo[index]) not in (str, bytes):
            raise PlainPickleError("only text and bytes may be used twice")
        self._stack.append(self._memo[index])

    def skip_frame(self) -> None:
        self._take(8)


_U8, _U16, _U32, _I32, _F64 = (struct.Struct(form) for form in ("<B", "<H", "<I", "<i", ">d"))
_INSTRUCTIONS: dict[int, Callable[[_Machine], None]] = {
    code[0]: instruction
    for code, instruction in {
        pickle.NONE: lambda m: m.push(None),
        pickle.NEWTRUE: lambda m: m.push(True),
        pickle.NEWFALSE: lambda m: m.push(False),
        pickle.BININT: lambda m: m.push_number(_I32),
        pickle.BININT1: lambda m: m.push_number(_U8),
        pickle.BININT2: lambda m: m.push_number(_U16),
        pickle.LONG1: _Machine.push_long,
        pickle.BINFLOAT: lambda m: m.push_number(_F64),
        pickle.SHORT_BINUNICODE: lambda m: m.push_text(_U8),
        pickle.BINUNICODE: lambda m: m.push_text(_U32),
        pickle.SHORT_BINBYTES: lambda m: m.push_bytes(_U8),
        pickle.BINBYTES: lambda m: m.push_bytes(_U32),
        pickle.EMPTY_LIST: lambda m: m.push([]),
        pickle.EMPTY_DICT: lambda m: m.push({}),
        pickle.EMPTY_TUPLE: lambda m: m.push(()),
        pickle.MARK: lambda m: m.push(_MARK),
        pickle.TUPLE: _Machine.push_marked_tuple,
        pickle.TUPLE1: lambda m: m.push_tuple(1),
        pickle.TUPLE2: lambda m: m.push_tuple(2),
        pickle.TUPLE3: lambda m: m.push_tuple(3),
        pickle.APPEND: _Machine.append_one,
        pickle.APPENDS: _Machine.append_marked,
        pickle.SETITEM: _Machine.set_one,
        pickle.SETITEMS: _Machine.set_marked,
        pickle.MEMOIZE: _Machine.memoize,
        pickle.BINGET: lambda m: m.get(_U8),
        pickle.LONG_BINGET: lambda m: m.get(_U32),
        pickle.FRAME: _Machine.skip_frame,
    }.items()
}
