"""The cost formula. Every search uses it, and measured times are compared with it.

    latency = edge seconds of the head + encode + rtt + boundary bytes / upload
              + queue wait + decode + load * cloud seconds of the tail + result bytes / download

All on the edge pays no link at all and needs no cloud. Neurosurgeon (Kang et al., ASPLOS 2017, Algorithm 1) leaves
out the round trip, the queue and the download.

A boundary that leaves in chunks (partition.overlap) takes less than this sum: what of it lies behind other stages is
`hidden_s`, and the latency is the sum without that. It is a max-plus recursion over the chunks, `pipelined`; which
chunks are best is searched for by partition.chunking.

    energy  = compute power * edge seconds + transmit power * sending seconds + receive power * receiving seconds
              + idle power * the rest of the time

Where stages overlap the rest of the time is shorter, and nothing else changes. Neurosurgeon's second objective. Power
is that of the edge device; the cloud's is somebody else's.

    cost    = price per cloud second * cloud seconds

What is paid for the work of the cloud, as JointDNN limits it (Eshratifar et al., arXiv 1801.08618, equation 19). What
others make it wait, load and queue, is not billed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgecloud.models.graph import LayerGraph
from edgecloud.partition.overlap import RowShares
from edgecloud.utils.units import format_seconds

Place = Literal["edge", "cloud"]
Crossing: TypeAlias = tuple[int, ...]
"""Layers whose outputs cross a cut, in the order in which they leave."""
_PACKED_SUMS = ("bytes", "encode_s", "decode_s")


@dataclass(frozen=True, slots=True)
class Link:
    """A link: bytes per second each way, and the round-trip time in seconds."""

    up_bytes_per_s: float
    down_bytes_per_s: float
    rtt_s: float


@dataclass(frozen=True, slots=True)
class CloudTimes:
    """What a cloud needs: seconds of every layer when idle, and how busy it is.

    `start_s[k]` is what a tail that begins after layer k takes beyond the sum of its layers. The cloud is `load` times
    slower than when idle, after a wait of `queue_s` seconds.
    """

    seconds: Sequence[float]
    start_s: Sequence[float]
    load: float = 1.0
    queue_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Packed:
    """How a tensor travels: its codec, its bytes on the link, and the seconds of packing and unpacking it."""

    codec: str
    bytes: int
    encode_s: float = 0.0
    decode_s: float = 0.0


def joined(packings: Sequence[Packed]) -> Packed:
    """Several tensors as one: all that they take together."""
    codec = ",".join(dict.fromkeys(each.codec for each in packings))
    size, encode_s, decode_s = (sum(getattr(each, name) for each in packings) for name in _PACKED_SUMS)
    return Packed(codec, int(size), encode_s, decode_s)


@dataclass(frozen=True, slots=True)
class Chunking:
    """What it costs to send a boundary in chunks, and which ones may be sent so. One chunk costs nothing more.

    `more` gives what packing, sending and unpacking every further chunk of a tensor takes however little is in it, by
    its codec and shape; None: tensors of this codec leave in one piece.
    """

    edge_s: float = 0.0
    """Seconds of the frame of every further chunk on the edge ..."""
    cloud_s: float = 0.0
    """... and on the cloud, in the thread that receives it."""
    edge_blocks: float = 1.0
    """How many times as long as on an idle core (RowShares.block_s) a further block of rows takes on the edge ..."""
    cloud_blocks: float = 1.0
    """... and on the cloud, when that is idle."""
    rest_s: float = 0.0
    """Seconds more for every further chunk of an idle cloud that computes by rows, since it waited for that."""
    most: int = 16
    """Chunks of one request."""
    more: Callable[[str, tuple[int, ...]], Packed | None] = field(default=lambda codec, _shape: Packed(codec, 0))
    head_rows: Mapping[Crossing, RowShares] = field(default_factory=dict)
    """By the tensors that cross: what of the head has to be computed for their first rows; none where that is all."""
    tail_rows: Mapping[Crossing, RowShares] = field(default_factory=dict)
    """By the tensors that cross: what of the tail can be computed from its first rows."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What a search looks at: a graph, what each layer costs on either side, and the link between them."""

    graph: LayerGraph
    edge_s: Sequence[float]
    cloud: CloudTimes
    link: Link
    answer_bytes: int | None = None
    """Bytes of the result where they are not those of the output layers."""
    packed: Sequence[Packed] | None = None
    """How the output of each layer would go up; None is as it is."""
    chunking: Chunking | None = None
    """What it costs to let stages overlap; None: they do not."""

    def crossing(self, layers: Iterable[int]) -> Packed:
        """What it takes to send the outputs of some layers up."""
        if self.packed is None:
            return Packed("raw", self.graph.bytes_of(layers))
        return joined([self.packed[layer] for layer in layers])

    @property
    def result_bytes(self) -> int:
        """Bytes of the answer."""
        return self.graph.result_bytes if self.answer_bytes is None else self.answer_bytes


@dataclass(frozen=True, slots=True)
class Part:
    """Layers that run in one place, in one go: a part on the cloud is one request."""

    place: Place
    layers: frozenset[int]


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Seconds of every stage of one inference, and bytes that travel in it, as predicted or as measured.

    They add up to `total_s`: `edge_s` (computing on the edge), `encode_s` (packing the boundary), `transfer_s` (the
    link both ways, the round trip in it), `queue_s` (waiting for the cloud's processor), `decode_s` (unpacking there)
    and `cloud_s` (computing there). Where stages overlapped they add up to more: to `total_s` and `hidden_s`, the
    seconds that were saved. `payload_bytes` go up, and were `raw_bytes` before they were packed; `received_bytes` come
    back.

    What was measured knows only the link as a whole: it is in `link_s`, and `upload_s`, `rtt_s` and `download_s` are 0
    (of a task `upload_s` is what the cloud saw). What was predicted has 0 in `link_s`.

    >>> import edgecloud as ec
    >>> times = ec.StageTimes(edge_s=0.25, upload_s=0.375, rtt_s=0.125, cloud_s=0.25)
    >>> times.transfer_s, times.total_s
    (0.5, 1.0)
    """

    edge_s: float = 0.0
    upload_s: float = 0.0
    rtt_s: float = 0.0
    queue_s: float = 0.0
    cloud_s: float = 0.0
    """Computing only: unpacking is in `decode_s`."""
    download_s: float = 0.0
    encode_s: float = 0.0
    decode_s: float = 0.0
    link_s: float = 0.0
    """What is left of a measured total: the link both ways, and the network stacks."""
    raw_bytes: int = 0
    """Bytes of the boundary before it was packed ..."""
    payload_bytes: int = 0
    """... and as it is sent."""
    received_bytes: int = 0
    """Bytes of the answers."""
    hidden_s: float = 0.0
    """Of all stages together, what lay behind other stages; 0 where they ran one after the other."""

    def plus(self, other: "StageTimes") -> "StageTimes":
        """Both, one after the other."""
        return StageTimes(
            self.edge_s + other.edge_s,
            self.upload_s + other.upload_s,
            self.rtt_s + other.rtt_s,
            self.queue_s + other.queue_s,
            self.cloud_s + other.cloud_s,
            self.download_s + other.download_s,
            self.encode_s + other.encode_s,
            self.decode_s + other.decode_s,
            self.link_s + other.link_s,
            self.raw_bytes + other.raw_bytes,
            self.payload_bytes + other.payload_bytes,
            self.received_bytes + other.received_bytes,
            self.hidden_s + other.hidden_s,
        )

    def lasting(self, total_s: float) -> "StageTimes":
        """The same where all of it took so long: what no stage accounts for is the link's, and what the stages are
        longer by was hidden."""
        rest_s = total_s - self.total_s
        return self.plus(StageTimes(link_s=rest_s) if rest_s >= 0 else StageTimes(hidden_s=-rest_s))

    @property
    def stages_s(self) -> float:
        """Seconds of all stages, as if they ran one after the other."""
        return self.edge_s + self.encode_s + self.transfer_s + self.queue_s + self.decode_s + self.cloud_s

    @property
    def transfer_s(self) -> float:
        """Seconds of the link: both ways and the round trip."""
        return self.rtt_s + self.upload_s + self.download_s + self.link_s

    @property
    def tail_s(self) -> float:
        """Seconds of the cloud: unpacking and computing."""
        return self.decode_s + self.cloud_s

    @property
    def total_s(self) -> float:
        """End-to-end latency in seconds."""
        return self.stages_s - self.hidden_s

    @property
    def waiting_s(self) -> float:
        """Seconds that the edge does not compute."""
        return self.total_s - self.edge_s

    @property
    def longest_s(self) -> float:
        """Seconds of the bottleneck: 1 / `longest_s` inferences a second are the most that these stages sustain.

        DADS (Hu et al., INFOCOM 2019, section II). Round trip, queue and download delay an inference, but occupy
        none of the three stages.
        """
        return max(self.edge_s + self.encode_s, self.upload_s, self.decode_s + self.cloud_s)

    def sent_as(self, packed: Packed, link: Link) -> "StageTimes":
        """The same with what goes up packed another way, in one piece."""
        upload_s = packed.bytes / link.up_bytes_per_s
        times = (self.edge_s, upload_s, self.rtt_s, self.queue_s, self.cloud_s, self.download_s)
        sizes = (self.raw_bytes, packed.bytes, self.received_bytes)
        return StageTimes(*times, packed.encode_s, packed.decode_s, self.link_s, *sizes)

    def __str__(self) -> str:
        names = ("total_s", "edge_s", "encode_s", "transfer_s", "queue_s", "tail_s")
        labels = (name.removesuffix("_s").replace("tail", "cloud") for name in names)
        seconds = (format_seconds(getattr(self, name)) for name in names)
        return ", ".join(f"{name} {text}" for name, text in zip(labels, seconds, strict=True))

    def to_json(self) -> dict[str, float]:
        """The stages by their names in every JSON document, where unpacking is a part of the cloud's seconds."""
        names = (
            "edge_s",
            "encode_s",
            "transfer_s",
            "queue_s",
            "total_s",
            "upload_s",
            "download_s",
            "rtt_s",
            "decode_s",
            "hidden_s",
        )
        return {name: getattr(self, name) for name in names} | {"cloud_s": self.decode_s + self.cloud_s}


NO_TIMES = StageTimes()


def latency(
    edge_s: float,
    crossing: Packed,
    tail_s: float,
    result_bytes: int,
    link: Link,
    load: float = 1.0,
    queue_s: float = 0.0,
    raw_bytes: int = 0,
) -> StageTimes:
    """Predict the stages of an inference: `edge_s` of the head, `tail_s` of the tail on an idle cloud.

    `raw_bytes` is the boundary's size before packing; 0: it is not packed.
    """
    upload_s, download_s = crossing.bytes / link.up_bytes_per_s, result_bytes / link.down_bytes_per_s
    stages = (edge_s, upload_s, link.rtt_s, queue_s, load * tail_s, download_s)
    sizes = (raw_bytes or crossing.bytes, crossing.bytes, result_bytes)
    return StageTimes(*stages, crossing.encode_s, crossing.decode_s, 0.0, *sizes)


Seconds = TypeVar("Seconds", float, NDArray[np.float64])
Passage = tuple[Seconds, Seconds, Seconds, Seconds, Seconds]
"""What one chunk takes: on the edge to compute and to pack it, on the link, on the cloud to unpack it, and to compute
what can be computed once it is there."""


def pipelined(
    chunks: Iterable[Passage[Seconds]],
    latest: Callable[[Seconds, Seconds], Seconds],
    queue_s: Seconds | float = 0.0,
    *,
    is_by_rows: bool = False,
) -> Seconds:
    """When everything that chunks need is done, in seconds from the beginning; at least one chunk is needed.

    Chunk after chunk takes its turn at four places, each of which serves one at a time, in order: the edge's processor
    computes and packs, the link carries, a thread of the cloud unpacks, and another one computes. The computing waits
    `queue_s` for its turn once: where the cloud computes by rows from the first chunk on, else from the last one.

    Delays that are the same for all chunks, as the round trip, only add up. `latest` is the later of two moments:
    `max`, or `np.maximum` for arrays of many cases.
    """
    rest = iter(chunks)
    head_s, encode_s, upload_s, decode_s, rows_s = next(rest)
    packed = head_s + encode_s
    sent = packed + upload_s
    unpacked = sent + decode_s
    computed = unpacked + queue_s + rows_s
    for head_s, encode_s, upload_s, decode_s, rows_s in rest:
        packed = packed + head_s + encode_s
        sent = latest(packed, sent) + upload_s
        unpacked = latest(sent, unpacked) + decode_s
        computed = latest(unpacked, computed) + rows_s
    return computed if is_by_rows else unpacked + queue_s


def all_on_edge(edge_s: float) -> StageTimes:
    """The same for the cut without a tail, which pays no link and needs no cloud."""
    return StageTimes(edge_s)


def predict(problem: Problem, parts: Iterable[Part]) -> StageTimes:
    """Predict the stages of an inference whose parts run one after the other, each on the edge or on the cloud.

    A part on the cloud is one request: it uploads what it reads, waits, and sends back what it makes; the last one
    sends the result. Raises ValueError for parts that are not all layers, each once, in an order that can run.
    """
    graph, cloud, total = problem.graph, problem.cloud, StageTimes()
    for done, part in _in_turn(graph, parts):
        if part.place == "edge":
            stages = all_on_edge(sum(problem.edge_s[layer] for layer in part.layers))
        else:
            is_last = done | part.layers == graph.everything
            result_bytes = problem.result_bytes if is_last else graph.bytes_of(graph.outputs_of(part.layers))
            crossing, idle_s = problem.crossing(graph.inputs_of(part.layers)), _idle_cloud_s(problem, done, part.layers)
            raw = problem.graph.bytes_of(graph.inputs_of(part.layers))
            stages = latency(0.0, crossing, idle_s, result_bytes, problem.link, cloud.load, cloud.queue_s, raw)
        total = total.plus(stages)
    return total


def _in_turn(graph: LayerGraph, parts: Iterable[Part]) -> Iterator[tuple[frozenset[int], Part]]:
    """Every part with the layers that have run before it. Raises ValueError where they cannot run like that."""
    inputs = graph.only_inputs
    done = inputs
    for part in parts:
        is_new = not part.layers & (done - inputs) and (part.place == "edge" or not part.layers & inputs)
        if not is_new or not set(graph.inputs_of(part.layers)) <= done:
            raise ValueError(f"{graph.name}: a part reads what is not there yet, or holds a layer twice")
        yield done, part
        done |= part.layers
    if done != graph.everything:
        raise ValueError(f"{graph.name}: some layers are in no part")


def _idle_cloud_s(problem: Problem, done: frozenset[int], layers: frozenset[int]) -> float:
    """Seconds that an idle cloud needs for layers that run in one request after `done`, with its start there."""
    entry = problem.graph.points[problem.graph.entry(done)].layer
    return sum(problem.cloud.seconds[layer] for layer in layers) + problem.cloud.start_s[entry]


def parts_of(graph: LayerGraph, head: frozenset[int]) -> tuple[Part, ...]:
    """A cut as the parts that run: the head, and a tail if there is one. Raises ValueError if `head` is no cut."""
    cut = graph.check_cut(head)
    tail = graph.everything - cut
    return (Part("edge", cut), Part("cloud", tail)) if tail else (Part("edge", cut),)


def cost_of(problem: Problem, parts: Iterable[Part], price_per_s: float) -> float:
    """What the cloud's work costs at `price_per_s`, in the price's unit of money.

    Raises ValueError for parts that `predict` refuses.
    """
    turns = _in_turn(problem.graph, parts)
    return price_per_s * sum(_idle_cloud_s(problem, done, p.layers) for done, p in turns if p.place == "cloud")


# --- what is minimised


@dataclass(frozen=True, slots=True)
class StageWeights:
    """What one second of each stage counts: 1 each for latency, watts for energy.

    The edge packs and the cloud unpacks, so encoding counts as the edge's time and decoding as the cloud's.
    """

    edge: float = 1.0
    upload: float = 1.0
    rtt: float = 1.0
    queue: float = 1.0
    cloud: float = 1.0
    download: float = 1.0
    hidden: float = 1.0
    """Of what stages saved by overlapping, which is taken off."""

    def plus(self, other: "StageWeights", factor: float) -> "StageWeights":
        """These, and `factor` times the others."""
        return StageWeights(*(getattr(self, name) + factor * getattr(other, name) for name in self.__slots__))

    def value(self, predicted: StageTimes) -> float:
        """The weighted sum of the stages of an inference, seconds or joules by its weights: the smaller the better."""
        return (
            self.edge * (predicted.edge_s + predicted.encode_s)
            + self.upload * predicted.upload_s
            + self.rtt * predicted.rtt_s
            + self.queue * predicted.queue_s
            + self.cloud * (predicted.cloud_s + predicted.decode_s)
            + self.download * predicted.download_s
            - self.hidden * predicted.hidden_s
        )

    def crossing(self, packed: Packed, up_bytes_per_s: float) -> float:
        """What sending a tensor up adds to that sum, the round trip left out."""
        upload_s = packed.bytes / up_bytes_per_s
        return self.edge * packed.encode_s + self.upload * upload_s + self.cloud * packed.decode_s


LATENCY = StageWeights()


@dataclass(frozen=True, slots=True)
class Power:
    """Watts of the edge while it computes, waits, sends and receives; a radio's watts come on top of being idle."""

    compute_w: float
    idle_w: float
    transmit_w: float
    receive_w: float

    @property
    def weights(self) -> StageWeights:
        """Watts of every stage: weighted so, the stages of an inference add up to its joules. What is hidden is time
        that the edge does not wait."""
        idle = self.idle_w
        return StageWeights(self.compute_w, idle + self.transmit_w, idle, idle, idle, idle + self.receive_w, idle)


@dataclass(frozen=True, slots=True)
class Energy:
    """Joules of the edge in one inference, by what it does."""

    edge_j: float
    transmit_j: float
    receive_j: float
    idle_j: float

    @property
    def total_j(self) -> float:
        """Joules of the whole inference."""
        return self.edge_j + self.transmit_j + self.receive_j + self.idle_j


def energy_of(times: StageTimes, link: Link, power: Power, *, is_local: bool) -> Energy:
    """Joules of an inference with these stages; packing is computing too. `is_local`: all of it runs on the edge."""
    edge_s = times.edge_s + times.encode_s
    waiting_s = 0.0 if is_local else times.total_s - edge_s
    return energy(edge_s, waiting_s, times.payload_bytes, times.received_bytes, link, power)


def energy(edge_s: float, waiting_s: float, sent_bytes: int, received_bytes: int, link: Link, power: Power) -> Energy:
    """Joules of an inference whose head takes `edge_s` and whose answer is waited for `waiting_s` seconds from then on.

    All on the edge waits for nothing and sends nothing.
    """
    if waiting_s <= 0:
        return Energy(power.compute_w * edge_s, 0.0, 0.0, 0.0)
    sending_s, receiving_s = sent_bytes / link.up_bytes_per_s, received_bytes / link.down_bytes_per_s
    return Energy(
        power.compute_w * edge_s, power.transmit_w * sending_s, power.receive_w * receiving_s, power.idle_w * waiting_s
    )


def is_heavy(predicted: StageTimes, rate_per_s: float) -> bool:
    """Whether `rate_per_s` tasks a second are more than a cut sustains: its bottleneck stage >= 1 / rate.

    DADS, Algorithm 3: take the cut of least latency unless it is heavy, else the one with the minimum bottleneck stage.
    """
    return predicted.longest_s * rate_per_s >= 1
