"""The cloud's side: networks that are kept ready, and the conversation with each edge."""

import contextlib
import gc
import logging
import ssl
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from models import inputs, registry, weights
from models.graph import INPUT, LayerGraph
from net.codec import CODECS
from net.connection import ClosedAtBoundaryError, Frame
from net.frames import FrameType, Limits
from net.messages import Hello, Infer, Probe, Probed, Ready, Result, State, Status
from net.metrics import Gauges, Metrics, NoMetrics, Spent, bytes_by_codec
from net.penalties import Policy
from net.security import TOKEN_VARIABLE, is_token_right
from net.server import Peer, Server
from net.tensors import RAW, Array, Described
from runtime.answers import is_close
from runtime.executor import SEGMENTS_KEPT, Executor, Ran, TorchExecutor, prepare
from runtime.load import LoadMeter
from runtime.session import RequestError, Session
from runtime.times import Found, Times, predictors_path
from runtime.worker import BusyError, Job, Worker
from utils.deadline import Deadline
from utils.errors import AppError, DeadlineError, MismatchError, ProtocolError, UsageError
from utils.inference_utils import device_name, find_device, set_threads

log = logging.getLogger(__name__)

MAX_PROBE_REPLY = 4 << 20
LOAD_S, CLOSE_S, END_S = 600.0, 5.0, 1.0


@dataclass(frozen=True)
class CloudConfig:
    """How a cloud is run. Sizes in bytes, times in seconds."""

    host: str = "127.0.0.1"
    port: int = 9999
    device: str = "cpu"
    threads: int | None = None
    weights: dict[str, str] = field(default_factory=dict)
    """Per network, or for all others under "": default, imagenet, or a file."""
    models: tuple[str, ...] = ()
    """The networks that are served; none means all of the registry."""
    networks: tuple[str, ...] = ()
    """Files of one's own, FILE.py[:FUNCTION], that are served beside those."""
    cache_dir: Path = Path()
    times: str = "auto"
    predictors: Path | None = None
    """None: where deployment.py fit puts those of a cloud."""
    token: str = ""
    tls: ssl.SSLContext | None = None
    limits: Limits = field(default_factory=Limits)
    min_bytes_per_s: float = 1000.0
    policy: Policy = field(default_factory=Policy)
    small_per_s: float = 50.0
    """Requests a second of one connection that are not computed; see net.pacing."""
    max_connections: int = 64
    max_queue: int = 32
    max_batch: int = 1
    """Requests of one network and one cut that are computed together."""
    batch_wait_s: float = 0.0
    """How long a request waits for others to go with it."""
    max_network_bytes: int = 4 << 30
    hello_s: float = 10.0
    idle_s: float = 600.0
    request_s: float = 120.0
    drain_s: float = 30.0


@dataclass(frozen=True)
class Served:
    """A network that is ready: edges may send requests for it."""

    executor: Executor
    graph: LayerGraph
    found: Found
    parameter_bytes: int
    hello: Hello
    """What an edge has to say to get this network, apart from the token."""
    meter: LoadMeter
    batched: dict[frozenset[int], bool] = field(default_factory=dict)
    """Segments that were tried with several inputs at once, and whether each got its own answer."""

    def run(self, layers: frozenset[int], requests: Sequence[Sequence[Array]]) -> list[Ran]:
        """Run a segment for several requests, at once where the network allows it."""
        if len(requests) == 1:
            return [self._run_one(layers, requests[0])]
        if layers not in self.batched:
            return self._try_batch(layers, requests)
        return self._run_batch(layers, requests) if self.batched[layers] else self._run_each(layers, requests)

    def _run_one(self, layers: frozenset[int], arrays: Sequence[Array]) -> Ran:
        """Where the time was predicted, the prediction learns from the real one."""
        ran = self.executor.run(self.executor.load(layers), arrays)
        if self.found.teacher is not None:
            self.found.teacher.learn(layers, ran.seconds)
        self.meter.saw(ran.seconds, self._idle_s(layers))
        return ran

    def _run_each(self, layers: frozenset[int], requests: Sequence[Sequence[Array]]) -> list[Ran]:
        return [self._run_one(layers, arrays) for arrays in requests]

    def _run_batch(self, layers: frozenset[int], requests: Sequence[Sequence[Array]]) -> list[Ran]:
        together = [np.concatenate(arrays) for arrays in zip(*requests, strict=True)]
        ran = self.executor.run(self.executor.load(layers), together)
        count = len(requests)
        self.meter.saw(ran.seconds, count * self._idle_s(layers))
        return [Ran([array[n : n + 1] for array in ran.arrays], ran.seconds, count) for n in range(count)]

    def _try_batch(self, layers: frozenset[int], requests: Sequence[Sequence[Array]]) -> list[Ran]:
        """Not every graph is written for more than one input: the first time, compare with one after the other."""
        singles = self._run_each(layers, requests)
        if not all(np.isfinite(array).all() for ran in singles for array in ran.arrays):
            return singles  # NaN equals nothing: somebody's bad input decides nothing for the others
        crossing = [*self.graph.inputs_of(layers), *self.graph.outputs_of(layers)]
        self.batched[layers] = all(self.graph.layers[number].out_shape[:1] == (1,) for number in crossing)
        if self.batched[layers]:
            try:
                batch = self._run_batch(layers, requests)
            except Exception:  # noqa: BLE001  torch raises all kinds where a shape does not fit
                self.batched[layers] = False
            else:
                pairs = zip(batch, singles, strict=True)
                self.batched[layers] = all(is_close(ran.arrays, single.arrays) for ran, single in pairs)
        if len(self.batched) > SEGMENTS_KEPT:
            del self.batched[next(iter(self.batched))]
        return singles

    def _idle_s(self, layers: frozenset[int]) -> float:
        """What an idle cloud needs for a segment."""
        times, graph = self.found.times, self.graph
        entry = graph.points[graph.entry(range(min(layers)))].layer
        return sum(times.seconds[number] for number in layers) + times.start_s[entry]


class Networks:
    """The networks in memory, the least recently used ones leaving when there are too many bytes."""

    def __init__(self, config: CloudConfig, device: torch.device, worker: Worker, meter: LoadMeter) -> None:
        self._config = config
        self._meter = meter
        self._device = device
        self._worker = worker
        folder = config.cache_dir
        self._times = Times(config.times, config.predictors or predictors_path(folder, "cloud"), folder)
        self._loading = threading.Lock()
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Served] = OrderedDict()

    def get(self, name: str, turn: Deadline, is_wanted: Callable[[], bool]) -> Served:
        """Find a network, or load and measure it, one at a time. Requests for other networks go on meanwhile.

        Raises DeadlineError where the turn to load does not come in time, and BusyError where nobody wants the network
        any more when it comes.
        """
        entry = registry.find(name)
        if (found := self._find(entry.name)) is not None:
            return found
        if not self._loading.acquire(timeout=turn.remaining()):
            raise turn.passed()
        try:
            if (found := self._find(entry.name)) is not None:
                return found
            if not is_wanted():
                raise BusyError(f"whoever asked for {entry.name} has left")
            self._make_room(entry)
            loaded = self._load(entry)
            with self._lock:
                self._kept[entry.name] = loaded
            return loaded
        finally:
            self._loading.release()

    def _find(self, name: str) -> Served | None:
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
            return self._kept.get(name)

    def _make_room(self, entry: registry.Entry) -> None:
        limit, needed = self._config.max_network_bytes, entry.parameter_bytes
        if needed > limit:
            raise RequestError(f"{entry.name} has {needed} bytes of parameters, over --max-network-bytes ({limit})")
        with self._lock:
            while self._kept and needed + sum(served.parameter_bytes for served in self._kept.values()) > limit:
                gone, _ = self._kept.popitem(last=False)
                log.info("= %s leaves memory", gone)
        gc.collect()  # a graph module is a cycle of references, and an idle cloud hardly ever collects by itself

    def _load(self, entry: registry.Entry) -> Served:
        """Parameters are read in the caller's thread. The rest is the worker's: capturing a graph changes torch's own
        classes while it lasts, so nothing else may run then, and measuring must not be disturbed either."""
        log.info("= loading %s", entry.name)
        chosen = self._config.weights
        loaded = weights.load(entry, chosen.get(entry.name, chosen.get("", weights.DEFAULT)))
        example = inputs.sample(entry.sample, entry.preprocess)

        def make_ready() -> Served:
            network = prepare(loaded, example, entry.name)
            executor, graph = TorchExecutor(network, self._device), network.traced.graph
            found = self._times.find(executor, lambda _: None, tails=True)
            hello = Hello(entry.name, loaded.digest, graph.digest, list(CODECS), "")
            return Served(executor, graph, found, entry.parameter_bytes, hello, self._meter)

        served, _ = self._worker.run(make_ready, Deadline.after(LOAD_S, f"{entry.name} was not ready"))
        layers, times = len(served.graph.layers), served.found.times
        about = (entry.name, layers, loaded.origin, sum(times.seconds), times.source)
        log.info("= %s is ready: %d layers, %s, %.4f s (%s)", *about)
        return served


@dataclass(frozen=True, slots=True)
class Arrival:
    """What is kept of a request until it is answered: not its tensors."""

    request_id: int
    model: str
    at: float
    """When it was whole."""
    decode_s: float
    received_s: float
    timed_bytes: int
    timed_s: float


class TokenError(AppError):
    """The edge does not know the token."""

    code = "TOKEN"


class UnknownModelError(AppError):
    """No such network here."""

    code = "UNKNOWN_MODEL"


class Cloud:
    """Answers edges. One object serves every connection; the worker's thread does all computing."""

    def __init__(self, config: CloudConfig, metrics: Metrics | None = None) -> None:
        more = tuple(registry.given(name).name for name in config.networks)
        models = tuple(registry.given(name).name for name in config.models)
        named = {registry.find(name).name if name else "": source for name, source in config.weights.items()}
        config = replace(config, weights=named, models=(*models, *more) if models else ())
        self._config = config
        self._device = find_device(config.device)
        set_threads(config.threads)
        self._worker = Worker(config.max_queue, config.max_batch, config.batch_wait_s)
        self._meter = LoadMeter()
        self._networks = Networks(config, self._device, self._worker, self._meter)
        self.server = Server(
            config.host,
            config.port,
            self._converse,
            config.limits,
            config.max_connections,
            config.drain_s,
            config.min_bytes_per_s,
            config.policy,
            metrics or NoMetrics(),
        )
        self._metrics = self.server.metrics
        self._metrics.watch(
            Gauges(lambda: self.server.count, lambda: self._worker.waiting, lambda: self._meter.load),
        )

    def check_weights(self) -> None:
        """Read the weights that were named for a network, so that a wrong file is met before any edge is."""
        for name, source in self._config.weights.items():
            if name:
                weights.load(registry.find(name), source)

    def close(self) -> None:
        """End the worker; what it is doing has a moment to finish."""
        self._worker.close(CLOSE_S)

    def _converse(self, peer: Peer) -> None:
        hello = Deadline.after(self._config.hello_s, "no HELLO came")
        if self._config.tls is not None:
            peer.connection.secure(self._config.tls, hello)
        frame = peer.connection.receive(hello, is_stranger=True)
        session = Session(peer, self._config.request_s, self.server, self._config.small_per_s)
        try:
            with contextlib.suppress(ClosedAtBoundaryError):  # it may still read: what it asked for is answered
                self._serve(session, frame)
            session.finish()
        finally:
            self._worker.drop(peer)
            session.close()
        peer.connection.end(END_S)

    def _serve(self, session: Session, frame: Frame) -> None:
        """Answer frame after frame; what is computed is answered by the session's other thread."""
        while True:
            session.begin()
            if frame.kind is FrameType.HELLO:
                session.agree(self._greet(session, frame))
            else:
                self._answer(session, frame)
            session.end()
            session.pace(frame.kind, frame.header_bytes)
            if self.server.is_stopping:
                return
            del frame  # and with it the payload, which would stay while nothing comes
            idle = Deadline.after(self._config.idle_s, f"the connection was idle for {self._config.idle_s:.0f} s")
            stranger = not session.agreed
            frame = session.peer.connection.receive(idle, frame_s=self._config.request_s, is_stranger=stranger)

    def _check_token(self, token: str) -> None:
        if not is_token_right(self._config.token, token):
            raise TokenError(f"wrong token: give both sides the same --token-file or {TOKEN_VARIABLE}")

    def _greet(self, session: Session, frame: Frame) -> Hello:
        """Agree on a network. A conversation keeps its name and digests only, or none could ever leave memory."""
        hello, peer = frame.read(Hello), session.peer
        self._check_token(hello.token)
        if self.server.is_stopping and not session.agreed:
            raise BusyError("the cloud is stopping")
        served = self._find(hello, peer, Deadline.after(LOAD_S, "the network was not ready"))
        times = served.found.current
        ready = Ready(
            seconds=list(times.seconds),
            start_s=list(times.start_s),
            queue_s=self._worker.queue_s,
            device=f"{self._device} {device_name(self._device)}",
            codecs=served.hello.codecs,
            max_payload=self._config.limits.payload_bytes,
            times=times.source,
            load=self._meter.load,
        )
        peer.connection.send(ready, Deadline.after(self._config.request_s, "READY"))
        log.info("> %s gets %s", peer.name, served.hello.model)
        return hello

    def _find(self, hello: Hello, peer: Peer, turn: Deadline) -> Served:
        """The network that an edge means. Raises MismatchError where ours is another one, also after a reload."""
        try:
            entry = registry.find(hello.model)
        except UsageError as error:
            raise UnknownModelError(str(error)) from None
        if self._config.models and entry.name not in self._config.models:
            raise UnknownModelError(f"this cloud serves only {', '.join(self._config.models)} (--models)")
        try:
            served = self._networks.get(entry.name, turn, lambda: not peer.connection.peer_has_left())
        except (UsageError, MismatchError) as error:  # its text may hold a path of this machine
            log.warning("! %s cannot be served: %s", entry.name, error)
            raise RequestError(f"this cloud cannot load {entry.name}; its log says why") from None
        _check_same(hello, served.hello)
        return served

    def _answer(self, session: Session, frame: Frame) -> None:
        if frame.kind not in _ANSWERS:
            raise ProtocolError(f"{frame.kind.name} is not for a cloud")
        _ANSWERS[frame.kind](self, session, frame)

    def _infer(self, session: Session, frame: Frame) -> None:
        request, at = frame.read(Infer), time.perf_counter()
        deadline = Deadline.after(min(request.deadline_s, self._config.request_s), "the request's own deadline")
        try:
            served = self._find(session.hello(request.model), session.peer, deadline)
            layers = _check_layers(request, served.graph, self._config.limits.payload_bytes)
            described = frame.described()
            _check_tensors(described, layers, served.graph)  # before anything is decoded
            decode_began = time.perf_counter()
            arrays = [one.decode() for one in described]
            decode_s = time.perf_counter() - decode_began
        except (RequestError, BusyError, DeadlineError) as error:  # the stream is still in step
            session.refuse(request.id, error)
            return
        job = Job(lambda items: served.run(layers, items), arrays, deadline, session.peer, (served.hello.model, layers))
        arrival = Arrival(
            request.id, served.hello.model, at, decode_s, frame.received_s, frame.timed_bytes, frame.timed_s
        )
        self._metrics.received(arrival.model, bytes_by_codec(frame.header))
        held_bytes = sum(array.nbytes for array in arrays) + served.graph.bytes_of(served.graph.outputs_of(layers))
        session.answer_later(
            request.id,
            job.future,
            lambda ran, queue_s: self._result(arrival, ran, queue_s),
            held_bytes,
            lambda ran, queue_s, sent_bytes: self._told(arrival, ran, queue_s, sent_bytes),
        )
        self._worker.submit(job)

    def _told(self, arrival: Arrival, ran: Ran, queue_s: float, sent_bytes: int) -> None:
        whole_s = time.perf_counter() - arrival.at + arrival.received_s
        self._metrics.answered(arrival.model, Spent(queue_s, arrival.decode_s, ran.seconds, whole_s), {RAW: sent_bytes})

    def _result(self, arrival: Arrival, ran: Ran, queue_s: float) -> Result:
        return Result(
            id=arrival.request_id,
            queue_s=queue_s,
            cloud_s=ran.seconds,
            load=self._meter.load,
            received_s=arrival.received_s,
            timed_bytes=arrival.timed_bytes,
            timed_s=arrival.timed_s,
            batch=ran.batch,
            decode_s=arrival.decode_s,
        )

    def _probe(self, session: Session, frame: Frame) -> None:
        request = frame.read(Probe)
        if request.reply_bytes > MAX_PROBE_REPLY:
            session.refuse(request.id, RequestError(f"a probe is answered with at most {MAX_PROBE_REPLY} bytes"))
            return
        session.send(Probed(request.id), [np.zeros(request.reply_bytes, np.uint8)] if request.reply_bytes else [])

    def _status(self, session: Session, frame: Frame) -> None:
        request, worker, server = frame.read(Status), self._worker, self.server
        if not session.agreed:
            self._check_token(request.token)
            session.peer.is_known = True
        session.send(
            State(
                load=self._meter.load,
                queue_s=worker.queue_s,
                waiting=worker.waiting,
                max_queue=self._config.max_queue,
                connections=server.count,
                draining=server.is_stopping,
            )
        )


_ANSWERS: dict[FrameType, Callable[[Cloud, Session, Frame], None]] = {
    FrameType.INFER: Cloud._infer,
    FrameType.PROBE: Cloud._probe,
    FrameType.STATUS: Cloud._status,
}


def _check_same(hello: Hello, mine: Hello) -> None:
    for what in ("weights", "graph"):
        theirs, ours = getattr(hello, what), getattr(mine, what)
        if theirs != ours:
            raise MismatchError(
                f"{mine.model}: the {what} differ (cloud {ours[:19]}, edge {theirs[:19]!a}): give both sides the same "
                "--weights, the same version of this program and of torchvision, and the same file of an own network"
            )


def _check_layers(request: Infer, graph: LayerGraph, max_bytes: int) -> frozenset[int]:
    bounds = [bound for pair in request.layers for bound in pair]
    if not bounds or bounds[-1] > len(graph.layers) or any(a >= b for a, b in pairwise(bounds)):
        raise RequestError(f"ranges of layers rise, and {graph.name} has layers 1 to {len(graph.layers) - 1}")
    layers = frozenset(number for start, stop in request.layers for number in range(start, stop))
    if INPUT in layers:
        raise RequestError("the input stays on the edge")
    if graph.bytes_of(graph.outputs_of(layers)) > max_bytes:
        raise RequestError(f"the outputs of these layers are more than {max_bytes} bytes (--max-payload)")
    return layers


def _check_tensors(described: Sequence[Described], layers: frozenset[int], graph: LayerGraph) -> None:
    expected = [graph.layers[number] for number in graph.inputs_of(layers)]
    if len(described) != len(expected):
        raise RequestError(f"these layers read {len(expected)} tensors, {len(described)} came")
    for one, layer in zip(described, expected, strict=True):
        if one.shape != layer.out_shape or one.dtype != layer.out_dtype:
            raise RequestError(
                f"layer {layer.id} makes {layer.out_dtype} {layer.out_shape}, {one.dtype} {one.shape} came"
            )
