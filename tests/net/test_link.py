"""The estimate of a link, from made-up transfers and through the real relay."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest

from edgecloud.lab.link_shape import LinkShape
from edgecloud.lab.relay import Relay
from edgecloud.net.connection import Connection, Frame, connect
from edgecloud.net.frames import FrameType, Limits
from edgecloud.net.link import Prober, Transfer, fit
from edgecloud.net.messages import Message, Probe, Probed, to_header
from edgecloud.net.server import Peer, Server
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import DeadlineError, PeerClosedError, UsageError
from edgecloud.utils.units import parse_link


def soon(seconds: float = 60.0) -> Deadline:
    return Deadline.after(seconds, "the test")


@pytest.mark.parametrize(("rtt_s", "rate"), [(0.05, 2.5e6), (0.001, 125e3), (0.0, 1e9), (0.3, 16_250)])
def test_the_fit_finds_the_line_through_noisy_transfers(rtt_s: float, rate: float) -> None:
    rng = random.Random(3)
    sizes = [0] * 8 + [4096, 16384, 65536, 262144] * 3
    exact = [Transfer(n, max(1e-9, rtt_s + n / rate)) for n in sizes]
    noisy = [Transfer(t.bytes, t.seconds * rng.uniform(1.0, 1.04)) for t in exact]
    for transfers, tolerance in ((exact, 1e-3), (noisy, 0.06)):
        found_rtt, found_rate = fit(transfers)
        assert found_rate == pytest.approx(rate, rel=tolerance)
        assert found_rtt == pytest.approx(rtt_s, rel=tolerance + 0.02, abs=1e-6)


def test_bytes_over_elapsed_would_be_wrong_where_the_fit_is_right() -> None:
    transfers = [Transfer(n, 0.05 + n / 2.5e6) for n in (2000, 20_000, 60_000)]
    assert 2000 / transfers[0].seconds < 2.5e6 / 60
    assert fit(transfers)[1] == pytest.approx(2.5e6)


def test_a_slope_below_the_noise_gives_at_least_what_was_seen() -> None:
    rtt_s, rate = fit([Transfer(0, 0.001), Transfer(1_000_000, 0.0009)])
    assert rate >= 1_000_000 / 0.0009
    assert rtt_s >= 0


@pytest.mark.parametrize(
    "transfers", [[], [Transfer(5, 1.0)], [Transfer(5, 1.0), Transfer(5, 2.0)], [Transfer(5, 0.0), Transfer(6, 1.0)]]
)
def test_one_size_gives_no_rate(transfers: list[Transfer]) -> None:
    with pytest.raises(ValueError, match="two sizes"):
        fit(transfers)


def answer_probes(peer: Peer) -> None:
    """What a cloud does with PROBE, and nothing else."""
    while True:
        probe = peer.connection.receive(soon()).read(Probe)
        peer.connection.send_bytes(Probed(probe.id), memoryview(bytes(probe.reply_bytes)), soon())


@contextmanager
def link_through(shape: LinkShape) -> Iterator[tuple[Connection, Relay]]:
    """A connection through a relay to a server that answers probes."""
    server = Server("127.0.0.1", 0, answer_probes, Limits(), drain_s=0.1)
    address = server.open()
    relay = Relay(address, shape)
    threads = [threading.Thread(target=server.serve), threading.Thread(target=relay.serve)]
    for thread in threads:
        thread.start()
    connection = connect(*relay.address, 60.0)
    try:
        yield connection, relay
    finally:
        connection.close()
        relay.stop()
        server.stop()
        for thread in threads:
            thread.join()


class ExactLink(Connection):
    """A link whose bytes take exactly their time, by a clock of its own: what a machine without load would show."""

    def __init__(self, shape: LinkShape, noise: random.Random) -> None:
        self.shape, self.limits, self.now_s = shape, Limits(), 0.0
        self._free_at = {True: 0.0, False: 0.0}
        self._noise, self._reply = noise, Frame(FrameType.PROBED, None, memoryview(b""), Limits())

    def _carry(self, size: int, *, is_up: bool) -> None:
        """A token bucket: what was not used for a while goes through at once."""
        rate = self.shape.rate_at(0.0, is_up=is_up)
        free_at = max(self.now_s - self.shape.burst_bytes / rate, self._free_at[is_up]) + size / rate
        self._free_at[is_up] = free_at
        self.now_s = max(self.now_s, free_at) + self.shape.rtt_s / 2

    def send_bytes(self, message: Message, payload: memoryview, deadline: Deadline) -> int:
        assert isinstance(message, Probe)
        self._carry(payload.nbytes, is_up=True)
        self.now_s += self._noise.uniform(1e-4, 3e-4)  # what both sides take
        self._carry(message.reply_bytes, is_up=False)
        self._reply = replace(
            self._reply, header=to_header(Probed(message.id)), payload=memoryview(bytes(message.reply_bytes))
        )
        return payload.nbytes

    def receive(self, deadline: Deadline, frame_s: float | None = None, *, is_unauthenticated: bool = False) -> Frame:
        return self._reply


SHAPES = [("2mbit,30ms,8mbit", 0), ("20mbit,10ms", 0), ("50mbit,0ms,5mbit", 0), ("1mbit", 16_384), ("8mbit", 16_384)]


@pytest.mark.parametrize(("link", "burst"), [*SHAPES, ("20mbit,10ms", 65_536), ("300mbit,1ms", 0)])
def test_the_probe_finds_the_rates_and_no_burst_deceives_it(
    link: str, burst: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind `tc tbf`: fitting all sizes alike made 247 mbit of 8."""
    shape = replace(LinkShape(*parse_link(link)), burst_bytes=burst)
    exact = ExactLink(shape, random.Random(5))
    monkeypatch.setattr("edgecloud.net.link.time", SimpleNamespace(perf_counter=lambda: exact.now_s))
    found = Prober(exact, soon()).estimate()
    assert found.up_bytes_per_s == pytest.approx(shape.up_bytes_per_s, rel=0.05)
    assert found.down_bytes_per_s == pytest.approx(shape.down_bytes_per_s, rel=0.05)
    assert shape.rtt_s <= found.rtt_s < shape.rtt_s + 0.02
    assert found.source == "probe"


@pytest.mark.parametrize(("link", "burst"), [("2mbit,30ms,8mbit", 0), ("50mbit,0ms,5mbit", 0), ("8mbit", 16_384)])
def test_the_probe_goes_through_the_relay(link: str, burst: int) -> None:
    """Real time, which a busy machine makes longer; the bare loopback is 100 times as fast."""
    shape = replace(LinkShape(*parse_link(link)), burst_bytes=burst)
    with link_through(shape) as (connection, _):
        found = Prober(connection, soon()).estimate()
    assert 1 / 7 < found.up_bytes_per_s / shape.up_bytes_per_s < 3
    assert 1 / 7 < found.down_bytes_per_s / shape.down_bytes_per_s < 3
    assert found.rtt_s >= shape.rtt_s


def test_a_cut_resets_the_connection_at_its_byte() -> None:
    with link_through(LinkShape(1e9, 1e9, cut_at=50_000)) as (connection, _):
        prober = Prober(connection, soon())
        prober.round_trip()
        with pytest.raises(PeerClosedError):
            prober.estimate()


def test_a_frozen_link_is_silent_and_then_goes_on() -> None:
    with link_through(LinkShape(1e9, 1e9)) as (connection, relay):
        Prober(connection, soon()).round_trip()
        relay.freeze(1.5)
        with pytest.raises(DeadlineError):
            Prober(connection, soon(0.5)).round_trip()
        assert connection.receive(soon()).read(Probed).id == 1  # what was on its way arrives after the thaw


def test_a_freeze_at_a_byte_lets_nothing_more_through() -> None:
    with link_through(LinkShape(1e9, 1e9, freeze_at=100, freeze_s=60)) as (connection, _), pytest.raises(DeadlineError):
        Prober(connection, soon(0.5)).round_trip()


@pytest.mark.parametrize("text", ["", "5mbit,20ms,5mbit,1", "20ms", "5mbit,5mbit", "0mbit"])
def test_links_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_link(text)


def test_down_is_up_where_it_is_not_given() -> None:
    assert parse_link("5mbit") == (625_000, 625_000, 0.0)
    assert parse_link("5mbit,20ms,1mbit") == (625_000, 125_000, 0.02)
