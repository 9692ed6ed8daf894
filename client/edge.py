"""The edge: decide where to cut, run the head, send the boundary, and receive the answer."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from edgecloud.client.chunks import Departure, fitted, stages_of
from edgecloud.client.config import CloudConfig, EdgeConfig
from edgecloud.client.connection_manager import ConnectionConfig, ConnectionManager
from edgecloud.client.multiplexed import MovedError, MultiplexedClient, Request
from edgecloud.engine.auto_executor import AutoExecutor, Choice
from edgecloud.engine.backend_choice import choose
from edgecloud.engine.by_rows import HeadStream, pieces_of
from edgecloud.engine.executor import CpuShare, Executor, Ran
from edgecloud.engine.identity import hello_of
from edgecloud.engine.overlapping import RowsOf
from edgecloud.engine.packing import is_known, pack
from edgecloud.models import inputs
from edgecloud.models.graph import LayerGraph
from edgecloud.models.inputs import Input
from edgecloud.models.network import Fed, Network, fed_layers
from edgecloud.models.registry import Entry
from edgecloud.models.rows import RowPlan
from edgecloud.net.codec import Encoded
from edgecloud.net.messages import Hello, Ready, Result, State
from edgecloud.net.sides import SidedCodec
from edgecloud.net.tensors import RAW, Array
from edgecloud.partition.cost import NO_TIMES, Part, StageTimes, parts_of
from edgecloud.partition.overlap import Overlap
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import UsageError
from edgecloud.utils.inference_utils import check_device, set_threads

if TYPE_CHECKING:
    from edgecloud.net.tls import ClientTls


@dataclass(frozen=True)
class Fallback:
    """Why the edge completed an inference, and how many seconds after its start that was decided."""

    reason: str
    after_s: float


@dataclass(frozen=True)
class Answered:
    """The tensors of the network's outputs, with the times of the inference."""

    outputs: tuple[Array, ...]
    measured: StageTimes
    completed_by: str
    """`edge` or `cloud` where one of them ran every layer, `split`, or `fallback`: the edge completed it."""
    fallback: Fallback | None = None
    requests: int = 0
    """What was asked of the cloud, retries included."""
    parts: tuple[Part, ...] = ()
    """What was to run where ..."""
    codecs: Mapping[int, str] = field(default_factory=dict)
    """... and how the output of each layer was to be packed."""


PLANS_KEPT = 32  # of heads by rows
AS_THEY_ARE: Mapping[int, str] = MappingProxyType({})
"""Codecs: nothing is packed."""


@dataclass
class Edge:
    """One network on this device, and perhaps a cloud that runs the rest of it."""

    entry: Entry
    network: Network
    executor: Executor
    cloud: ConnectionManager | None = None
    """Keeps the connection to a cloud, where one is wanted."""
    tls: "ClientTls | None" = None
    """Whom it trusts to be its cloud; None is without TLS."""
    transport: str = CloudConfig.transport
    why_backend: str = ""
    """Why it is computed with this back-end."""
    computing: threading.Lock = field(default_factory=threading.Lock, repr=False)
    """Held while computing: concurrent inferences take turns."""
    sided: dict[tuple[int, str], SidedCodec] = field(default_factory=dict, repr=False)
    """By number of the layer and by name, what codecs with a side pack with; known once there is a plan."""
    on_ran: Callable[[frozenset[int], Ran], None] | None = field(default=None, repr=False)
    """Is told the layers of every stage here, and what running them gave."""
    _head_plans: dict[tuple[frozenset[int], Overlap], RowPlan | None] = field(default_factory=dict, repr=False)
    _ran_there: str = field(default="", repr=False)
    """What computed the last request, where the cloud said so."""

    @classmethod
    def build(cls, config: EdgeConfig, entry: Entry, example: Input) -> "Edge":
        """Load the network. Raises UsageError and MismatchError for a device or weights that do not serve."""
        check_device(config.device.name)
        set_threads(1 if config.cpu_share is not None else config.device.threads)
        entry = entry.resized(example)
        return cls.around(config, entry, entry.network(config.weights, example))

    @classmethod
    def around(cls, config: EdgeConfig, entry: Entry, network: Network) -> "Edge":
        """The same with a network that is loaded. Raises UsageError for a device that does not serve."""
        check_device(config.device.name)
        set_threads(1 if config.cpu_share is not None else config.device.threads)
        share = None if config.cpu_share is None else CpuShare(config.cpu_share)
        device = config.device
        chosen = choose(network, device.name, share, device.backend, device.cache_dir)
        chosen.executor.look_for_limit()
        return cls(
            entry,
            network,
            chosen.executor,
            tls=config.cloud.tls,
            transport=config.cloud.transport,
            why_backend=chosen.why,
        )

    @cached_property
    def row_shares(self) -> tuple[RowsOf, RowsOf]:
        """What runs by rows at the end of a head, and at the beginning of a tail on a cloud like this device."""
        return RowsOf.of_heads(self.executor), RowsOf.of_tails(self.executor)

    def backend(self, layers: frozenset[int]) -> Choice:
        """What runs some layers on this device, and why."""
        if isinstance(self.executor, AutoExecutor):
            return self.executor.choice(layers)
        return Choice(self.executor.machine.backend, self.why_backend)

    @property
    def cloud_backend(self) -> Choice | None:
        """What the cloud said last that it computes with, and why; None without one, or where it does not say."""
        ready = self.ready
        if ready is None or not ready.backend:
            return None
        return Choice(self._ran_there or ready.backend, ready.backend_reason)

    @property
    def graph(self) -> LayerGraph:
        """The layers of the network."""
        return self.network.graph

    def hello(self, token: str) -> Hello:
        """What a cloud has to know of our network."""
        return hello_of(self.network, token)

    @property
    def ready(self) -> Ready | None:
        """What the cloud said last; it stays where the connection does not."""
        return None if self.cloud is None else self.cloud.ready.get(self.graph.name)

    def use(self, config: ConnectionConfig, token: str = "") -> ConnectionManager:
        """From now on this is its cloud, to which nothing is connected yet; another one is left."""
        self.close()
        self.cloud = ConnectionManager(config, [self.hello(token)], {self.graph.name: len(self.graph.layers)})
        return self.cloud

    def connect(self, host: str, port: int, token: str, ready_s: float) -> Ready:
        """Connect and agree on the network, which the cloud may have to load. Raises what `handshake` does."""
        manager = self.use(
            ConnectionConfig((host, port), ready_s=ready_s, tls=self.tls, transport=self.transport), token
        )
        return manager.connect().ready[self.graph.name]

    def status(self, timeout_s: float) -> State:
        """Ask the cloud how busy it is. Raises AppError where it is lost, ValueError where there is none."""
        return self._cloud.ask_state(timeout_s)

    @property
    def _cloud(self) -> ConnectionManager:
        if self.cloud is None:
            raise ValueError("no cloud was named")
        return self.cloud

    def next_client(self, deadline: Deadline) -> MultiplexedClient:
        """The connection that requests go over now. Raises AppError, ValueError where no cloud was named."""
        return self._cloud.ready_client(deadline)

    def infer(self, x: Fed, head: frozenset[int], timeout_s: float) -> Answered:
        """Run the network on `x`, the head here and the tail on the cloud; the same as `infer_parts`."""
        return self.infer_parts(x, parts_of(self.graph, head), timeout_s)

    def infer_parts(
        self,
        x: Fed,
        parts: Sequence[Part],
        timeout_s: float,
        codecs: Mapping[int, str] = AS_THEY_ARE,
        overlap: Overlap | None = None,
    ) -> Answered:
        """Run the network on `x`, part after part, each where it belongs; the next one goes on from what came back.

        `x` is what the network is run on; `codecs` say how the output of each layer is packed, `overlap` in which
        chunks a boundary leaves. Raises DeadlineError after `timeout_s` seconds and AppError where the cloud refuses
        or is lost.
        """
        deadline = Deadline.after(timeout_s, f"no answer within {timeout_s:g} s (--timeout)")
        self.load(parts, overlap)
        inference = Inference(self, fed_layers(self.graph, x), codecs, overlap)
        for part in parts:
            if part.place == "edge":
                inference.begin_here(part.layers)
            else:
                inference.run_there(part.layers, self._cloud.ready_client(deadline), deadline)
        return inference.answered(ran_by(self.graph, parts))

    def load(self, parts: Iterable[Part], overlap: Overlap | None = None) -> None:
        """Prepare what runs on the edge."""
        with self.computing:
            for part in parts:
                if part.place == "edge" and self.head_plan(part.layers, overlap) is None:
                    for stage in stages_of(self.graph, part.layers, overlap):
                        self.executor.load(stage)

    def head_plan(self, head: frozenset[int], overlap: Overlap | None) -> RowPlan | None:
        """How the head is made by rows, in the chunks in which its boundary leaves; None where it is not."""
        if overlap is None or not overlap.head_rows or {each.layer for each in overlap.slices} != self._leaving(head):
            return None
        key = (head, overlap)
        if key not in self._head_plans:
            if len(self._head_plans) >= PLANS_KEPT:
                self._head_plans.clear()
            self._head_plans[key] = self.executor.head_rows(head, pieces_of(overlap))
        return self._head_plans[key]

    def _leaving(self, head: frozenset[int]) -> set[int]:
        return set(self.graph.boundary(head)) & head

    def ask(
        self,
        tail: frozenset[int],
        boundary: Sequence[Encoded] | Departure,
        deadline: Deadline,
        client: MultiplexedClient | None = None,
    ) -> tuple[Result, list[Array]]:
        """Let the cloud run layers on the tensors that they read, or that leave in chunks; returns the arrays of their
        outputs, in order.

        Raises AppError, as RefusedError for a refusal and as ProtocolError for an answer of other shapes; ValueError
        where no cloud was named.
        """
        request = Request(0, self.graph.name, self.graph, tail, [])
        if isinstance(boundary, Departure):
            request.departure = boundary
        else:
            request.packed = boundary
        result, arrays = (client or self._cloud.ready_client(deadline)).ask(request, deadline)
        self._cloud.on_result(result)
        self._ran_there = result.backend
        return result, arrays

    def close(self) -> None:
        """Close the connection."""
        if self.cloud is not None:
            self.cloud.close()


@dataclass
class _HeadRows:
    """A head on its way by rows."""

    plan: RowPlan
    stream: HeadStream
    has_begun: bool = False
    place: int = 0
    """Steps that are done ..."""
    made: dict[int, int] = field(default_factory=dict)
    """... and of each tensor that leaves, how much is there."""


@dataclass
class Inference:
    """One inference under way: the tensors that are still needed, and what its parts took."""

    edge: Edge
    values: dict[int, Array]
    codecs: Mapping[int, str] = field(default_factory=dict)
    """How the output of each layer is packed when it goes up; what is not named travels as it is."""
    overlap: Overlap | None = None
    """In which chunks a boundary leaves, if it is the one of this."""
    measured: StageTimes = NO_TIMES
    started: float = field(default_factory=time.perf_counter)
    requests: int = 0
    _later: list[frozenset[int]] = field(default_factory=list)
    """Stages of a head that run while what was made leaves."""
    _rows: "_HeadRows | None" = None
    """A head that is made by rows while these leave."""

    @property
    def elapsed_s(self) -> float:
        """Seconds since it began."""
        return time.perf_counter() - self.started

    @property
    def later(self) -> frozenset[int]:
        """Layers whose turn came, and that run while what was made before leaves."""
        return frozenset().union(*self._later, () if self._rows is None else self._rows.plan.layers)

    def begin_here(self, layers: frozenset[int]) -> None:
        """Run layers on this device, or what makes the first tensor that leaves, and the rest when it is needed."""
        self.complete()
        with self.edge.computing:
            plan = self.edge.head_plan(layers, self.overlap)
            rows = None if plan is None else _HeadRows(plan, self.edge.executor.head_by_rows(plan))
        if rows is not None:
            self._rows = rows
            return
        first, *self._later = stages_of(self.edge.graph, layers, self.overlap)
        self.run_here(first)

    def complete(self) -> None:
        """Run what was left for later."""
        while self._rows is not None:
            self._make_rows(self._rows)
        while self._later:
            self.run_here(self._later[0])
            del self._later[0]

    def _made(self, layer: int, end: int) -> Array:
        """The output of a layer that leaves, made at least up to the end of a slice."""
        while self._rows is not None and self._rows.made.get(layer, 0) < end:
            self._make_rows(self._rows)
        while layer not in self.values:
            self.run_here(self._later[0])
            del self._later[0]
        return self.values[layer]

    def _make_rows(self, rows: "_HeadRows") -> None:
        """The next rows of a head; behind the last ones its outputs are whole."""
        graph = self.edge.graph
        with self.edge.computing, self._blaming_input():
            if not rows.has_begun:
                own = [number for number in graph.inputs if number in rows.plan.layers]
                given = [self.values[number] for number in (*own, *graph.inputs_of(rows.plan.layers))]
                self.measured = self.measured.plus(StageTimes(rows.stream.begin(given)))
                rows.has_begun = True
            chunk, seconds = rows.stream.next()
            self.measured = self.measured.plus(StageTimes(seconds))
            self._take_rows(rows, chunk)
            if rows.place == len(rows.plan.steps):
                ran = rows.stream.finish()
                self.values |= zip(graph.outputs_of(rows.plan.layers), ran.arrays, strict=True)
                self._rows = None  # rows take a little longer than the whole, which tells nothing of this machine

    def _take_rows(self, rows: "_HeadRows", chunk: Array) -> None:
        """Keep them where the whole tensor will be."""
        piece = rows.plan.steps[rows.place].piece
        rows.place += 1
        rows.made[piece.layer] = piece.stop
        if piece.layer not in self.values:
            shape = self.edge.graph.layers[piece.layer].out_shape
            self.values[piece.layer] = np.empty(shape, chunk.dtype)
        self.values[piece.layer][(slice(None),) * piece.axis + (slice(piece.start, piece.stop),)] = chunk

    def run_here(self, layers: frozenset[int]) -> None:
        """Run layers on this device; what they make joins `values`."""
        if layers <= self.edge.graph.only_inputs:
            return  # they are there
        executor = self.edge.executor
        with self.edge.computing:
            segment = executor.load(layers)
            with self._blaming_input():
                ran = executor.run(segment, [self.values[number] for number in segment.inputs])
            if self.edge.on_ran is not None:
                self.edge.on_ran(layers, ran)
        self.values |= zip(segment.outputs, ran.arrays, strict=True)
        self.measured = self.measured.plus(StageTimes(ran.seconds))

    @contextmanager
    def _blaming_input(self) -> Iterator[None]:
        """Raises UsageError for an index beyond a table, where only the numbers of an input can lead."""
        try:
            yield
        except IndexError as error:
            reason = (str(error).splitlines() or [""])[0][:200]
            raise UsageError(f"{self.edge.graph.name} does not take this input: {reason}") from None

    def run_there(self, layers: frozenset[int], client: MultiplexedClient, deadline: Deadline) -> None:
        """Let the cloud run layers. Where that fails nothing has changed, and it may be tried again."""
        try:
            self._run_there(layers, client, deadline)
        except MovedError:  # before anything was sent
            self.requests -= 1
            self._run_there(layers, self.edge.next_client(deadline), deadline)

    def _run_there(self, layers: frozenset[int], client: MultiplexedClient, deadline: Deadline) -> None:
        crossing, ready = self.edge.graph.inputs_of(layers), client.ready[self.edge.graph.name]
        overlap = fitted(self.overlap, self.edge.graph, crossing, self.codecs, self.edge.sided, ready.chunks)
        if overlap is not None:
            self._run_in_chunks(layers, overlap, client, deadline)
            return
        self.complete()
        with self.edge.computing:
            boundary, encode_s = pack(
                self.edge.executor,
                [self.values[number] for number in crossing],
                [self.codecs.get(number, RAW) for number in crossing],
                ready.codecs,
                [self.edge.sided.get((number, self.codecs.get(number, RAW))) for number in crossing],
            )
        self.requests += 1
        asked_at = time.perf_counter()
        result, arrays = self.edge.ask(layers, boundary, deadline, client)
        waited_s = time.perf_counter() - asked_at
        self.values |= zip(self.edge.graph.outputs_of(layers), arrays, strict=True)
        queue_s = min(result.queue_s, waited_s)  # no cloud can have taken longer than it was waited for
        decode_s = min(result.decode_s, waited_s - queue_s)
        times = StageTimes(
            encode_s=encode_s,
            queue_s=queue_s,
            decode_s=decode_s,
            cloud_s=min(result.cloud_s, waited_s - queue_s - decode_s),
            payload_bytes=sum(one.nbytes for one in boundary),
            raw_bytes=sum(self.values[number].nbytes for number in crossing),
            received_bytes=sum(array.nbytes for array in arrays),
        )
        self.measured = self.measured.plus(times)

    def _run_in_chunks(
        self, layers: frozenset[int], overlap: Overlap, client: MultiplexedClient, deadline: Deadline
    ) -> None:
        graph, sided = self.edge.graph, self.edge.sided
        crossing, known = graph.inputs_of(layers), client.ready[graph.name].codecs
        codecs = {number: self.codecs.get(number, RAW) for number in crossing}

        def packed(layer: int, array: Array) -> tuple[Encoded, float]:
            name = codecs[layer]
            with self.edge.computing:
                (one,), seconds = pack(self.edge.executor, [array], [name], known, [sided.get((layer, name))])
            return one, seconds

        used = [(name, sided.get((number, name))) for number, name in codecs.items()]
        sides = [one.side for name, one in used if one is not None and is_known(name, one, known)]
        departure = Departure(crossing, overlap, self._made, packed, self.complete, self.edge.executor.ahead, sides)
        self.requests += 1
        before, asked_at = self.measured.edge_s, time.perf_counter()
        result, arrays = self.edge.ask(layers, departure, deadline, client)
        took_s = time.perf_counter() - asked_at
        self.values |= zip(graph.outputs_of(layers), arrays, strict=True)
        stages = StageTimes(
            edge_s=self.measured.edge_s - before,
            encode_s=departure.encode_s,
            link_s=max(0.0, took_s - min(took_s, result.rest_s) - result.idle_s),
            queue_s=min(result.queue_s, took_s),
            decode_s=min(result.decode_s, took_s),
            cloud_s=min(result.cloud_s, took_s),
            payload_bytes=departure.payload_bytes,
            raw_bytes=graph.bytes_of(crossing),
            received_bytes=sum(array.nbytes for array in arrays),
        ).lasting(took_s)
        self.measured = self.measured.plus(replace(stages, edge_s=0.0))

    def answered(self, completed_by: str, fallback: Fallback | None = None) -> Answered:
        """The answer, once every layer has run."""
        outputs = tuple(self.values[number] for number in self.edge.graph.outputs)
        times = self.measured.lasting(self.elapsed_s)
        return Answered(outputs, times, completed_by, fallback, self.requests)


def ran_by(graph: LayerGraph, parts: Iterable[Part]) -> str:
    """`edge` or `cloud` where one of them runs every layer, else `split`."""
    places = {part.place for part in parts if part.layers != graph.only_inputs}
    return "split" if len(places) > 1 else str(places.pop())


def read_input(config: EdgeConfig, entry: Entry) -> Input:
    """What the user gave, else the sample. Raises UsageError for what does not serve, or not this network."""
    if config.array is not None:
        return inputs.from_array(
            config.array, entry.input_sources, may_resize=bool(entry.code) and entry.bundle is None
        )
    sources = {inputs.PICTURE: config.image, inputs.SPEECH: config.audio, inputs.SENTENCE: config.text}
    for kind, what in sources.items():
        if what is not None:
            return inputs.read(entry.name, entry.takes, kind, what, entry.preprocess)
    return entry.default_input()
