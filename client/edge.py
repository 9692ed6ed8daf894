"""The edge's side: decide where to cut, run the head, send the boundary, and take the answer."""

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path

from edgecloud.client.connection_manager import ConnectionConfig, ConnectionManager
from edgecloud.client.fallback import Mode
from edgecloud.client.multiplexed import MultiplexedClient, Request
from edgecloud.engine.executor import CpuShare, Executor, Network, make_executor, prepare
from edgecloud.engine.identity import hello_of
from edgecloud.engine.packing import pack
from edgecloud.models import inputs, weights
from edgecloud.models.graph import INPUT, LayerGraph
from edgecloud.models.inputs import Input
from edgecloud.models.registry import Entry
from edgecloud.net.codec import Encoded
from edgecloud.net.messages import Hello, Ready, Result, State
from edgecloud.net.tensors import RAW, Array
from edgecloud.net.tls import ClientTls
from edgecloud.partition.cost import Link, Part, parts_of
from edgecloud.partition.decide import Goal
from edgecloud.predictor import energy
from edgecloud.utils.deadline import Deadline
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
    link: Link | None = None
    """Believed altogether, its round trip too."""
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
class Edge:
    """One network on this device, and perhaps a cloud that runs the rest of it."""

    entry: Entry
    network: Network
    executor: Executor
    cloud: ConnectionManager | None = None
    """Keeps the connection to a cloud, where one is wanted."""
    tls: ClientTls | None = None
    """Whom it trusts to be its cloud; None is without TLS."""
    codecs: Mapping[int, str] = field(default_factory=dict)
    """How the output of each layer is packed when it goes up; what is not named travels as it is."""
    computing: threading.Lock = field(default_factory=threading.Lock, repr=False)
    """Held by whoever computes: inferences that are under way at once take turns."""

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
        manager = self.use(ConnectionConfig((host, port), ready_s=ready_s, tls=self.tls), token)
        return manager.connect().ready[self.graph.name]

    def status(self, timeout_s: float) -> State:
        """Ask the cloud how busy it is. Raises AppError where it is lost, ValueError where there is none."""
        return self._cloud.ask_state(timeout_s)

    @property
    def _cloud(self) -> ConnectionManager:
        if self.cloud is None:
            raise ValueError("no cloud was named")
        return self.cloud

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
                inference.run_there(part.layers, self._cloud.ready_client(deadline), deadline)
        return inference.answered(ran_by(parts))

    def load(self, parts: Iterable[Part]) -> None:
        """Make ready what runs here."""
        with self.computing:
            for part in parts:
                if part.place == "edge":
                    self.executor.load(part.layers)

    def ask(
        self,
        tail: frozenset[int],
        boundary: Sequence[Encoded],
        deadline: Deadline,
        client: MultiplexedClient | None = None,
    ) -> tuple[Result, list[Array]]:
        """Let the cloud run layers on the tensors that they read; returns the arrays of their outputs, in order.

        Raises AppError, as RefusedError for a refusal and as ProtocolError for an answer of other shapes; ValueError
        where no cloud was named.
        """
        request = Request(0, self.graph.name, self.graph, tail, [], boundary)
        result, arrays = (client or self._cloud.ready_client(deadline)).ask(request, deadline)
        self._cloud.on_result(result)
        return result, arrays

    def close(self) -> None:
        """Hang up."""
        if self.cloud is not None:
            self.cloud.close()


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
        with self.edge.computing:
            segment = executor.load(layers)
            ran = executor.run(segment, [self.values[number] for number in segment.inputs])
        self.values |= zip(segment.outputs, ran.arrays, strict=True)
        self.measured = self.measured.plus(Measured(ran.seconds, 0.0, 0.0, 0.0, 0.0))

    def run_there(self, layers: frozenset[int], client: MultiplexedClient, deadline: Deadline) -> None:
        """Let the cloud run layers. Where that fails nothing has changed, and it may be tried again."""
        crossing = self.edge.graph.inputs_of(layers)
        with self.edge.computing:
            boundary, encode_s = pack(
                self.edge.executor,
                [self.values[number] for number in crossing],
                [self.edge.codecs.get(number, RAW) for number in crossing],
                client.ready[self.edge.graph.name].codecs,
            )
        self.requests += 1
        asked_at = time.perf_counter()
        result, arrays = self.edge.ask(layers, boundary, deadline, client)
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
