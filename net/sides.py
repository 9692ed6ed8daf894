"""Codecs that need data which both sides must have: the tables of ecN, found by calibration, or weights. Pure.

Such data are called a side. They travel once on each connection, in front of the first tensor that needs them, and are
named by their digest, so both sides have the same or none. A plan names such a codec without it (`ec6`); on the wire it
follows the name (`ec6@0123456789abcdef`).
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from edgecloud.net.encodings import Array, Shape
from edgecloud.utils.errors import AppError, ProtocolError

MAX_BYTES = 256 << 10
"""Of one side."""
KEPT, ASSUMED = 16, 8
"""How many sides a cloud keeps for a connection, and an edge takes it to have: those that were used last."""
_SHORT = 16  # hexadecimal digits of a digest behind a codec's name


class UnknownSideError(AppError):
    """A tensor needs data that did not come on this connection."""

    code = "BAD_REQUEST"


@dataclass(frozen=True)
class Side:
    """What a codec needs beside the tensor."""

    kind: str
    data: bytes
    is_file: bool = False
    """Whether both sides have it from files of their own, so that it never travels."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the data, in hexadecimal digits."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def wire_name(self) -> str:
        """The codec's name on the wire."""
        return wire_name(self.kind, self.digest)


class SidedCodec(Protocol):
    """A codec with its side; it carries float32 with a loss."""

    @property
    def side(self) -> Side:
        """What it was made of."""

    def splits(self, shape: Shape, part: Shape) -> bool:
        """Whether slices of shape `part` of a tensor of `shape` can be carried each on its own, with no larger loss."""

    def encode(self, array: Array) -> bytes:
        """The bytes of an array. Raises CodecError for one that it cannot carry."""

    def check(self, dtype: str, shape: Shape, buffer: memoryview) -> None:
        """Raises ProtocolError for a tensor or a size that is not of this codec, before memory is taken."""

    def decode(self, dtype: str, shape: Shape, buffer: memoryview) -> Array:
        """The array of what was checked, in time and memory bounded by its shape. Raises ProtocolError."""


Parse = Callable[[Side], SidedCodec]
"""Makes the codec of untrusted data. Raises ProtocolError for what is not right in every count and every number."""


def kind_of(name: str) -> str:
    """`ec6` of `ec6`, `learned` of `learned:NAME`: what both sides announce."""
    return name.partition(":")[0]


def wire_name(kind: str, digest: str) -> str:
    """How a tensor on the wire names its codec and its side."""
    return f"{kind}@{digest[:_SHORT]}"


@dataclass(frozen=True, slots=True)
class Pending:
    """A codec that a tensor names, before its side was looked up."""

    kind: str
    name: str
    """With the digits of the digest."""


def pending(name: str, kinds: Collection[str]) -> Pending | None:
    """What an untrusted name means; None where it is none of a codec with a side."""
    kind, at, digest = name.partition("@")
    is_ours = kind in kinds and at and len(digest) == _SHORT and all(digit in "0123456789abcdef" for digit in digest)
    return Pending(kind, name) if is_ours else None


class Held:
    """The sides that came on one connection, those that were used last: at most `KEPT` of at most `MAX_BYTES`."""

    def __init__(self, kinds: Mapping[str, Parse]) -> None:
        self._kinds = kinds
        self._codecs: OrderedDict[str, SidedCodec] = OrderedDict()

    def __len__(self) -> int:
        return len(self._codecs)

    def take(self, kind: str, digest: str, data: bytes) -> None:
        """Keep a side that has come. Raises ProtocolError where it is not what its digest says, or is not right."""
        side = Side(kind, data)
        if kind not in self._kinds or side.digest != digest:
            raise ProtocolError("the data of a codec do not match their digest")
        name = side.wire_name
        if name not in self._codecs:
            self._codecs[name] = self._kinds[kind](side)
        self._codecs.move_to_end(name)
        while len(self._codecs) > KEPT:
            self._codecs.popitem(last=False)

    def find(self, wanted: Pending) -> SidedCodec:
        """Raises UnknownSideError where it did not come, or other ones did since."""
        if wanted.name not in self._codecs:
            raise UnknownSideError(f"the data of codec {wanted.name} did not come on this connection")
        self._codecs.move_to_end(wanted.name)
        return self._codecs[wanted.name]


class Sent:
    """The sides that an edge has sent on one connection, and takes the cloud to have."""

    def __init__(self) -> None:
        self._names: OrderedDict[str, None] = OrderedDict()

    def missing(self, sides: Collection[Side]) -> list[Side]:
        """Those of a message that have to come along; from now on they count as sent. At most `ASSUMED` of them."""
        travelling = [side for side in sides if not side.is_file]
        new = list({side.wire_name: side for side in travelling if side.wire_name not in self._names}.values())
        for side in travelling:
            self._names[side.wire_name] = None
            self._names.move_to_end(side.wire_name)
        while len(self._names) > ASSUMED:
            self._names.popitem(last=False)
        return new
