"""Codecs on real activations: bytes, time and error.

    taskset -c 1 python -m benchmarks.codecs

The tensors are the boundaries at a few points of each network, for the sample photographs: the points whose boundary is
smaller than at every earlier point, where cuts pay most, and a few between. The weights are seeded, except those of
efficientnet_lite0. Tables of the entropy-coded ones are found with crops of the other photograph. Besides the codecs
there are variants that were tried and rejected.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import geometric_mean, median
from typing import Any, cast

import numpy as np
import torch

from benchmarks.fingerprint import write_table
from edgecloud.engine import tables
from edgecloud.models import inputs, registry, weights
from edgecloud.models.graph import LayerGraph
from edgecloud.models.split import segment
from edgecloud.models.torch_network import prepare
from edgecloud.net import entropy
from edgecloud.net.affine import Affine
from edgecloud.net.codec import CODECS, ZSTD, Codec, Encoded, encode
from edgecloud.net.encodings import Array, Bytes, Form, Half, Raw, Shape
from edgecloud.net.pixels import Pixels
from edgecloud.net.sides import SidedCodec
from edgecloud.utils.units import format_bytes

MODELS = ("efficientnet_lite0", "alex_net", "vgg_net", "mobile_net", "torchvision:resnet18", "torchvision:googlenet")
FIT = 12  # crops that tables are found with
LEAST_BYTES, MOST_BYTES = 30_000, 4_000_000
LOWS, BETWEEN = 4, 3  # points of each network
REPEATS = 7
TIMED_BYTES = 100_000  # smaller tensors say more about the calls than about the codec
PER_BYTES = 200_000
SHOWN = (
    "zstd",
    "fp16+zstd",
    "int8",
    "int8+zstd",
    "int8c+zstd",
    "int6+zstd",
    "int4+zstd",
    "int4c+zstd",
    "ec8",
    "ec6",
    "ec4",
)


@dataclass(frozen=True)
class Planes:
    """Another encoding with the first bytes of all its codes first, then the second ones, and so on."""

    inner: Form
    width: int
    is_lossless: bool = True

    def parameter_bytes(self, shape: Shape) -> int:
        """As the inner encoding."""
        return self.inner.parameter_bytes(shape)

    def code_bytes(self, dtype: str, shape: Shape) -> int:
        """As the inner encoding."""
        return self.inner.code_bytes(dtype, shape)

    def splits(self, shape: Shape, part: Shape) -> bool:
        """As the inner encoding."""
        return self.inner.splits(shape, part)

    def encode(self, array: Array) -> tuple[Bytes, Bytes]:
        """The codes of the inner encoding, transposed."""
        parameters, codes = self.inner.encode(array)
        return parameters, np.ascontiguousarray(codes.reshape(-1, self.width).T).reshape(-1)

    def decode(self, parameters: memoryview, codes: memoryview, dtype: str, shape: Shape) -> Array:
        """Transposed back first."""
        rows = np.ascontiguousarray(np.frombuffer(codes, np.uint8).reshape(self.width, -1).T)
        return self.inner.decode(parameters, rows.reshape(-1).data, dtype, shape)


LEFT_OUT = [
    Codec("zstd, byte planes", Planes(Raw(), 4), ZSTD),
    Codec("fp16+zstd, byte planes", Planes(Half(), 2, is_lossless=False), ZSTD),
    Codec("int6+zstd, packed", Affine(6), ZSTD),
    Codec("int4+zstd, a byte each", Affine(4, is_packed=False), ZSTD),
]


@dataclass(frozen=True)
class Crossing:
    """A boundary tensor."""

    where: str
    array: Array
    fit: list[Array]
    """The same of other pictures."""


@dataclass(frozen=True)
class Measured:
    """One codec on one tensor; seconds are for 200 KB of it."""

    nbytes: int
    ratio: float
    encode_s: float
    decode_s: float
    error: float
    """The largest, as a share of the range of the numbers."""


def chosen(graph: LayerGraph) -> list[int]:
    """Points whose boundary is smaller than at every earlier point, and some between, by number."""
    sizes = {point.number: graph.layers[point.layer].out_bytes for point in graph.points[:-1]}
    fit = [number for number, size in sizes.items() if LEAST_BYTES <= size <= MOST_BYTES]
    lows = [n for n in fit if n == 0 or all(sizes[n] < sizes[m] for m in range(n))]
    others = [n for n in fit if n not in lows]
    between = others[:: max(1, len(others) // BETWEEN)][1 : BETWEEN + 1]
    return sorted({*lows[:1], *lows[-LOWS:], *between})


def crossings(name: str) -> list[Crossing]:
    """The tensors of one network; the points take the photographs in turns."""
    entry = registry.lookup(name)
    loaded = weights.load(entry)
    photos = [inputs.from_image(path, entry.preprocess, path.stem) for path in inputs.samples(entry.sample)]
    traced = prepare(loaded, photos[0], entry.name).traced
    found = []
    for turn, number in enumerate(chosen(traced.graph)):
        head, photo = segment(traced, traced.graph.head_at(number)), photos[turn % len(photos)]
        other = inputs.samples(entry.sample)[(turn + 1) % len(photos)]
        crops = [torch.from_numpy(entry.preprocess(crop)) for crop in inputs.crops(other, FIT)]
        with torch.inference_mode():
            (out,) = head.module(photo.tensor)
            fit = [head.module(crop)[0].contiguous().numpy() for crop in crops]
        after = traced.graph.layers[traced.graph.points[number].layer].id
        where = f"{entry.name.removeprefix('torchvision:')} {number} {after} ({photo.source})"
        found.append(Crossing(where, out.contiguous().numpy(), fit))
    return found


def seconds(call: Callable[[], Any]) -> float:
    """The median of a few calls."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return median(times)


@dataclass(frozen=True)
class Coded:
    """An entropy-coded codec, whose tables are found for each tensor."""

    name: str

    def found(self, crossing: Crossing) -> Codec:
        """With these."""
        sided = entropy.parse(tables.find(crossing.fit, entropy.BITS_OF[self.name]).side)
        return cast(Codec, _Sided(self.name, sided))


@dataclass(frozen=True)
class _Sided:
    """The methods of a codec that are used here."""

    name: str
    sided: SidedCodec

    def encode(self, array: Array) -> Encoded:
        return encode(array, self.name, self.sided)

    def check(self, dtype: str, shape: Shape, buffer: memoryview) -> None:
        self.sided.check(dtype, shape, buffer)

    def decode(self, dtype: str, shape: Shape, buffer: memoryview) -> Array:
        return self.sided.decode(dtype, shape, buffer)


def measure(one: Codec | Coded, crossing: Crossing) -> Measured:
    """Encode and decode, as the wire does."""
    codec, array = one.found(crossing) if isinstance(one, Coded) else one, crossing.array
    encoded = codec.encode(array)
    buffer = memoryview(b"".join(encoded.parts))

    def decode() -> Array:
        codec.check(encoded.dtype, encoded.shape, buffer)
        return codec.decode(encoded.dtype, encoded.shape, buffer)

    share = PER_BYTES / array.nbytes
    error = float(np.abs(decode() - array).max() / np.ptp(array))
    encode_s = seconds(lambda: codec.encode(array))
    return Measured(array.nbytes, array.nbytes / encoded.nbytes, encode_s * share, seconds(decode) * share, error)


def row_of(name: str, measured: list[Measured]) -> list[str]:
    """A codec over all tensors."""
    ratios = [m.ratio for m in measured]
    timed = [m for m in measured if m.nbytes >= TIMED_BYTES]
    times = [[m.encode_s for m in timed], [m.decode_s for m in timed], [m.encode_s + m.decode_s for m in timed]]
    shown = [f"{1000 * median(column):.2f} ({1000 * max(column):.2f})" for column in times]
    return [
        name,
        f"{geometric_mean(ratios):.2f}",
        f"{min(ratios):.2f} .. {max(ratios):.2f}",
        *shown,
        f"{max(m.error for m in measured):.2%}" if any(m.error for m in measured) else "0",
    ]


def main() -> int:
    """Measure and write benchmarks/results/codecs.md."""
    torch.set_num_threads(1)
    tensors = [crossing for name in MODELS for crossing in crossings(name)]
    general = [codec for codec in CODECS.values() if not isinstance(codec.form, Pixels)]  # those are for inputs
    left_out = [replace(codec, name=f"*{codec.name}*") for codec in LEFT_OUT]
    codecs: list[Codec | Coded] = [*general, *map(Coded, entropy.NAMES), *left_out]
    measured = {codec.name: [measure(codec, crossing) for crossing in tensors] for codec in codecs}
    columns = ["tensor", "bytes", "zeros", *SHOWN]
    notes = [
        f"{len(tensors)} tensors, {format_bytes(LEAST_BYTES)} to {format_bytes(MOST_BYTES)}, in parentheses the "
        f"slowest. Times are for {format_bytes(PER_BYTES)} of tensors of at least {format_bytes(TIMED_BYTES)}. The "
        "ratio is raw bytes to sent bytes, a geometric mean; the error is the largest in any tensor, relative to its "
        "range. *In italics*: tried and rejected.",
        "",
        "Ratio for each tensor:",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
    ]
    for index, one in enumerate(tensors):
        zeros = f"{float((one.array == 0).mean()):.0%}"
        ratios = [f"{measured[name][index].ratio:.2f}" for name in SHOWN]
        notes.append("| " + " | ".join([one.where, format_bytes(one.array.nbytes), zeros, *ratios]) + " |")
    head = ["codec", "ratio", "from .. to", "encode, ms", "decode, ms", "both, ms", "largest error"]
    write_table("codecs", "Codecs", head, [row_of(name, rows) for name, rows in measured.items()], notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
