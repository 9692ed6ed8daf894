"""What `--backend auto` is worth from the input to the answer: totals beside those of `--backend torch`.

    python -m benchmarks.end_to_end [--cpu 0.05] [--links 5mbit,20mbit] [--rounds N] [--cache-dir DIR] [NETWORK ...]

Real clouds and relays, one of each for either back-end, which both sides then have; the edges run in this process,
slowed to a share of a core. Three ways: as planned, cut where about half of the work is done, and all on the edge. The
inferences of both back-ends take turns, so what the machine does hits both alike. Layers are measured first where DIR,
usually the cache of all programs, does not know them.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from pathlib import Path
from statistics import median

import edgecloud as ec
from benchmarks.bundles import parser_of, path_of
from benchmarks.noise import Versus
from edgecloud.client.subprocesses import own_cloud
from edgecloud.engine.executor import AUTO, TORCH
from edgecloud.engine.segment_profile import work_of
from edgecloud.models.network import Network
from edgecloud.predictor.store import default_folder

NETWORKS = ("vgg_net", "torchvision:resnet18", "torchvision:googlenet", "mobile_net", "efficientnet_lite0")
BACKENDS = (TORCH, AUTO)
RTT, REST_S, WARM_UP, SLOW_S = "20ms", 0.05, 2, 2.0
SHORT_ROUNDS = 3


def half_of(network: Network) -> int:
    """The point at which about half of the work is done."""
    done = list(accumulate(work_of(network)))
    points = network.graph.points
    return min(range(1, len(points) - 1), key=lambda number: abs(done[points[number].layer] - done[-1] / 2))


@contextmanager
def edges(
    path: Path, cloud: dict[str, str], link: str, cpu: float, cache: Path, point: int | None
) -> Iterator[dict[str, ec.Edge]]:
    """One for each back-end, planned and ready."""
    with ExitStack() as stack:
        yield {
            backend: stack.enter_context(
                ec.Edge(
                    path,
                    cloud=cloud[backend],
                    backend=backend,
                    point=point,
                    emulate_cpu=cpu,
                    emulate_link=f"{link},{RTT}",
                    cache_dir=cache,
                    ready_timeout=300.0,
                )
            )
            for backend in BACKENDS
        }


def totals(both: dict[str, ec.Edge], rounds: int) -> dict[str, list[float]]:
    """Seconds of inferences with each, by turns; fewer of them where they take long."""
    seconds: dict[str, list[float]] = {name: [] for name in both}
    x = next(iter(both.values())).net.sample
    warm_up, count = WARM_UP, 0
    while count < warm_up + rounds:
        for name in list(both) if count % 2 else list(both)[::-1]:
            time.sleep(REST_S)
            seconds[name].append(both[name](x).times.total_s)
        if count == 0 and min(map(min, seconds.values())) > SLOW_S:
            warm_up, rounds = 1, SHORT_ROUNDS
        count += 1
    return {name: each[warm_up:] for name, each in seconds.items()}


def row(name: str, link: str, way: str, both: dict[str, ec.Edge], rounds: int) -> Sequence[object]:
    """One line of the table."""
    s = totals(both, rounds)
    auto = both[AUTO].client.prepared.edge
    heads = [edge.client.plan.decision.head for edge in both.values()]
    layers = " / ".join(str(len(head) - 1) for head in heads)
    there = "" if auto.cloud_backend is None else auto.cloud_backend.backend
    taken = f"{auto.backend(heads[1]).backend}, {there or '-'}"
    cells = [f"{1e3 * median(s[backend]):.0f} ms" for backend in BACKENDS]
    return (name, link, way, layers, taken, *cells, Versus.of(s[AUTO], s[TORCH]).ratio)


def measure(
    name: str, links: Sequence[str], cpu: float, path: Path, cache: Path, rounds: int, say: Callable[..., None]
) -> None:
    """All ways of one network."""
    network = ec.load(path).made
    last = len(network.graph.points) - 1
    with ExitStack() as stack:
        where = {}
        for backend in BACKENDS:
            flags = ("--network", str(path), "--backend", backend, "--cache-dir", str(cache), "--quiet")
            host, port = stack.enter_context(own_cloud(flags)).address()
            where[backend] = f"{host}:{port}"
        ways = [("planned", None, link) for link in links] + [("half", half_of(network), link) for link in links]
        for way, point, link in [*ways, ("all on the edge", last, links[0])]:
            with edges(path, where, link, cpu, cache, point) as both:
                say(row(name, "-" if point == last else link, way, both, rounds))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = parser_of(__doc__, NETWORKS)
    parser.add_argument("--cpu", type=float, default=0.05, metavar="SHARE")
    parser.add_argument("--links", default="5mbit,20mbit", metavar="RATE,...")
    parser.add_argument("--rounds", type=int, default=11, metavar="N")
    parser.add_argument("--cache-dir", type=Path, default=default_folder(), metavar="DIR")
    options = parser.parse_args(argv)
    print(
        "| network | link | way | layers on the edge (torch / auto) | auto: edge, cloud | torch | auto | auto / torch |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in options.networks:
        measure(
            name,
            options.links.split(","),
            options.cpu,
            path_of(name, options.bundles),
            options.cache_dir,
            options.rounds,
            lambda cells: print("|", " | ".join(map(str, cells)), "|", flush=True),
        )


if __name__ == "__main__":
    main()
