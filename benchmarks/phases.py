"""Faults in every phase: what an edge does if its cloud fails at a certain frame of the conversation.

    python -m benchmarks.phases [--phases hello,probe] [--acts kill,stop]

A proxy that understands frames stands between the programs, in this process, and a real cloud: at one frame the cloud
is killed, or stopped, or the connection is closed, or the edge gets random bytes. Both programs run le_net with
--verify.
"""

import argparse
import contextlib
import io
import json
import os
import queue
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.fingerprint import write_table
from benchmarks.frame_proxy import TLS, Act, FrameProxy, Line, Place, close, garbage
from benchmarks.tls import make_certificate
from edgecloud.client.subprocesses import LISTENING
from edgecloud.net.frames import FrameType
from edgecloud.utils.commands import ROOT

TIMEOUT_S = 2.0
LATE_S = 2.0  # beyond --timeout, without a fault and for what is not an inference: building and measuring
SPARE = 1
PROBED_BYTES = 8192


@dataclass(frozen=True)
class Phase:
    """When the fault comes. `before` is what has to happen first, so that a program gets there."""

    name: str
    text: str
    place: Place
    edge_before: Place | None = None


PHASES = (
    Phase("tls", "during the TLS handshake", Place(TLS, 1, 0.5)),
    Phase("hello", "after HELLO, before READY", Place(FrameType.HELLO)),
    Phase("ready", "in READY", Place(FrameType.READY, 1, 0.5)),
    Phase("probe", "at the first probe of the link", Place(FrameType.PROBE)),
    Phase("in-probe", "in a large probe", Place(FrameType.PROBE, 2, 0.5, PROBED_BYTES)),
    Phase("probed", "in the answer to a probe", Place(FrameType.PROBED, 3, 0.5)),
    Phase("status", "after STATUS, before STATE", Place(FrameType.STATUS)),
    Phase("infer", "in a request", Place(FrameType.INFER, 1, 0.5)),
    Phase("computing", "after a request, before its answer", Place(FrameType.RESULT, 1, 0.0)),
    Phase("result", "in the answer", Place(FrameType.RESULT, 2, 0.5)),
    Phase("between", "between two requests, at the second one's first byte", Place(FrameType.INFER, 2, 0.0)),
    Phase("again", "at the HELLO of the second connection", Place(FrameType.HELLO, 1), Place(FrameType.INFER, 1, 0.0)),
)
ACTS = ("kill", "stop", "close", "garbage")


class Spares:
    """Clouds that are being started while others are used."""

    def __init__(self, cache: Path, more: Sequence[str]) -> None:
        self._cache, self._more = cache, more
        self._waiting: queue.Queue[subprocess.Popen[str]] = queue.Queue()

    def _start(self) -> None:
        command = [sys.executable, "tasks_cloud_api.py", "-p", "0", "--threads", "1", "--cache-dir", str(self._cache)]
        self._waiting.put(
            subprocess.Popen(
                [*command, *self._more], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        )

    def take(self) -> "Cloud":
        """One that listens."""
        while self._waiting.qsize() < SPARE:
            self._start()
        process = self._waiting.get()
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        assert line.startswith(LISTENING), line
        return Cloud(process, int(line.rpartition(":")[2]))

    def close(self) -> None:
        """End those that nobody took."""
        while not self._waiting.empty():
            process = self._waiting.get()
            process.kill()
            process.wait()


@dataclass
class Cloud:
    """A real cloud that may be harmed."""

    process: "subprocess.Popen[str]"
    port: int
    is_alive: bool = True

    def kill(self) -> None:
        """For good."""
        self.is_alive = False
        self.process.kill()
        self.process.wait()

    def tell(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.process.pid, number)


def act_of(name: str, cloud: Cloud) -> Act:
    """What happens at the frame."""

    def kill(proxy: FrameProxy, line: Line) -> None:
        cloud.kill()
        proxy.refuse()
        line.close()

    def stop(proxy: FrameProxy, _line: Line) -> None:
        cloud.tell(signal.SIGSTOP)
        proxy.freeze()

    return {"kill": kill, "stop": stop, "close": close, "garbage": garbage}[name]


COMMON = ("-i", "127.0.0.1", "-t", "le_net", "--codec", "raw", "--verify", "--json", "--timeout", f"{TIMEOUT_S:g}s")
PROGRAMS: dict[str, tuple[str, ...]] = {
    "edge_api": (*COMMON, "--point", "3", "--repeat", "2"),
    "tasks_edge_api": (*COMMON, "--tasks", "8", "--rate", "8/s", "--emulate-cpu", "0.02", "--interval", "100ms"),
}


@cache
def main_of(program: str) -> Callable[[Sequence[str]], int]:
    """Of a script, which this process runs: to start another one for every cell would take minutes."""
    found: Callable[[Sequence[str]], int] = runpy.run_path(str(ROOT / f"{program}.py"))["main"]
    return found


@dataclass(frozen=True)
class Seen:
    """What came of one call."""

    code: int
    seconds: float
    by: dict[str, int]
    is_right: bool
    is_reached: bool
    said: str

    @property
    def is_good(self) -> bool:
        """Whether there was a right answer in time."""
        return self.code == 0 and self.is_right and self.is_reached

    def cell(self) -> str:
        """For the table."""
        if not self.is_reached:
            return f"not reached, {self.code}"
        who = " + ".join(f"{count} {name}" for name, count in self.by.items()) or "nobody"
        wrong = "" if self.is_right else ", WRONG"
        return f"{who}, {self.code}, {self.seconds:.1f} s{wrong}"


def call(program: str, port: int, more: Sequence[str], proxy: FrameProxy) -> Seen:
    """Run a program in this process, as its main does, and read what it prints."""
    main, flags = main_of(program), PROGRAMS[program]
    out, err = io.StringIO(), io.StringIO()
    began = time.monotonic()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*flags, *more, "-p", str(port)])
    seconds = time.monotonic() - began
    try:
        found = json.loads(out.getvalue())
    except ValueError:
        found = {}
    return Seen(code, seconds, *_answers(found), proxy.is_over, err.getvalue())


def _answers(found: dict[str, object]) -> tuple[dict[str, int], bool]:
    """Who answered how often, and whether every answer is right."""
    document: dict[str, object] = found
    if "measured" in document:
        repeats = document["measured"]["repeats"]  # type: ignore[index]
        return dict(Counter(each["completed_by"] for each in repeats)), bool(document["verify"]["matches"])  # type: ignore[index]
    if "summary" in document:
        summary = document["summary"]
        return dict(summary["completed_by"]), summary["wrong"] == summary["failed"] == 0  # type: ignore[index]
    return {}, False


def measure(program: str, phase: Phase, act: str, cloud: Cloud, more: Sequence[str]) -> Seen:
    """One cell of the table."""
    before = phase.edge_before if program == "edge_api" else None
    place = phase.place
    if phase.edge_before is not None and program != "edge_api":
        place = Place(place.kind, 2)  # the first connection of this one only measures the link
    acts = [(place, act_of(act, cloud))]
    proxy = FrameProxy(("127.0.0.1", cloud.port), [*([(before, close)] if before else []), *acts])
    try:
        return call(program, proxy.port, more, proxy)
    finally:
        proxy.close()
        if act == "stop":
            cloud.tell(signal.SIGCONT)


def handshake(cloud: Cloud, more: Sequence[str]) -> None:
    """Let a new cloud load the network, which may take longer than an inference waits."""
    proxy = FrameProxy(("127.0.0.1", cloud.port), [(Place(TLS, 1 << 62), close)])  # which looks at no frame
    call("edge_api", proxy.port, [*more, "--timeout", "60s", "--repeat", "1", "--warm-up", "0"], proxy)
    proxy.close()


def table(phases: Sequence[Phase], acts: Sequence[str], folder: Path) -> tuple[list[list[str]], int]:
    """All cells, a row for each phase and program; also how many are not good."""
    times = folder / "cache"
    cert, key = make_certificate(folder)
    plain, secure = Spares(times, ()), Spares(times, ("--tls-cert", str(cert), "--tls-key", str(key)))
    rows, bad, cloud, tls_cloud = [], 0, None, None
    try:
        for phase in phases:
            is_tls = phase.place.kind == TLS
            for program in PROGRAMS:
                row = [phase.text, program]
                for act in acts:
                    more = ["--cache-dir", str(times), *(["--tls-ca", str(cert)] if is_tls else [])]
                    used = tls_cloud if is_tls else cloud
                    if used is None or not used.is_alive:
                        used = (secure if is_tls else plain).take()
                        handshake(used, more)
                    cloud, tls_cloud = (cloud, used) if is_tls else (used, tls_cloud)
                    seen = measure(program, phase, act, used, more)
                    bad += not seen.is_good
                    row.append(seen.cell())
                    print(f"{phase.name:10} {program:15} {act:8} {seen.cell()}", file=sys.stderr, flush=True)
                    if not seen.is_good:
                        print(seen.said, file=sys.stderr, flush=True)
                rows.append(row)
    finally:
        for each in (cloud, tls_cloud):
            if each is not None and each.is_alive:
                each.kill()
        plain.close()
        secure.close()
    return rows, bad


def warm(folder: Path) -> None:
    """Once without a fault, so that both sides have their times on disk."""
    spares = Spares(folder / "cache", ())
    cloud, more = spares.take(), ["--cache-dir", str(folder / "cache")]
    handshake(cloud, more)
    try:
        for program in PROGRAMS:
            proxy = FrameProxy(("127.0.0.1", cloud.port), [])
            seen = call(program, proxy.port, more, proxy)
            print(f"{'no fault':10} {program:15} {'':8} {seen.cell()}", file=sys.stderr, flush=True)
            proxy.close()
    finally:
        cloud.kill()
        spares.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and write benchmarks/results/phases.md unless only some were asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.phases", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--phases", default=",".join(phase.name for phase in PHASES))
    parser.add_argument("--acts", default=",".join(ACTS))
    options = parser.parse_args(argv)
    phases = [phase for phase in PHASES if phase.name in options.phases.split(",")]
    acts = [act for act in ACTS if act in options.acts.split(",")]
    with tempfile.TemporaryDirectory() as name:
        warm(Path(name))
        rows, bad = table(phases, acts, Path(name))
    head = ["when", "program", *acts]
    if len(phases) == len(PHASES) and len(acts) == len(ACTS):
        write_table("phases", "Faults in every phase of a conversation", head, rows, NOTES)
    else:
        print("\n".join(" | ".join(row) for row in rows))
    print(f"{bad} of {len(rows) * len(acts)} without a right answer", file=sys.stderr)
    return int(bad > 0)


NOTES = [
    "In each cell: who answered, exit code, seconds of the whole call, of which nothing waits longer than "
    f"{TIMEOUT_S:g} s (--timeout). edge_api runs three inferences, of which one is a warm-up that is not counted, "
    "tasks_edge_api eight tasks that arrive within about a second. Every answer is compared with the full model's.",
    "",
    "`kill` is SIGKILL, and the port is closed; `stop` is SIGSTOP, connections are still taken; `close` ends the "
    "connection, and others can be made; `garbage` is 4 KiB of random bytes in place of the expected frame.",
]

if __name__ == "__main__":
    threading.current_thread().name = "main"
    sys.exit(main())
