"""Layers that a runtime computes in one piece, as one unit with one time. Pure.

ONNX Runtime folds a batch normalisation into the convolution before it, and computes the sum and the activation behind
it in the same loop; nn-Meter (Zhang et al., MobiSys 2021) calls such a piece a kernel, and predicts kernels, not
layers. The rules here are those of the runtime's optimiser. Where they are not those of the version or processor that
is measured, no harm is done: whatever it takes to compute a unit is counted for that unit, in the survey as in use.

On x86 the runtime keeps pictures in blocks of channels between convolutions. What does not lie as a unit wants it is
put in order first, which counts for that unit: `strided_bytes` of its description.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from edgecloud.models.graph import INPUT
from edgecloud.models.specs import JOINED_KINDS, LayerSpec, base_kind
from edgecloud.predictor.features import Described, in_context

JOINED = {base_kind(kind): kind for kind in JOINED_KINDS}

NOTHING = {"dropout", "identity", "contiguous", "clone", "stochastic_depth"}
"""What is taken out of the graph, as torch names it."""
RESHAPED = {"flatten", "view", "reshape", "unsqueeze", "squeeze"}
"""What only says another shape of the same memory."""
COPIED = {"transpose", "permute", "swapaxes", "chunk", "split", "getitem", "select"}
"""What is a view in torch and a copy here."""
SUMS = {"add", "iadd"}
ALWAYS = {"relu", "sigmoid", "tanh"}
"""Activations that are computed with whatever is before them."""
AFTER_LINEAR = ALWAYS | {"hardsigmoid", "leakyrelu", "leaky_relu"}
AFTER_CONV = AFTER_LINEAR | {"relu6", "hardtanh", "hardswish"}
"""The same right behind a convolution or its batch normalisation."""
PADS = {"pad", "zeropad2d"}
"""What the convolution behind it does, if that alone reads it."""
PARTS = {"chunk", "split"}
"""What comes out of one node, however many parts of it are read."""
PLAIN = "contiguous"
"""The variant of what could be computed in blocks of channels, and is not: it takes other code, and several times as
long."""
BLOCK = 8
"""Channels of one block; with wider registers 16."""
HALF_BLOCK = 4
"""What channels are a multiple of that can be put into blocks."""
_IN_BLOCKS = {"conv", "dw_conv", "maxpool", "avgpool", "batchnorm", "activation", "elementwise", "concat"}


@dataclass(frozen=True)
class Unit:
    """Layers of a graph that are computed together, by their numbers, the one that does the work first."""

    layers: tuple[int, ...]
    spec: LayerSpec
    """Of all of them together."""
    reads: tuple[int, ...]
    """Layers whose tensors it reads; those that compute nothing are looked through."""


@dataclass(frozen=True)
class Units:
    """What a network is to predictors: units in the order in which they are computed, and the layers that they are of.

    Where every layer has a time of its own, each is a unit.
    """

    described: tuple[Described, ...]
    layers: tuple[tuple[int, ...], ...]
    rest: Mapping[int, tuple[Described, ...]]
    """For layers between those of a unit: what is left of such units for a tail that begins there."""
    count: int
    """Layers of the graph, the input too."""

    @classmethod
    def single(cls, described: Sequence[Described]) -> "Units":
        """Every layer is a unit."""
        numbers = tuple((number,) for number in range(1, len(described) + 1))
        return cls(tuple(described), numbers, {}, len(described) + 1)

    def by_layer(self, seconds: Sequence[float]) -> list[float]:
        """Seconds of units as seconds of layers: those of a unit count for its first layer."""
        spread = [0.0] * self.count
        for numbers, unit_s in zip(self.layers, seconds, strict=True):
            spread[numbers[0]] += unit_s
        return spread


def joined(inputs: Sequence[Sequence[int]], specs: Sequence[LayerSpec], outputs: Collection[int]) -> Units:
    """The units of a network, whose layers are `specs`, the input left out, and what each of them reads `inputs`.

    The tensors of the layers `outputs` are wanted whole, and nothing is joined across them.
    """
    everything = range(1, len(specs) + 1)
    joining = _Joining(inputs, specs, outputs)
    units = joining.units(everything)
    place = {number: at for at, unit in enumerate(units, start=1) for number in unit.layers}
    reads = [[place.get(number, INPUT) for number in unit.reads] for unit in units]
    described = in_context([unit.spec for unit in units], reads) if units else ()
    rest = {}
    for number in everything:
        open_units = [unit for unit in units if unit.layers[0] <= number < unit.layers[-1]]
        if open_units:
            later = sorted(layer for unit in open_units for layer in unit.layers if layer > number)
            left = joining.units(later)
            rest[number] = tuple(Described(unit.spec, described[0].context) for unit in left)
    return Units(described, tuple(unit.layers for unit in units), rest, len(specs) + 1)


class _Open:
    """A unit in the making."""

    def __init__(self, number: int, base: str) -> None:
        self.layers, self.base = [number], base
        self.variants: list[str] = []
        self.added_bytes = 0
        self.reads: list[int] = []
        self.strided_bytes = 0
        self.has_sum = self.has_activation = False


class _Joining:
    """Walks over layers of a network, in their order."""

    def __init__(self, inputs: Sequence[Sequence[int]], specs: Sequence[LayerSpec], outputs: Collection[int]) -> None:
        self._inputs, self._specs = inputs, specs
        self._same: dict[int, int] = {}
        parts: dict[int, int] = {}
        readers: dict[int, list[str]] = {}
        for reads, spec in zip(inputs, specs, strict=True):
            for read in reads:
                readers.setdefault(read, []).append(spec.kind)
        for number, spec in enumerate(specs, start=1):
            source = self._seen(inputs[number - 1][0])
            is_padding = _name(spec) in PADS and readers.get(number) in (["conv"], ["dw_conv"])
            if _is_nothing(spec) or is_padding:
                self._same[number] = source
            elif _name(spec) in PARTS and parts.setdefault(source, number) != number:
                self._same[number] = parts[source]
        self._wanted = {self._seen(number) for number in outputs}
        self._users: dict[int, int] = {}
        for number in range(1, len(specs) + 1):
            if number not in self._same:
                for read in self._reads(number):
                    self._users[read] = self._users.get(read, 0) + 1
        self._open: list[_Open] = []
        self._ending: dict[int, _Open] = {}
        self._in_blocks: set[int] = set()

    def _seen(self, number: int) -> int:
        """Through layers that compute nothing."""
        return self._same.get(number, number)

    def _reads(self, number: int) -> list[int]:
        return [self._seen(read) for read in self._inputs[number - 1]]

    def units(self, numbers: Iterable[int]) -> list[Unit]:
        """Of some layers, in the order in which they can be computed."""
        self._open, self._ending, self._in_blocks = [], {}, set()
        for number in numbers:
            if number in self._same:
                continue
            spec = self._specs[number - 1]
            unit = next((u for u in map(self._ending.get, self._reads(number)) if u and self._joins(u, number)), None)
            if unit is None:
                unit = self._begun(number, spec)
            else:
                self._add(unit, number, spec)
            self._ending[number] = unit
        return [self._made(unit) for unit in sorted(self._open, key=lambda unit: unit.layers[-1])]

    def _joins(self, unit: _Open, number: int) -> bool:
        spec, last = self._specs[number - 1], unit.layers[-1]
        if self._users[last] > 1 or last in self._wanted:
            return False
        if spec.kind == "batchnorm":
            return unit.base in ("conv", "dw_conv") and len(unit.layers) == 1
        if _name(spec) in SUMS:
            return self._sums(unit, number)
        if spec.kind != "activation" or unit.has_activation:
            return False
        if unit.base == "batchnorm":
            return unit.layers[0] in self._in_blocks and _name(spec) in ALWAYS
        if unit.base == "linear":
            return len(spec.in_shape) == 2 and _name(spec) in AFTER_LINEAR
        return unit.base in ("conv", "dw_conv") and _name(spec) in (ALWAYS if unit.has_sum else AFTER_CONV)

    def _sums(self, unit: _Open, number: int) -> bool:
        """A sum of two pictures of the same shape, neither of which was wanted by the other."""
        others = [read for read in self._reads(number) if read != unit.layers[-1]]
        is_bare = unit.base in ("conv", "dw_conv") and not unit.has_sum and not unit.has_activation
        if not is_bare or len(others) != 1 or others[0] == INPUT:
            return False
        shape = self._specs[number - 1].out_shape
        same = self._specs[others[0] - 1].out_shape == shape and shape[1] % BLOCK == 0
        return same and (others[0] in self._in_blocks) == (unit.layers[-1] in self._in_blocks)

    def _begun(self, number: int, spec: LayerSpec) -> _Open:
        unit = _Open(number, _base(spec))
        unit.variants.append(_name(spec))
        unit.reads = self._reads(number)
        is_there = [read in self._in_blocks for read in unit.reads]
        wants = _lies_in_blocks(unit.base, spec, is_there, self._specs, unit.reads)
        if wants:
            self._in_blocks.add(number)
        elif unit.base in _IN_BLOCKS and len(spec.in_shape) == 4:
            unit.variants.append(PLAIN)
        needs = wants and not (unit.base == "conv" and spec.in_shape[1] < BLOCK)
        for read, is_ready in zip(unit.reads, is_there, strict=True):
            if is_ready != needs and len(spec.in_shape) == 4 and (is_ready or needs):
                unit.strided_bytes += self._bytes(read, spec)
        self._open.append(unit)
        return unit

    def _bytes(self, number: int, reader: LayerSpec) -> int:
        return reader.in_bytes if number == INPUT else self._specs[number - 1].out_bytes

    def _add(self, unit: _Open, number: int, spec: LayerSpec) -> None:
        last = unit.layers[-1]
        if last in self._in_blocks:
            self._in_blocks.add(number)
        if _name(spec) in SUMS:
            others = [read for read in self._reads(number) if read != last]
            unit.reads += others
            unit.added_bytes += sum(self._bytes(read, spec) for read in others)
            unit.has_sum = True
        unit.has_activation = unit.has_activation or spec.kind == "activation"
        if spec.kind != "batchnorm":
            unit.variants.append(_name(spec))
        unit.layers.append(number)

    def _made(self, unit: _Open) -> Unit:
        first, last = self._specs[unit.layers[0] - 1], self._specs[unit.layers[-1] - 1]
        spec = replace(
            first,
            kind=JOINED.get(unit.base, unit.base),
            variant="+".join(unit.variants),
            out_shape=last.out_shape,
            out_bytes=last.out_bytes,
            inputs=len(unit.reads),
            in_bytes=first.in_bytes + unit.added_bytes,
            macs=first.macs or math.prod(first.out_shape),
            is_in_place=False,
            strided_bytes=unit.strided_bytes,
        )
        return Unit(tuple(unit.layers), spec, tuple(unit.reads))


def _name(spec: LayerSpec) -> str:
    return spec.variant.strip("_")


def _is_nothing(spec: LayerSpec) -> bool:
    if _name(spec) in NOTHING:
        return True
    return spec.inputs == 1 and spec.in_shape == spec.out_shape and spec.kind in ("concat", "view")


def _base(spec: LayerSpec) -> str:
    """The kind of a layer here: what is a view elsewhere may be a copy."""
    if _name(spec) in RESHAPED:
        return "view"
    return "copy" if _name(spec) in COPIED else spec.kind


def _lies_in_blocks(
    base: str, spec: LayerSpec, is_there: Sequence[bool], specs: Sequence[LayerSpec], reads: Sequence[int]
) -> bool:
    """Whether what a layer makes lies in blocks of channels."""
    if base not in _IN_BLOCKS or len(spec.in_shape) != 4 or len(spec.out_shape) != 4:
        return False
    if base == "conv":
        channels = (spec.in_shape[1] // spec.groups, spec.out_shape[1] // spec.groups)
        if spec.groups == 1:
            return channels[0] < BLOCK or channels[0] % HALF_BLOCK == 0
        return not (channels[0] % BLOCK or channels[1] % BLOCK)
    if base == "dw_conv":
        return spec.out_shape[1] % BLOCK == 0 and spec.out_shape[1] == spec.groups
    if base in ("maxpool", "avgpool"):
        is_mean = _name(spec).startswith(("adaptive", "mean")) and spec.out_shape[2:] == (1, 1)
        return not is_mean and (is_there[0] or spec.in_shape[1] % BLOCK == 0)
    if base == "concat":
        return all(is_there) and all(specs[read - 1].out_shape[1] % BLOCK == 0 for read in reads if read != INPUT)
    if base == "elementwise":
        return (
            spec.out_shape[1] % BLOCK == 0
            and all(is_there)
            and all(specs[read - 1].out_shape == spec.out_shape for read in reads if read != INPUT)
        )
    return is_there[0]
