"""The edge's side: decide where to cut, run the head, send the boundary, and take the answer."""

import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path

import numpy as np

from models import inputs, weights
from models.graph import INPUT, LayerGraph, to_ranges
from models.inputs import Input
from models.registry import Entry
from net.connection import Connection
from net.messages import Hello, Infer, Ready, Result, State, Status
from net.tensors import RAW, Array
from partition.cost import Part, parts_of
from partition.decide import Goal
from predictor import energy
from runtime.executor import CpuShare, Network, TorchExecutor, prepare
from runtime.talk import NOT_ASKED, are_outputs, greet
from utils.deadline import Deadline
from utils.errors import ProtocolError
from utils.inference_utils import find_device, set_threads


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
    array: Path | None = None
    point: int | None = None
    goal: Goal = field(default_factory=Goal)
    bandwidth: float | None = None
    repeat: int = 1
    warm_up: int = 1
    verify: bool = False
    compare: bool = False
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


@dataclass(frozen=True)
class Measured:
    """One inference, in seconds of the edge's clock; `queue_s` and `cloud_s` are durations that the cloud reports."""

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
        """What is left: the link both ways, and the network stacks."""
        return self.total_s - self.edge_s - self.encode_s - self.queue_s - self.cloud_s


@dataclass(frozen=True)
class Answered:
    """The tensors of the network's outputs, with the times of the inference."""

    outputs: tuple[Array, ...]
    measured: Measured


@dataclass
class Cloud:
    """A connection on which a cloud has said that it runs our network."""

    connection: Connection
    ready: Ready
    next_id: int = 0


@dataclass
class Edge:
    """One network on this device, and perhaps a cloud that runs the rest of it."""

    entry: Entry
    network: Network
    executor: TorchExecutor
    cloud: Cloud | None = None

    @classmethod
    def build(cls, config: EdgeConfig, entry: Entry, example: Input) -> "Edge":
        """Load the network. Raises UsageError and MismatchError for a device or weights that do not serve."""
        device = find_device(config.device)
        set_threads(1 if config.cpu_share is not None else config.threads)
        network = prepare(weights.load(entry, config.weights), example, entry.name)
        share = None if config.cpu_share is None else CpuShare(config.cpu_share)
        return cls(entry, network, TorchExecutor(network, device, share))

    @property
    def graph(self) -> LayerGraph:
        """The layers of the network."""
        return self.network.traced.graph

    def greet(self, host: str, port: int, token: str, timeout_s: float) -> Ready:
        """Connect and agree on the network; the cloud may have to load and measure it first."""
        hello = Hello(self.graph.name, self.network.loaded.digest, self.graph.digest, [RAW], token)
        connection, ready = greet((host, port), [hello], {hello.model: len(self.graph.layers)}, timeout_s)
        self.cloud = Cloud(connection, ready[hello.model])
        return self.cloud.ready

    def status(self, timeout_s: float) -> State:
        """Ask the cloud how busy it is."""
        connection = self._greeted().connection
        deadline = Deadline.after(timeout_s, f"the cloud did not say how busy it is within {timeout_s:g} s (--timeout)")
        connection.send(Status(), deadline)
        return connection.receive(deadline).read(State)

    def infer(self, x: Array, head: frozenset[int], timeout_s: float) -> Answered:
        """Run the network on `x`, the head here and the tail on the cloud; raises what `infer_parts` does."""
        return self.infer_parts(x, parts_of(self.graph, head), timeout_s)

    def infer_parts(self, x: Array, parts: Sequence[Part], timeout_s: float) -> Answered:
        """Run the network on `x`, part after part, each where it belongs; the next one goes on from what came back.

        Raises DeadlineError after `timeout_s` seconds and AppError where the cloud refuses or is lost.
        """
        deadline = Deadline.after(timeout_s, f"no answer within {timeout_s:g} s (--timeout)")
        segments = [self.executor.load(part.layers) if part.place == "edge" else None for part in parts]
        values, measured = {INPUT: x}, Measured(0.0, 0.0, 0.0, 0.0, 0.0)
        started = time.perf_counter()
        for part, segment in zip(parts, segments, strict=True):
            if segment is None:
                measured = measured.plus(self._run_there(part.layers, values, deadline))
            else:
                ran = self.executor.run(segment, [values[number] for number in segment.inputs])
                values |= zip(segment.outputs, ran.arrays, strict=True)
                measured = measured.plus(Measured(ran.seconds, 0.0, 0.0, 0.0, 0.0))
        outputs = tuple(values[number] for number in self.graph.outputs)
        return Answered(outputs, replace(measured, total_s=time.perf_counter() - started))

    def _run_there(self, layers: frozenset[int], values: dict[int, Array], deadline: Deadline) -> Measured:
        """Let the cloud run layers; what they make joins `values`."""
        encode_started = time.perf_counter()
        boundary = [np.asarray(values[number], order="C") for number in self.graph.inputs_of(layers)]
        encode_s = time.perf_counter() - encode_started
        result, arrays = self._ask(layers, boundary, deadline)
        values |= zip(self.graph.outputs_of(layers), arrays, strict=True)
        sent, received = (sum(array.nbytes for array in found) for found in (boundary, arrays))
        return Measured(0.0, encode_s, result.queue_s, result.cloud_s, 0.0, sent, sent, received)

    def _greeted(self) -> Cloud:
        if self.cloud is None:
            raise ValueError("no cloud was greeted")
        return self.cloud

    def _ask(self, tail: frozenset[int], boundary: list[Array], deadline: Deadline) -> tuple[Result, list[Array]]:
        cloud = self._greeted()
        cloud.next_id += 1
        request = Infer(cloud.next_id, to_ranges(tail), deadline.remaining())
        cloud.connection.send(request, deadline, boundary)
        frame = cloud.connection.receive(deadline)
        result = frame.read(Result)
        arrays = frame.arrays()
        if result.id != request.id or not are_outputs(arrays, self.graph, tail):
            raise ProtocolError(NOT_ASKED)
        return result, arrays

    def close(self) -> None:
        """Hang up."""
        if self.cloud is not None:
            self.cloud.connection.close()


def read_input(config: EdgeConfig, entry: Entry) -> Input:
    """The picture or array that the user gave, else the sample."""
    if config.array is not None:
        return inputs.from_array(config.array, entry.input_shape)
    if config.image is not None:
        return inputs.from_image(config.image, entry.preprocess)
    return inputs.sample(entry.sample, entry.preprocess)
