"""Tails by rows against the same tails whole: what it costs, and what is left to compute once the last chunk is there.

    python -m benchmarks.rows [--bundles DIR] [--rounds N] [--at SHARES] [NETWORK ...]

Tails of the points after the given shares of a network's points are run by turns in one piece, and in 2, 4 and 8 chunks
of equal height, on one thread, in torch and in ONNX Runtime. All chunks are there at once, so `cost` is by rows against
whole; `exposed` is the part of the whole tail's seconds that comes after the last chunk: 1.00 without rows, and at best
1 / chunks. Behind each back-end: a fit of the cost, in microseconds for each step and for each block of rows.
"""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from benchmarks.bundles import bundled, parser_of
from benchmarks.noise import Versus
from edgecloud.engine.executor import ONNXRUNTIME, TORCH, BaseExecutor, make_executor
from edgecloud.models import registry
from edgecloud.models.network import Array, Network
from edgecloud.models.rows import ROWS, Piece, RowPlan
from edgecloud.utils.inference_utils import set_threads

NETWORKS = (
    *("alex_net", "vgg_net", "mobile_net", "efficientnet_lite0"),
    *("torchvision:resnet18", "torchvision:googlenet", "torchvision:squeezenet1_1", "torchvision:densenet121"),
)
STEPS = (2, 4, 8)


@dataclass(frozen=True)
class Row:
    """A tail in so many chunks."""

    backend: str
    network: str
    point: int
    steps: int
    layers: int
    """That are computed by rows."""
    calls: int
    whole_s: float
    rows_s: float
    exposed_s: float
    cost: Versus
    """By rows against whole."""

    @property
    def cells(self) -> tuple[str, ...]:
        """As they are shown."""
        numbers = (self.point, self.steps, self.layers, self.calls)
        times = (f"{1000 * self.whole_s:.1f}", str(self.cost))
        return (self.backend, self.network, *map(str, numbers), *times, f"{self.exposed_s / self.whole_s:.2f}")


HEADER = ("back-end", "network", "point", "chunks", "layers", "blocks", "whole ms", "cost", "exposed")


def pieces_of(network: Network, layer: int, steps: int) -> list[Piece]:
    """The tensor of a layer in chunks of equal height."""
    rows = network.graph.layers[layer].out_shape[ROWS]
    ends = [round(rows * step / steps) for step in range(steps + 1)]
    return [Piece(layer, start, stop) for start, stop in pairwise(ends) if stop > start]


def by_rows(executor: BaseExecutor, plan: RowPlan, array: Array) -> tuple[float, float]:
    """Seconds of all, and of what comes after the last chunk."""
    stream = executor.tail_by_rows(plan)
    fed = [stream.feed(array[:, :, piece.start : piece.stop]) for piece in plan.pieces]
    stream.finish()
    return stream.seconds, stream.seconds - sum(fed[:-1])


def measured(executor: BaseExecutor, name: str, point: int, values: Mapping[int, Array], rounds: int) -> Iterator[Row]:
    """One tail, in one piece and by rows, by turns."""
    graph = executor.network.graph
    (layer,) = graph.crossing_at(point)
    tail, array = graph.everything - graph.head_at(point), values[layer]
    plans = {}
    for steps in STEPS:
        plan = executor.tail_rows(tail, pieces_of(executor.network, layer, steps))
        if plan is not None:
            plans[steps] = plan
    segment = executor.load(tail)
    whole: list[float] = []
    rows: dict[int, list[tuple[float, float]]] = {steps: [] for steps in plans}
    for count in range(rounds + 1):
        time.sleep(0.02)
        seconds = executor.run(segment, [array]).seconds
        for steps, plan in plans.items():
            pair = by_rows(executor, plan, array)
            if count:
                rows[steps].append(pair)
        if count:
            whole.append(seconds)
    for steps, plan in plans.items():
        calls = sum(len(step.made) for step in plan.steps)
        total, exposed = (statistics.median(times) for times in zip(*rows[steps], strict=True))
        about = (executor.backend, name.rpartition(":")[2], point, steps, len(plan.region), calls)
        cost = Versus.of([taken for taken, _ in rows[steps]], whole)
        yield Row(*about, statistics.median(whole), total, exposed, cost)


def fitted(rows: Sequence[Row]) -> tuple[float, float]:
    """Seconds for each step and for each block, in the middle of what the rows say, none below 0."""
    counts = np.array([(row.steps, row.calls) for row in rows], float)
    extra = np.array([row.rows_s - row.whole_s for row in rows])
    weights = 1 / np.array([row.whole_s for row in rows])
    (step_s, call_s), *_ = np.linalg.lstsq(counts * weights[:, None], extra * weights)
    return max(0.0, float(step_s)), max(0.0, float(call_s))


def shown(rows: Sequence[Row]) -> Iterator[str]:
    """A Markdown table."""
    lines = [HEADER, tuple("---" for _ in HEADER), *(row.cells for row in rows)]
    return (f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    parser = parser_of(__doc__, NETWORKS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--at", default="0,0.15,0.4", metavar="SHARES")
    args = parser.parse_args()
    set_threads(1)
    rows: list[Row] = []
    for name in args.networks:
        bundle = bundled(name, args.bundles)
        values: dict[int, Array] = {}
        bundle.each_output(bundle.example.array, values.__setitem__)
        torch_network = registry.built_in(name).network(example=bundle.example)
        points = sorted({round(float(share) * (len(bundle.graph.points) - 2)) for share in args.at.split(",")})
        for network, backend in ((torch_network, TORCH), (bundle, ONNXRUNTIME)):
            executor = make_executor(network, "cpu", backend=backend)
            assert isinstance(executor, BaseExecutor)
            for point in points:
                rows += measured(executor, name, point, values, args.rounds)
    for line in shown(rows):
        print(line)
    for backend in (TORCH, ONNXRUNTIME):
        own = [row for row in rows if row.backend == backend]
        if own:
            step_s, call_s = fitted(own)
            print(f"{backend}: {1e6 * step_s:.0f} us for each step, {1e6 * call_s:.1f} us for each block")


if __name__ == "__main__":
    main()
