"""Networks that edges send: taken piece by piece into a store, proved, and run in processes of their own.

A network that was sent is known by the digest of its bundle's header, whatever it says of itself. Before anyone gets an
answer from it: its header is read with limits, its child process (engine.child) checks the ONNX graph, runs the example
in it within a time, and what comes out is compared with the answer of the edge that sent it.
"""

import contextlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory

import numpy as np

from edgecloud.engine.answers import max_abs_diff
from edgecloud.engine.child_executor import ChildExecutor
from edgecloud.engine.child_process import ChildError, ChildProcess
from edgecloud.engine.executor import Ran
from edgecloud.engine.identity import graph_digest
from edgecloud.engine.load import LoadMeter
from edgecloud.engine.speed import SpeedMeter
from edgecloud.engine.times import FoundTimes, measured
from edgecloud.engine.worker import BusyError, Worker
from edgecloud.models import bundle
from edgecloud.models.bundle import Outline
from edgecloud.models.graph import LayerGraph
from edgecloud.models.network import fed_layers
from edgecloud.models.sent_network import SentNetwork, check_graph
from edgecloud.net.codec import DECODED, STANDARD
from edgecloud.net.messages import Hello
from edgecloud.net.tensors import Array
from edgecloud.server.budget import LoadBudget
from edgecloud.server.cloud_config import CloudConfig
from edgecloud.server.model_cache import RETRY_S, Served
from edgecloud.server.network_store import TIMES, NetworkStore, NotTakenError
from edgecloud.server.requests import RequestError
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.dtypes import dtype_of, name_of, widened
from edgecloud.utils.errors import MismatchError, UsageError
from edgecloud.utils.inference_utils import threads_in_force
from edgecloud.utils.units import printable

log = logging.getLogger(__name__)

FIRST_S = 20.0
"""How long the whole of a network may take, at first ..."""
RUN_S, RUN_TIMES = 5.0, 20.0
"""... and then any part of it: at least this long, or so many times what the whole took."""
SPARE_BYTES = 1 << 30
"""Of address space that a process has beside weights and tensors: the runtime, its threads, its arenas."""
MOST_PROCESSES = 8
RECENT_S = 10.0
REMEMBERED = 256
AGAIN_S, LONGEST_AGAIN_S = 10.0, 3600.0
LOOK_S = 0.25
SENT = "sent"
TEXT = 160
SAME = 1e-3


class DisprovedError(RequestError):
    """A network gives something else than the edge that sent it says. That may be the fault of either: the network is
    kept, for an edge that says what it gives."""


@dataclass(frozen=True)
class SentServed(Served):
    """A network that an edge sent, ready: a fault of it is the fault of a request."""

    on_fault: Callable[[ChildError], None] = field(default=lambda _: None, repr=False)

    @property
    def label(self) -> str:
        """One for all of them."""
        return SENT

    def _run_one(self, layers: frozenset[int], arrays: Sequence[Array]) -> Ran:
        try:
            return super()._run_one(layers, arrays)
        except ChildError as error:
            self.on_fault(error)
            raise RequestError(str(error)) from None

    def is_worth_batching(self, layers: frozenset[int]) -> bool:
        """Never: what was checked are the sizes of one."""
        del layers
        return False


@dataclass(eq=False)
class _Held:
    """A network in its process."""

    served: SentServed
    child: ChildProcess
    worker: Worker
    bytes: int
    used_at: float = field(default_factory=time.monotonic)


@dataclass
class _Fault:
    """A network whose process has ended, and when it may be started again."""

    until: float
    pause_s: float
    why: str


class Accepting:
    """The networks that were sent: which there are, and their processes. May be used by any thread."""

    def __init__(self, config: CloudConfig, store: NetworkStore, folder: TemporaryDirectory[str] | None = None) -> None:
        """`folder` is that of a store that is to go with this."""
        self._config, self.store, self._folder = config, store, folder
        store.in_use = self._in_use
        self._budget = LoadBudget(config.load_budget_s)
        self._turn, self._lock = threading.Lock(), threading.Lock()
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._loading: dict[str, Future[SentServed]] = {}
        self._faults: OrderedDict[str, _Fault] = OrderedDict()
        self._refused: OrderedDict[str, str] = OrderedDict()

    @property
    def names(self) -> tuple[str, ...]:
        """Of those that are served now."""
        with self._lock:
            return tuple(held.served.graph.name for held in self._held.values())

    def close(self) -> None:
        """End their processes."""
        with self._lock:
            held, self._held = list(self._held.values()), OrderedDict()
        for each in held:
            _end(each)
        self.store.close()
        if self._folder is not None:
            self._folder.cleanup()

    def drop(self, peer: object) -> None:
        """Forget the queued requests of an edge that has left."""
        with self._lock:
            workers = [held.worker for held in self._held.values()]
        for worker in workers:
            worker.drop(peer)

    def has(self, digest: str) -> bool:
        """Whether a network is here, whole and with the answer that it is to give."""
        return bool(digest) and self.store.find(digest) is not None and self.store.proof(digest) is not None

    def is_held(self, digest: str) -> bool:
        """Whether its process runs."""
        return digest in self._held

    def check(self, digest: str) -> None:
        """Raises NotTakenError for a network that was refused before."""
        why = self._refused.get(digest)
        if why is not None:
            raise NotTakenError(why)

    def prove(self, digest: str, outline: Outline, answer: Sequence[Array]) -> None:
        """Keep what an edge says that the example gives. Raises RequestError for other tensors than the outputs."""
        if [(array.shape, name_of(array.dtype)) for array in answer] != _outputs(outline.content.graph):
            raise RequestError("PROOF: these are not the tensors of the network's outputs")
        self.store.prove(digest, b"".join(np.ascontiguousarray(array).tobytes() for array in answer))

    def get(self, hello: Hello, turn: Deadline, is_wanted: Callable[[], bool], source: str | None) -> SentServed:
        """The network that an edge means, started where it is not yet, one at a time.

        Raises MismatchError where it says other layers than the network has, DeadlineError, BusyError, and RequestError
        for one that proved to be of no use.
        """
        digest = hello.bundle
        with self._lock:
            held = self._held.get(digest)
            if held is not None:
                self._held.move_to_end(digest)
                held.used_at = time.monotonic()
                loading = None
            else:
                loading = self._loading.get(digest) or self._begin(digest, source)
        served = held.served if held is not None else _wait(loading, turn, is_wanted)
        if hello.graph != served.hello.graph:
            raise MismatchError(f"{served.graph.name}: the graph differs from that of the bundle: send it again")
        return served

    # --- starting one

    def _begin(self, digest: str, source: str | None) -> "Future[SentServed]":
        """The lock is held."""
        now = time.monotonic()
        fault = self._faults.get(digest)
        if fault is not None and now < fault.until:
            raise RequestError(f"{fault.why}; it is started again in {fault.until - now:.0f} s")
        wait_s = self._budget.wait_s(source, now)
        if wait_s:
            raise BusyError(f"your address has used its {self._config.load_budget_s:.0f} s (--load-budget)", wait_s)
        if len(self._loading) >= MOST_PROCESSES:
            raise BusyError("other networks are being started, try again later", RETRY_S)
        future: Future[SentServed] = Future()
        self._loading[digest] = future
        threading.Thread(
            target=self._start, args=(digest, source, future), name="starts a network", daemon=True
        ).start()
        return future

    def _start(self, digest: str, source: str | None, future: "Future[SentServed]") -> None:
        """Of a thread of its own."""
        held, failure = None, None
        with self._turn:
            began = time.monotonic()
            try:
                held = self._ready(digest)
            except BaseException as error:  # noqa: BLE001  it is raised again in the threads that wait
                failure = self._as_told(digest, error)
            with self._lock:
                self._budget.spend(source, time.monotonic() - began, time.monotonic())
                del self._loading[digest]
                if held is not None:
                    self._held[digest] = held
        if held is not None:
            future.set_result(held.served)
        elif failure is not None:
            future.set_exception(failure)

    def _as_told(self, digest: str, error: BaseException) -> BaseException:
        """What an edge hears. A network that is at fault itself is not taken again."""
        if isinstance(error, DisprovedError):
            log.warning("! a network that was sent is not used (%s): %s", digest[:12], error)
            self.store.disprove(digest)
        if not isinstance(error, NotTakenError | ChildError | UsageError):
            return error
        why = printable(str(error), TEXT)
        log.warning("! a network that was sent is refused (%s): %s", digest[:12], why)
        self.store.drop(digest)
        with self._lock:
            self._refused[digest] = f"the network is refused: {why}"
            if len(self._refused) > REMEMBERED:
                self._refused.popitem(last=False)
            return RequestError(self._refused[digest])

    def _ready(self, digest: str) -> _Held:
        path, raw = self.store.find(digest), self.store.proof(digest)
        if path is None or raw is None:
            raise BusyError("the network is not here any more, send it again", RETRY_S)
        outline = bundle.outline_of(path)
        needed = self.check_size(outline)
        self._make_room(2 * outline.parameter_bytes)
        network = SentNetwork(path, outline)
        log.info("= starting %s, which was sent", network.graph.name)
        child = ChildProcess(path, threads_in_force(), needed)
        try:
            served, worker = self._served(network, outline, child, raw)
        except BaseException:
            child.close()
            raise
        log.info("= %s is ready in process %d", network.graph.name, child.pid)
        return _Held(served, child, worker, 2 * outline.parameter_bytes)

    def _served(
        self, network: SentNetwork, outline: Outline, child: ChildProcess, proof: bytes
    ) -> tuple[SentServed, Worker]:
        executor = ChildExecutor(network, child, FIRST_S, outline.parameter_bytes)
        whole = executor.load(network.graph.everything)
        began = time.monotonic()
        given = fed_layers(network.graph, network.example.fed)
        answer = dict(zip(whole.outputs, whole([given[number] for number in whole.inputs]), strict=True))
        took_s = time.monotonic() - began
        _compare(network.graph, [answer[number] for number in network.graph.outputs], proof)
        executor.run_s = max(RUN_S, RUN_TIMES * took_s)
        executor.forget(network.graph.everything)
        times = measured(executor, self.store.folder / TIMES, tails=True)
        graph, config = network.graph, self._config
        more = sorted((*config.limits.more_codecs, *config.limits.learned))
        weights = outline.content.identity.weights
        codecs = [*STANDARD, *DECODED, *more]
        hello = Hello(graph.name, weights, graph_of(outline), codecs, "", bundle=outline.digest)
        worker = Worker(config.max_queue)
        served = SentServed(
            executor,
            graph,
            FoundTimes(times, meter=SpeedMeter()),
            outline.parameter_bytes,
            hello,
            LoadMeter(),
            "sent by an edge",
            why_backend="it was sent, and runs in a process of its own",
            worker=worker,
            on_fault=lambda error: self._fault(outline.digest, error),
        )
        return served, worker

    def check_size(self, outline: Outline) -> int:
        """How much memory the process of a network may take. Raises NotTakenError where that is too much."""
        check_graph(outline.content.graph)
        limit = self._config.max_network_bytes
        needed = 2 * outline.parameter_bytes + sum(layer.out_bytes for layer in outline.content.graph.layers)
        if needed > limit:
            raise NotTakenError(f"the network would take {needed} bytes, over --max-network-bytes ({limit})")
        return SPARE_BYTES + 2 * needed

    # --- ending one

    def _make_room(self, needed: int) -> None:
        """Processes that were not used for longest end; never one that was used in the last moments."""
        limit, gone = self._config.max_network_bytes, []
        with self._lock:
            for digest, held in list(self._held.items()):
                used = sum(each.bytes for each in self._held.values())
                if len(self._held) < MOST_PROCESSES and used + needed <= limit:
                    break
                if time.monotonic() - held.used_at > RECENT_S and not held.worker.waiting:
                    gone.append(self._held.pop(digest))
            is_full = len(self._held) >= MOST_PROCESSES
        for held in gone:
            log.info("= ending the process of %s", held.served.graph.name)
            _end(held)
        if is_full:
            raise BusyError(f"{MOST_PROCESSES} networks that were sent are in use, try again later", RETRY_S)

    def _fault(self, digest: str, error: ChildError) -> None:
        """A network could not be run. Where its process is gone, it is started again a little later each time."""
        with self._lock:
            held = self._held.get(digest)
            if held is None or held.child.is_alive:
                return
            del self._held[digest]
            before = self._faults.get(digest)
            pause_s = AGAIN_S if before is None else min(2 * before.pause_s, LONGEST_AGAIN_S)
            self._faults[digest] = _Fault(time.monotonic() + pause_s, pause_s, printable(str(error), TEXT))
            if len(self._faults) > REMEMBERED:
                self._faults.popitem(last=False)
        log.warning("! %s: %s", held.served.graph.name, error)
        threading.Thread(target=held.worker.close, args=(LOOK_S,), daemon=True).start()  # this may be its own thread

    def _in_use(self) -> frozenset[str]:
        with self._lock:
            return frozenset((*self._held, *self._loading))


def _end(held: _Held) -> None:
    held.child.close()
    held.worker.close(LOOK_S)


def _outputs(graph: LayerGraph) -> list[tuple[tuple[int, ...], str]]:
    return [(graph.layers[number].out_shape, graph.layers[number].out_dtype) for number in graph.outputs]


def _compare(graph: LayerGraph, answer: Sequence[Array], proof: bytes) -> None:
    """Raises DisprovedError where the network gives something else here than at the edge."""
    expected, at = [], 0
    for shape, dtype in _outputs(graph):
        size = int(np.prod(shape, dtype=np.int64)) * dtype_of(dtype).itemsize
        if at + size > len(proof):
            raise DisprovedError("the edge's own answer is cut off")
        expected.append(np.frombuffer(proof[at : at + size], dtype_of(dtype)).reshape(shape))
        at += size
    if not all(map(_is_same, answer, expected)):
        raise DisprovedError(f"it gives another answer here than at the edge, by {max_abs_diff(answer, expected):.3g}")


def _is_same(answer: Array, expected: Array) -> bool:
    """Within a thousandth, for processors of other kinds."""
    answer, expected = widened(answer), widened(expected)
    sizes = np.abs(expected.astype(np.complex128 if np.iscomplexobj(expected) else np.float64))
    largest = float(sizes.max(initial=0.0, where=np.isfinite(sizes)))
    with np.errstate(all="ignore"):
        return bool(np.allclose(answer, expected, rtol=SAME, atol=SAME / 10 * largest, equal_nan=True))


def graph_of(outline: Outline) -> str:
    """What an edge says of its layers in HELLO."""
    return graph_digest(outline.content.graph.digest, outline.content.identity.numbers)


def _wait(loading: "Future[SentServed] | None", turn: Deadline, is_wanted: Callable[[], bool]) -> SentServed:
    assert loading is not None  # it was found or begun
    while is_wanted():
        with contextlib.suppress(TimeoutError):
            return loading.result(min(LOOK_S, turn.remaining()))
    raise BusyError("the client that requested the network has disconnected")
