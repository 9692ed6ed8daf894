"""The edge: decide where to cut, run the head, send the boundary, and receive the answer."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path

from edgecloud.client.fallback import Mode
from edgecloud.client.handshake import NOT_ASKED, RefusedError, are_outputs
from edgecloud.client.reconnector import greet_when_free
from edgecloud.engine.executor import CpuShare, Executor, Network, make_executor, prepare
from edgecloud.engine.identity import hello_of
from edgecloud.engine.packing import pack
from edgecloud.models import inputs, weights
from edgecloud.models.graph import INPUT, LayerGraph, to_ranges
from edgecloud.models.inputs import Input
from edgecloud.models.registry import Entry
from edgecloud.net.codec import Encoded
from edgecloud.net.connection import Connection
from edgecloud.net.frames import FrameType
from edgecloud.net.messages import Error, Hello, Infer, Ready, Result, State, Status, from_header
from edgecloud.net.tensors import RAW, Array
from edgecloud.net.tls import ClientTls
from edgecloud.partition.cost import Part, parts_of
from edgecloud.partition.decide import Goal
from edgecloud.predictor import energy
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import ProtocolError
from edgecloud.utils.inference_utils import find_device, set_threads


@dataclass(frozen=True)
class EdgeConfig:
    """What one call of edge_api.py is to do. Rates in bytes per second, times in seconds."""

    model: str
    host: str = "127.0.0.1"
    port: int = 9999
    device: str = "cpu"
    threads: int | None = None
    weights: str = weights.DEFAULT
    image: Path | None = None
    audio: Path | None = None
    text: str | None = None
    array: Path | None = None
    point: int | None = None
    goal: Goal = field(default_factory=Goal)
    up_bytes_per_s: float | None = None
    """Believed of both ways, instead of a probe; None: the link is probed."""
    repeat: int = 1
    warm_up: int = 1
    verify: bool = False
    compare: bool = False
    codec: str = "auto"
    """A codec by name, or auto: the best lossless one, and lossy ones within the budget."""
    accuracy_budget: float = 0.0
    """Share of answers that lossy codecs may change, as calibrated."""
    fallback: Mode = "on"
    """Finish inferences here that the cloud does not answer; `always`: also where no cloud has come yet."""
    timeout_s: float = 60.0
    ready_s: float = 300.0
    cpu_share: float | None = None
    link_shape: str | None = None
    """The emulated link, written UP[,RTT[,DOWN]]."""
    own_cloud: tuple[str, ...] | None = None
    """Start a cloud on loopback with these arguments, and use that one."""
    cache_dir: Path = Path()
    times: str = "auto"
    predictors: Path | None = None
    """None: where deployment.py fit puts those of an edge."""
    power: str = energy.DEFAULT_PROFILE
    radio: str = energy.DEFAULT_RADIO
    token: str = ""
    tls: ClientTls | None = None
    record: Path | None = None
    """Write down what the link is like: a trace for the lab."""


@dataclass(frozen=True)
class Measured:
    """One inference, in seconds of the edge's clock; `queue_s` and `cloud_s` are durations that the cloud reports.

    Unpacking is in `cloud_s`. `payload_bytes` went up, and were `raw_bytes` before they were packed.
    """

    edge_s: float
    encode_s: float
    queue_s: float
    cloud_s: float
    total_s: float
    payload_bytes: int = 0
    raw_bytes: int = 0
    received_bytes: int = 0

    def plus(self, other: "Measured") -> "Measured":
        """Both, one after the other."""
        return Measured(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def transfer_s(self) -> float:
        """The seconds that are left: the link both ways, and the network stacks."""
        return self.total_s - self.edge_s - self.encode_s - self.queue_s - self.cloud_s


@dataclass(frozen=True)
class Fallback:
    """Why an inference was finished here, and how many seconds after its start that was decided."""

    reason: str
    after_s: float


@dataclass(frozen=True)
class Answered:
    """The tensors of the network's outputs, with the times of the inference."""

    outputs: tuple[Array, ...]
    measured: Measured
    completed_by: str
    """`edge` or `cloud` where one of them ran every layer, `split`, or `fallback`: finished here instead."""
    fallback: Fallback | None = None
    requests: int = 0
    """What was asked of the cloud, retries included."""


@dataclass
class GreetedCloud:
    """A connection on which a cloud has said that it runs our network."""

    connection: Connection
    ready: Ready
    next_id: int = 0
    used_at: float = field(default_factory=time.monotonic)
    """When it last answered."""


def state_of(cloud: GreetedCloud, timeout_s: float) -> State:
    """How busy a cloud says it is. Raises AppError where it is lost."""
    deadline = Deadline.after(timeout_s, f"no STATUS answer from the cloud within {timeout_s:g} s (--timeout)")
    cloud.connection.send(Status(), deadline)
    return cloud.connection.receive(deadline).read(State)


@dataclass
class Edge:
    """One network on this device, and perhaps a cloud that runs the rest of it."""

    entry: Entry
    network: Network
    executor: Executor
    cloud: GreetedCloud | None = None
    ready: Ready | None = None
    """What the cloud said first; it stays where the connection does not."""
    tls: ClientTls | None = None
    """Whom it trusts to be its cloud; None is without TLS."""
    codecs: Mapping[int, str] = field(default_factory=dict)
    """How the output of each layer is packed when it goes up; what is not named travels as it is."""
    heard: Callable[[Result], None] = lambda _: None
    """Is told of every answer."""

    @classmethod
    def build(cls, config: EdgeConfig, entry: Entry, example: Input) -> "Edge":
        """Load the network. Raises UsageError and MismatchError for a device or weights that do not serve."""
        find_device(config.device)
        set_threads(1 if config.cpu_share is not None else config.threads)
        return cls.around(config, entry, prepare(weights.load(entry, config.weights), example, entry.name))

    @classmethod
    def around(cls, config: EdgeConfig, entry: Entry, network: Network) -> "Edge":
        """The same with a network that is loaded. Raises UsageError for a device that does not serve."""
        device = find_device(config.device)
        set_threads(1 if config.cpu_share is not None else config.threads)
        share = None if config.cpu_share is None else CpuShare(config.cpu_share)
        executor = make_executor(network, device, share)
        executor.look_for_limit()
        return cls(entry, network, executor, tls=config.tls)

    @property
    def graph(self) -> LayerGraph:
        """The layers of the network."""
        return self.network.traced.graph

    def hello(self, token: str) -> Hello:
        """What a cloud has to know of our network."""
        return hello_of(self.network, token)

    def greet(self, host: str, port: int, token: str, timeout_s: float) -> Ready:
        """Connect and agree on the network, which the cloud may have to load. Raises what `talk.greet` does."""
        self.cloud = self.greeted(host, port, token, timeout_s)
        self.ready = self.cloud.ready
        return self.ready

    def greeted(
        self,
        host: str,
        port: int,
        token: str,
        timeout_s: float,
        opened: Callable[[Connection], None] = lambda _: None,
        is_given_up: Callable[[], bool] = lambda: False,
    ) -> GreetedCloud:
        """The same, for whoever decides later whether that cloud is taken. `opened` is given the connection early."""
        hello = self.hello(token)
        layers = {hello.model: len(self.graph.layers)}
        connection, ready = greet_when_free((host, port), [hello], layers, timeout_s, opened, self.tls, is_given_up)
        return GreetedCloud(connection, ready[hello.model])

    def take(self, cloud: GreetedCloud) -> None:
        """Ask this cloud from now on, and leave the one that there was."""
        self.close()
        self.cloud = cloud
        if self.ready is None:
            self.ready = cloud.ready

    def status(self, timeout_s: float) -> State:
        """Ask the cloud how busy it is. Raises AppError where it is lost, ValueError where none was greeted."""
        return state_of(self._greeted(), timeout_s)

    def infer(self, x: Array, head: frozenset[int], timeout_s: float) -> Answered:
        """Run the network on `x`, the head here and the tail on the cloud; the same as `infer_parts`."""
        return self.infer_parts(x, parts_of(self.graph, head), timeout_s)

    def infer_parts(self, x: Array, parts: Sequence[Part], timeout_s: float) -> Answered:
        """Run the network on `x`, part after part, each where it belongs; the next one goes on from what came back.

        `x` is the input, shape (1, ...). Raises DeadlineError after `timeout_s` seconds and AppError where the cloud
        refuses or is lost.
        """
        deadline = Deadline.after(timeout_s, f"no answer within {timeout_s:g} s (--timeout)")
        self.load(parts)
        inference = Inference(self, {INPUT: x})
        for part in parts:
            if part.place == "edge":
                inference.run_here(part.layers)
            else:
                inference.run_there(part.layers, deadline)
        return inference.answered(ran_by(parts))

    def load(self, parts: Iterable[Part]) -> None:
        """Make ready what runs here."""
        for part in parts:
            if part.place == "edge":
                self.executor.load(part.layers)

    def _greeted(self) -> GreetedCloud:
        if self.cloud is None:
            raise ValueError("no cloud connected")
        return self.cloud

    def ask(self, tail: frozenset[int], boundary: Sequence[Encoded], deadline: Deadline) -> tuple[Result, list[Array]]:
        """Let the cloud run layers on the tensors that they read; returns the arrays of their outputs, in order.

        Raises AppError, as RefusedError for a refusal and as ProtocolError for an answer of other shapes; ValueError
        where no cloud connected.
        """
        cloud = self._greeted()
        cloud.next_id += 1
        request = Infer(cloud.next_id, to_ranges(tail), deadline.remaining())
        cloud.connection.send(request, deadline, boundary)
        frame = cloud.connection.receive(deadline)
        cloud.used_at = time.monotonic()
        if frame.kind is FrameType.ERROR:
            raise RefusedError(from_header(Error, frame.header))
        result = frame.read(Result)
        self.heard(result)
        arrays = frame.arrays()
        if result.id != request.id or not are_outputs(arrays, self.graph, tail):
            raise ProtocolError(NOT_ASKED)
        return result, arrays

    def close(self) -> None:
        """Hang up."""
        if self.cloud is not None:
            self.cloud.connection.close()
            self.cloud = None


@dataclass
class Inference:
    """One inference under way: the tensors that are still needed, and what its parts took."""

    edge: Edge
    values: dict[int, Array]
    measured: Measured = Measured(0.0, 0.0, 0.0, 0.0, 0.0)
    started: float = field(default_factory=time.perf_counter)
    requests: int = 0

    @property
    def elapsed_s(self) -> float:
        """Seconds since it began."""
        return time.perf_counter() - self.started

    def run_here(self, layers: frozenset[int]) -> None:
        """Run layers on this device; what they make joins `values`."""
        executor = self.edge.executor
        segment = executor.load(layers)
        ran = executor.run(segment, [self.values[number] for number in segment.inputs])
        self.values |= zip(segment.outputs, ran.arrays, strict=True)
        self.measured = self.measured.plus(Measured(ran.seconds, 0.0, 0.0, 0.0, 0.0))

    def run_there(self, layers: frozenset[int], deadline: Deadline) -> None:
        """Let the cloud run layers. Where that fails nothing has changed, and it may be tried again."""
        crossing = self.edge.graph.inputs_of(layers)
        boundary, encode_s = pack(
            self.edge.executor,
            [self.values[number] for number in crossing],
            [self.edge.codecs.get(number, RAW) for number in crossing],
            (RAW,) if self.edge.cloud is None else self.edge.cloud.ready.codecs,
        )
        self.requests += 1
        asked_at = time.perf_counter()
        result, arrays = self.edge.ask(layers, boundary, deadline)
        waited_s = time.perf_counter() - asked_at
        self.values |= zip(self.edge.graph.outputs_of(layers), arrays, strict=True)
        queue_s = min(result.queue_s, waited_s)  # no cloud can have taken longer than it was waited for
        took = Measured(
            edge_s=0.0,
            encode_s=encode_s,
            queue_s=queue_s,
            cloud_s=min(result.cloud_s + result.decode_s, waited_s - queue_s),
            total_s=0.0,
            payload_bytes=sum(one.nbytes for one in boundary),
            raw_bytes=sum(self.values[number].nbytes for number in crossing),
            received_bytes=sum(array.nbytes for array in arrays),
        )
        self.measured = self.measured.plus(took)

    def answered(self, completed_by: str, fallback: Fallback | None = None) -> Answered:
        """The answer, once every layer has run."""
        outputs = tuple(self.values[number] for number in self.edge.graph.outputs)
        measured = replace(self.measured, total_s=self.elapsed_s)
        return Answered(outputs, measured, completed_by, fallback, self.requests)


def ran_by(parts: Iterable[Part]) -> str:
    """`edge` or `cloud` where one of them runs every layer, else `split`."""
    places = {part.place for part in parts if part.layers != {INPUT}}
    return "split" if len(places) > 1 else str(places.pop())


def read_input(config: EdgeConfig, entry: Entry) -> Input:
    """What the user gave, else the sample. Raises UsageError for what does not serve, or not this network."""
    if config.array is not None:
        return inputs.from_array(config.array, entry.wanted)
    given = {inputs.PICTURE: config.image, inputs.SPEECH: config.audio, inputs.SENTENCE: config.text}
    for kind, what in given.items():
        if what is not None:
            return inputs.read(entry.name, entry.takes, kind, what, entry.preprocess)
    return inputs.sample(entry.sample, entry.preprocess)
