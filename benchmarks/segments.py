"""How well the profile of a back-end that joins layers tells the heads and tails of all cuts.

    python -m benchmarks.segments [--bundles DIR] [--points N] [--details] [NETWORK ...]

The profile is measured first. Then every head and tail is measured twice, in one interleaved run, on one thread, after
a rest, in time of the processor, relative to its present speed, as the profile is. How far the second measurement is
from the first one is the noise: no prediction can be better.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.bundles import bundled, parser_of
from edgecloud.engine import times
from edgecloud.engine.executor import ONNXRUNTIME, Executor, make_executor
from edgecloud.engine.speed import pace_of
from edgecloud.models.network import Array
from edgecloud.predictor.gauge import Gauge, Readings
from edgecloud.predictor.pace import HEAVY, Run
from edgecloud.utils.inference_utils import set_threads

NETWORKS = ("alex_net", "mobile_net", "torchvision:resnet18", "torchvision:googlenet")
REST_S, RUNS, LIMIT = 0.05, 3, 0.1


def cuts(executor: Executor, most: int) -> dict[str, tuple[Callable[[], object], frozenset[int]]]:
    """Heads and tails by name, evenly spread where there are more points than `most`."""
    graph, x = executor.network.graph, executor.network.example.array
    inner = range(1, len(graph.points) - 1)
    step = max(1, -(-len(inner) // most))
    made: dict[str, tuple[Callable[[], object], frozenset[int]]] = {}
    values: dict[int, Array] = {}
    executor.network.each_output(x, lambda number, array: values.__setitem__(number, array.copy()))
    for number in inner[::step]:
        head = graph.head_at(number)
        for name, layers in ((f"head {number}", head), (f"tail {number}", graph.everything - head)):
            segment = executor._make(layers)  # type: ignore[attr-defined]  # kept here, however many there are
            made[name] = (partial(segment, [values[each] for each in segment.inputs]), layers)
    return made


def predicted_s(found: times.LayerTimes, layers: frozenset[int], name: str) -> float:
    """As the planner tells it."""
    start = found.start_s[min(layers) - 1] if name.startswith("tail") else 0.0
    return sum(found.seconds[number] for number in layers) + start


def timer_of(executor: Executor, folder: Path) -> Callable[[Callable[[], object]], float]:
    """Tells what a run takes on the quiet machine."""
    machine = executor.machine
    gauge = Gauge.of(time.perf_counter, machine.threads, folder, asdict(machine), is_work=False)
    readings = Readings(gauge)
    quiet = pace_of(folder, machine) or readings.last

    def timed(run: Callable[[], object]) -> float:
        before = readings.read()
        time.sleep(REST_S)  # as in service, and as in the profile: the reference work has woken the processor
        began = gauge.clock()
        run()
        seconds = gauge.clock() - began
        return Run((seconds,), before, readings.read()).quietly(quiet, [HEAVY])[0]

    return timed


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = parser_of(__doc__, NETWORKS)
    parser.add_argument("--points", type=int, default=1000, metavar="N")
    parser.add_argument("--details", action="store_true", help="also print every head and tail")
    options = parser.parse_args(argv)
    set_threads(1)
    print("| network | heads and tails | within 10 % | noise: within 10 % | median error | profile |")
    print("|---|---|---|---|---|---|")
    for name in options.networks:
        executor = make_executor(bundled(name, options.bundles), "cpu", backend=ONNXRUNTIME)
        runs = cuts(executor, options.points)
        with TemporaryDirectory() as folder:
            began = time.perf_counter()
            found = times.measured(executor, Path(folder), tails=True)
            took_s = time.perf_counter() - began
            timed = timer_of(executor, Path(folder))
        measured: tuple[dict[str, list[float]], ...] = ({key: [] for key in runs}, {key: [] for key in runs})
        for turn in range(2 * RUNS):
            for key, (run, _) in runs.items():
                measured[turn % 2][key].append(timed(run))
        first, second = ({key: median(each) for key, each in part.items()} for part in measured)
        errors = [abs(predicted_s(found, layers, key) / first[key] - 1) for key, (_, layers) in runs.items()]
        noise = [abs(second[key] / first[key] - 1) for key in runs]
        shares = [sum(each <= LIMIT for each in those) / len(those) for those in (errors, noise)]
        cells = (name, len(runs), f"{shares[0]:.0%}", f"{shares[1]:.0%}", f"{median(errors):.1%}", f"{took_s:.1f} s")
        print("|", " | ".join(map(str, cells)), "|", flush=True)
        for key in runs if options.details else ():
            told = predicted_s(found, runs[key][1], key)
            print(f"  {key}: {1e3 * told:.3f} ms, measured {1e3 * first[key]:.3f}, {1e3 * second[key]:.3f} ms")


if __name__ == "__main__":
    main()
