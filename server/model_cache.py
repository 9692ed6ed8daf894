"""The loaded networks of a cloud, and running their segments for one edge or for several at once."""

import contextlib
import gc
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from edgecloud.engine.answers import is_close, is_finite
from edgecloud.engine.auto_executor import AutoExecutor
from edgecloud.engine.backend_choice import Chosen, choose
from edgecloud.engine.executor import SEGMENTS_KEPT, CpuShare, Executor, Ran, Segment
from edgecloud.engine.identity import hello_of
from edgecloud.engine.load import LoadMeter
from edgecloud.engine.speed import SpeedMeter
from edgecloud.engine.times import FoundTimes, Times
from edgecloud.engine.worker import BusyError, Worker
from edgecloud.models import registry
from edgecloud.models.graph import LayerGraph
from edgecloud.models.network import DEFAULT, Network
from edgecloud.models.rows import Piece, RowPlan
from edgecloud.net.codec import DECODED, STANDARD
from edgecloud.net.messages import Hello
from edgecloud.net.tensors import Array
from edgecloud.server import loader
from edgecloud.server.budget import LoadBudget
from edgecloud.server.cloud_config import CloudConfig
from edgecloud.server.digests import Known, KnownDigests
from edgecloud.server.loader import CannotLoadThereError, Loader, NoRoomError, Wish
from edgecloud.server.requests import RequestError, check_same
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import MismatchError, UsageError
from edgecloud.utils.extras import TORCH, is_there
from edgecloud.utils.inference_utils import CPU, keep_freed_memory, set_threads, tell_torch, threads_in_force

log = logging.getLogger(__name__)

LOAD_S = 600.0
LOOK_S = 0.25  # how often who waits for a network looks whether its edge is still there
RECENT_S = 60.0  # somebody who was served so lately is still being served
SERVING_S = 1.0
MAX_LOADING = 8  # networks that are loaded or wait for it
RETRY_S = 2.0
NO_MEMORY = "not enough memory for this request"
LONGEST_BATCHED_S = 0.2
ROWS_LONGER = 1.25  # than a whole segment, at most, where nothing loads the cloud


@dataclass(frozen=True)
class Served:
    """A network that is ready: edges may send requests for it."""

    executor: Executor
    graph: LayerGraph
    timing: FoundTimes
    parameter_bytes: int
    hello: Hello
    """What an edge has to say to get this network, apart from the token."""
    meter: LoadMeter
    origin: str
    """Where its parameters come from."""
    names: tuple[str, ...] = ()
    """Of the tensors in the digest of its weights."""
    why_backend: str = ""
    """Why it is computed with what it is computed with."""
    batched: dict[frozenset[int], bool] = field(default_factory=dict)
    """Segments that were tried with several inputs at once, and whether each got its own answer."""
    worker: Worker | None = None
    """Who runs it, where it is not the cloud's own worker."""
    _row_plans: dict[tuple[frozenset[int], tuple[Piece, ...], int | None], RowPlan | None] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What figures of it are kept under, of which there may only be so many."""
        return self.hello.model

    def run(self, layers: frozenset[int], requests: Sequence[Sequence[Array]]) -> list[Ran]:
        """Run a segment for several requests, each with arrays of shape (1, ...); joined along that axis, and so at
        once, where the network allows it."""
        if len(requests) == 1:
            return [self._run_one(layers, requests[0])]
        if layers not in self.batched:
            return self._try_batch(layers, requests)
        return self._run_batch(layers, requests) if self.batched[layers] else self._run_each(layers, requests)

    def _run_one(self, layers: frozenset[int], arrays: Sequence[Array]) -> Ran:
        """It tells the present speed, and where the time was predicted, the prediction learns from the real one."""
        ran = self._executed(self.executor.load(layers), arrays)
        self.timing.ran(layers, ran)
        if not ran.is_first:  # that would be no load
            self.meter.record(ran.seconds, self._idle_s(layers))
        return ran

    def _executed(self, segment: Segment, arrays: Sequence[Array]) -> Ran:
        """Raises BusyError where there is no memory for it."""
        with busy_without_memory():
            return self.executor.run(segment, arrays)

    def has_tail_rows(self, layers: frozenset[int], pieces: Sequence[Piece], until: int | None) -> bool:
        """Whether `tail_rows` knows by now."""
        return (layers, tuple(pieces), until) in self._row_plans

    def tail_rows(self, layers: frozenset[int], pieces: Sequence[Piece], until: int | None) -> RowPlan | None:
        """How these layers run by rows, up to one of them, while their inputs come in these chunks; None where nothing
        is gained. May be asked by any thread."""
        key = (layers, tuple(pieces), until)
        if key not in self._row_plans:
            if len(self._row_plans) >= SEGMENTS_KEPT:
                self._row_plans.clear()
            self._row_plans[key] = self.executor.tail_rows(*key)
        return self._row_plans.get(key)

    def ran_by_rows(self, layers: frozenset[int], ran: Ran) -> None:
        """Rows take a little longer than the whole, which is no load."""
        idle_s = self._idle_s(layers)
        if not ran.is_first:
            self.meter.record(ran.seconds if ran.seconds > ROWS_LONGER * idle_s else idle_s, idle_s)

    def _run_each(self, layers: frozenset[int], requests: Sequence[Sequence[Array]]) -> list[Ran]:
        return [self._run_one(layers, arrays) for arrays in requests]

    def _run_batch(self, layers: frozenset[int], requests: Sequence[Sequence[Array]]) -> list[Ran]:
        together = [np.concatenate(arrays) for arrays in zip(*requests, strict=True)]
        ran = self._executed(self.executor.load(layers), together)
        count = len(requests)
        if layers in self.batched:  # not where it is tried for the first time
            self.meter.record(ran.seconds, count * self._idle_s(layers))
        each = ([array[n : n + 1] for array in ran.arrays] for n in range(count))
        return [Ran(arrays, ran.seconds, count, backend=ran.backend) for arrays in each]

    def _try_batch(self, layers: frozenset[int], requests: Sequence[Sequence[Array]]) -> list[Ran]:
        """Not every graph is written for more than one input: the first time, compare with one after the other."""
        singles = self._run_each(layers, requests)
        if not all(is_finite(ran.arrays) for ran in singles):
            return singles  # NaN equals nothing: somebody's bad input decides nothing for the others
        crossing = [*self.graph.inputs_of(layers), *self.graph.outputs_of(layers)]
        fits = all(self.graph.layers[number].out_shape[:1] == (1,) for number in crossing)
        fits = fits and not layers & self.executor.network.bound  # a number would be of all of them
        if fits:
            try:
                batch = self._run_batch(layers, requests)
            except Exception:  # noqa: BLE001  torch raises all kinds where a shape does not fit
                fits = False
            else:
                fits = all(is_close(ran.arrays, single.arrays) for ran, single in zip(batch, singles, strict=True))
        self.batched[layers] = fits
        if len(self.batched) > SEGMENTS_KEPT:
            del self.batched[next(iter(self.batched))]
        return singles

    def is_worth_batching(self, layers: frozenset[int]) -> bool:
        """Whether requests for a segment may run at once. One that takes long keeps the device busy by itself: together
        nothing is gained, the first one waits for the last, and the trial that comes before would take twice as long.
        """
        return self._idle_s(layers) <= LONGEST_BATCHED_S

    def _idle_s(self, layers: frozenset[int]) -> float:
        """What an idle cloud needs for a segment."""
        return self.timing.quiet_s(layers)


@contextmanager
def busy_without_memory() -> Iterator[None]:
    """Raises BusyError where there is no memory for what is computed within."""
    try:
        yield
    except MemoryError:
        raise BusyError(NO_MEMORY, RETRY_S) from None
    except RuntimeError as error:  # so says torch
        if "allocate memory" not in str(error):
            raise
        raise BusyError(NO_MEMORY, RETRY_S) from None


@dataclass(eq=False)
class _Loading:
    """A network that is being loaded, or waits for its turn."""

    entry: registry.Entry
    source: str | None
    """Who caused it; None for one whose loads are not counted."""
    future: "Future[Served]" = field(default_factory=Future)
    waiting: int = 0
    """How many wait for it."""


class Networks:
    """The networks in memory, the least recently used ones leaving when there are too many bytes."""

    def __init__(
        self,
        config: CloudConfig,
        worker: Worker,
        meter: LoadMeter,
        *,
        has_loader: bool = True,
    ) -> None:
        """With a loader a process is split off now, before torch has threads, and loads whatever is asked for."""
        self._config = config
        self._meter = meter
        self._worker = worker
        folder = config.device.cache_dir
        self._times = Times.of(config.device, "cloud")
        self._digests = KnownDigests(folder)
        self._budget = LoadBudget(config.load_budget_s)
        self._turn = threading.Lock()
        self._lock = threading.Lock()
        self._networks: OrderedDict[str, Served] = OrderedDict()
        self._loading: dict[str, _Loading] = {}
        has_loader = has_loader and config.device.name == CPU and loader.is_possible() and is_there(*TORCH)
        if has_loader:
            tell_torch()  # imported now, so that each process that loads finds it there
        self._loader = Loader(self._load_there) if has_loader else None
        self._served_at = float("-inf")

    @property
    def speed(self) -> SpeedMeter | None:
        """Who knows how fast this machine is just now; None before the first network."""
        return next(iter(self._times.meters.copy().values()), None)

    @property
    def held_bytes(self) -> dict[str, int]:
        """Bytes of the parameters of every network in memory."""
        with self._lock:
            return {name: served.parameter_bytes for name, served in self._networks.items()}

    def close(self) -> None:
        """End what loads."""
        if self._loader is not None:
            self._loader.close()

    def hold(self, entry: registry.Entry, network: Network) -> None:
        """Serve a network that is loaded already. Its layers are measured now, in the caller's thread."""
        chosen = self._chosen(network)
        timing = self._times.find(chosen.executor, lambda _: None, tails=True)
        with self._lock:
            self._networks[entry.name] = self._served(entry, chosen, timing, network)

    def is_serving(self) -> bool:
        """Whether somebody was served in the last moments."""
        return time.monotonic() - self._served_at < SERVING_S

    def give_way(self) -> None:
        """Somebody is being served: what is being loaded steps back."""
        self._served_at = time.monotonic()
        if self._loader is not None:
            self._loader.step_back()

    def get(
        self, entry: registry.Entry, hello: Hello, turn: Deadline, is_wanted: Callable[[], bool], source: str | None
    ) -> Served:
        """Find the network that an edge means, or load and measure it, one at a time. Others are served meanwhile.

        Raises MismatchError where ours is another one, before anything is loaded where that is known. DeadlineError
        where it is not ready in time; it may be later. BusyError where too many networks wait, where `source` has
        caused so much loading that it has to wait, or where nobody wants the network any more when its turn comes.
        RequestError for one that is too large, or cannot be loaded.
        """
        resident = self._find(entry.name)
        expected = resident if resident is not None else self._digests.find(entry, self._weights_of(entry))
        if expected is not None:
            check_same(hello, expected.hello, expected.names)
        if resident is not None:
            return resident
        with self._lock:
            loading = self._networks.get(entry.name) or self._loading.get(entry.name) or self._begin(entry, source)
            if isinstance(loading, Served):
                return loading
            loading.waiting += 1
        try:
            served = _wait(loading, turn, is_wanted)
        finally:
            with self._lock:
                loading.waiting -= 1
        check_same(hello, served.hello, served.names)
        return served

    def _begin(self, entry: registry.Entry, source: str | None) -> _Loading:
        """Queue a network. The lock is held."""
        wait_s = self._budget.wait_s(source, time.monotonic())
        if wait_s:
            raise BusyError(
                f"your address has used its {self._config.load_budget_s:.0f} s of loading (--load-budget)", wait_s
            )
        mine = any(other.source == source for other in self._loading.values()) and source is not None
        if mine or len(self._loading) >= MAX_LOADING:
            raise BusyError("another network is being loaded, try again later", RETRY_S)
        self._check_size(entry)
        loading = self._loading[entry.name] = _Loading(entry, source)
        threading.Thread(target=self._load_in_turn, args=(loading,), name=f"loads {entry.name}", daemon=True).start()
        return loading

    def _load_in_turn(self, loading: _Loading) -> None:
        """Of a thread of its own."""
        entry = loading.entry
        with self._turn:
            began = time.monotonic()
            try:
                with self._lock:
                    is_wanted = loading.waiting > 0
                if not is_wanted:
                    raise BusyError(f"the client that requested {entry.name} has disconnected")
                self._make_room(entry)
                served = self._load(entry)
            except BaseException as error:  # noqa: BLE001  it is raised again in the threads that wait
                with self._lock:
                    del self._loading[entry.name]
                    self._budget.spend(loading.source, time.monotonic() - began, time.monotonic())
                loading.future.set_exception(_as_told(error, entry.name))
                return
            with self._lock:
                self._networks[entry.name] = served
                del self._loading[entry.name]
                self._budget.spend(loading.source, time.monotonic() - began, time.monotonic())
        loading.future.set_result(served)

    def _find(self, name: str) -> Served | None:
        with self._lock:
            if name in self._networks:
                self._networks.move_to_end(name)
            return self._networks.get(name)

    def _peak_bytes(self, entry: registry.Entry) -> int:
        """Parameters that are in memory at once while a network is loaded: what a file holds is there twice."""
        is_drawn = self._weights_of(entry) == DEFAULT and entry.is_drawn
        return entry.parameter_bytes * (1 if is_drawn else 2)

    def _check_size(self, entry: registry.Entry) -> None:
        limit, needed = self._config.max_network_bytes, self._peak_bytes(entry)
        if needed > limit:
            text = f"{entry.name} has {entry.parameter_bytes} bytes of parameters"
            twice = f", and needs {needed} while loading" if needed > entry.parameter_bytes else ""
            raise RequestError(f"{text}{twice}, over --max-network-bytes ({limit})")

    def _make_room(self, entry: registry.Entry) -> None:
        """Before anything is loaded, so that no more than the limit is there at any moment."""
        limit, needed = self._config.max_network_bytes, self._peak_bytes(entry)
        with self._lock:
            while self._networks and needed + sum(served.parameter_bytes for served in self._networks.values()) > limit:
                name, _ = self._networks.popitem(last=False)
                log.info("= unloading %s", name)
        gc.collect()  # a graph module is a cycle of references, and an idle cloud hardly ever collects by itself

    def _weights_of(self, entry: registry.Entry) -> str:
        sources = self._config.weights
        if entry.bundle is not None:  # which holds its own
            return sources.get(entry.name, DEFAULT)
        return sources.get(entry.name, sources.get("", DEFAULT))

    def _load(self, entry: registry.Entry) -> Served:
        log.info("= loading %s", entry.name)
        served = self._load_behind(entry) or self._load_here(entry)
        self._digests.keep(entry, self._weights_of(entry), Known(replace(served.hello, codecs=[]), served.names))
        layers, times = len(served.graph.layers), served.timing.times
        about = (entry.name, layers, served.origin, sum(times.seconds), times.source)
        log.info("= %s is ready: %d layers, %s, %.4f s (%s)", *about)
        return served

    def _load_behind(self, entry: registry.Entry) -> Served | None:
        """Let the process that loads do it; None where it cannot."""
        if self._loader is None or entry.bundle is not None:  # a bundle is read in a moment
            return None
        from edgecloud.models import parcel
        from edgecloud.models.torch_network import TorchNetwork
        from edgecloud.models.weights import Loaded

        is_behind = time.monotonic() - self._served_at < RECENT_S
        try:
            handed = self._loader.load(Wish(entry.name, threads_in_force()), LOAD_S, is_behind=is_behind)
            try:
                traced, (about, example, times) = parcel.unpack(handed.packed, handed.parameters)
            finally:
                os.close(handed.parameters)
        except (CannotLoadThereError, parcel.CannotPackError) as error:
            log.warning("= loading %s in the serving process: %s", entry.name, error)
            return None
        network = TorchNetwork(Loaded(**vars(about), model=traced.module), traced, example, entry.call)
        chosen = self._chosen(network)
        if times is not None:
            timing = FoundTimes(times, meter=self._times.meter(chosen.executor))
        else:
            timing = self._times.find(chosen.executor, lambda _: None, tails=True)
        return self._served(entry, chosen, timing, network)

    def _load_there(self, wish: Wish) -> tuple[bytes, int]:
        """What the other process does."""
        from edgecloud.models import parcel, weights
        from edgecloud.models.torch_network import prepare

        keep_freed_memory()
        set_threads(wish.threads)
        entry = registry.lookup(wish.name)
        loaded = weights.load(entry, self._weights_of(entry))
        shared = parcel.share(loaded.model)
        network = prepare(loaded, entry.default_input(), entry.name, entry.call)
        executor = self._chosen(network, is_behind=True).executor
        timing = self._times.find(executor, lambda _: None, tails=True)
        times = timing.times if timing.teacher is None else None  # what learns has to be in the process that serves
        try:
            return parcel.pack(network.traced, (loaded.alone(), network.example, times), shared), shared.descriptor
        except parcel.CannotPackError as error:
            raise CannotLoadThereError(str(error)) from None

    def _load_here(self, entry: registry.Entry) -> Served:
        """Parameters are read in the caller's thread. The rest is the worker's: capturing a graph changes torch's own
        classes while it lasts, so nothing else may run then, and measuring must not be disturbed either."""
        example = entry.default_input()
        if entry.bundle is not None:
            read = entry.network(self._weights_of(entry), example)

            def network_of() -> Network:
                return read
        else:
            from edgecloud.models import weights
            from edgecloud.models.torch_network import prepare

            loaded = weights.load(entry, self._weights_of(entry))

            def network_of() -> Network:
                return prepare(loaded, example, entry.name, entry.call)

        def make_ready() -> Served:
            network = network_of()
            chosen = self._chosen(network)
            timing = self._times.find(chosen.executor, lambda _: None, tails=True)
            return self._served(entry, chosen, timing, network)

        return self._worker.run(make_ready, Deadline.after(LOAD_S, f"{entry.name} was not ready"))[0]

    def _chosen(self, network: Network, *, is_behind: bool = False) -> Chosen:
        device, emulated = self._config.device, self._config.cpu_share
        share = None if emulated is None else CpuShare(emulated)
        return choose(network, device.name, share, device.backend, device.cache_dir, is_behind=is_behind)

    def _served(self, entry: registry.Entry, chosen: Chosen, timing: FoundTimes, network: Network) -> Served:
        graph, executor = network.graph, chosen.executor
        log.info("= %s is computed by %s: %s", graph.name, executor.machine.backend, why_of(chosen))
        more = sorted((*self._config.limits.more_codecs, *self._config.limits.learned))
        hello = hello_of(network, codecs=[*STANDARD, *DECODED, *more])
        about = (network.weights.origin, network.weights.names)
        return Served(
            executor, graph, timing, entry.parameter_bytes, hello, self._meter, *about, why_backend=why_of(chosen)
        )


def why_of(chosen: Chosen) -> str:
    """Why a back-end computes a network, by what is known once it was measured."""
    executor = chosen.executor
    if not isinstance(executor, AutoExecutor):
        return chosen.why
    return executor.choice(executor.network.graph.everything).why


def _wait(loading: _Loading, turn: Deadline, is_wanted: Callable[[], bool]) -> Served:
    while is_wanted():
        with contextlib.suppress(TimeoutError):
            return loading.future.result(min(LOOK_S, turn.remaining()))
    raise BusyError(f"the client that requested {loading.entry.name} has disconnected")


def _as_told(error: BaseException, name: str) -> BaseException:
    """What an edge hears of a load that failed: the text of some errors may hold a path of this machine."""
    if isinstance(error, UsageError | MismatchError):
        log.warning("! cannot serve %s: %s", name, error)
        return RequestError(f"the cloud cannot load {name}; see its log")
    return NoRoomError(f"not enough memory for {name}") if isinstance(error, MemoryError) else error
