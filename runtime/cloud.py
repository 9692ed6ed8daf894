"""The cloud's side: networks that are kept ready, and the conversation with each edge."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from models import inputs, registry, weights
from models.graph import INPUT, LayerGraph
from net.connection import Frame
from net.frames import FrameType, Limits
from net.messages import Error, Hello, Infer, Message, Probe, Probed, Ready, Result
from net.security import TOKEN_VARIABLE, is_token_right
from net.server import Peer, Server
from net.tensors import RAW, Array
from predictor.profile import Profile
from runtime.executor import Executor, TorchExecutor, prepare
from runtime.worker import BusyError, Worker
from utils.deadline import Deadline
from utils.errors import AppError, DeadlineError, MismatchError, ProtocolError, UsageError
from utils.inference_utils import device_name, find_device, set_threads

log = logging.getLogger(__name__)

MAX_PROBE_REPLY = 4 << 20

Answer = tuple[Message, Sequence[Array]]


@dataclass(frozen=True)
class CloudConfig:
    """How a cloud is run. Sizes in bytes, times in seconds."""

    host: str = "127.0.0.1"
    port: int = 9999
    device: str = "cpu"
    threads: int | None = None
    weights: dict[str, str] = field(default_factory=dict)
    """Per network, or for all others under "": default, imagenet, or a file."""
    cache_dir: Path = Path()
    token: str = ""
    limits: Limits = field(default_factory=Limits)
    max_connections: int = 64
    max_queue: int = 32
    max_network_bytes: int = 4 << 30
    hello_s: float = 10.0
    idle_s: float = 600.0
    request_s: float = 120.0


@dataclass(frozen=True)
class Served:
    """A network that is ready: edges may send requests for it."""

    executor: Executor
    graph: LayerGraph
    profile: Profile
    parameter_bytes: int
    hello: Hello
    """What an edge has to say to get this network, apart from the token."""


class RequestError(AppError):
    """A request that cannot be carried out; the connection goes on."""

    code = "BAD_REQUEST"


class Networks:
    """The networks in memory, the least recently used ones leaving when there are too many bytes."""

    def __init__(self, config: CloudConfig, device: torch.device) -> None:
        self._config = config
        self._device = device
        self._kept: OrderedDict[str, Served] = OrderedDict()

    def get(self, name: str) -> Served:
        """Find a network, or build, trace and measure it. Runs on the worker's thread: one at a time."""
        entry = registry.find(name)
        if entry.name not in self._kept:
            needed = weights.parameter_bytes(entry)
            self._make_room(entry.name, needed)
            self._kept[entry.name] = self._build(entry, needed)
        self._kept.move_to_end(entry.name)
        return self._kept[entry.name]

    def _make_room(self, name: str, needed: int) -> None:
        limit = self._config.max_network_bytes
        if needed > limit:
            raise RequestError(f"{name} has {needed} bytes of parameters, the limit is {limit} (--max-network-bytes)")
        while self._kept and needed + sum(s.parameter_bytes for s in self._kept.values()) > limit:
            gone, _ = self._kept.popitem(last=False)
            log.info("= %s leaves memory", gone)

    def _build(self, entry: registry.Entry, needed: int) -> Served:
        log.info("= loading %s", entry.name)
        chosen = self._config.weights
        loaded = weights.load(entry, chosen.get(entry.name, chosen.get("", weights.DEFAULT)))
        network = prepare(loaded, inputs.sample(entry.sample, entry.preprocess), entry.name)
        executor = TorchExecutor(network, self._device)
        profile = executor.profile(self._config.cache_dir, tails=True)
        graph = network.traced.graph
        total_s = sum(profile.seconds)
        log.info("= %s is ready: %d layers, %s, %.4f s", entry.name, len(graph.layers), loaded.origin, total_s)
        return Served(executor, graph, profile, needed, Hello(entry.name, loaded.digest, graph.digest, [RAW], ""))


class TokenError(AppError):
    """The edge does not know the token."""

    code = "TOKEN"


class UnknownModelError(AppError):
    """No such network here."""

    code = "UNKNOWN_MODEL"


class Cloud:
    """Answers edges. One object serves every connection; the worker's thread does all computing."""

    def __init__(self, config: CloudConfig) -> None:
        self._config = config
        self._device = find_device(config.device)
        set_threads(config.threads)
        self._networks = Networks(config, self._device)
        self._worker = Worker(config.max_queue)
        self.server = Server(config.host, config.port, self._converse, config.limits, config.max_connections)

    def preload(self) -> None:
        """Load the networks whose weights were named, so that a wrong file is met before any edge is."""
        for name in filter(None, self._config.weights):
            self._networks.get(name)

    def close(self) -> None:
        """End the worker."""
        self._worker.close()

    def _converse(self, peer: Peer) -> None:
        frame = peer.connection.receive(Deadline.after(self._config.hello_s, "no HELLO came"))
        served: Served | None = None
        while True:
            peer.is_working = True
            if frame.kind is FrameType.HELLO:
                served = self._greet(peer, frame)
            elif served is None:
                raise ProtocolError("the first message must be HELLO")
            else:
                self._answer(peer, frame, served)
            peer.is_working = False
            if self.server.is_stopping:
                return
            idle = Deadline.after(self._config.idle_s, f"the connection was idle for {self._config.idle_s:.0f} s")
            frame = peer.connection.receive(idle, frame_s=self._config.request_s)

    def _greet(self, peer: Peer, frame: Frame) -> Served:
        hello = frame.read(Hello)
        if not is_token_right(self._config.token, hello.token):
            raise TokenError(f"wrong token: give both sides the same --token-file or {TOKEN_VARIABLE}")
        deadline = Deadline.after(self._config.request_s, "the network was not ready")
        served, _ = self._worker.run(lambda: self._find(hello.model), deadline)
        _check_same(hello, served.hello)
        ready = Ready(
            seconds=list(served.profile.seconds),
            start_s=list(served.profile.start_s),
            queue_s=self._worker.queue_s,
            device=f"{self._device} {device_name(self._device)}",
            codecs=served.hello.codecs,
            max_payload=self._config.limits.payload_bytes,
        )
        peer.connection.send(ready, deadline)
        log.info("> %s gets %s", peer.name, served.hello.model)
        return served

    def _find(self, name: str) -> Served:
        try:
            registry.find(name)
        except UsageError as error:
            raise UnknownModelError(str(error)) from None
        try:
            return self._networks.get(name)
        except (UsageError, MismatchError) as error:  # its text may hold a path of this machine
            log.warning("! %s cannot be served: %s", name, error)
            raise RequestError(f"this cloud cannot load {name}; its log says why") from None

    def _answer(self, peer: Peer, frame: Frame, served: Served) -> None:
        if frame.kind not in _ANSWERS:
            raise ProtocolError(f"{frame.kind.name} is not for a cloud")
        deadline = Deadline.after(self._config.request_s, "the request")
        try:
            message, arrays = _ANSWERS[frame.kind](self, frame, served)
        except (RequestError, BusyError, DeadlineError) as error:  # the stream is still in step
            log.warning("! %s refused, %s: %s", peer.name, error.code, error)
            peer.connection.send(Error(error.code, str(error)), deadline)
        else:
            peer.connection.send(message, deadline, arrays)

    def _infer(self, frame: Frame, served: Served) -> Answer:
        request = frame.read(Infer)
        layers = _check_layers(request, served.graph, self._config.limits.payload_bytes)
        arrays = frame.arrays()
        _check_arrays(arrays, layers, served.graph)
        deadline = Deadline.after(min(request.deadline_s, self._config.request_s), "the request's own deadline")
        ran, queue_s = self._worker.run(lambda: served.executor.run(served.executor.load(layers), arrays), deadline)
        return Result(request.id, queue_s, ran.seconds), ran.arrays

    def _probe(self, frame: Frame, served: Served) -> Answer:
        del served
        request = frame.read(Probe)
        if request.reply_bytes > MAX_PROBE_REPLY:
            raise RequestError(f"a probe is answered with at most {MAX_PROBE_REPLY} bytes")
        return Probed(request.id), [np.zeros(request.reply_bytes, np.uint8)] if request.reply_bytes else []


_ANSWERS: dict[FrameType, Callable[[Cloud, Frame, Served], Answer]] = {
    FrameType.INFER: Cloud._infer,
    FrameType.PROBE: Cloud._probe,
}


def _check_same(hello: Hello, mine: Hello) -> None:
    for what in ("weights", "graph"):
        theirs, ours = getattr(hello, what), getattr(mine, what)
        if theirs != ours:
            raise MismatchError(
                f"{mine.model}: the {what} differ (cloud {ours[:19]}, edge {theirs[:19]!s}): give both sides the same "
                "--weights and the same version of this program and of torchvision"
            )


def _check_layers(request: Infer, graph: LayerGraph, max_bytes: int) -> frozenset[int]:
    if not request.layers or any(stop > len(graph.layers) for _, stop in request.layers):
        raise RequestError(f"{graph.name} has layers 1 to {len(graph.layers) - 1}")
    layers = frozenset(number for start, stop in request.layers for number in range(start, stop))
    if INPUT in layers:
        raise RequestError("the input stays on the edge")
    if graph.bytes_of(graph.outputs_of(layers)) > max_bytes:
        raise RequestError(f"the outputs of these layers are more than {max_bytes} bytes (--max-payload)")
    return layers


def _check_arrays(arrays: Sequence[Array], layers: frozenset[int], graph: LayerGraph) -> None:
    expected = [graph.layers[number] for number in graph.inputs_of(layers)]
    if len(arrays) != len(expected):
        raise RequestError(f"these layers read {len(expected)} tensors, {len(arrays)} came")
    for array, layer in zip(arrays, expected, strict=True):
        if array.shape != layer.out_shape or array.dtype.name != layer.out_dtype:
            raise RequestError(
                f"layer {layer.id} makes {layer.out_dtype} {layer.out_shape}, {array.dtype.name} {array.shape} came"
            )
