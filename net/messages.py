"""Messages: one frozen dataclass for each frame type, checked field by field.

Pure, no socket. Fields that a header has and the dataclass has not are ignored, so that a later version can add some.
Fields with a default need not be sent, and are not where they have it.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar, get_args

from edgecloud.net.frames import FrameType
from edgecloud.utils.errors import AppError, ProtocolError

MIN_SPEED, MAX_SPEED = 0.01, 10.0
SpeedValue = Annotated[float, "speed"]
"""Divides times: 0.01 to 10."""
Cuts = Annotated[tuple[tuple[int, ...], ...], "cuts"]
"""Of each tensor the axis along which it is cut, from 1 on, then where its slices end, ascending from above 0."""
Order = Annotated[tuple[int, ...], "order"]
"""Whole numbers, not below 0."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Edge to cloud, first: which network, with which parameters. May be sent again for further networks."""

    TYPE: ClassVar[FrameType] = FrameType.HELLO
    model: str
    weights: str
    """Digest of the parameters."""
    graph: str
    """Digest of the graph of layers."""
    codecs: list[str]
    token: str
    torch: str = ""
    """The edge's version of torch ..."""
    code: str = ""
    """... the digest of the file of a custom model ..."""
    tensors: str = ""
    """... and six hexadecimal digits for each of at most 128 runs of tensors: for a refusal to say what differs."""
    bundle: str = ""
    """SHA-256 of the header of the bundle that the edge has of it, where it has one: 64 hexadecimal digits."""
    moves: bool = False
    """Whether this edge understands MOVE."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Cloud to edge: this cloud runs that network, and needs this long for every layer."""

    TYPE: ClassVar[FrameType] = FrameType.READY
    seconds: list[float]
    """Seconds of every layer of the graph on this cloud when idle."""
    start_s: list[float]
    """For every layer, what a tail that begins after it takes beyond the sum of its layers."""
    queue_s: float
    """How long requests waited for the processor lately."""
    device: str
    codecs: list[str]
    max_payload: int
    times: str
    """Where the seconds come from: `measured` or `predicted`."""
    load: float = 1.0
    """How much slower than when idle it computed lately."""
    backend: str = ""
    """What computes there; an older cloud does not say."""
    speed: SpeedValue = 1.0
    """How fast it is now beside itself when nothing else runs there, 0.01 to 10; 1 where it does not say."""
    backend_reason: str = ""
    """Why that computes there."""
    chunks: int = 0
    """In how many CHUNKs the tensors of one INFER may come; 0: they do not."""
    share: SpeedValue = 1.0
    """Of a core that each of its threads has, where something limits it: the cost of every call is divided by it."""


@dataclass(frozen=True, slots=True)
class Infer:
    """Edge to cloud: run these layers on these tensors. The payload holds the tensors that the layers read."""

    TYPE: ClassVar[FrameType] = FrameType.INFER
    id: int
    layers: list[list[int]]
    """Half-open ranges of layer numbers."""
    deadline_s: float
    """Seconds from its arrival after which nobody waits for the answer."""
    model: str = ""
    """Of which network, of those that a HELLO named; empty: the latest."""
    sides: str = ""
    """What the last tensors are that no layer reads: data of codecs, each as `KIND:SHA-256`, with spaces between."""
    cuts: Cuts = ()
    """How the tensors that the layers read are cut, which come in CHUNKs then; none: they are in the payload."""
    rows: Order = ()
    """Where the layers may begin with the rows that have come: of every CHUNK its tensor, in the order in which they
    come."""
    until: int = 0
    """The last layer that is to begin so, where it is not any that can; an older cloud begins with all of them."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Edge to cloud: a slice of a tensor of an INFER, which is the one tensor in the payload. Those of a tensor come in
    order, and anything may come between."""

    TYPE: ClassVar[FrameType] = FrameType.CHUNK
    id: int
    """Of the INFER."""
    tensor: int
    """Which of the tensors that its layers read."""
    start: int
    """Where the slice begins, along the axis that the INFER named."""


@dataclass(frozen=True, slots=True)
class Result:
    """Cloud to edge: the answer of the layers, with the cloud's own durations."""

    TYPE: ClassVar[FrameType] = FrameType.RESULT
    id: int
    queue_s: float
    cloud_s: float
    load: float = 1.0
    """How much slower than when idle the cloud computed lately."""
    received_s: float = 0.0
    """From the first byte of the request to its last, on the cloud's clock."""
    timed_bytes: int = 0
    """Of the request's bytes those that came behind the first 16 KiB ..."""
    timed_s: float = 0.0
    """... and how long they took: what the rate of the link can be told from."""
    batch: int = 1
    """How many requests were computed together."""
    decode_s: float = 0.0
    """What unpacking the tensors of the request took, before it was queued."""
    speed: SpeedValue = 1.0
    """As in READY."""
    backend: str = ""
    """What computed this, where that is not what READY said."""
    idle_s: float = 0.0
    """Of `received_s`, how long nothing of the request was on its way: the edge was not as fast as the link."""
    rest_s: float = 0.0
    """Of a request in CHUNKs: from its last byte to this answer."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Edge to cloud: a payload of any bytes; answer with `reply_bytes` bytes."""

    TYPE: ClassVar[FrameType] = FrameType.PROBE
    id: int
    reply_bytes: int


@dataclass(frozen=True, slots=True)
class Probed:
    """Cloud to edge: the answer to a probe."""

    TYPE: ClassVar[FrameType] = FrameType.PROBED
    id: int


@dataclass(frozen=True, slots=True)
class Status:
    """Edge to cloud: how busy are you? Also without any HELLO, with the token then."""

    TYPE: ClassVar[FrameType] = FrameType.STATUS
    token: str = ""
    stays: bool = False
    """Whether this edge was asked to move and found no other cloud."""


@dataclass(frozen=True, slots=True)
class State:
    """Cloud to edge: how busy it is."""

    TYPE: ClassVar[FrameType] = FrameType.STATE
    load: float
    """How much slower than when idle it computed lately."""
    queue_s: float
    """How long requests waited lately."""
    waiting: int
    """Requests queued now ..."""
    max_queue: int
    """... and how many may be."""
    connections: int
    draining: bool = False
    """Whether it finishes what is in hand and takes nothing new."""
    speed: SpeedValue = 1.0
    """As in READY."""
    sent: str = ""
    """Names of the networks that edges sent and that run now, with spaces between ..."""
    store_bytes: int = 0
    """... and the bytes of all that are kept."""
    gateway: bool = False
    """Whether workers compute for it; then ..."""
    workers: int = 0
    """... how many may be asked now ..."""
    wanted: int = 0
    """... of how many that there should be ..."""
    queued_s: float = 0.0
    """... the predicted seconds of all requests that they have not answered ..."""
    lost: int = 0
    """... how many have died or hung since it began ..."""
    repeats: int = 0
    """... and how many requests were sent to another one for that."""


MAX_ERROR_TEXT = 300


@dataclass(frozen=True, slots=True)
class Error:
    """Cloud to edge: a refusal, as a code and a short text that tells nothing of the cloud's inside."""

    TYPE: ClassVar[FrameType] = FrameType.ERROR
    code: str
    text: str
    id: int = 0
    """Of the request that is refused; 0 where it is none."""
    retry_after_s: float = 0.0
    """With BUSY: when it may be worth another try."""
    accepts: int = 0
    """With UNKNOWN_MODEL and MISMATCH: how many bytes a bundle may have that the edge sends; 0: none is taken."""

    @classmethod
    def of(cls, error: AppError, request_id: int = 0) -> "Error":
        """What the other side is told about an error of ours."""
        text, retry_after_s = str(error)[:MAX_ERROR_TEXT], getattr(error, "retry_after_s", 0.0)
        return cls(error.code, text, request_id, retry_after_s, getattr(error, "accepts", 0))


@dataclass(frozen=True, slots=True)
class Offer:
    """Edge to cloud, first on a connection of its own: a network as a bundle, where an ERROR said that one is taken."""

    TYPE: ClassVar[FrameType] = FrameType.OFFER
    token: str
    model: str
    bundle: str
    """SHA-256 of the bundle's header, which names that of everything else in it."""
    head_bytes: int
    """Of the file up to the end of its header ..."""
    bytes: int
    """... and of all of it."""


@dataclass(frozen=True, slots=True)
class Want:
    """Cloud to edge, for an OFFER, every PIECE and a PROOF: what is missing, and how far it is."""

    TYPE: ClassVar[FrameType] = FrameType.WANT
    ranges: list[list[int]]
    """Half-open ranges of the file that are to be sent next, in order; none while enough is on its way."""
    have: int
    """Bytes of the file that are there."""
    is_whole: bool = False
    """Whether all of it is: the PROOF is missing ..."""
    is_ready: bool = False
    """... or nothing: a HELLO that names the bundle will be answered."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Edge to cloud: bytes of the file from an offset on, which are the payload."""

    TYPE: ClassVar[FrameType] = FrameType.PIECE
    offset: int


@dataclass(frozen=True, slots=True)
class Proof:
    """Edge to cloud: its own answer to the example in the bundle, as the tensors of the network's outputs."""

    TYPE: ClassVar[FrameType] = FrameType.PROOF
    bundle: str


@dataclass(frozen=True, slots=True)
class Move:
    """Cloud to edge, unasked and between any two frames, where HELLO said that it is understood: connect anew."""

    TYPE: ClassVar[FrameType] = FrameType.MOVE
    address: str
    """HOST:PORT, one of those that the edge was told of; empty: the edge chooses again among all of them."""
    reason: str


_Asked = Hello | Ready | Infer | Result | Probe | Probed | Error | Status | State
Message = _Asked | Offer | Want | Piece | Proof | Move | Chunk
MAX_DURATION_S = 1e9
M = TypeVar(
    "M", Hello, Ready, Infer, Result, Probe, Probed, Error, Status, State, Offer, Want, Piece, Proof, Move, Chunk
)


def to_header(message: Message) -> dict[str, Any]:
    """The header of a message, without the description of tensors."""
    rows = _ROWS[message.TYPE]
    return {name: value for name, default, _, _ in rows if (value := getattr(message, name)) != default}


def from_header(kind: type[M], header: Any) -> M:
    """Read a message. Raises ProtocolError where a field is missing or not of its type."""
    if not isinstance(header, dict):
        raise ProtocolError("a header must be a dictionary")
    values: dict[str, Any] = {}
    for name, default, annotation, check in _ROWS[kind.TYPE]:
        value = values[name] = header.get(name, default)  # what is missing passes no check
        if not check(value):
            raise ProtocolError(f"{kind.TYPE.name}: field {name!r} is missing or not a {_name(annotation)}")
    return kind(**values)


class _Row(NamedTuple):
    """A field of a message."""

    name: str
    default: Any
    annotation: Any
    check: Callable[[Any], bool]


def _name(annotation: Any) -> str:
    if annotation == SpeedValue:
        return f"speed from {MIN_SPEED:g} to {MAX_SPEED:g}"
    if annotation == Order:
        return "tuple of whole numbers"
    if annotation == Cuts:
        return "tuple with an axis and ascending ends for each tensor"
    return getattr(annotation, "__name__", str(annotation))


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _is_duration(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < MAX_DURATION_S  # false for NaN


def _is_speed(value: Any) -> bool:
    return type(value) in (int, float) and MIN_SPEED <= value <= MAX_SPEED  # false for NaN


def _is_range(value: Any) -> bool:
    return type(value) is list and len(value) == 2 and all(map(_is_count, value)) and value[0] < value[1]


def _are_cuts(value: Any) -> bool:
    return type(value) is tuple and all(map(_is_cut, value))


def _is_order(value: Any) -> bool:
    return type(value) is tuple and all(map(_is_count, value))


def _is_cut(value: Any) -> bool:
    if not _is_order(value) or len(value) < 2:
        return False
    return value[0] >= 1 and value[1] >= 1 and all(start < end for start, end in pairwise(value[1:]))


def _list_of(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: type(value) is list and all(map(check, value))


def _is_flag(value: Any) -> bool:
    return type(value) is bool


def _is_text(value: Any) -> bool:
    return type(value) is str


_CHECKS: dict[Any, Callable[[Any], bool]] = {
    str: _is_text,
    int: _is_count,
    float: _is_duration,
    SpeedValue: _is_speed,
    Cuts: _are_cuts,
    Order: _is_order,
    bool: _is_flag,
    list[str]: _list_of(_is_text),
    list[float]: _list_of(_is_duration),
    list[list[int]]: _list_of(_is_range),
}

_ROWS: dict[FrameType, tuple[_Row, ...]] = {
    kind.TYPE: tuple(_Row(field.name, field.default, field.type, _CHECKS[field.type]) for field in fields(kind))
    for kind in get_args(Message)
}
"""The fields of every message: looking them up each time takes longer than all else that is done with a header."""
