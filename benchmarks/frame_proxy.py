"""A proxy that understands frames, between an edge and a real cloud: a fault happens at one of them."""

import contextlib
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgecloud.net import plain_pickle
from edgecloud.net.frames import PREFIX_BYTES, FrameType, Limits, pack_prefix, parse_prefix

CHUNK = 1 << 16
WAIT_S = 120.0  # longest silence of either side
UP = frozenset({FrameType.HELLO, FrameType.PROBE, FrameType.STATUS, FrameType.INFER, FrameType.CHUNK})
TLS = "tls"
"""Instead of a kind of frame: the first bytes of the cloud, whatever they are."""


@dataclass(frozen=True)
class Place:
    """A frame of a conversation: the n-th of its kind that passes, over all connections."""

    kind: FrameType | str
    number: int = 1
    share: float = 0.0
    """How much of it still passes."""
    least_bytes: int = 0
    """Frames with a smaller payload are not counted."""


@dataclass(eq=False)
class Line:
    """One connection of an edge, and the one to the cloud that belongs to it."""

    edge: socket.socket
    cloud: socket.socket

    def close(self) -> None:
        """Both ends."""
        for sock in (self.edge, self.cloud):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


Act = Callable[["FrameProxy", Line], None]
Said = tuple[FrameType, dict[str, Any], bytes]
"""A frame: its kind, header and payload."""
Rewrite = Callable[[FrameType, dict[str, Any], bytes], Said]
"""Makes something else of what the cloud says."""


class FrameProxy:
    """Passes frames on. At each of `places`, in this order, its act happens, and the rest of that frame is lost."""

    def __init__(
        self, to: tuple[str, int], acts: Sequence[tuple[Place, Act]], rewrite: Rewrite | None = None, port: int = 0
    ) -> None:
        self._to, self._acts, self._rewrite = to, list(acts), rewrite
        self._seen: Counter[Place] = Counter()
        self._lock = threading.Lock()
        self._lines: list[Line] = []
        self.is_frozen = False
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def is_over(self) -> bool:
        """Whether everything that should happen has happened."""
        return not self._acts

    def refuse(self) -> None:
        """Nobody listens here any more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def close(self) -> None:
        """End, with every connection."""
        self.refuse()
        for line in list(self._lines):
            line.close()

    def freeze(self) -> None:
        """From now on nothing passes: no end, no reset, just silence; connections are still taken."""
        self.is_frozen = True

    def _accept(self) -> None:
        while True:
            try:
                edge, _ = self._listener.accept()
            except OSError:
                return
            try:
                cloud = socket.create_connection(self._to, timeout=5.0)
            except OSError:
                edge.close()
                continue
            line = Line(edge, cloud)
            self._lines.append(line)
            for sock in (edge, cloud):
                sock.settimeout(WAIT_S)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for is_up in (True, False):
                threading.Thread(target=self._run, args=(line, is_up), daemon=True).start()

    def _run(self, line: Line, is_up: bool) -> None:
        source, sink = (line.edge, line.cloud) if is_up else (line.cloud, line.edge)
        is_tls = any(place.kind == TLS for place, _ in self._acts)
        try:
            while (
                self._pass_bytes(line, source, sink, is_up) if is_tls else self._pass_frame(line, source, sink, is_up)
            ):
                pass
        except (OSError, EOFError, ValueError):
            pass
        if not self.is_frozen:
            line.close()

    def _pass_bytes(self, line: Line, source: socket.socket, sink: socket.socket, is_up: bool) -> bool:
        data = source.recv(CHUNK)
        if not is_up and (act := self._due(TLS, len(data))) is not None:
            sink.sendall(data[: int(act[0].share * len(data))])
            act[1](self, line)
            return False
        if self.is_frozen:
            return bool(data)
        sink.sendall(data)
        return bool(data)

    def _pass_frame(self, line: Line, source: socket.socket, sink: socket.socket, is_up: bool) -> bool:
        start = _exactly(source, PREFIX_BYTES)
        prefix = parse_prefix(start, Limits())
        header, payload = _exactly(source, prefix.header_bytes), _exactly(source, prefix.payload_bytes)
        if self._rewrite is not None and not is_up:
            kind, fields, payload = self._rewrite(prefix.kind, plain_pickle.loads(header), payload)
            header = plain_pickle.dumps(fields)
            start = pack_prefix(kind, len(header), len(payload))
        data = start + header + payload
        act = self._due(prefix.kind, len(payload))
        if self.is_frozen:
            return True
        if act is None:
            sink.sendall(data)
            return True
        sink.sendall(data[: int(act[0].share * len(data))])
        act[1](self, line)
        return True

    def _due(self, kind: FrameType | str, payload_bytes: int) -> tuple[Place, Act] | None:
        with self._lock:
            if not self._acts:
                return None
            place = self._acts[0][0]
            if place.kind != kind or payload_bytes < place.least_bytes:
                return None
            self._seen[place] += 1
            return self._acts.pop(0) if self._seen[place] == place.number else None


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        more = sock.recv(min(CHUNK, count - len(data)))
        if not more:
            raise EOFError
        data += more
    return bytes(data)


# --- what may happen


def close(_proxy: FrameProxy, line: Line) -> None:
    """This connection ends; others may be made."""
    line.close()


def garbage(_proxy: FrameProxy, line: Line) -> None:
    """The edge gets bytes that are no frame."""
    with contextlib.suppress(OSError):
        line.edge.sendall(os.urandom(4096))


def silence(proxy: FrameProxy, _line: Line) -> None:
    """Nothing passes any more, and new connections are taken."""
    proxy.freeze()


def dribble(_proxy: FrameProxy, line: Line) -> None:
    """The edge gets a byte of a frame now and then: it is not silent, and it says nothing."""
    frame = pack_prefix(FrameType.READY, 60_000, 0) + bytes(60_000)

    def drip() -> None:
        with contextlib.suppress(OSError):
            for number in range(len(frame)):
                line.edge.sendall(frame[number : number + 1])
                threading.Event().wait(0.05)

    threading.Thread(target=drip, daemon=True).start()
