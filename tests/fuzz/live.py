"""Garbage ends the connection that it came on with a refusal by name, and nothing else: a whole live cloud.

A real cloud serves le_net in this process, over real sockets on loopback. Whatever is sent, all that comes back is
frames of the protocol, none of them says INTERNAL, every connection ends, and a good edge still gets the right answer.
"""

import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.hostile.attacks import encode
from edgecloud.engine.device_config import DeviceConfig
from edgecloud.models import inputs, registry, weights
from edgecloud.models.torch_network import TorchNetwork, prepare
from edgecloud.net.connection import Connection
from edgecloud.net.frames import FrameType
from edgecloud.net.messages import Chunk, Error, Hello, Infer, Message, Move, Offer, Probe, Result, Status, from_header
from edgecloud.net.tensors import Array
from edgecloud.server.cloud import Cloud
from edgecloud.server.cloud_config import CloudConfig
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import PeerClosedError
from tests.fuzz.targets import mutate

SLOW_S = 120.0
ANSWERS = frozenset(
    {FrameType.READY, FrameType.RESULT, FrameType.PROBED, FrameType.STATE, FrameType.ERROR}
)  # what a cloud may say


@dataclass
class Live:
    """A cloud to be attacked, and what it has said."""

    address: tuple[str, int]
    subject: TorchNetwork
    said: Counter[str] = field(default_factory=Counter)
    worst_s: float = 0.0

    @property
    def hello(self) -> bytes:
        """A good greeting."""
        return encode(self._hello(moves=False), [])

    def _hello(self, *, moves: bool) -> Hello:
        loaded, graph = self.subject.loaded, self.subject.traced.graph
        return Hello("le_net", loaded.digest, graph.digest, ["raw"], "", moves=moves)

    @property
    def x(self) -> Array:
        """A good input."""
        return np.asarray(self.subject.example.tensor)

    @property
    def seeds(self) -> list[bytes]:
        """Good frames, to be broken."""
        whole = [[1, len(self.subject.traced.graph.layers)]]
        frames = [encode(Infer(1, whole, 5.0), [self.x]), encode(Infer(2, [[3, 5], [7, 9]], 5.0, "le_net"), [self.x])]
        offer = encode(Offer("", "le_net", "0" * 64, 100, 200), [])
        small: list[Message] = [
            Probe(1, 256),
            Status(),
            Status(stays=True),
            Move("127.0.0.1:9999", "mine"),
            self._hello(moves=True),
        ]
        return [self.hello, *frames, *(encode(message, []) for message in small), offer, *self.chunks]

    @property
    def chunks(self) -> list[bytes]:
        """A good request in three frames."""
        whole, half = [[1, len(self.subject.traced.graph.layers)]], self.x.shape[2] // 2
        infer = encode(Infer(3, whole, 5.0, cuts=((2, half, self.x.shape[2]),), rows=(0, 0)), [])
        first, second = self.x[:, :, :half], self.x[:, :, half:]
        return [infer, encode(Chunk(3, 0, 0), [first]), encode(Chunk(3, 0, half), [second])]

    def attack(self, data: bytes) -> bool:
        """Send bytes and hear the cloud out; returns whether it took them without a refusal."""
        started = time.perf_counter()
        before = self.said["ERROR"]
        with socket.create_connection(self.address, timeout=SLOW_S) as sock:
            connection = Connection(sock)
            try:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
            except OSError:  # it has refused a part already
                self.said["closed while sending"] += 1
            try:
                while True:
                    self._hear(connection)
            except PeerClosedError:
                pass
        self.worst_s = max(self.worst_s, time.perf_counter() - started)
        return self.said["ERROR"] == before

    def _hear(self, connection: Connection) -> None:
        frame = connection.receive(Deadline.after(SLOW_S, "the cloud neither answers nor hangs up"))
        assert frame.kind in ANSWERS
        self.said[frame.kind.name] += 1
        if frame.kind is FrameType.ERROR:
            error = from_header(Error, frame.header)
            assert error.code != "INTERNAL", "a bug of the cloud"
            self.said[error.code] += 1

    def random_frame(self, rng: random.Random) -> bytes:
        """Random bytes, half of them behind a good greeting."""
        return (self.hello if rng.random() < 0.5 else b"") + rng.randbytes(rng.randrange(1, 200))

    def flipped_frame(self, rng: random.Random) -> bytes:
        """A good frame with up to three bits flipped, behind a good greeting where it is no greeting."""
        seeds = self.seeds
        number = rng.randrange(len(seeds))
        data = bytearray(seeds[number])
        for _ in range(rng.randrange(1, 4)):
            # half of the flips where the structure is: a flipped bit of a tensor is a good tensor
            data[rng.randrange(min(len(data), 250) if rng.random() < 0.5 else len(data))] ^= 1 << rng.randrange(8)
        return (b"" if number == 0 else self.hello) + bytes(data)

    def broken_session(self, rng: random.Random) -> bytes:
        """Several frames, some of them broken in any way."""
        parts = [mutate(rng, self.seeds) if rng.random() < 0.4 else rng.choice(self.seeds) for _ in range(4)]
        return self.hello + b"".join(parts)

    def broken_chunks(self, rng: random.Random) -> bytes:
        """A request in chunks of which some are broken in any way, left out, or come in another order."""
        infer, *chunks = self.chunks
        parts = [mutate(rng, [chunk]) if rng.random() < 0.6 else chunk for chunk in chunks]
        if rng.random() < 0.3:
            rng.shuffle(parts)
        first = mutate(rng, [infer]) if rng.random() < 0.2 else infer
        return self.hello + first + b"".join(parts[: rng.randrange(1, 3)] if rng.random() < 0.2 else parts)

    def assert_serves(self) -> None:
        """A good edge gets the right answer."""
        with socket.create_connection(self.address, timeout=SLOW_S) as sock:
            connection = Connection(sock)
            sock.sendall(self.hello + self.seeds[1])
            deadline = Deadline.after(SLOW_S, "a good edge was not served")
            assert connection.receive(deadline).kind is FrameType.READY
            frame = connection.receive(deadline)
            frame.read(Result)
            expected = self.subject.loaded.model(self.subject.example.tensor)
            np.testing.assert_allclose(frame.arrays()[0], expected, rtol=1e-4, atol=1e-4)


@contextmanager
def live_cloud(folder: Path) -> Iterator[Live]:
    """A cloud of this process."""
    device = DeviceConfig(threads=2, cache_dir=folder)
    config = CloudConfig(port=0, device=device, models=("le_net",), hello_s=5.0, request_s=10.0)
    cloud = Cloud(config)
    address = cloud.server.open()
    thread = threading.Thread(target=cloud.server.serve)
    thread.start()
    entry = registry.lookup("le_net")
    subject = prepare(weights.load(entry), inputs.sample(entry.sample, entry.preprocess), entry.name)
    try:
        live = Live(address, subject)
        live.assert_serves()
        yield live
        live.assert_serves()
    finally:
        cloud.server.stop()
        thread.join()
        cloud.close()
