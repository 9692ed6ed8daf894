"""The networks that a cloud keeps ready, and how their segments are run for one edge or for several at once."""

import gc
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from models import inputs, registry, weights
from models.graph import LayerGraph
from net.codec import STANDARD
from net.messages import Hello
from net.tensors import Array
from runtime.answers import is_close
from runtime.cloud_config import CloudConfig
from runtime.executor import SEGMENTS_KEPT, Executor, Ran, make_executor, prepare
from runtime.identity import hello_of
from runtime.load import LoadMeter
from runtime.session import RequestError
from runtime.times import Found, Times, predictors_path
from runtime.worker import BusyError, Worker
from utils.deadline import Deadline

log = logging.getLogger(__name__)

LOAD_S = 600.0


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
    names: tuple[str, ...] = ()
    """Of the tensors in the digest of its weights."""
    batched: dict[frozenset[int], bool] = field(default_factory=dict)
    """Segments that were tried with several inputs at once, and whether each got its own answer."""

    def run(self, layers: frozenset[int], requests: Sequence[Sequence[Array]]) -> list[Ran]:
        """Run a segment for several requests, each with arrays of shape (1, ...); joined along that axis, and so at
        once, where the network allows it."""
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
        one_each = all(self.graph.layers[number].out_shape[:1] == (1,) for number in crossing)
        self.batched[layers] = one_each and not layers & self.executor.traced.bound  # a number would be of all of them
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

        Raises DeadlineError where the turn to load does not come in time, BusyError where nobody wants the network any
        more when it comes, and RequestError for one that is too large.
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
            executor, graph = make_executor(network, self._device), network.traced.graph
            found = self._times.find(executor, lambda _: None, tails=True)
            codecs = [*STANDARD, *sorted(self._config.limits.more_codecs)]
            hello = hello_of(network, codecs=codecs)
            return Served(executor, graph, found, entry.parameter_bytes, hello, self._meter, loaded.names)

        served, _ = self._worker.run(make_ready, Deadline.after(LOAD_S, f"{entry.name} was not ready"))
        layers, times = len(served.graph.layers), served.found.times
        about = (entry.name, layers, loaded.origin, sum(times.seconds), times.source)
        log.info("= %s is ready: %d layers, %s, %.4f s (%s)", *about)
        return served
