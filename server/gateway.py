"""A cloud whose networks run in other processes: it guards the door, and workers compute.

Everything that a client may do wrong is met here, as without workers: handshake, token, limits, admission, pacing, what
a source has outstanding, and what it may have loaded. Networks that edges send stay in this process's own children.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edgecloud.engine.worker import BusyError
from edgecloud.models import registry
from edgecloud.net.codec import DECODED, STANDARD
from edgecloud.net.connection import Frame
from edgecloud.net.messages import Hello, Infer, Ready, Result, State
from edgecloud.net.metrics import Gauges, Metrics, Spent, bytes_by_codec
from edgecloud.net.refusals import MISSING
from edgecloud.net.server import Peer
from edgecloud.net.sides import Pending as PendingCodec
from edgecloud.net.sides import Side, UnknownSideError
from edgecloud.net.tensors import RAW, Described
from edgecloud.server import receiving
from edgecloud.server.budget import LoadBudget
from edgecloud.server.cloud import ALL, Cloud
from edgecloud.server.cloud_config import CloudConfig
from edgecloud.server.fleet import Fleet
from edgecloud.server.model_cache import LOAD_S, RETRY_S, Served
from edgecloud.server.placement import Placement, Setup, make_placement
from edgecloud.server.relay import Pending, RefusedError, Relay, Relayed
from edgecloud.server.requests import RequestError, chunks_of
from edgecloud.server.session import Session
from edgecloud.server.visits import Visits
from edgecloud.server.worker_flags import arguments_of
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import UsageError
from edgecloud.utils.inference_utils import keep_freed_memory

log = logging.getLogger(__name__)

END_S = 5.0


@dataclass(frozen=True, slots=True)
class _Arrival:
    """What is kept of a request for its answer."""

    request_id: int
    at: float
    received_s: float
    timed_bytes: int
    timed_s: float
    peer: str


def placement_of(config: CloudConfig) -> Placement:
    """What is to start the workers of a gateway. Raises UsageError."""
    if config.workers is None:
        raise UsageError("a gateway needs workers (--workers)")
    device = config.device
    options = config.worker_options
    setup = Setup(
        arguments_of(config), device.name, device.threads, config.worker_token, options, drain_s=config.drain_s
    )
    return make_placement(*config.workers, setup)


class Gateway(Cloud):
    """Answers edges, with the answers of workers."""

    computes = False

    def __init__(
        self,
        config: CloudConfig,
        metrics: Metrics | None = None,
        visits: Visits | None = None,
        placement: Placement | None = None,
    ) -> None:
        """Its workers are those of `placement`, else of what the configuration says. Raises AppError."""
        self.fleet = Fleet(placement or placement_of(config), config.limits, config.max_batch)
        self._relays: dict[Session, Relay] = {}
        self._loads = LoadBudget(config.load_budget_s)
        self._loading: set[str] = set()
        self._budget_lock = threading.Lock()
        super().__init__(config, metrics, visits)

    def _prepared(self, config: CloudConfig) -> CloudConfig:
        """Networks are the workers' business; these are the names, and what is none is told at once."""
        for name in config.models:
            if name != ALL and name.isidentifier():
                registry.lookup(name)
        return replace(config, models=(*(config.models or registry.NAMES), *config.networks))

    def check_weights(self) -> None:
        """Workers do."""

    def begin(self) -> None:
        """Have the workers started. Raises AppError."""
        keep_freed_memory()  # a payload would be made of fresh pages each time
        self.fleet.start()

    def close(self) -> None:
        """End the workers too."""
        self.fleet.close(END_S)
        super().close()

    def _gauges(self) -> Gauges:
        fleet = self.fleet
        return replace(
            super()._gauges(),
            waiting=lambda: fleet.load_now().waiting,
            load=lambda: fleet.load_now().load,
            speed=lambda: fleet.load_now().speed,
            queue_s=lambda: fleet.load_now().queue_s,
            fleet=fleet.load_now,
            workers=fleet.rows,
        )

    def _state(self) -> State:
        now = self.fleet.load_now()
        return replace(
            super()._state(),
            load=now.load,
            speed=now.speed,
            queue_s=now.queue_s,
            waiting=now.waiting,
            max_queue=self._config.max_queue * max(1, now.workers),
            gateway=True,
            workers=now.workers,
            wanted=now.wanted,
            queued_s=now.queued_s,
            lost=now.lost,
            repeats=now.repeats,
        )

    def _drop(self, session: Session) -> None:
        super()._drop(session)
        relay = self._relays.pop(session, None)
        if relay is not None:
            relay.close()

    # --- HELLO

    def _ready(self, session: Session, hello: Hello) -> Ready:
        sent = self._accepting
        if sent is not None and sent.is_held(hello.bundle):
            return self._ready_here(session, hello)
        try:
            return self._ready_there(session, hello)
        except RefusedError as error:
            if error.code not in MISSING or sent is None or not receiving.may_send(self._config, session.peer):
                raise
            if sent.has(hello.bundle):
                return self._ready_here(session, hello)
            error.accepts = sent.store.max_bytes
            raise
        except BusyError:  # no worker could be asked: it may be one that was sent all the same
            if sent is None or not sent.has(hello.bundle):
                raise
            return self._ready_here(session, hello)

    def _find(self, hello: Hello, peer: Peer, turn: Deadline) -> Served:
        """A network that an edge sent; there is no other in this process."""
        sent = self._accepting
        if sent is None or not sent.has(hello.bundle):
            raise RequestError(f"no HELLO named {hello.model[:64]!a}")
        return sent.get(hello, turn, lambda: not peer.connection.peer_has_left(), self._source(peer))

    def _ready_here(self, session: Session, hello: Hello) -> Ready:
        """Of a network that an edge sent."""
        ready = super()._ready(session, hello)
        self._relay(session).networks.pop(hello.model, None)
        return ready

    def _ready_there(self, session: Session, hello: Hello) -> Ready:
        relay, connection = self._relay(session), session.peer.connection
        turn = Deadline.after(LOAD_S, "the network was not ready")

        def greet() -> Ready:
            return relay.greet(hello, turn, lambda: not connection.peer_has_left())

        ready = greet() if self.fleet.is_held(hello.model) else self._charged(session.peer, greet)
        limits = self._config.limits
        known = {*STANDARD, *DECODED, *limits.more_codecs, *limits.learned}
        codecs = [codec for codec in ready.codecs if codec in known]
        most = min(ready.max_payload, limits.payload_bytes)
        return replace(ready, codecs=codecs, max_payload=most, queue_s=self.fleet.load_now().queue_s, chunks=0)

    def _charged(self, peer: Peer, greet: Callable[[], Ready]) -> Ready:
        """Have a network loaded, from the budget of who asks for it. Raises BusyError where that is used up."""
        source = self._source(peer)
        if source is None:
            return greet()
        now = time.monotonic()
        with self._budget_lock:
            wait_s = self._loads.wait_s(source, now)
            if wait_s:
                limit_s = self._config.load_budget_s
                raise BusyError(f"your address has used its {limit_s:.0f} s of loading (--load-budget)", wait_s)
            if source in self._loading:
                raise BusyError("another network is being loaded, try again later", RETRY_S)
            self._loading.add(source)
        try:
            return greet()
        finally:
            with self._budget_lock:
                self._loading.discard(source)
                self._loads.spend(source, time.monotonic() - now, time.monotonic())

    def _relay(self, session: Session) -> Relay:
        """Of the thread that receives alone."""
        if session not in self._relays:
            self._relays[session] = Relay(self.fleet, session)
        return self._relays[session]

    # --- INFER

    def _infer(self, session: Session, frame: Frame) -> None:
        request = frame.read(Infer)
        relay = self._relay(session)
        try:
            hello = relay.networks.get(session.hello(request.model).model)
        except RequestError as error:
            session.refuse(request.id, error)
            return
        if hello is None:
            super()._infer(session, frame)
            return
        if request.cuts:
            session.arrivals.expect_dropped(request.id, chunks_of(request))
            session.refuse(request.id, RequestError("this network takes no chunks"))
            return
        self._forward(session, relay, hello, request, frame)

    def _forward(self, session: Session, relay: Relay, hello: Hello, request: Infer, frame: Frame) -> None:
        at = time.perf_counter()
        described = self._without_sides(session, request, frame.described())
        try:
            sides = _sides_of(session, described)
            deadline = Deadline.after(min(request.deadline_s, self._config.request_s), "the deadline of the request")
        except UnknownSideError as error:
            session.refuse(request.id, error)
            return
        tensors = frame.passing()
        if request.sides:  # a worker that has not got them gets them from here
            tensors = tensors.first(len(described))
        layers = tuple((start, stop) for start, stop in request.layers)
        pending = Pending(hello, request, layers, tensors, sides, deadline)
        arrival = _Arrival(request.id, at, frame.received_s, frame.timed_bytes, frame.timed_s, session.peer.name)
        self._metrics.received(hello.model, bytes_by_codec(frame.header))
        answer_bytes = self.fleet.size_of(hello.model, layers)
        try:
            session.answer_later(
                request.id,
                pending.promise,
                lambda relayed, queue_s: _result(arrival, relayed, queue_s),
                sum(one.nbytes for one in described) + answer_bytes,
                lambda relayed, queue_s, sent: self._on_relayed(hello.model, arrival, relayed, queue_s, sent),
                may_send=lambda: pending.is_answered,
            )
        except BusyError as error:  # another network's request is coming in chunks
            session.refuse(request.id, error)
            return
        self._networks.give_way()
        relay.submit(pending)

    def _on_relayed(self, model: str, arrival: _Arrival, relayed: Relayed, queue_s: float, sent_bytes: int) -> None:
        self._visits.answered(arrival.peer, model)
        result = relayed.result
        whole_s = time.perf_counter() - arrival.at + arrival.received_s
        rate = arrival.timed_bytes / arrival.timed_s if arrival.timed_s > 0 else 0.0
        about = (arrival.peer, None, arrival.received_s, rate, result.batch)
        spent = Spent(queue_s, result.decode_s, result.cloud_s, whole_s, *about)
        self._metrics.answered(model, spent, {RAW: sent_bytes})


def _sides_of(session: Session, described: Sequence[Described]) -> list[Side]:
    """What the codecs of these tensors need, of what came on this connection. Raises UnknownSideError, and
    ProtocolError."""
    sides = []
    for one in described:
        if isinstance(one.codec, PendingCodec):
            codec = session.sides.find(one.codec)
            codec.check(one.dtype, one.shape, one.buffer)
            sides.append(codec.side)
    return sides


def _result(arrival: _Arrival, relayed: Relayed, queue_s: float) -> Result:
    """The worker's, with the times of the edge's own link."""
    return replace(
        relayed.result,
        id=arrival.request_id,
        queue_s=queue_s,
        received_s=arrival.received_s,
        timed_bytes=arrival.timed_bytes,
        timed_s=arrival.timed_s,
    )
