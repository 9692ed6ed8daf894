"""Faults, one after the other: is every inference answered correctly, how soon, and when is the cloud used again?

    python -m benchmarks.faults [--rows B1,B2,B3,B7,B8,B12,B13,B16] [--repeats 5]

The clouds are real processes, the link is lab.relay on loopback, and for B1 and B3 also two network namespaces with a
veth pair shaped by `tc tbf`, where that is allowed. alex_net is cut after its third layer (boundary 187 kB). Every
answer is compared with the full model's.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

from benchmarks.drain import drained
from benchmarks.fault_sites import HEAD, LATE_S, POINT, RATE, TIMEOUT_S, Row, Site, Subject, on_a_cable, on_loopback
from benchmarks.fingerprint import write_table
from benchmarks.noise import Versus
from benchmarks.soak import watch
from edgecloud.client.connection_manager import IDLE_S
from edgecloud.lab.hosts import Hosts, missing, shaped_hosts
from edgecloud.partition.cost import Part
from edgecloud.utils.commands import ROOT
from edgecloud.utils.errors import AppError

UPLOAD_S = 187e3 / (20e6 / 8)
EVERY_S = 0.25
FAILING_CLOUD = """
import sys, itertools, cloud_api
from edgecloud.engine.torch_executor import TorchExecutor
run, calls = TorchExecutor.run, itertools.count(1)
def fail(*arguments):
    number = next(calls)
    if number > 3 and number % 3 == 0:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    return run(*arguments)
TorchExecutor.run = fail
sys.exit(cloud_api.main(sys.argv[1:]))
"""


def killed(site: Site, repeats: int) -> list[Row]:
    """B1: the cloud is killed before a request, in its upload, while it computes, in its reply."""
    subject = Subject(site.address)
    graph = subject.edge.graph
    whole, middle = graph.everything, graph.head_at(POINT - 1)
    there_and_back = (  # a reply of 774 kB, large enough to be killed in
        *(Part("edge", frozenset({0})), Part("cloud", middle - {0})),
        Part("edge", whole - middle),
    )
    moments = {
        "before the request": Moment(subject.parts),
        "in the upload": Moment(subject.parts, UPLOAD_S / 2),
        "while it computes": Moment(subject.parts, UPLOAD_S + 0.15, is_stopped=True),
        "in the reply": Moment(there_and_back, received=8192),
    }
    rows = []
    for name, moment in moments.items():
        row = Row(f"B1 cloud killed {name}")
        for _ in range(repeats):
            _kill_once(site, subject, row, moment)
        rows.append(row)
    subject.close()
    return rows


@dataclass(frozen=True)
class Moment:
    """When the cloud is killed: so many seconds after an inference has begun, and when so much of a reply is there."""

    parts: tuple[Part, ...]
    delay_s: float | None = None
    received: int = 0
    is_stopped: bool = False
    """From before the request on."""


def _kill_once(site: Site, subject: Subject, row: Row, moment: Moment) -> None:
    row.faults += 1
    cloud = subject.cloud.client
    assert cloud is not None
    until = cloud.connection.received_bytes + moment.received
    at: list[float] = []

    def kill() -> None:
        time.sleep(moment.delay_s or 0.0)
        while moment.received and cloud.connection.received_bytes < until:
            time.sleep(0.0005)
        at.append(time.monotonic())
        site.clouds.end()

    if moment.is_stopped:
        site.clouds.tell(signal.SIGSTOP)
    killer = threading.Thread(target=kill)
    killer.start()
    if moment.delay_s is None and not moment.received:
        killer.join()
    began = time.monotonic()
    answered = subject.infer(row, moment.parts)
    killer.join()
    if answered is not None and answered.fallback is not None:
        row.detected_s.append(began + answered.fallback.after_s - max(began, at[0]))
    site.clouds.start()
    subject.until_split(row, time.monotonic())


def edge_killed(repeats: int) -> list[Row]:
    """B2: the edge is killed in the middle of transfers; `to detect` is until the cloud has released everything."""
    row = Row("B2 edge killed in a transfer")
    with on_loopback() as site:
        assert site.clouds.process is not None
        flags = ("-t", "alex_net", "--point", "0", "--bandwidth", RATE, "--warm-up", "0", "--timeout", "20s")
        command = [sys.executable, "edge_api.py", "-p", str(site.address[1]), *flags]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)  # every thread of torch is there
        time.sleep(2.0)
        pid = site.clouds.process.pid
        base = watch(pid)[1:]
        for number in range(repeats):
            edge = subprocess.Popen([*command, "--repeat", "10000"], cwd=ROOT)
            while watch(pid)[1:] == base:
                time.sleep(0.01)
            time.sleep(4.0 + 0.037 * number)  # it measures the link, then it sends 602 kB nearly all the time
            edge.kill()
            edge.wait()
            began = time.monotonic()
            while watch(pid)[1:] != base and time.monotonic() < began + 60:
                time.sleep(0.002)
            row.faults += 1
            row.detected_s.append(time.monotonic() - began)
            row.lost += watch(pid)[1:] != base
        row.note = f"threads and files of the cloud back to {base}"
    return [row]


def frozen(site: Site) -> list[Row]:
    """B3: silence for 0, 5 and 30 s, with inferences throughout; then the link is restored."""
    rows = []
    for seconds, times in ((0.0, 5), (5.0, 4), (30.0, 2)):
        row = Row(f"B3 link frozen {seconds:.0f} s")
        subject = Subject(site.address)
        for _ in range(times):
            row.faults += 1
            _freeze_once(site, subject, row, seconds)
        subject.close()
        rows.append(row)
    return rows


def _freeze_once(site: Site, subject: Subject, row: Row, seconds: float) -> None:
    site.freeze()
    began = time.monotonic()
    first = True
    if not seconds:
        site.thaw()
    for _ in range(max(20, int(seconds / EVERY_S))):
        answered = subject.infer(row)
        if first and answered is not None and answered.fallback is not None:
            row.detected_s.append(answered.fallback.after_s)
        first = False
        if seconds and time.monotonic() - began >= seconds:
            break
        time.sleep(EVERY_S if seconds else 0.0)
    site.thaw()
    subject.until_split(row, time.monotonic())


def clock() -> list[Row]:
    """B7: the wall clock jumps by an hour at every reading."""
    row = Row("B7 wall clock jumps ±1 h")
    real, hour = time.time, [3600.0]

    def jumping() -> float:
        hour[0] = -hour[0]
        return real() + hour[0]

    with on_loopback() as site:
        subject = Subject(site.address)
        plain = Row("")
        for _ in range(40):  # in turns, so that a machine that gets slower does so for both
            subject.infer(plain)
            with patch("time.time", jumping):
                row.faults += 1
                subject.infer(row)
        subject.close()
    before, after = ([a.measured.total_s for a in r.answers] for r in (plain, row))
    row.note = f"median total {median(before) * 1e3:.0f} ms without, {median(after) * 1e3:.0f} ms with jumps, in turns"
    row.note += f": {Versus.of(after, before)}" if len(after) == len(before) else ""
    return [row]


def disk() -> list[Row]:
    """B8: the folder for caches is full, or cannot be written."""
    rows = []
    with tempfile.TemporaryDirectory() as name, on_loopback() as site:
        for kind, prepared in (("full", "size=64k"), ("read-only", "size=64k,ro")):
            row = Row(f"B8 cache folder {kind}", note="one warning each; exit 0, answer verified")
            subprocess.run(["mount", "-t", "tmpfs", "-o", prepared, "tmpfs", name], check=True)
            try:
                if kind == "full":
                    with Path(name, "filler").open("wb", buffering=0) as filler:
                        _fill(filler.fileno())
                for _ in range(3):
                    row.faults += 1
                    run = _call(site, "--cache-dir", name)
                    row.lost += run.returncode != 0 or "cannot save" not in run.stderr
                    row.wrong += run.returncode == 0 and not json.loads(run.stdout)["verify"]["matches"]
            finally:
                subprocess.run(["umount", name], check=True)
            rows.append(row)
    return rows


def _fill(descriptor: int) -> None:
    try:
        while os.write(descriptor, bytes(4096)):
            pass
    except OSError:
        return  # full


def _call(site: Site, *flags: str) -> "subprocess.CompletedProcess[str]":
    common = ("-t", "le_net", "--point", "3", "--verify", "--json")
    command = [sys.executable, "edge_api.py", "-p", str(site.clouds.port), *common, *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def stopped(repeats: int) -> list[Row]:
    """B12: SIGTERM while requests come in; `to detect` is until the cloud has ended."""
    row = Row("B12 SIGTERM under load")
    with on_loopback() as site:
        subject = Subject(site.address)
        codes = []
        for number in range(repeats):
            row.faults += 1
            timer = threading.Timer(0.3 + 0.017 * number, lambda: site.clouds.tell(signal.SIGTERM))
            began = time.monotonic()
            timer.start()
            while time.monotonic() - began < 2.0:
                subject.infer(row)
            assert site.clouds.process is not None
            codes.append(site.clouds.process.wait(60))
            site.clouds.start()
            subject.until_split(row, time.monotonic())
        subject.close()
    row.note = f"exit codes of the cloud: {sorted(set(codes))}"
    return [row]


def forgotten(repeats: int) -> list[Row]:
    """B13: an idle connection is dropped by the network: later packets are lost silently."""
    row = Row("B13 connection forgotten while idle")
    with on_loopback("--forget-after", f"{IDLE_S:.0f}s") as site:
        subject = Subject(site.address)
        plain = Row("")
        for _ in range(10):
            subject.infer(plain)
        for _ in range(repeats):
            row.faults += 1
            time.sleep(IDLE_S + 0.5)
            subject.infer(row)
        added_s = median(a.measured.total_s for a in row.answers) - median(a.measured.total_s for a in plain.answers)
        row.note = f"{subject.cloud.reconnects} new connections, {added_s * 1e3:.0f} ms more than without"
        subject.close()
    return [row]


def failing() -> list[Row]:
    """B16: every third tail on the cloud raises; then one hangs for longer than the deadline."""
    rows = [Row("B16 the tail raises on the cloud, every third time", note="the real cloud with a failing executor")]
    with on_loopback() as site:
        site.clouds.end()
        site.clouds.start(("-c", FAILING_CLOUD))
        subject = Subject(site.address)
        began = time.monotonic()
        while time.monotonic() - began < 20.0:
            answered = subject.infer(rows[0])
            if answered is not None and answered.requests and answered.fallback is not None:
                rows[0].faults += 1
                rows[0].detected_s.append(answered.fallback.after_s)
            time.sleep(0.02)
        subject.close()
    rows.append(Row("B16 the tail hangs 5 s on the cloud", note="SIGSTOP, then SIGCONT"))
    with on_loopback() as site:
        clouds = site.clouds
        stopped_cloud = Site(
            clouds, site.address, lambda: clouds.tell(signal.SIGSTOP), lambda: clouds.tell(signal.SIGCONT)
        )
        subject = Subject(site.address)
        for _ in range(2):
            rows[1].faults += 1
            _freeze_once(stopped_cloud, subject, rows[1], 5.0)
        subject.close()
    return rows


def on_hosts(rows: Sequence[str], repeats: int) -> list[list[str]]:
    """B1 and B3 over a shaped cable: this program again, on one of two hosts."""
    if missing():
        return []

    def inside(hosts: Hosts) -> list[list[str]]:
        where = ("--cloud", hosts.cloud_address, *hosts.on_cloud)
        flags = ("--rows", ",".join(rows), "--repeats", str(repeats), *where)
        command = [*hosts.on_edge, sys.executable, "-m", "benchmarks.faults", *flags]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        found: list[list[str]] = json.loads(done.stdout)
        return [[f"{cells[0]}, tbf {RATE}", *cells[1:]] for cells in found]

    try:
        with shaped_hosts(RATE) as hosts:
            return inside(hosts)
    except AppError as error:
        print(f"no shaped link here: {error}", file=sys.stderr)
        return []


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write benchmarks/results/faults.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", default="B1,B2,B3,B7,B8,B12,B13,B16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cloud", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    wanted = options.rows.split(",")
    known: dict[str, Callable[[], list[Row]]] = {
        "B2": lambda: edge_killed(options.repeats),
        "B7": clock,
        "B8": disk,
        "B12": lambda: [*stopped(options.repeats), *drained(options.repeats)],
        "B13": lambda: forgotten(options.repeats),
        "B16": failing,
    }
    over_a_link: dict[str, Callable[[Site], list[Row]]] = {"B1": lambda s: killed(s, options.repeats), "B3": frozen}
    if options.cloud:
        made = [
            row
            for name in wanted
            for row in _over(over_a_link[name], lambda: on_a_cable(options.cloud[0], options.cloud[1:]))
        ]
        print(json.dumps([row.cells() for row in made]))
        return 0
    rows: list[list[str]] = []
    for name in wanted:
        made = _over(over_a_link[name], on_loopback) if name in over_a_link else known[name]()
        rows += [row.cells() for row in made]
        print(*(" | ".join(row.cells()) for row in made), sep="\n", file=sys.stderr, flush=True)
        if name in over_a_link:
            rows += on_hosts([name], options.repeats)
    write_table("faults", "Faults", HEAD, rows, NOTES)
    return int(any(row[3] != "0" or row[4] != "0" for row in rows))


def _over(measure: Callable[[Site], list[Row]], link: Callable[[], Any]) -> list[Row]:
    with ExitStack() as stack:
        return measure(stack.enter_context(link()))


NOTES = [
    f"Times are medians and the most, from the start of an inference. Every inference has {TIMEOUT_S:g} s (--timeout); "
    f"late means more than {LATE_S:g} s longer. `to detect`: from the fault until the edge gave the cloud up, "
    "where a row does not say otherwise. `back on split`: from when the cloud listens again, or the link is free, "
    "until an inference was split again. Inferences that say `split` are those between the faults, and "
    "those that a new connection repeated.",
    "",
    "A killed cloud is one by SIGKILL; `while it computes` it is stopped before the request and killed when that has "
    "arrived. A frozen link is a stopped relay, or with tbf a queue of one byte, which loses every packet of the edge. "
    "No duration and no deadline comes from a wall clock: time.monotonic and time.perf_counter only, and clocks of two "
    "machines are never subtracted. B4 is in tasks_step.md, B5 and B6 need netem.",
]

if __name__ == "__main__":
    sys.exit(main())
