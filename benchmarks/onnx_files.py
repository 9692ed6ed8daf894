"""ONNX files that nobody here made: each cut of them against ONNX Runtime on the file as it is.

    python -m benchmarks.onnx_files [FILE.onnx[:SIZES] ...]

Without files: the light models of the onnx package (whose weights are all one number, so that they are also taken with
random ones), and those of rapidocr where that is installed (--rapidocr FOLDER).
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.fingerprint import write_table
from edgecloud.engine import certificates
from edgecloud.engine.answers import is_close, max_abs_diff
from edgecloud.engine.executor import make_executor
from edgecloud.models import onnx_file, registry
from edgecloud.models.bundle_network import BundleNetwork
from edgecloud.models.onnx_network import Untouched
from edgecloud.utils.errors import UsageError

CUTS = 7
BATCH = 3
SIZES = {
    "ch_ppocr_mobile_v2.0_cls_mobile.onnx": "1x3x48x192",
    "PP-OCRv6_det_small.onnx": "1x3x320x320",
    "PP-OCRv6_rec_small.onnx": "1x3x48x320",
}
"""Of those that take any: what their program feeds them."""

LARGE = ("light_bvlc_alexnet", "light_vgg19", "light_zfnet512")
"""Of more than 200 MB with weights of their own."""


@dataclass(frozen=True)
class Row:
    """What came of one file."""

    file: str
    operators: int
    nodes: int
    layers: int = 0
    points: int = 0
    cuts: int = 0
    difference: float = 0.0
    largest: float = 0.0
    batched: str = ""
    seconds: float = 0.0
    word: str = "equal"


def light() -> list[Path]:
    """The light models of the onnx package."""
    return sorted((Path(onnx.__file__).parent / "backend" / "test" / "data" / "light").glob("*.onnx"))


def with_numbers(path: Path, folder: Path) -> Path:
    """A light model with weights that differ from each other, drawn from a seed, in place of one number."""
    made = onnx.load_model(str(path))
    constants = {each.name: each for each in made.graph.initializer}
    kept = []
    for number, one in enumerate(made.graph.node):
        if one.op_type != "ConstantOfShape":
            kept.append(one)
            continue
        sides = onnx.numpy_helper.to_array(constants[one.input[0]])
        rng = np.random.default_rng(number)
        drawn = (
            rng.standard_normal(sides) / np.sqrt(max(1, np.prod(sides[1:])))
            if sides.size > 1
            else rng.uniform(0.5, 1.5, sides)
        )
        made.graph.initializer.append(onnx.numpy_helper.from_array(drawn.astype(np.float32), one.output[0]))
    del made.graph.node[:]
    made.graph.node.extend(kept)
    changed = folder / f"{path.stem}-random.onnx"
    onnx.save_model(made, str(changed))
    return changed


def tried(name: str, folder: Path) -> Row:
    """Run a file at several cuts, and several inputs at once where it takes them."""
    place = onnx_file.where(name)
    if place is None:
        raise UsageError(f"{name} is not a FILE.onnx")
    graph = onnx.load_model(str(place.path), load_external_data=False).graph
    about = (place.name, len({each.op_type for each in graph.node}), len(graph.node))
    began = time.perf_counter()
    try:
        network = registry.resolve_trusted(name, folder).network()
    except UsageError as error:
        return Row(*about, word=f"refused: {str(error).removeprefix(f'{place.path}: ')}")
    took_s = time.perf_counter() - began
    if not isinstance(network, BundleNetwork):
        raise UsageError(f"{name} is no network of data")
    whole, x = Untouched(place.path), network.example.array
    expected = whole(x)
    executor = make_executor(network, "cpu", backend="onnxruntime")
    points = network.graph.points
    cuts = sorted({round(each * (len(points) - 1) / (CUTS - 1)) for each in range(CUTS)})
    answers = [certificates.run(executor, network.graph.head_at(point), x) for point in cuts]
    is_same = all(is_close(answer, expected) for answer in answers)
    return Row(
        *about,
        layers=len(network.graph.layers),
        points=len(points),
        cuts=len(cuts),
        difference=max(max_abs_diff(answer, expected) for answer in answers),
        largest=max(float(np.abs(each).max()) for each in expected),
        batched=_batched(network, executor, whole),
        seconds=took_s,
        word="equal" if is_same else "DIFFERS",
    )


def _batched(network: BundleNetwork, executor: Any, whole: Untouched) -> str:
    if not network.bundle.content.is_batched:
        return "no"
    several = [onnx_file.example_of(network.example.array.shape, seed=seed) for seed in range(BATCH)]
    graph = network.graph
    middle = graph.head_at(len(graph.points) // 2)
    together = certificates.run(executor, middle, np.concatenate(several))
    each = [np.concatenate(rows) for rows in zip(*map(whole, several), strict=True)]
    return f"{BATCH} equal" if is_close(together, each) else "DIFFERS"


def cells(row: Row) -> list[str]:
    """One row of the table."""
    nodes = f"{row.nodes} ({row.operators})"
    if not row.layers:
        return [row.file, nodes, *[""] * 6, row.word]
    difference = f"{row.difference:.1e} ({row.largest:.2g})"
    counts = [str(row.layers), str(row.points), str(row.cuts)]
    return [row.file, nodes, *counts, difference, row.batched, f"{row.seconds:.1f} s", row.word]


HEAD = [
    *("file", "nodes (operators)", "layers", "points", "cuts run", "largest difference (of)", "several at once"),
    *("first use", ""),
]
NOTES = [
    "The files are those of the onnx package (`onnx/backend/test/data/light`) and of rapidocr. The answer of head and "
    "tail at up to seven points is compared with that of ONNX Runtime on the file as it is (rtol 1e-4). All weights of "
    "a light model are one number, so its answer hardly depends on the input: `-random` is the same file with weights "
    f'from a seed. "Several at once" is {BATCH} inputs through a tail from the middle. "First use" is with all that is '
    "checked, measured under load.",
]


def main() -> int:
    """Run all files and write benchmarks/results/onnx_files.md; 1 where an answer differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.onnx_files")
    parser.add_argument("files", nargs="*", metavar="FILE.onnx[:SIZES]")
    parser.add_argument("--rapidocr", type=Path, metavar="FOLDER", help="models/ of an installed rapidocr")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        names = list(options.files)
        if not names:
            names += [str(path) for path in light()]
            names += [str(with_numbers(path, folder)) for path in light() if path.stem not in LARGE]
            found = sorted(options.rapidocr.glob("*.onnx")) if options.rapidocr else []
            names += [str(path) for path in found]
            names += [f"{path}:{SIZES[path.name]}" for path in found if path.name in SIZES]
        rows = []
        for name in names:
            rows.append(tried(name, folder / "cache"))
            print(f"{rows[-1].file}: {rows[-1].word}", flush=True)
            for kept in (folder / "cache" / "bundles").glob("*.bundle"):
                kept.unlink()
    write_table("onnx_files", "ONNX files that nobody here made", HEAD, [cells(row) for row in rows], NOTES)
    return int(any("DIFFERS" in (row.word, row.batched) for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
