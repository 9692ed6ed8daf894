"""What an edge records of a link, compared with the trace that was played: tasks_edge_api.py --record over every trace.

    python -m benchmarks.traces [--hosts]

Real programs: a stream of tasks over the relay, or with --hosts (root) over an interface on which `tc tbf` plays the
trace. Every half second the current estimate is compared with the mean rate of the trace in the second before; the
recording starts when the link has been probed, so it is laid over the trace where it fits best, up to a minute later.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from benchmarks.fingerprint import write_table
from edgecloud.client.subprocesses import emulated_link, own_cloud
from edgecloud.lab import traces
from edgecloud.lab.hosts import shaped_hosts
from edgecloud.lab.made_links import FOLDER, MADE
from edgecloud.lab.token_bucket import tbf
from edgecloud.lab.traces import Trace
from edgecloud.predictor.store import default_folder
from edgecloud.utils.commands import ROOT

RATE, TASKS = "6/s", 6  # a second
STEP_S, WINDOW_S, LATEST_S = 0.5, 1.0, 60.0
TCP_SHARE = 0.956  # of what tc shapes: the rest are headers
CLOUD = ["tasks_cloud_api.py", "--threads", "1"]


def mean_rate(trace: Trace, at: float) -> float:
    """Bytes per second of the window that ends there."""
    moments = [at - WINDOW_S + WINDOW_S * (step + 0.5) / 20 for step in range(20)]
    return sum(trace.rate_at(max(0.0, moment)) for moment in moments) / len(moments)


def errors(played: Trace, seen: Trace, later_s: float, share: float) -> list[float]:
    """Relative errors of every half second; outages have none."""
    ends = int(seen.seconds[-1] / STEP_S)
    pairs = [
        (seen.rate_at(step * STEP_S), share * mean_rate(played, step * STEP_S + later_s)) for step in range(2, ends)
    ]
    return [estimated / real - 1 for estimated, real in pairs if real > 0]


@contextmanager
def over_relay(name: str, cache: list[str]) -> Iterator[tuple[list[str], tuple[str, int]]]:
    """What to put before the edge's command, and where its cloud is."""
    more = ("--trace", str(FOLDER / f"{name}.csv"))
    with (
        own_cloud([*cache, "--threads", "1"], "tasks_cloud_api.py") as cloud,
        emulated_link(*cloud.address(), "1mbit,20ms", *more) as relay,
    ):
        yield [], relay.address()


@contextmanager
def over_hosts(name: str, cache: list[str]) -> Iterator[tuple[list[str], tuple[str, int]]]:
    """The same between two network namespaces."""
    with ExitStack() as stack:
        hosts = stack.enter_context(shaped_hosts("20mbit"))
        command = [*hosts.on_cloud, sys.executable, *CLOUD, *cache, "-i", hosts.cloud_address, "-p", "0", "--insecure"]
        cloud = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        stack.callback(cloud.wait)
        stack.callback(cloud.terminate)
        assert cloud.stdout is not None
        port = int(cloud.stdout.readline().rpartition(":")[2])

        def change(rate: float) -> None:
            shape = ["tc", "qdisc", "change", "dev", "ecci0", "root", *tbf(rate)]
            subprocess.run([*hosts.on_edge, *shape], check=True, capture_output=True)

        stop = threading.Event()
        playing = threading.Thread(target=traces.replay, args=(traces.read(FOLDER / f"{name}.csv"), change, stop))
        stack.callback(playing.join)
        stack.callback(stop.set)
        playing.start()
        yield list(hosts.on_edge), (hosts.cloud_address, port)


def row_of(name: str, *, with_hosts: bool) -> list[str]:
    """Play one trace."""
    played = traces.read(FOLDER / f"{name}.csv")
    cache = ["--cache-dir", str(default_folder())]
    way, share = (over_hosts, TCP_SHARE) if with_hosts else (over_relay, 1.0)
    with tempfile.TemporaryDirectory() as folder, way(name, cache) as (before, (host, port)):
        record = Path(folder) / "seen.csv"
        command = [*before, sys.executable, "tasks_edge_api.py", "-i", host, "-p", str(port), "-t", "alex_net,le_net"]
        command += ["--rate", RATE, "--tasks", str(int(played.period_s * TASKS)), "--threads", "1", *cache]
        done = subprocess.run([*command, "--record", str(record)], cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            print(done.stderr[-2000:], file=sys.stderr)
        seen = traces.read(record)
    found = min(
        (errors(played, seen, step / 20, share) for step in range(int(20 * LATEST_S))),
        key=lambda each: median(map(abs, each)),
    )
    off = sorted(map(abs, found))
    cells = [f"{median(off):.1%}", f"{off[int(0.9 * len(off))]:.1%}", f"{median(found):+.1%}"]
    return [
        name,
        "tc" if with_hosts else "relay",
        str(len(seen.seconds)),
        str(len(found)),
        *cells,
        str(done.returncode),
    ]


def main() -> int:
    """Measure and write benchmarks/results/traces.md."""
    parser = argparse.ArgumentParser(description="what an edge records of a link, compared with what was played")
    parser.add_argument("--hosts", action="store_true", help="also over tc between two network namespaces, as root")
    parser.add_argument("--traces", default=",".join(MADE))
    options = parser.parse_args()
    rows = []
    for with_hosts in (False, True) if options.hosts else (False,):
        for name in options.traces.split(","):
            rows.append(row_of(name, with_hosts=with_hosts))
            print(" | ".join(rows[-1]), flush=True)
    head = ["trace", "played by", "lines written", "compared", "median error", "90 % below", "median, signed", "exit"]
    notes = [
        f"alex_net and le_net, {RATE}, for one length of the trace. Every half second the current estimate is",
        "compared with the mean rate of the trace in the second before.",
        "Outages are left out of the errors. Behind tc the rate is taken as 95.6 % of tc's, which TCP gets.",
    ]
    write_table("traces", "Recorded and played links", head, rows, notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
