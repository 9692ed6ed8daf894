"""What attackers send: frames made by hand, and pickles that run something in an ordinary unpickler."""

import builtins
import codecs
import importlib
import os
import pickle
import subprocess
import timeit
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter, methodcaller
from pathlib import Path
from typing import Any

from edgecloud.net import plain_pickle, tensors
from edgecloud.net.codec import Encoded
from edgecloud.net.frames import pack_prefix
from edgecloud.net.messages import Message, to_header


def encode(message: Message, arrays: Sequence[tensors.Array | Encoded]) -> bytes:
    """The bytes of a message with tensors."""
    described, buffers = tensors.describe(arrays) if arrays else ({}, [])
    header = plain_pickle.dumps(to_header(message) | described)
    return pack_prefix(message.TYPE, len(header), sum(b.nbytes for b in buffers)) + header + b"".join(buffers)


class Gadget:
    """Pickles as a call of anything."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def gadgets(canary: Path) -> list[Any]:
    """Objects that create the file `canary` when a normal unpickler loads them."""
    touch = f"touch {canary}"
    write = f"open({str(canary)!r}, 'w').close()"
    return [
        Gadget(os.system, touch),
        Gadget(os.popen, touch),
        Gadget(os.mkdir, str(canary)),
        Gadget(os.open, str(canary), os.O_CREAT),
        Gadget(eval, write),
        Gadget(exec, write),
        Gadget(compile, write, "x", "exec"),
        Gadget(builtins.open, str(canary), "w"),
        Gadget(builtins.__import__, "os"),
        Gadget(getattr, Path, "home"),
        Gadget(importlib.import_module, "antigravity"),
        Gadget(subprocess.Popen, touch, -1, None, None, None, None, None, True, True),
        Gadget(subprocess.check_output, ["touch", str(canary)]),
        Gadget(subprocess.call, ["touch", str(canary)]),
        Gadget(timeit.timeit, write),
        Gadget(partial, os.system, touch),
        Gadget(methodcaller, "touch"),
        Gadget(attrgetter, "system"),
        Gadget(codecs.encode, "x", "utf-8"),
        Gadget(pickle.loads, b"N."),
        Gadget(bytearray, 10),
        Gadget(Path, str(canary)),
        Path(str(canary)),
        os.system,
        Gadget,
        object(),
        {1, 2},
        frozenset({1}),
        bytearray(3),
        complex(1, 2),
        slice(1, 2),
        range(3),
        {"nested": [1, (Gadget(os.system, touch),)]},
    ]
