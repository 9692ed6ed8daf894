"""Traces of links: reading, the clock of a link that changes, playing, and recording."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecloud.client.subprocesses import emulated_link
from edgecloud.lab import made_links, traces
from edgecloud.lab.hosts import HostsTestbed, cannot, missing, shaped_hosts
from edgecloud.lab.link_shape import LinkShape
from edgecloud.lab.reaper import open_reaper
from edgecloud.lab.relay import Relay, main
from edgecloud.lab.testbed import LinkSpec
from edgecloud.lab.token_bucket import MTU, tbf
from edgecloud.lab.traces import Trace
from edgecloud.net.recorder import MOST_ROWS, Recorder
from edgecloud.utils.errors import AppError, UsageError
from tests.conftest import LONG_S, ROOT, THREADS, CloudProcess, run_script, until

ROWS = "seconds,mbit\n0,8\n1,0\n2.5,16\n"


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "trace.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# --- reading


def test_a_trace_is_read_and_begins_again_after_its_last_line_held_as_long_as_the_one_before(tmp_path: Path) -> None:
    trace = traces.read(written(tmp_path, "\ufeff# made up\n\n Seconds, mbit\r\n0,8\n  # more\n1,0\n2.5,16\n"))
    assert trace == Trace((0.0, 1.0, 2.5), (1e6, 0.0, 2e6), 4.0)
    assert [trace.rate_at(at) for at in (0, 0.9, 1, 2.5, 3.9, 4, 5.2, 1e6)] == [1e6, 1e6, 0, 2e6, 2e6, 1e6, 0, 1e6]
    one = traces.read(written(tmp_path, "seconds,mbit\n0,8\n"))
    assert one.rate_at(1e9) == 1e6
    assert one.next_change(5.0) == math.inf


BAD = {
    "": "is empty",
    "# nothing\n": "is empty",
    "time,rate\n0,1\n": "line 1",
    "seconds,mbit\n": "has no rate",
    "# x\nseconds,mbit\n0,fast\n": "line 3",
    "seconds,mbit\n0\n": "line 2",
    "seconds,mbit\n0,1,2\n": "line 2",
    "seconds,mbit\n0,nan\n": "line 2",
    "seconds,mbit\n0,inf\n": "line 2",
    "seconds,mbit\n0,-1\n": "line 2",
    "seconds,mbit\n0,1e-9\n": "line 2",
    "seconds,mbit\n0,1e9\n": "line 2",
    "seconds,mbit\n1,5\n": "line 2",
    "seconds,mbit\n0,5\n2,5\n2,6\n": "line 4",
    "seconds,mbit\n0,5\n1e300,6\n": "line 3",
    "seconds,mbit\n0,5\n-1,6\n": "line 3",
    "seconds,mbit\n0,0\n1,0\n": "all rates are 0",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_trace_gives_one_line_that_names_the_place_and_exit_2(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, text)
    assert main(["--to", "127.0.0.1", "1", "--trace", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert str(path) in captured.err
    assert BAD[text] in captured.err


def test_what_is_no_text_or_too_long_or_not_there_is_refused(tmp_path: Path) -> None:
    rows = "".join(f"{second},5\n" for second in range(MOST_ROWS + 1))
    for content, told in ((b"\xff\xfe\x00", "not a text file"), (f"seconds,mbit\n{rows}".encode(), "line 1000002")):
        with pytest.raises(UsageError, match=told):
            traces.read(written(tmp_path, content))
    for path in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises(UsageError):
            traces.read(path)
    assert main(["--to", "127.0.0.1", "1", "--steps", "1s:5mbit", "--trace", str(written(tmp_path, ROWS))]) == 2


# --- the clock


def leaves_slowly(trace: Trace, start_s: float, size: float) -> float:
    """The same by walking from change to change."""
    now_s = start_s
    for _ in range(10_000):
        until_s = trace.next_change(now_s)
        assert until_s > now_s
        rate = trace.rate_at((now_s + until_s) / 2)
        if rate > 0 and now_s + size / rate <= until_s:
            return now_s + size / rate
        size -= rate * (until_s - now_s)
        now_s = until_s
    raise AssertionError("it never leaves")


RATES = st.lists(st.sampled_from([0.0, 0.0, 10.0, 1000.0, 333.3]), min_size=1, max_size=6).filter(any)


@settings(deadline=None, max_examples=300)
@given(RATES, st.data())
def test_bytes_leave_when_a_walk_from_change_to_change_says(rates: list[float], data: st.DataObject) -> None:
    gaps = data.draw(st.lists(st.floats(0.1, 5.0), min_size=len(rates), max_size=len(rates)))
    times = [sum(gaps[:index]) for index in range(len(rates))]
    trace = Trace(times, rates, sum(gaps))
    start_s, size = data.draw(st.floats(0, 30)), data.draw(st.floats(1, 2000))
    found = trace.leaves_at(start_s, size)
    # Rounding decides where the last byte fits exactly before an outage: then it may also leave after it.
    soonest, latest = (leaves_slowly(trace, start_s, size * (1 + part)) for part in (-1e-9, 1e-9))
    assert found >= soonest - 1e-6 * max(1, soonest)
    assert found <= latest + 1e-6 * max(1, latest)


def test_the_last_byte_before_an_outage_leaves_before_or_after_it() -> None:
    """0.1 s at 10 bytes a second are one byte, but for rounding."""
    trace = Trace([0.0, 0.5], [0.0, 10.0], 0.6)
    assert trace.leaves_at(0.0, 1.0) in (pytest.approx(0.6), pytest.approx(1.1))
    assert trace.leaves_at(0.0, 0.99) == pytest.approx(0.599)
    assert trace.leaves_at(0.0, 1.01) == pytest.approx(1.101)


def test_bytes_wait_for_the_end_of_an_outage() -> None:
    trace = Trace((0.0, 1.0, 3.0), (1000.0, 0.0, 1000.0), 4.0)
    assert trace.leaves_at(0.5, 500) == 1.0  # just before it
    assert trace.leaves_at(0.5, 501) == pytest.approx(3.001)
    assert trace.leaves_at(2.0, 1) == pytest.approx(3.001)
    assert trace.leaves_at(0.0, 2000) == 4.0
    assert trace.leaves_at(0.0, 2000 * 1000 + 1) == pytest.approx(4000.001)
    assert Trace((0.0, 2.0), (0.0, 10.0)).leaves_at(0.0, 10) == 3.0


@pytest.mark.parametrize(
    ("seconds", "rates", "period_s"),
    [
        *[((), (), 1.0), ((1.0,), (1.0,), 2.0), ((0.0, 0.0), (1.0, 1.0), 2.0), ((0.0, 1.0), (1.0, 0.0), math.inf)],
        *[((0.0, 1.0), (1.0, 1.0), 1.0), ((0.0,), (math.nan,), 1.0), ((0.0,), (0.0,), 1.0)],
    ],
)
def test_a_trace_that_makes_no_sense_is_a_mistake(
    seconds: tuple[float, ...], rates: tuple[float, ...], period_s: float
) -> None:
    with pytest.raises(ValueError, match=r"trace|all rates are 0"):
        Trace(seconds, rates, period_s)


# --- playing


@contextmanager
def relayed(shape: LinkShape) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The two ends of a connection through a relay."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        relay = Relay(server.getsockname(), shape)
        serving = threading.Thread(target=relay.serve)
        serving.start()
        try:
            with socket.create_connection(relay.address) as edge:
                cloud, _ = server.accept()
                with cloud:
                    yield edge, cloud
        finally:
            relay.stop()
            serving.join()


def test_a_relay_holds_bytes_in_an_outage_and_delivers_them_after_it() -> None:
    trace = Trace((0.0, 0.3, 0.9), (1e6, 0.0, 1e6), 30.0)
    before_it = time.monotonic()
    with relayed(LinkShape(1.0, 1.0, trace=trace)) as (edge, cloud):
        began = time.monotonic()
        threading.Thread(target=edge.sendall, args=(bytes(500_000),), daemon=True).start()
        arrived: list[tuple[float, int]] = []
        while sum(count for _, count in arrived) < 500_000:
            count = len(cloud.recv(65_536))
            arrived.append((time.monotonic() - began, count))
    before = sum(count for at, count in arrived if at < 0.45)
    within = sum(count for at, count in arrived if 0.45 <= at < 0.85)
    assert before + within < 350_000, "0.3 s of a link that is there, however late we are"
    assert arrived[-1][0] + began - before_it > 1.0  # 500 KB take 0.5 s of a link that is there


def test_replay_calls_at_the_moments_of_the_trace_and_catches_up_when_late() -> None:
    now_s = 100.0
    seen: list[tuple[float, float]] = []

    class Stop:
        def wait(self, timeout: float | None = None) -> bool:
            nonlocal now_s
            assert timeout is not None
            now_s += timeout
            return now_s >= 111.0

    def change(rate: float) -> None:
        nonlocal now_s
        seen.append((round(now_s - 100.0, 6), rate))
        if rate == 0:
            now_s += 2.0  # a slow tc: 2.5 has passed when it comes back

    traces.replay(Trace((0.0, 1.0, 2.5), (1e6, 0.0, 2e6), 4.0), change, Stop(), lambda: now_s)
    assert seen == [(0, 1e6), (1, 0), (3, 2e6), (4, 1e6), (5, 0), (7, 2e6), (8, 1e6), (9, 0)]


def test_replay_of_one_rate_waits_for_the_stop() -> None:
    stop = threading.Event()
    seen: list[float] = []
    threading.Timer(0.1, stop.set).start()
    traces.replay(Trace((0.0,), (5.0,)), seen.append, stop)
    assert seen == [5.0]


def test_made_up_traces_are_those_of_their_script(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        made_links.main(["--help"])
    assert not Path("--help").exists()
    assert made_links.main([str(tmp_path)]) == 0
    for name in made_links.MADE:
        assert (tmp_path / f"{name}.csv").read_text() == (made_links.FOLDER / f"{name}.csv").read_text()
        assert 60 <= traces.read(made_links.FOLDER / f"{name}.csv").period_s <= 180


@pytest.mark.root
@pytest.mark.skipif(bool(missing()), reason=missing())
def test_tc_takes_every_shape_and_an_outage_stops_the_link() -> None:
    """UDP, so that what is measured is the link and not TCP's patience."""
    try:
        with shaped_hosts("8mbit") as hosts:
            change = [*hosts.on_edge, "tc", "qdisc", "change", "dev", "ecci0", "root"]
            for rate in (0.0, 125.0, 1e6, 1.25e10):
                subprocess.run([*change, *tbf(rate)], check=True)
            count = "import socket,sys;s=socket.socket(2,2);s.bind(('10.99.0.2',9));s.settimeout(2);n=0;"
            count += "print('ready',flush=True)\ntry:\n  while 1: n+=len(s.recv(2000))\nexcept OSError: print(n)"
            send = "import socket;s=socket.socket(2,2)\nfor _ in range(40): s.sendto(bytes(1400),('10.99.0.2',9))"
            found = []
            for rate in (0.0, 1e6):
                subprocess.run([*change, *tbf(rate)], check=True)
                with subprocess.Popen([*hosts.on_cloud, sys.executable, "-c", count], stdout=subprocess.PIPE) as there:
                    assert there.stdout is not None
                    there.stdout.readline()
                    subprocess.run([*hosts.on_edge, sys.executable, "-c", send], check=True)
                    found.append(int(there.stdout.readline()))
    except AppError as error:
        pytest.skip(str(error))
    assert found[0] <= 2 * 1400
    assert found[1] >= 40 * 1400


@given(st.one_of(st.just(0.0), st.floats(1.0, 1.25e10)))
def test_a_bucket_holds_a_packet_of_the_cable_and_more_may_wait(rate: float) -> None:
    """The kernel drops a packet that is larger than its bucket: a link that nothing gets through."""
    words = tbf(rate)
    burst, limit = (int(words[words.index(name) + 1].removesuffix("b")) for name in ("burst", "limit"))
    assert burst >= MTU + 14
    assert limit - burst >= max(1 << 18, min(0.4 * rate - 1, 1 << 30))


@pytest.mark.root
@pytest.mark.skipif(bool(cannot()), reason=cannot())
def test_full_packets_get_through_a_trace_on_the_lab_s_cable(tmp_path: Path) -> None:
    serve = "import socket;s=socket.create_server(('10.99.0.2',0));print(s.getsockname()[1],flush=True);"
    serve += "c=s.accept()[0];n=0\nwhile d:=c.recv(1<<20): n+=len(d)\nprint(n)"
    send = "import socket,sys;c=socket.create_connection(('10.99.0.2',int(sys.argv[1])));c.sendall(bytes(100_000))"
    wanted = LinkSpec("walk", "1mbit", trace=written(tmp_path, "seconds,mbit\n0,5\n"))
    with open_reaper() as held:
        field = HostsTestbed(held)
        with (
            subprocess.Popen([*field.on_cloud, sys.executable, "-c", serve], stdout=subprocess.PIPE) as there,
            field.link(wanted, (field.cloud_host, 0), tmp_path / "log"),
        ):
            assert there.stdout is not None
            port = str(int(there.stdout.readline()))
            subprocess.run([*field.on_edge, sys.executable, "-c", send, port], check=True, timeout=LONG_S)
            assert int(there.stdout.readline()) == 100_000


# --- recording


def test_a_recording_is_a_trace_and_is_there_at_once(tmp_path: Path) -> None:
    path = tmp_path / "seen.csv"
    with Recorder(path) as recorder:
        for at, rate in ((50.0, 1e6), (50.0001, 3e6), (51.5, 0.0), (52.0, 1.0), (51.0, 7e6), (53.0, 1e15)):
            recorder.note(at, rate)
        assert path.read_text() == "seconds,mbit\n0.000,8\n1.500,0\n2.000,0.001\n3.000,1e+06\n"
        assert traces.read(path).rate_at(0.5) == 1e6
    with pytest.raises(UsageError, match="is not overwritten"):
        Recorder(path)
    with Recorder(tmp_path / "nothing.csv"):
        pass
    assert not (tmp_path / "nothing.csv").exists()
    with pytest.raises(UsageError):
        Recorder(tmp_path / "no" / "folder.csv")


def test_a_full_disk_ends_the_recording_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")

    class Full(Recorder):
        def __init__(self) -> None:
            super().__init__(Path(f"/tmp/full-{os.getpid()}.csv"))
            self._file.close()
            self._file = Path("/dev/full").open("w")  # noqa: SIM115  closed by close()

    with Full() as recorder:
        recorder.note(0.0, 1e6)
        recorder.note(1.0, 1e6)
    assert caplog.text.count("stopped") == 1


def test_a_session_that_is_killed_leaves_a_trace(cloud: CloudProcess, cache: Path, tmp_path: Path) -> None:
    """Of the probe and of every transfer; the next session does not write over it."""
    path, link = tmp_path / "seen.csv", written(tmp_path, "seconds,mbit\n0,16\n")
    command = ["-t", "alex_net", "--point", "9", "--codec", "raw", "--repeat", "100000", "--cache-dir", str(cache)]
    command += ["--threads", THREADS, "-i", "127.0.0.1", "--record", str(path)]
    with emulated_link("127.0.0.1", cloud.port, "1mbit", "--trace", str(link)) as relay:
        command += ["-p", str(relay.address()[1])]
        with subprocess.Popen([sys.executable, "edge_api.py", *command], cwd=ROOT) as edge:
            try:
                until(lambda: edge.poll() is not None or (path.exists() and path.read_text().count("\n") > 9))
            finally:
                edge.send_signal(signal.SIGKILL)
        seen = traces.read(path)
        again = run_script("edge_api.py", *command)
    assert len(seen.seconds) >= 9
    assert 1 / 7 < median(seen.bytes_per_s) * 8e-6 / 16 < 3  # loopback is far above that, and --link is 1 mbit
    assert (again.code, again.stderr.count("\n")) == (2, 1)
    assert traces.read(path) == seen


def test_tasks_edge_api_records_too(cloud: CloudProcess, cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "seen.csv"
    flags = ["-p", str(cloud.port), "-t", "le_net", "--tasks", "10", "--rate", "5/s", "--interval", "200ms"]
    flags += ["--emulate-link", "10mbit,10ms", "--record", str(path)]
    done = run_script("tasks_edge_api.py", "--cache-dir", str(cache), "--threads", THREADS, *flags, "--json")
    assert done.code == 0, done.stderr
    seen, history = traces.read(path), json.loads(done.stdout)
    assert len(seen.seconds) > 1
    assert history
    assert 1 / 7 < median(seen.bytes_per_s) * 8e-6 / 10 < 3
