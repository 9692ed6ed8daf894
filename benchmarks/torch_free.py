"""Every cut of several networks, on an edge in an environment without torch, against a cloud with it.

    make edge
    python -m benchmarks.torch_free [--edge-python .venv-edge/bin/python] [--folder DIR] [NETWORK ...]

edge_api.py runs there, with the bundle of each network and `--verify`, which compares answers with the whole bundle.
The whole bundle is compared here with the module in plain torch, on the same input. All chain points are tried; of
networks with many layers, ten that are evenly spread. Bundles, measured times and results are kept in DIR: a run
goes on where another one ended.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.bundles import bundled
from benchmarks.clouds import running_cloud
from benchmarks.fingerprint import write_table
from edgecloud.models import registry, weights
from edgecloud.utils.commands import ROOT

ALL = ("le_net", "mobile_net", "alex_net", "efficientnet_lite0")
SOME = ("torchvision:googlenet", "torchvision:densenet121")
SPREAD, CLOSE = 10, 1e-4
NOT_THERE = "import importlib.util as u; print([n for n in ('torch', 'torchvision') if u.find_spec(n)])"


@dataclass(frozen=True)
class Cuts:
    """One network: which cuts were tried, and how far the answers were from the network in torch."""

    points: int
    tried: int
    difference: float
    """Of any number of an answer, from the whole bundle ..."""
    of_bundle: float
    """... and of the whole bundle from torch."""
    same_top: int
    seconds: float

    @property
    def is_good(self) -> bool:
        """Whether every answer is that of the network."""
        return self.difference + self.of_bundle <= CLOSE and self.same_top == self.tried


def points_of(count: int, is_spread: bool) -> list[int]:
    """Which points are tried."""
    if not is_spread or count <= SPREAD:
        return list(range(count))
    return sorted({round(number * (count - 1) / (SPREAD - 1)) for number in range(SPREAD)})


def cuts_of(name: str, edge_python: str, bundles: Path, port: int, cache: Path) -> Cuts:
    """Run the edge at every point that is tried. Raises CalledProcessError where it fails."""
    network = bundled(name, bundles)
    with torch.no_grad():
        expected = weights.load(registry.built_in(name)).model(torch.from_numpy(network.example.array)).numpy()
    (whole,) = network.whole(network.example.array)
    points = points_of(len(network.graph.points), name in SOME)
    command = [
        *(edge_python, "edge_api.py", "-t", str(network.bundle.path), "-i", "127.0.0.1", "-p", str(port)),
        *(
            "--cache-dir",
            str(cache),
            "--points",
            ",".join(map(str, points)),
            "--verify",
            "--json",
            "--warm-up",
            "0",
            "--threads",
            "1",
        ),
    ]
    began = time.perf_counter()
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    seconds = time.perf_counter() - began
    documents = [json.loads(line) for line in output.splitlines()]
    assert [document["plan"]["point"] for document in documents] == points
    assert all(document["plan"]["backend"]["edge"] == "onnxruntime" for document in documents)
    assert {document["plan"]["backend"]["cloud"] for document in documents} <= {"torch", None}
    tops = [document["result"]["top"][0]["index"] for document in documents]
    return Cuts(
        len(network.graph.points),
        len(points),
        max(document["verify"]["max_abs_diff"] for document in documents),
        float(np.abs(whole - expected).max()),
        sum(top == int(expected[0].argmax()) for top in tops),
        seconds,
    )


def cells(name: str, cuts: Cuts) -> list[str]:
    """One row of the table."""
    tried, tops = f"{cuts.tried} of {cuts.points}", f"{cuts.same_top} of {cuts.tried}"
    return [name, tried, f"{cuts.difference:.2g}", f"{cuts.of_bundle:.2g}", tops, f"{cuts.seconds:.0f} s"]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write benchmarks/results/torch_free.md; 1 where an answer differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torch_free", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("networks", nargs="*", default=[*ALL, *SOME], metavar="NETWORK")
    parser.add_argument("--edge-python", default=str(ROOT / ".venv-edge" / "bin" / "python"), metavar="FILE")
    parser.add_argument("--folder", type=Path, default=Path("bundles"), metavar="DIR")
    options = parser.parse_args(argv)
    there = subprocess.check_output([options.edge_python, "-c", NOT_THERE], text=True).strip()
    if there != "[]":
        parser.error(f"{options.edge_python} has {there}: make edge makes one without")
    options.folder.mkdir(parents=True, exist_ok=True)
    files = {name: options.folder / f"{name.replace(':', '_')}.json" for name in [*ALL, *SOME, *options.networks]}
    cache = options.folder / "cache"
    with running_cloud(cache, "--models", "all", "--threads", "1") as cloud:
        for name in options.networks:
            if files[name].is_file():
                continue
            cuts = cuts_of(name, options.edge_python, options.folder, cloud.port, cache)
            files[name].write_text(json.dumps(asdict(cuts)))
            print(" | ".join(cells(name, cuts)), file=sys.stderr)
    every = {name: Cuts(**json.loads(file.read_text())) for name, file in files.items() if file.is_file()}
    is_good = all(cuts.is_good for cuts in every.values())
    head = ["network", "cuts", "largest difference from the whole bundle", "of that from torch", "same top-1", "took"]
    note = f"Differences of at most {CLOSE:g} together, and the same top-1, are the target: {_met(is_good)}."
    rows = [cells(name, cuts) for name, cuts in every.items()]
    write_table("torch_free", "An edge without torch, against a cloud with it", head, rows, [note])
    return int(not is_good)


def _met(is_met: bool) -> str:
    return "met" if is_met else "MISSED"


if __name__ == "__main__":
    sys.exit(main())
