"""The latency of a legitimate edge while others say HELLO for large networks that this cloud has never loaded.

python -m benchmarks.loading [--model le_net] [--point 8] [--seconds 60]

A cloud without a token on loopback serves one edge, which asks again and again for a small tail. Then others say HELLO
for vgg_net, densenet201 and convnext_large, none of which the cloud has ever loaded or measured: first with wrong
digests, which are refused, then again. The target is a 95th percentile of at most 1.5 times the quiet one.
"""

import argparse
import tempfile
import threading
import time
from pathlib import Path

from benchmarks import legitimate_edge
from benchmarks.clouds import running_cloud
from benchmarks.noise import Versus
from edgecloud.net.connection import connect
from edgecloud.net.messages import Error, Hello, from_header
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError

LARGE = ("vgg_net", "torchvision:densenet201", "torchvision:convnext_large")
QUIET_S = 15.0
DEADLINE_S = 3.0
BAR = 1.5


def ask(port: int, model: str, end: float, told: list[str]) -> None:
    """Say HELLO for a network that differs on this cloud, until the end."""
    while (left := end - time.monotonic()) > 0:
        began = time.monotonic()
        try:
            connection = connect("127.0.0.1", port, 5.0)
            try:
                connection.send(Hello(model, "sha256:0", "sha256:0", ["raw"], ""), Deadline.after(left, "hello"))
                error = from_header(Error, connection.receive(Deadline.after(left, "hello")).header)
                told.append(f"{model}: {error.code} after {time.monotonic() - began:.1f} s")
            finally:
                connection.close()
        except AppError as error:
            told.append(f"{model}: {error.code} after {time.monotonic() - began:.1f} s")
        time.sleep(1.0)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="le_net")
    parser.add_argument("--point", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_cloud(Path(folder), "--models", "all") as cloud:
        edge = (cloud.port, options.model, options.point)
        quiet = legitimate_edge.figures(legitimate_edge.start(*edge, QUIET_S, DEADLINE_S))
        process = legitimate_edge.start(*edge, options.seconds, DEADLINE_S)
        told: list[str] = []
        end = time.monotonic() + options.seconds
        others = [threading.Thread(target=ask, args=(cloud.port, model, end, told)) for model in LARGE]
        for other in others:
            other.start()
        beside = legitimate_edge.figures(process)
        for other in others:
            other.join()
    print(f"{options.model} from point {options.point}, deadline {DEADLINE_S:g} s")
    print("| | requests | p50 ms | p95 ms | p99 ms | most ms | too late |\n|---|---|---|---|---|---|---|")
    for name, found in (("quiet", quiet), ("with HELLOs", beside)):
        times = (found.p50_s, found.p95_s, found.p99_s, found.most_s)
        print(f"| {name} | {found.count} | {' | '.join(f'{1e3 * one:.2f}' for one in times)} | {found.late} |")
    print(f"p95 x {Versus.of_figures(beside.p95, quiet.p95)} (target {BAR:g}), {beside.late} too late")
    for line in told[:6]:
        print(line)
    print(f"{len(told)} HELLOs")


if __name__ == "__main__":
    main()
