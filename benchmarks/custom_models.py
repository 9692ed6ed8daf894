"""Networks as engineers write them, each in a file of its own: what captures it, and whether every half is right.

For each FILE.py of a folder: captured, cut at three points and at both ends, and what two halves give compared with
what the user's own module gives in plain torch. A file that is refused has the line that says why.

    python -m benchmarks.custom_models FOLDER [PATTERN ...] [-o NAME]

The files may need packages beyond the requirements (timm, transformers, ...). Each is tried in a process of its own.
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.fingerprint import write_table
from edgecloud.engine.answers import max_abs_diff, told_difference
from edgecloud.engine.executor import make_executor
from edgecloud.models import registry, vision
from edgecloud.models.network import Network, fed_layers
from edgecloud.models.torch_arrays import to_array
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.net.tensors import Array
from edgecloud.utils.dtypes import widened
from edgecloud.utils.errors import AppError

LIMIT_S = 240
PLACES = (0.25, 0.5, 0.75)
RTOL, ATOL = 1e-4, 1e-5


@dataclass(frozen=True)
class Row:
    """What came of one file."""

    name: str
    capture: str = ""
    layers: int = 0
    points: int = 0
    cuts: tuple[int, ...] = ()
    difference: float = 0.0
    refusal: str = ""
    wrong: str = ""
    took_s: float = 0.0
    kept: tuple[str, ...] = ()

    def cells(self) -> list[str]:
        """As a row of the table."""
        kept = f", {', '.join(self.kept)} as one layer" if self.kept else ""
        found = [self.capture + kept, str(self.layers), str(self.points), " ".join(map(str, self.cuts))]
        difference = "" if not self.capture else f"{self.difference:.3g}"
        return [self.name, *(found if self.capture else [""] * 4), difference, self.wrong or self.refusal]


def _own(path: Path) -> Any:
    """The user's own module as python runs it, from seed 0, untouched by anything of ours."""
    spec = importlib.util.spec_from_file_location(f"plain_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} cannot be read as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    _seed()
    spec.loader.exec_module(module)
    return module


def _seed() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


def _answer(path: Path, given: Sequence[torch.Tensor]) -> list[Array]:
    """What plain torch answers: to the file's own example, or to the tensors that were tried."""
    module = _own(path)
    _seed()
    x = module.example() if hasattr(module, "example") else given[0].clone()
    _seed()
    model = module.build()
    with suppress(NotImplementedError):  # an exported one has no such mode
        model.eval()
    with torch.no_grad():
        if isinstance(x, dict):
            answer = model(**x)
        elif isinstance(x, tuple):
            answer = model(*x)
        else:
            answer = model(x)
    return [widened(to_array(one)) for one in _tensors(answer)]


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors of an answer, in the order in which they stand in it."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _tensors(each)
    elif hasattr(value, "__dict__"):
        yield from _tensors(vars(value))


def _halves(network: Network, point: int) -> list[Array]:
    """The head, then the tail on the boundary, each made of the layers that it has."""
    executor = make_executor(network, "cpu")
    graph, head = network.graph, network.graph.head_at(point)
    values = fed_layers(graph, network.example.fed)
    for layers in (head, graph.everything - head):
        if layers:
            segment = executor.load(layers)
            ran = executor.run(segment, [values[number] for number in segment.inputs])
            values |= zip(segment.outputs, ran.arrays, strict=True)
    return [values[number] for number in graph.outputs]


def tried(path: Path) -> Row:
    """One file, from beginning to end."""
    began, name = time.perf_counter(), path.stem.removeprefix("my_")
    try:
        network = registry.resolve_trusted(str(path)).network()
    except AppError as error:
        return Row(name, refusal=str(error), took_s=time.perf_counter() - began)
    points = network.graph.points
    cuts = sorted({0, len(points) - 1, *(round(place * (len(points) - 1)) for place in PLACES)})
    expected = _answer(path, network.example.tensors)
    wrong, largest = "", 0.0
    for point in cuts:
        answer = [widened(each) for each in _halves(network, point)]
        largest = max(largest, max_abs_diff(answer, expected))
        if not _is_close(answer, expected):
            wrong = wrong or f"point {point} differs: {told_difference(max_abs_diff(answer, expected))}"
    capture = network.traced.capture if isinstance(network, TorchNetwork) else "bundle"
    kept = tuple(network.kept)
    took_s = time.perf_counter() - began
    return Row(name, capture, len(network.graph.layers), len(points), tuple(cuts), largest, "", wrong, took_s, kept)


def _is_close(answer: Sequence[Array], expected: Sequence[Array]) -> bool:
    if [each.shape for each in answer] != [each.shape for each in expected]:
        return False
    pairs = zip(answer, expected, strict=True)
    return all(
        np.allclose(a, b, RTOL, ATOL * max(1.0, float(np.abs(b).max(initial=0))), equal_nan=True) for a, b in pairs
    )


def _child(path: Path, pipe: Any) -> None:
    signal.alarm(LIMIT_S)
    try:
        row = tried(path)
    except BaseException as error:  # noqa: BLE001  this is what is looked for
        row = Row(path.stem.removeprefix("my_"), wrong=f"TRACEBACK {type(error).__name__}: {str(error)[:200]}")
    pipe.send(asdict(row))
    pipe.close()
    os._exit(0)


def each_of(paths: Sequence[Path]) -> Iterator[Row]:
    """The rows of all files; each in a process that this one was copied to."""
    context = multiprocessing.get_context("fork")
    for path in paths:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(path, theirs))
        process.start()
        theirs.close()
        try:
            document = ours.recv()
            yield Row(**document | {key: tuple(document[key]) for key in ("cuts", "kept")})
        except EOFError:
            process.join()
            yield Row(path.stem.removeprefix("my_"), wrong=f"its process ended with {process.exitcode}")
        process.join()


def imported(paths: Sequence[Path]) -> None:
    """Import the packages that files name once, and not once in the process of each."""
    text = "".join(path.read_text(encoding="utf-8") for path in paths)
    for package in ("timm", "transformers", "ultralytics", "segmentation_models_pytorch"):
        if package in text:
            with suppress(ImportError):
                importlib.import_module(package)


def rows_in(path: Path) -> Iterator[Row]:
    """The rows that an earlier run has printed; what else it has printed is left out."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("{"):
            document = json.loads(line)
            yield Row(**document | {key: tuple(document.get(key, ())) for key in ("cuts", "kept")})


def main(argv: Sequence[str] | None = None, title: str = "Custom models") -> int:
    """Print a line of JSON for each file, and write a table where one is wanted."""
    parser = argparse.ArgumentParser("benchmarks.custom_models", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="of names without my_ and .py, such as 'hf_*'")
    parser.add_argument("-o", dest="table", metavar="NAME", help="also write benchmarks/results/NAME.md")
    parser.add_argument("--rows", type=Path, nargs="+", metavar="FILE", help="what earlier runs printed, not run again")
    options = parser.parse_args(argv)
    patterns = options.patterns or ["*"]
    paths = [
        path
        for path in sorted(options.folder.glob("*.py"))
        if any(fnmatch(path.stem.removeprefix("my_"), pattern) for pattern in patterns)
    ]
    known = {row.name: row for path in options.rows or () for row in rows_in(path)}
    left = [path for path in paths if path.stem.removeprefix("my_") not in known]
    if left:
        vision.torchvision()
        imported(left)
    for row in each_of(left):
        known[row.name] = row
        print(json.dumps(asdict(row)), flush=True)
    rows = [known[name] for name in (path.stem.removeprefix("my_") for path in paths)]
    right = sum(bool(row.capture) and not row.wrong for row in rows)
    refused = sum(bool(row.refusal) for row in rows)
    about = f"{right} of {len(rows)} equal the user's own module at every cut, {refused} are refused with a reason"
    print(about, file=sys.stderr)
    if options.table is not None:
        columns = ["file", "captured with", "layers", "points", "cuts tried", "largest difference", "refused or wrong"]
        write_table(options.table, title, columns, [row.cells() for row in rows], [about])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
