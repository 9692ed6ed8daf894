"""Codec costs of one network on this device: sizes and seconds, measured on a real input.

Sizes differ from input to input, so they are what one input gave; seconds are a rate for each codec, for a single small
tensor is too short to be timed. Unpacking is the cloud's, and reckoned at this device's rate, which overstates it.
"""

import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

import numpy as np

from edgecloud.engine import learned
from edgecloud.engine.executor import Executor
from edgecloud.engine.packing_store import AUTO as AUTO
from edgecloud.engine.packing_store import CodecCosts as CodecCosts
from edgecloud.engine.packing_store import KeptPacking as KeptPacking
from edgecloud.engine.packing_store import lossless, path_of, read, write
from edgecloud.models.graph import LayerGraph
from edgecloud.models.inputs import PICTURE
from edgecloud.models.network import Fed, Network, fed_layers
from edgecloud.net import codec
from edgecloud.net.codec import CODECS, KINDS, LEARNED, NAMES, OPTIONAL, Encoded, is_name, kind_of
from edgecloud.net.learned_file import LearnedCodec
from edgecloud.net.sides import SidedCodec
from edgecloud.net.tensors import RAW, Array
from edgecloud.partition.packing import Allowed
from edgecloud.predictor.profile import Progress
from edgecloud.utils.errors import MismatchError, UsageError
from edgecloud.utils.suggest import nearest

if TYPE_CHECKING:
    from edgecloud.engine.calibration import Calibration

log = logging.getLogger(__name__)

TIMED_BYTES = 1 << 14  # smaller tensors say nothing about the rate of a codec


def check_codec(name: str) -> None:
    """Raises UsageError for what `--codec` does not take."""
    if name != AUTO and not is_name(name):
        near = nearest(name[:40], (AUTO, *NAMES))
        raise UsageError(f"no codec {name[:40]!r}: choose {AUTO}, {', '.join(NAMES)}{near}")


def check_taken(name: str, known: Collection[str]) -> None:
    """Raises MismatchError where a codec was asked for by its name that not every cloud takes."""
    if name in OPTIONAL and name not in known:
        raise MismatchError(f"the cloud does not accept the codec {name}: start it with {OPTIONAL[name]}")
    if kind_of(name) == LEARNED and name not in known:
        raise MismatchError(f"the cloud does not have the codec {name}: start it with --codec-file and the same file")
    if kind_of(name) in KINDS and kind_of(name) not in known:
        raise MismatchError(f"the cloud does not accept the codec {name}: use --codec auto, or another cloud")


def is_lossless(codecs: Iterable[str]) -> bool:
    """Whether every bit comes back."""
    return all(map(codec.is_lossless, codecs))


Sided = Mapping[tuple[str, str], SidedCodec]
"""By id of the layer whose output it packs and by its name: what a codec with a side (net.sides) was made of."""


@dataclass(frozen=True)
class CodecPolicy:
    """Which codecs a user allows: one by name, or lossless ones and what a calibration shows to be good enough."""

    codec: str
    roundings: Mapping[str, Sequence[str]]
    """By layer, those within the budget."""

    known: frozenset[str] = frozenset((*CODECS, *KINDS))
    """What the cloud can unpack."""
    sided: Sided = field(default_factory=dict)
    """Those that the calibration found."""

    @classmethod
    def of(cls, name: str, kept: "Calibration | None", budget: float) -> "CodecPolicy":
        """What `--codec` and `--accuracy-budget`, a share from 0 to 1, ask for."""
        is_lossy = name == AUTO and budget > 0
        within = kept.within(budget) if is_lossy and kept is not None else {}
        return cls(name, within, sided={} if kept is None else kept.sided)

    def with_learned(self, trained: Sequence[LearnedCodec], within: Sequence[LearnedCodec]) -> "CodecPolicy":
        """The same with learned codecs, those of them allowed that are within the budget."""
        roundings = dict(self.roundings)
        for each in within:
            roundings[each.about.layer] = [*roundings.get(each.about.layer, ()), each.name]
        sided = {**self.sided, **{(each.about.layer, each.name): each for each in trained}}
        return replace(self, roundings=roundings, sided=sided, known=self.known | {each.name for each in trained})

    def at(self, known: Collection[str]) -> "CodecPolicy":
        """The same with what a cloud announces; a learned codec that it does not have is told."""
        for name in {name for _, name in self.sided if kind_of(name) == LEARNED and name not in known}:
            learned.tell(f"the cloud does not have the codec {name}: planning without it (cloud_api.py --codec-file)")
        return replace(self, known=frozenset(known))

    def sided_by_number(self, graph: LayerGraph) -> dict[tuple[int, str], SidedCodec]:
        """The same by number of the layer."""
        numbers = {layer.id: number for number, layer in enumerate(graph.layers)}
        return {(numbers[layer], name): each for (layer, name), each in self.sided.items() if layer in numbers}

    def lossless(self, layer: int) -> tuple[str, ...]:
        """Codecs that may be used for the output of a layer whatever else crosses."""
        return self._known(lossless(self.codec, layer))

    def lossy(self, graph: LayerGraph, layer: int) -> tuple[str, ...]:
        """Those that may be used where nothing else crosses."""
        roundings = self.roundings.get(graph.layers[layer].id, ())
        return self._known(
            name + more for name in roundings for more in ("", "+zstd") if not more or name + more in CODECS
        )

    def _known(self, names: Iterable[str]) -> tuple[str, ...]:
        return tuple(name for name in names if name in self.known)

    def allowed(self, graph: LayerGraph, packing: CodecCosts, share: float) -> Allowed:
        """The same with sizes and seconds; what a codec does not take travels raw."""
        numbers = range(len(graph.layers))
        lossless = [
            packing.ways(graph, n, self.lossless(n), share) or packing.ways(graph, n, (RAW,), share) for n in numbers
        ]
        lossy = {n: packing.ways(graph, n, self.lossy(graph, n), share) for n in numbers}
        return Allowed(lossless, {n: ways for n, ways in lossy.items() if ways})


def codec_policy_of(
    network: Network, takes: str, name: str, budget: float, folder: Path, files: Sequence[Path] = ()
) -> CodecPolicy:
    """What `--codec` and `--accuracy-budget` allow for a network, with the calibration that is kept in a cache folder.

    `takes` is the kind of its inputs, as in `models.registry`, `files` are of learned codecs. A warning says where a
    budget cannot be used since nothing was tried. Raises UsageError where the calibration or a file cannot be read.
    """
    trained = learned.serving(network, learned.read_all(files))
    graph = network.graph
    return policy_of(graph.name, graph.digest, network.weights.digest, name, budget, folder, takes, trained)


def policy_of(
    model: str,
    graph: str,
    weights_digest: str,
    name: str,
    budget: float,
    folder: Path,
    takes: str = PICTURE,
    trained: Sequence[LearnedCodec] = (),
) -> CodecPolicy:
    """The same for a network that is known by its name and the digests of its graph and its weights."""
    if kind_of(name) == LEARNED and name not in {codec.name for codec in trained}:
        raise UsageError(f"{name} is not there for {model}: give its file with --codec-file")
    within = learned.within(trained, budget) if name == AUTO else ()
    is_sided = kind_of(name) in KINDS
    is_asked = (name == AUTO and budget) or is_sided
    kept = None
    if is_asked:
        from edgecloud.engine import calibration  # not loaded by an edge that allows no loss

        kept = calibration.find_of(folder, model, graph, weights_digest)
    if is_sided and (kept is None or not any(codec_name == name for _, codec_name in kept.sided)):
        raise UsageError(f"{name} is not calibrated for {model}: run deployment.py calibrate -t {model}")
    if budget and name == AUTO and kept is None and not within:
        remedy = calibration.why_none(model) if takes == PICTURE else "only image networks can be calibrated"
        log.warning("the accuracy of lossy codecs is unknown for %s, using lossless ones only: %s", model, remedy)
    return CodecPolicy.of(name, kept, budget).with_learned(trained, within)


def packing_of(
    network: Network,
    policy: CodecPolicy,
    folder: Path,
    progress: Progress = lambda _: None,
    inputs: Sequence[Fed] | None = None,
) -> CodecCosts:
    """Sizes and rates of what `policy` asks for: kept ones, or measured now and kept.

    Those of the input are measured on `inputs`, or on the network's example, and are the mean of them.
    """
    graph = network.graph
    needed = needed_of(graph, policy)
    sided = policy.sided_by_number(graph)
    given = [fed_layers(graph, x) for x in ([network.example.fed] if inputs is None else inputs)]
    of_input = _of_input(given, {key for key in needed if key[0] in graph.only_inputs})
    inner = {key for key in needed if key[0] not in graph.only_inputs}
    path = path_of(folder, graph.name, graph.digest, network.weights.digest)
    kept = read(path)
    packing, tried = kept.packing, kept.tried
    labels = {key: _label(key, sided) for key in inner}
    if not set(labels.values()) <= tried:
        measured = measure(network, network.example.fed, inner, progress, sided)
        packing = packing.joined(measured.renamed(labels))
        tried |= set(labels.values())
    now = kept.with_input(of_input, needed - inner)
    if tried != kept.tried or now.of_input.sizes != kept.of_input.sizes or now.of_input_tried != kept.of_input_tried:
        write(path, replace(now, packing=packing, tried=tried))
    return of_input.joined(packing.renamed({label: key for key, label in labels.items()}))


def needed_of(graph: LayerGraph, policy: CodecPolicy) -> set[tuple[int, str]]:
    """The layers and codecs whose sizes have to be known."""
    numbers = range(len(graph.layers))
    return {(n, name) for n in numbers for name in (*policy.lossless(n), *policy.lossy(graph, n)) if name != RAW}


def kept_costs(graph: LayerGraph, policy: CodecPolicy, kept: KeptPacking) -> CodecCosts | None:
    """What is known of what `policy` asks for, without measuring; None where something was never measured."""
    sided = policy.sided_by_number(graph)
    labels = {key: _label(key, sided) for key in needed_of(graph, policy)}
    if not kept.knows(labels.values()):
        return None
    return kept.joined.renamed({label: key for key, label in labels.items()})


def _label(key: tuple[int, str], sided: Mapping[tuple[int, str], SidedCodec]) -> tuple[int, str]:
    """Under what a size is kept: with the digest of the codec's side, since another calibration makes other sizes."""
    return (key[0], sided[key].side.wire_name) if key in sided else key


def _of_input(given: Sequence[Mapping[int, Array]], needed: Iterable[tuple[int, str]]) -> CodecCosts:
    """Of the inputs themselves, anew for each: what is a picture and what is none differ, and no layer has to run.

    A codec that one of the inputs does not take is none for inputs."""
    tries, sizes = _Tries({}), {}
    for number, name in needed:
        measurements = [tries.measure(number, name, arrays[number]) for arrays in given]
        accepted = [size for size in measurements if size is not None]
        if accepted and len(accepted) == len(given):
            sizes[number, name] = round(mean(accepted))
    return CodecCosts(sizes, tries.packing().rates)


def measure(
    network: Network,
    x: Fed,
    needed: Iterable[tuple[int, str]],
    progress: Progress = lambda _: None,
    sided: Mapping[tuple[int, str], SidedCodec] | None = None,
) -> CodecCosts:
    """Run the network once on `x`, and try the codecs on what each layer makes."""
    tries, layers = _Tries(sided or {}), len(network.graph.layers)
    codecs: dict[int, list[str]] = {}
    for number, name in needed:
        codecs.setdefault(number, []).append(name)

    def take(number: int, output: Array) -> None:
        for name in codecs.get(number, ()):
            tries.measure(number, name, output)
        progress(number / layers)

    network.each_output(x, take)
    return tries.packing()


class _Tries:
    """Tensors that were packed, and what that took."""

    def __init__(self, sided: Mapping[tuple[int, str], SidedCodec]) -> None:
        self._sided = sided
        self._spent: dict[str, tuple[float, float, int]] = {}
        self._sizes: dict[tuple[int, str], int] = {}

    def measure(self, number: int, name: str, array: Array) -> int | None:
        """Pack and unpack the output of a layer; returns its bytes, None where the codec does not take it.

        A codec that is new here packs once before, not timed: the first time takes up to four times as long.
        """
        sided = self._sided.get((number, name))
        try:
            if name not in self._spent:
                codec.decode(codec.encode(array, name, sided))
            started = time.thread_time()
            packed = codec.encode(array, name, sided)
        except codec.CodecError:
            return None
        encoded = time.thread_time()
        codec.decode(packed)
        decoded = time.thread_time()
        self._sizes[number, name] = packed.nbytes
        if array.nbytes >= TIMED_BYTES or name not in self._spent:
            before = self._spent.get(name, (0.0, 0.0, 0))
            spent = (encoded - started, decoded - encoded, array.nbytes)
            self._spent[name] = (before[0] + spent[0], before[1] + spent[1], before[2] + spent[2])
        return packed.nbytes

    def packing(self) -> CodecCosts:
        """All of it, with seconds for each byte."""
        rates = {name: (encode_s / size, decode_s / size) for name, (encode_s, decode_s, size) in self._spent.items()}
        return CodecCosts(self._sizes, rates)


def is_known(name: str, sided: SidedCodec | None, known: Collection[str]) -> bool:
    """Whether a cloud that announces some codecs can unpack this one."""
    is_here = sided is None or not sided.side.is_file or sided.side.wire_name in known
    return name in known and is_here


def pack(
    executor: Executor,
    tensors: Sequence[Array],
    codecs: Sequence[str],
    known: Collection[str],
    sided: Sequence[SidedCodec | None] = (),
) -> tuple[list[Encoded], float]:
    """Pack tensors, one codec for each, at the speed of the device; returns also the seconds that it took.

    `sided` is for each what its codec was made of, if that has a side; none may be left out together. What a codec does
    not take, as NaN by a lossy one, travels raw, and so does what a cloud would not know: it may be another one than
    the codec was chosen for.
    """
    began, work_began = time.perf_counter(), time.thread_time()
    sides = sided or [None] * len(tensors)
    packed = [
        _packed(array, name if is_known(name, side, known) else RAW, side)
        for array, name, side in zip(tensors, codecs, sides, strict=True)
    ]
    return packed, executor.slow_down(began, time.thread_time() - work_began)


def _packed(tensor: Array, name: str, sided: SidedCodec | None) -> Encoded:
    array = np.asarray(tensor, order="C")
    try:
        return codec.encode(array, name, None if name == RAW else sided)
    except codec.CodecError:
        return codec.encode(array, RAW)
