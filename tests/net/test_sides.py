"""Data of codecs on the wire: they travel once on a connection, and nobody's are taken who lies about them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from edgecloud.client.handshake import RefusedError
from edgecloud.client.multiplexed import SILENT, MultiplexedClient, Request
from edgecloud.engine import tables
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.net import codec, entropy
from edgecloud.net.codec import KINDS, Encoded
from edgecloud.net.connection import Connection
from edgecloud.net.encodings import Array
from edgecloud.net.entropy import EntropyCodec
from edgecloud.net.messages import Infer, Result
from edgecloud.net.sides import ASSUMED, KEPT, Held, Pending, Sent, Side, UnknownSideError, pending
from edgecloud.utils.errors import AppError, ProtocolError
from tests.conftest import CloudProcess
from tests.net.test_entropy import features, found
from tests.server.test_hostile import greet, hello_of, soon

DIGEST = "0123456789abcdef"


def test_an_edge_never_takes_a_cloud_to_have_what_it_dropped() -> None:
    """Whatever the order, what `Sent` leaves out `Held` finds."""
    rng = np.random.default_rng(0)
    one = found(2)
    sides = [Side("ec2", one.side.data[:8] + bytes([n]) + one.side.data[9:]) for n in range(3 * KEPT)]
    sent, held = Sent(), Held(KINDS)
    for _ in range(400):
        now = [sides[n] for n in rng.choice(len(sides) if rng.random() < 0.3 else ASSUMED, rng.integers(1, 4))]
        for side in sent.missing(now):
            held.take(side.kind, side.digest, side.data)
        for side in now:
            assert held.find(Pending(side.kind, side.wire_name)).side == side
    assert len(held) == KEPT


def test_untrusted_names() -> None:
    assert pending(f"ec4@{DIGEST}", KINDS) == Pending("ec4", f"ec4@{DIGEST}")
    for name in ("ec4", "ec4@", "ec4@0123", f"ec4@{DIGEST}0", f"ec4@{DIGEST.upper()}", f"ec9@{DIGEST}", f"@{DIGEST}"):
        assert pending(name, KINDS) is None


def test_what_does_not_match_its_digest_is_refused() -> None:
    side, held = found(4).side, Held(KINDS)
    for kind, digest, data in [
        ("ec5", side.digest, side.data),
        ("zstd", side.digest, side.data),
        ("ec4", side.digest[:16], side.data),
        ("ec4", side.digest, side.data + b"\0"),
    ]:
        with pytest.raises(ProtocolError):
            held.take(kind, digest, data)
    with pytest.raises(UnknownSideError):
        held.find(Pending("ec4", side.wire_name))


# --- with a cloud


@pytest.fixture(scope="module")
def le_net(network: Callable[[str], TorchNetwork]) -> TorchNetwork:
    return network("le_net")


@contextmanager
def asking(cloud: CloudProcess, le_net: TorchNetwork) -> Iterator[Connection]:
    connection = greet(cloud, hello_of(le_net))
    try:
        yield connection
    finally:
        connection.close()


def boundary(le_net: TorchNetwork, number: int) -> Array:
    outputs: dict[int, Array] = {}

    def keep(at: int, output: Array) -> None:
        outputs[at] = output.copy()

    le_net.each_output(le_net.example.array, keep)
    return np.asarray(outputs[number])


def cut(le_net: TorchNetwork) -> tuple[frozenset[int], EntropyCodec, Encoded]:
    """A tail, and what it reads packed with tables for just that."""
    number = next(n for n, layer in enumerate(le_net.graph.layers) if layer.id == "features.5")
    array = boundary(le_net, number)
    one = entropy.parse(tables.find([array], 6).side)
    return frozenset(range(number + 1, len(le_net.graph.layers))), one, codec.encode(array, "ec6", one)


def test_tables_travel_once_and_the_answer_is_that_of_the_network(cloud: CloudProcess, le_net: TorchNetwork) -> None:
    tail, _, packed = cut(le_net)
    whole = le_net.whole(le_net.example.array)[0]
    with asking(cloud, le_net) as connection:
        client = MultiplexedClient(connection, {}, SILENT, 1, 30.0)
        sent = []
        for _ in range(3):
            before = connection.sent_bytes
            _, arrays = client.ask(Request(0, "le_net", le_net.graph, tail, [], [packed]), soon())
            sent.append(connection.sent_bytes - before)
            assert arrays[0].argmax() == whole.argmax()
            assert np.abs(arrays[0] - whole).max() < 0.1 * np.abs(whole).max()
    assert sent[1] == sent[2] < sent[0] - 500  # the tables
    assert packed.nbytes < 400


def test_after_a_refusal_the_tables_travel_again(cloud: CloudProcess, le_net: TorchNetwork) -> None:
    """Whatever made the cloud forget them: here others that came past the client."""
    tail, one, packed = cut(le_net)
    request = Request(0, "le_net", le_net.graph, tail, [], [packed])
    with asking(cloud, le_net) as connection:
        client = MultiplexedClient(connection, {}, SILENT, 1, 30.0)
        assert client.ask(request, soon())[1]
        for number in range(KEPT):
            other = Side("ec6", one.side.data[:8] + bytes([number]) + one.side.data[9:])
            array = np.frombuffer(other.data, np.uint8)
            connection.send(request_of(tail, f"ec6:{other.digest}"), soon(), [boundary(le_net, min(tail) - 1), array])
            assert connection.receive(soon()).read(Result).id == 1
        with pytest.raises(RefusedError, match="did not come on this connection"):
            client.ask(request, soon())
        assert client.ask(request, soon())[1]


def request_of(tail: frozenset[int], sides: str = "") -> Infer:
    return Infer(1, [[min(tail), max(tail) + 1]], 30.0, sides=sides)


def test_tables_that_did_not_come_are_told_and_the_connection_goes_on(
    cloud: CloudProcess, le_net: TorchNetwork
) -> None:
    tail, one, packed = cut(le_net)
    name = f"ec6:{one.side.digest}"
    data = np.frombuffer(one.side.data, np.uint8)
    with asking(cloud, le_net) as connection:
        connection.send(request_of(tail), soon(), [packed])
        with pytest.raises(AppError, match="did not come on this connection"):
            connection.receive(soon()).read(Result)
        connection.send(request_of(tail, name), soon(), [packed, data])
        assert connection.receive(soon()).read(Result).id == 1


@pytest.mark.parametrize("case", ["digest", "kind", "too large", "not uint8", "too many", "damaged", "shape"])
def test_lies_about_tables_end_the_connection_and_the_cloud_goes_on(
    case: str, cloud: CloudProcess, le_net: TorchNetwork
) -> None:
    tail, one, packed = cut(le_net)
    other = entropy.parse(tables.find(features(), 6).side)  # six channels, of another tensor
    data, named = np.frombuffer(one.side.data, np.uint8), f"ec6:{one.side.digest}"
    damaged = Side("ec6", one.side.data[:-2] + b"\0\0")
    cases: dict[str, tuple[str, list[Array | Encoded]]] = {
        "digest": (f"ec6:{one.side.digest[::-1]}", [packed, data]),
        "kind": (f"ec5:{one.side.digest}", [packed, data]),
        "too large": (named, [packed, np.zeros(300_000, np.uint8)]),
        "not uint8": (named, [packed, data.view(np.int8)]),
        "too many": (f"{named} {named} {named}", [packed, data]),
        "damaged": (f"ec6:{damaged.digest}", [packed, np.frombuffer(damaged.data, np.uint8)]),
        "shape": (
            f"ec6:{other.side.digest}",
            [Encoded("float32", packed.shape, "ec6", packed.parts, other), np.frombuffer(other.side.data, np.uint8)],
        ),
    }
    sides, arrays = cases[case]
    with asking(cloud, le_net) as connection:
        connection.send(request_of(tail, sides), soon(), arrays)
        with pytest.raises(AppError, match=r"PROTOCOL|another shape"):
            connection.receive(soon()).read(Result)
    with asking(cloud, le_net) as connection:
        connection.send(request_of(tail), soon(), [boundary(le_net, min(tail) - 1)])
        assert connection.receive(soon()).read(Result).id == 1


def test_damaged_data_are_refused_or_answered_and_the_cloud_goes_on(cloud: CloudProcess, le_net: TorchNetwork) -> None:
    tail, one, packed = cut(le_net)
    data, rng = np.frombuffer(one.side.data, np.uint8), np.random.default_rng(0)
    for _ in range(20):
        damaged = bytearray(packed.parts[0])
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        wrong = Encoded("float32", packed.shape, "ec6", (memoryview(bytes(damaged)),), one)
        with asking(cloud, le_net) as connection:
            connection.send(request_of(tail, f"ec6:{one.side.digest}"), soon(), [wrong, data])
            try:
                assert connection.receive(soon()).read(Result).id == 1
            except AppError as error:
                assert "damaged entropy-coded data" in str(error)  # noqa: PT017
