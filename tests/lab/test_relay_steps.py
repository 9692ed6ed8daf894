"""A relay whose rate changes while it runs."""

import contextlib
import socket
import threading
import time

import pytest

from edgecloud.lab.link_shape import LinkShape, parse_steps
from edgecloud.lab.relay import Relay, main
from edgecloud.utils.errors import UsageError

STEP_S = 1.4
FIRST, SECOND = 1.6e6, 0.16e6  # bytes per second: 12.8 and 1.28 mbit
NEAR = 2.5  # a factor: no other rate in this test is as near, and a loaded machine is not as far
SETTLE_S = 0.3  # after a change: what is on the link leaves at the old rate
ATTEMPTS = 10  # a machine that stands still for a third of a second delivers late


def pump(sock: socket.socket) -> None:
    """Send until the other side has gone."""
    with contextlib.suppress(OSError):
        while True:
            sock.sendall(bytes(16_384))


def collect(sock: socket.socket, seconds: float) -> list[tuple[float, int]]:
    """When how many bytes came, in seconds from now."""
    started, seen = time.monotonic(), [(0.0, 0)]
    while seen[-1][0] < seconds:
        count = len(sock.recv(65_536))
        seen.append((time.monotonic() - started, count))
    return seen


def rate_between(seen: list[tuple[float, int]], since_s: float, until_s: float) -> float:
    """Bytes per second that came in these seconds."""
    return sum(count for at, count in seen if since_s < at <= until_s) / (until_s - since_s)


def through_a_relay() -> list[list[tuple[float, int]]]:
    """What arrives up and down through a relay of two rates, of which both sides send as much as they can."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        relay = Relay(server.getsockname(), LinkShape(9e6, 1e5, 0.02, steps=((0.0, FIRST), (STEP_S, SECOND))))
        serving = threading.Thread(target=relay.serve)
        serving.start()
        with socket.create_connection(relay.address) as edge:
            cloud, _ = server.accept()
            seen: list[list[tuple[float, int]]] = [[], []]

            def receive(index: int, sock: socket.socket) -> None:
                seen[index] = collect(sock, 2 * STEP_S)

            threads = [threading.Thread(target=pump, args=(sock,)) for sock in (edge, cloud)]
            receivers = [threading.Thread(target=receive, args=(i, sock)) for i, sock in enumerate((edge, cloud))]
            for thread in threads + receivers:
                thread.start()
            for thread in receivers:
                thread.join()
            relay.stop()  # closes what the pumps send to
            for thread in [*threads, serving]:
                thread.join()
            cloud.close()
    return seen


def test_a_relay_delivers_at_the_first_rate_and_then_at_the_second_both_ways() -> None:
    """The upload starts at another rate than the download; the first step is at once, and makes them alike."""
    for _ in range(ATTEMPTS):
        found = [
            rate / expected
            for direction in through_a_relay()
            for rate, expected in (
                (rate_between(direction, SETTLE_S, STEP_S - 0.05), FIRST),
                (rate_between(direction, STEP_S + SETTLE_S, 2 * STEP_S), SECOND),
            )
        ]
        if all(1 / NEAR < ratio < NEAR for ratio in found):
            return
    pytest.fail(f"of the rates there were {found}, in the last of {ATTEMPTS} attempts")


def test_the_rates_of_the_link_hold_until_the_first_step() -> None:
    shape = LinkShape(5.0, 7.0, steps=parse_steps("2s:8bit,3s:16bit"))
    assert [shape.rate_at(s, is_up=True) for s in (0, 1.9, 2.0, 2.9, 3.0, 1e9)] == [5, 5, 1, 1, 2, 2]
    assert [shape.rate_at(s, is_up=False) for s in (0, 1.9, 2.0)] == [7, 7, 1]


def test_steps_are_read_as_seconds_and_bytes_per_second() -> None:
    assert parse_steps("0s:20mbit,500ms:2mbit, 12 : 1MB/s") == ((0, 2.5e6), (0.5, 250e3), (12, 1e6))


NO_STEPS = ["", "5s", "5s:", ":2mbit", "5s:2mbit,", "5s:2", "-1s:2mbit", "5s:0mbit", "5s:2mbit:3", "x:1bit"]
NOT_RISING = ["5s:1mbit,5s:2mbit", "6s:1mbit,5s:2mbit"]


@pytest.mark.parametrize("text", [*NO_STEPS, *NOT_RISING])
def test_bad_steps_give_one_line_and_exit_2(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError):
        parse_steps(text)
    assert main(["--to", "127.0.0.1", "1", f"--steps={text}"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("relay: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_segments_are_those_of_a_real_link() -> None:
    """With those of loopback a slow link opens its window once in 4 s, and the sender gives it up."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        relay = Relay(server.getsockname(), LinkShape(1e6, 1e6))
        serving = threading.Thread(target=relay.serve)
        serving.start()
        with socket.create_connection(relay.address) as edge:
            cloud, _ = server.accept()
            for sock in (edge, cloud):
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) <= 1460
            cloud.close()
        relay.stop()
        serving.join()
