"""The edge's side: decide where to cut, run the head, send the boundary, and take the answer."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models import inputs, weights
from models.graph import LayerGraph, to_ranges
from models.inputs import Input
from models.registry import Entry
from net.connection import Connection
from net.messages import Hello, Infer, Ready, Result
from net.tensors import RAW, Array
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

    def infer(self, x: Array, head: frozenset[int], timeout_s: float) -> Answered:
        """Run the network on `x`, the head here and the tail on the cloud.

        Raises DeadlineError after `timeout_s` seconds and AppError where the cloud refuses or is lost.
        """
        deadline = Deadline.after(timeout_s, f"no answer within {timeout_s:g} s (--timeout)")
        tail = self.graph.everything - head
        part = self.executor.load(head)
        started = time.perf_counter()
        ran = self.executor.run(part, [x])
        values = dict(zip(part.outputs, ran.arrays, strict=True))
        if not tail:
            outputs = tuple(values[number] for number in self.graph.outputs)
            return Answered(outputs, Measured(ran.seconds, 0.0, 0.0, 0.0, time.perf_counter() - started))
        encode_started = time.perf_counter()
        boundary = [np.asarray(values[number], order="C") for number in self.graph.boundary(head)]
        encode_s = time.perf_counter() - encode_started
        result, arrays = self._ask(tail, boundary, deadline)
        values |= zip(self.graph.outputs_of(tail), arrays, strict=True)
        total_s = time.perf_counter() - started
        sent = sum(array.nbytes for array in boundary)
        outputs = tuple(values[number] for number in self.graph.outputs)
        return Answered(outputs, Measured(ran.seconds, encode_s, result.queue_s, result.cloud_s, total_s, sent, sent))

    def _ask(self, tail: frozenset[int], boundary: list[Array], deadline: Deadline) -> tuple[Result, list[Array]]:
        if self.cloud is None:
            raise ValueError("no cloud was greeted")
        self.cloud.next_id += 1
        request = Infer(self.cloud.next_id, to_ranges(tail), deadline.remaining())
        self.cloud.connection.send(request, deadline, boundary)
        frame = self.cloud.connection.receive(deadline)
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
