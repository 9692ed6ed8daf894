"""The estimate of a link, from made-up transfers and through the real relay."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from lab.relay import LinkShape, Relay
from net.connection import Connection, connect
from net.frames import Limits
from net.link import Prober, Transfer, fit
from net.messages import Probe, Probed
from net.server import Peer, Server
from utils.deadline import Deadline
from utils.errors import DeadlineError, PeerClosedError, UsageError
from utils.units import parse_link


def soon(seconds: float = 30.0) -> Deadline:
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
    connection = connect(*relay.address, 5.0)
    try:
        yield connection, relay
    finally:
        connection.close()
        relay.stop()
        server.stop()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("link", ["2mbit,30ms,8mbit", "20mbit,10ms", "50mbit,0ms,5mbit"])
def test_the_probe_finds_what_the_relay_emulates(link: str) -> None:
    shape = LinkShape(*parse_link(link))
    with link_through(shape) as (connection, _):
        found = Prober(connection, soon()).estimate()
    assert found.up_bytes_per_s == pytest.approx(shape.up_bytes_per_s, rel=0.15)
    assert found.down_bytes_per_s == pytest.approx(shape.down_bytes_per_s, rel=0.15)
    assert shape.rtt_s <= found.rtt_s < shape.rtt_s + 0.02
    assert found.source == "probe"


@pytest.mark.parametrize(("link", "burst"), [("1mbit", 16_384), ("8mbit", 16_384), ("20mbit,10ms", 65_536)])
def test_a_burst_that_goes_through_at_once_does_not_deceive_the_probe(link: str, burst: int) -> None:
    """As behind `tc tbf`: fitting all sizes alike made 247 mbit of 8."""
    shape = replace(LinkShape(*parse_link(link)), burst_bytes=burst)
    with link_through(shape) as (connection, _):
        found = Prober(connection, soon()).estimate()
    assert found.up_bytes_per_s == pytest.approx(shape.up_bytes_per_s, rel=0.1)
    assert found.down_bytes_per_s == pytest.approx(shape.down_bytes_per_s, rel=0.1)


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
