"""The cloud's side of the conversation with each edge."""

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from edgecloud.engine.executor import Ran
from edgecloud.engine.load import LoadMeter
from edgecloud.engine.speed import clamped
from edgecloud.engine.worker import BusyError, Job, Worker
from edgecloud.models import registry, vision
from edgecloud.models.graph import Layer
from edgecloud.models.network import Network
from edgecloud.net.connection import ClosedAtBoundaryError, Frame
from edgecloud.net.frames import FrameType
from edgecloud.net.messages import Chunk, Hello, Infer, Offer, Probe, Probed, Ready, Result, State, Status
from edgecloud.net.metrics import Gauges, Metrics, NoMetrics, Spent, bytes_by_codec
from edgecloud.net.pacing import Spending
from edgecloud.net.penalties import source_of
from edgecloud.net.security import is_token_right
from edgecloud.net.server import Peer, Server
from edgecloud.net.sides import KEPT as MAX_SIDES
from edgecloud.net.sides import MAX_BYTES as MAX_SIDE_BYTES
from edgecloud.net.sides import UnknownSideError
from edgecloud.net.tensors import RAW, Array, Described
from edgecloud.server import receiving
from edgecloud.server.ageing import Ageing
from edgecloud.server.arriving import Arriving, ByRows, Sink, Whole
from edgecloud.server.cloud_config import CloudConfig
from edgecloud.server.model_cache import LOAD_S, Networks, Served
from edgecloud.server.requests import (
    MAX_CHUNKS,
    RequestError,
    check_cuts,
    check_layers,
    check_tensors,
    chunks_of,
    point_of,
)
from edgecloud.server.row_tail import RowTail, pieces_of
from edgecloud.server.session import Session
from edgecloud.server.visits import Visits
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.environment import SECRET
from edgecloud.utils.errors import AppError, DeadlineError, MismatchError, ProtocolError, UsageError
from edgecloud.utils.extras import TORCH, is_there
from edgecloud.utils.inference_utils import check_device, set_threads

log = logging.getLogger(__name__)

ALL = "all"
MAX_PROBE_REPLY = 4 << 20
MOST_REASON = 300  # characters
SWITCH_S = 0.0005
"""How long a thread may keep the interpreter while another wants it. With Python's own 5 ms every layer of a network
waits that long where a connection is busy, since torch releases the interpreter in each."""
CLOSE_S, END_S = 5.0, 1.0
NO_MEMORY_S = 1.0
PROBE_S = 0.02  # of looking how fast this machine is
LAYERS_PER_TOKEN = 100  # a set of layers that was not run lately has to be put together
ROWS_PER_TOKEN = 1000  # blocks of rows of a plan that was not run lately


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
    peer: str = ""
    point: int | None = None
    idle_s: float = 0.0
    """Of `received_s`, while nothing was on its way."""
    is_in_chunks: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for, as it was checked."""

    request_id: int
    served: Served
    layers: frozenset[int]
    deadline: Deadline
    peer: Peer

    @property
    def inputs(self) -> tuple[int, ...]:
        """The layers whose outputs it reads."""
        return self.served.graph.inputs_of(self.layers)

    @property
    def held_bytes(self) -> int:
        """Of the tensors that it reads, and of those that it makes."""
        graph = self.served.graph
        return graph.bytes_of(self.inputs) + graph.bytes_of(graph.outputs_of(self.layers))

    def job(self, arrays: Sequence[Array], future: "Future[Any] | None" = None) -> Job:
        """Its work on these tensors; `future` has the result."""
        served, layers = self.served, self.layers
        key = (served.hello.model, layers) if served.is_worth_batching(layers) else None
        return Job(
            lambda items: served.run(layers, items), arrays, self.deadline, self.peer, key, future=future or Future()
        )


class TokenError(AppError):
    """The edge does not know the token."""

    code = "TOKEN"


class UnknownModelError(AppError):
    """No such network here."""

    code = "UNKNOWN_MODEL"


class Cloud:
    """Answers edges. One object serves every connection; the worker's thread does all computing."""

    def __init__(
        self,
        config: CloudConfig,
        metrics: Metrics | None = None,
        visits: Visits | None = None,
        loaded: Sequence[tuple[registry.Entry, Network]] | None = None,
    ) -> None:
        """With `loaded`, networks that are loaded already, it serves those alone."""
        self._loaded = None if loaded is None else {entry.name: entry for entry, _ in loaded}
        self._config = config = self._prepared(config)
        self._visits = visits or Visits()
        self._accepting = receiving.accepting(config)
        self._worker = Worker(config.max_queue, config.max_batch, config.batch_wait_s)
        self._meter = LoadMeter()
        has_loader = loaded is None and self.computes
        self._networks = Networks(config, self._worker, self._meter, has_loader=has_loader)
        set_threads(config.device.threads)  # from here on torch has some, and no process is split off any more
        for entry, network in loaded or ():
            self._networks.hold(entry, network)
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
            config.small_per_s,
            config.grpc_port,
        )
        self._ageing = Ageing(config.connection_age_s, self.server.wait_for_stop)
        self._metrics = self.server.metrics
        self._metrics.watch(self._gauges())

    computes = True
    """Whether networks run in this process: otherwise it needs no torch."""

    def _prepared(self, config: CloudConfig) -> CloudConfig:
        """The configuration with every network by its full name. Raises UsageError for what is none."""
        if self._loaded is None and is_there(*TORCH):
            vision.torchvision()  # now: not on the first client's request, and not while a network is captured
        find = partial(registry.resolve_trusted, folder=config.device.cache_dir)
        more = tuple(find(name).name for name in config.networks)
        models = tuple(name if name == ALL else find(name).name for name in config.models)
        named = {registry.lookup(name).name if name else "": source for name, source in config.weights.items()}
        usual = registry.NAMES if self._loaded is None else tuple(self._loaded)
        check_device(config.device.name)
        return replace(config, weights=named, models=(*(models or usual), *more))

    def _gauges(self) -> Gauges:
        config = self._config
        return Gauges(
            lambda: self.server.count,
            lambda: self._worker.waiting,
            lambda: self._meter.load,
            lambda: self._speed,
            lambda: 0 if self._accepting is None else len(self._accepting.names),
            lambda: 0 if self._accepting is None else self._accepting.store.used_bytes,
            lambda: self._worker.queue_s,
            {
                "max_queue": config.max_queue,
                "max_connections": config.max_connections,
                "max_batch": config.max_batch,
            },
            lambda: self.server.peers,
            lambda: self._networks.held_bytes,
            lambda: self.server.blocked,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Of the networks that it serves; `all` among them for every one that there is."""
        return self._config.models

    def check_weights(self) -> None:
        """Read the weights that were named for a network, so that a wrong file is met before any edge is."""
        named = {name: source for name, source in self._config.weights.items() if name}
        if not named:
            return  # of bundles alone, perhaps, where there is no torch
        from edgecloud.models import weights

        for name, source in named.items():
            weights.load(registry.lookup(name), source)

    def begin(self) -> None:
        """It listens now. Raises AppError where it cannot serve."""

    def close(self) -> None:
        """End the worker; what it is doing has a moment to finish."""
        self._worker.close(CLOSE_S)
        self._networks.close()
        if self._accepting is not None:
            self._accepting.close()

    def _converse(self, peer: Peer) -> None:
        if self._config.tls is not None:
            self.server.take_turn(peer, Spending.HANDSHAKE, 1)
        hello = Deadline.after(self._config.hello_s, "no HELLO received")
        if self._config.tls is not None:
            peer.connection.secure(self._config.tls, hello)
        if peer.connection.is_grpc:
            peer.connection.take_call(hello, is_serving=not self.server.is_stopping)
        frame = peer.connection.receive(hello, is_unauthenticated=True)
        session = Session(peer, self._config.request_s, self.server, self._config.small_per_s)
        try:
            with contextlib.suppress(ClosedAtBoundaryError):  # it may still read: what it asked for is answered
                self._serve(session, frame)
            if session.failure is not None:
                raise session.failure
            session.arrivals.abandon(RequestError("the connection ended before all chunks had come"))
            session.finish()
        except MemoryError:
            raise BusyError("not enough memory, try again later", NO_MEMORY_S) from None
        finally:
            self._ageing.left(session)
            session.arrivals.leave()
            self._drop(session)
            session.close()
            self._visits.left(peer.name)
        peer.connection.end(END_S)

    def _drop(self, session: Session) -> None:
        """Forget what an edge asked for that has left."""
        self._worker.drop(session.peer)
        if self._accepting is not None:
            self._accepting.drop(session.peer)

    def _serve(self, session: Session, frame: Frame) -> None:
        """Answer frame after frame; what is computed is answered by the session's other thread."""
        while True:
            session.take(frame)
            if frame.kind is FrameType.HELLO:
                session.agree(self._greet(session, frame))
                self._ageing.agreed(session)
            elif frame.kind is FrameType.OFFER:
                self._receive_network(session, frame)
            else:
                self._answer(session, frame)
            session.end()
            if self.server.is_stopping and not session.peer.moves and not len(session.arrivals):
                return
            del frame  # and with it the payload, which would stay while nothing comes
            frame = self._next(session)

    def _next(self, session: Session) -> Frame:
        """Wait for the next frame; requests whose chunks do not come in time are abandoned meanwhile."""
        idle = Deadline.after(self._config.idle_s, f"the connection was idle for {self._config.idle_s:.0f} s")
        connection, arrivals = session.peer.connection, session.arrivals
        while True:
            until, before = arrivals.until(idle), connection.received_bytes
            try:
                return connection.receive(until, frame_s=self._config.request_s, is_unauthenticated=not session.agreed)
            except DeadlineError:
                if until is idle or connection.received_bytes != before:
                    raise
                arrivals.expire()

    def _check_token(self, token: str) -> None:
        if not is_token_right(self._config.token, token):
            raise TokenError(f"wrong token: use the same --token-file or {SECRET} on both sides")

    def _greet(self, session: Session, frame: Frame) -> Hello:
        """Agree on a network. A conversation keeps its name and digests only, or none could ever leave memory."""
        hello, peer = frame.read(Hello), session.peer
        self._check_token(hello.token)
        if self.server.is_stopping and not session.agreed:
            raise BusyError("the cloud is stopping")
        if self._config.is_worker:
            session.trust()
        ready = self._ready(session, hello)
        peer.connection.send(ready, Deadline.after(self._config.request_s, "READY"))
        self._look_at_speed()
        self._visits.connected(peer.name, hello.model)
        return hello

    def _ready(self, session: Session, hello: Hello) -> Ready:
        """What an edge is told of the network that it means. Raises what `_find` does."""
        served = self._find(hello, session.peer, Deadline.after(LOAD_S, "the network was not ready"))
        times = served.timing.quiet
        return Ready(
            seconds=list(times.seconds),
            start_s=list(times.start_s),
            queue_s=(served.worker or self._worker).queue_s,
            device=served.executor.machine.device,
            codecs=served.hello.codecs,
            max_payload=self._config.limits.payload_bytes,
            times=times.source,
            load=served.meter.load,
            backend=served.executor.machine.backend,
            speed=self._speed,
            backend_reason=served.why_backend[:MOST_REASON],
            chunks=MAX_CHUNKS,
            share=clamped(served.executor.share),
        )

    def _find(self, hello: Hello, peer: Peer, turn: Deadline) -> Served:
        """The network that an edge means. Raises MismatchError where ours is another one, also after a reload."""
        source, sent = self._source(peer), self._accepting
        is_wanted = lambda: not peer.connection.peer_has_left()  # noqa: E731
        if sent is not None and sent.is_held(hello.bundle):
            return sent.get(hello, turn, is_wanted, source)
        try:
            return self._networks.get(self._named(hello.model), hello, turn, is_wanted, source)
        except (UnknownModelError, MismatchError) as error:
            if sent is None or not receiving.may_send(self._config, peer):
                raise
            if sent.has(hello.bundle):
                return sent.get(hello, turn, is_wanted, source)
            error.accepts = sent.store.max_bytes
            raise

    def _source(self, peer: Peer) -> str | None:
        """Whose budget of loading is used; None for one that has no limit."""
        if peer.is_trusted:
            return None
        return source_of(peer.address, spares_loopback=self._config.policy.spares_loopback)

    def _receive_network(self, session: Session, frame: Frame) -> None:
        """Take a network that an edge offers. Raises UnknownModelError where none is taken, and TokenError."""
        offer = frame.read(Offer)
        self._check_token(offer.token)
        if self._accepting is None or not receiving.may_send(self._config, session.peer):
            raise UnknownModelError("this cloud takes no networks: start it with --accept-networks")
        if self.server.is_stopping:
            raise BusyError("the cloud is stopping")
        session.peer.is_known = session.peer.has_agreed = True
        receiving.receive(self._accepting, session, offer, self._source(session.peer), self._networks.is_serving)

    def _named(self, name: str) -> registry.Entry:
        """Raises UnknownModelError for a network that does not exist, or that the operator has not named."""
        served = self._config.models
        if self._loaded is not None:
            if name in self._loaded:
                return self._loaded[name]
            only = f"this cloud serves only {', '.join(served) or 'networks that edges send'}"
            raise UnknownModelError(f"{only}: add that network to ec.Cloud(networks=[...])")
        try:
            entry = registry.lookup(name)
        except UsageError as error:
            raise UnknownModelError(str(error)) from None
        if ALL not in served and entry.name not in served:
            cure = f"start it with --models {entry.name} or --models {ALL}"
            raise UnknownModelError(f"this cloud serves only {', '.join(served)}: {cure}")
        if entry.bundle is None and not is_there(*TORCH):
            raise UnknownModelError(f"this cloud has no torch for {entry.name}: start it with --network FILE.bundle")
        return entry

    def _infer(self, session: Session, frame: Frame) -> None:
        request, at = frame.read(Infer), time.perf_counter()
        described = self._without_sides(session, request, frame.described())
        deadline = Deadline.after(min(request.deadline_s, self._config.request_s), "the deadline of the request")
        try:
            served = self._find(session.hello(request.model), session.peer, deadline)
            layers = check_layers(request, served.graph, self._config.limits.payload_bytes)
            asked = Asked(request.id, served, layers, deadline, session.peer)
            if request.cuts:
                most = self._config.limits.payload_bytes
                check_cuts(request, layers, served.graph, most, is_bare=not described)
                session.arrivals.check_room(request.id)
            else:
                check_tensors(described, layers, served.graph)  # before anything is decoded
            decode_began = time.perf_counter()
            arrays = [one.decode() for one in [one.bound(session.sides) for one in described]]
            decode_s = time.perf_counter() - decode_began
        except (RequestError, UnknownSideError, BusyError, DeadlineError) as error:  # the stream is still in step
            session.arrivals.expect_dropped(request.id, chunks_of(request))
            session.refuse(request.id, error)
            return
        if request.cuts:
            self._expect_chunks(session, frame, request, asked)
            return
        job = asked.job(arrays)
        times = (frame.received_s, frame.timed_bytes, frame.timed_s)
        arrival = Arrival(request.id, served.label, at, decode_s, *times, session.peer.name, self._point_of(asked))
        self._metrics.received(arrival.model, bytes_by_codec(frame.header))
        try:
            self._answer_later(session, asked, job.future, lambda: arrival)
        except BusyError as error:
            session.refuse(request.id, error)
            return
        self._submit(asked, job)

    def _answer_later(
        self, session: Session, asked: "Asked", future: "Future[Any]", arrival: Callable[[], Arrival]
    ) -> None:
        """Wait for room, and answer when `future` is done; what came is known then. Raises BusyError."""
        session.answer_later(
            asked.request_id,
            future,
            lambda ran, queue_s: self._result(arrival(), ran, queue_s, asked.served),
            asked.held_bytes,
            lambda ran, queue_s, sent_bytes: self._on_answer(arrival(), ran, queue_s, sent_bytes),
        )
        if not asked.served.executor.has(asked.layers):
            session.charge(len(asked.layers) / LAYERS_PER_TOKEN)

    def _submit(self, asked: "Asked", job: Job) -> None:
        self._networks.give_way()
        (asked.served.worker or self._worker).submit(job)

    def _point_of(self, asked: "Asked") -> int | None:
        return None if isinstance(self._metrics, NoMetrics) else point_of(asked.served.graph, asked.layers)

    def _expect_chunks(self, session: Session, frame: Frame, request: Infer, asked: "Asked") -> None:
        """The tensors of a request come in chunks: there must be room for all of them now."""
        graph = asked.served.graph
        future: Future[Any] = Future()
        reads = [graph.layers[number] for number in asked.inputs]
        sink = self._sink(session, asked, request, reads, future)
        label, order = asked.served.label, request.rows
        arriving = Arriving(request.id, label, reads, request.cuts, asked.deadline, sink, future, order)
        arriving.train.take(frame)
        try:
            self._answer_later(session, asked, future, lambda: self._arrival_of(arriving, asked))
        except BusyError as error:
            session.arrivals.expect_dropped(request.id, chunks_of(request))
            session.refuse(request.id, error)
            return
        session.arrivals.begin(arriving)

    def _sink(
        self, session: Session, asked: "Asked", request: Infer, reads: Sequence[Layer], future: "Future[Any]"
    ) -> Sink:
        """What chunks are put into: a tail that runs by rows, where the edge wants that and it gains anything."""
        plan = None
        if request.rows:
            how = asked.layers, pieces_of(request, asked.inputs), request.until or None
            if not asked.served.has_tail_rows(*how):
                session.charge(len(asked.layers) * len(request.rows) / ROWS_PER_TOKEN)
            plan = asked.served.tail_rows(*how)
        if plan is None:
            return Whole(reads, request.cuts, lambda arrays: self._submit(asked, asked.job(arrays, future)))

        def submit(work: Callable[[], Ran | None]) -> "Future[tuple[Ran | None, float]]":
            job = Job(lambda _: [work()], None, asked.deadline, asked.peer)
            self._submit(asked, job)
            return job.future

        return ByRows(RowTail(asked.served, plan), submit, future)

    def _arrival_of(self, arriving: Arriving, asked: "Asked") -> Arrival:
        train = arriving.train
        at = time.perf_counter() - (time.monotonic() - train.ended_at)
        times = (arriving.decode_s, train.received_s, train.timed_bytes, train.timed_s)
        who = (asked.peer.name, self._point_of(asked))
        return Arrival(asked.request_id, asked.served.label, at, *times, *who, train.idle_s, is_in_chunks=True)

    def _chunk(self, session: Session, frame: Frame) -> None:
        """Unpack a chunk, while the next one travels."""
        chunk = frame.read(Chunk)
        try:
            arriving = session.arrivals.take(chunk, frame, session.sides)
        except RequestError as error:
            session.refuse(chunk.id, error)
            return
        if arriving is not None:
            self._metrics.received(arriving.label, arriving.bytes_by_codec)
            arriving.sink.complete()

    def _without_sides(self, session: Session, request: Infer, described: list[Described]) -> list[Described]:
        """The tensors that layers read. What came for the codecs is kept first, whatever becomes of the request: the
        edge will not send it again. Raises ProtocolError."""
        names = request.sides.split()
        if len(names) > min(len(described), MAX_SIDES):
            raise ProtocolError(f"data of more codecs than there are tensors, or than {MAX_SIDES}")
        count = len(described) - len(names)
        for name, one in zip(names, described[count:], strict=True):
            if one.dtype != "uint8" or one.nbytes > MAX_SIDE_BYTES:
                raise ProtocolError(f"the data of a codec must be at most {MAX_SIDE_BYTES} bytes")
            kind, _, digest = name.partition(":")
            session.sides.take(kind, digest, one.decode().tobytes())
            session.charge(1)
        return described[:count]

    def _on_answer(self, arrival: Arrival, ran: Ran, queue_s: float, sent_bytes: int) -> None:
        self._visits.answered(arrival.peer, arrival.model)
        whole_s = time.perf_counter() - arrival.at + arrival.received_s
        rate = arrival.timed_bytes / arrival.timed_s if arrival.timed_s > 0 else 0.0
        about = (arrival.peer, arrival.point, arrival.received_s, rate, ran.batch)
        spent = Spent(queue_s, arrival.decode_s, ran.seconds, whole_s, *about)
        self._metrics.answered(arrival.model, spent, {RAW: sent_bytes})

    def _result(self, arrival: Arrival, ran: Ran, queue_s: float, served: Served) -> Result:
        return Result(
            id=arrival.request_id,
            queue_s=queue_s,
            cloud_s=ran.seconds,
            load=served.meter.load,
            received_s=arrival.received_s,
            timed_bytes=arrival.timed_bytes,
            timed_s=arrival.timed_s,
            batch=ran.batch,
            decode_s=arrival.decode_s,
            speed=self._speed,
            backend="" if ran.backend == served.executor.machine.backend else ran.backend,
            idle_s=arrival.idle_s,
            rest_s=time.perf_counter() - arrival.at if arrival.is_in_chunks else 0.0,
        )

    @property
    def _speed(self) -> float:
        """Of this machine now, as far as it is known."""
        meter = self._networks.speed
        return 1.0 if meter is None else round(meter.now().value, 3)

    def _look_at_speed(self) -> None:
        """Have the worker measure how fast the machine is, in its turn, where no request told that lately.

        To be called when the answer has left: the client measures how long that takes, and counts what is queued. It
        ends as soon as a request waits.
        """
        meter, worker = self._networks.speed, self._worker
        if meter is None or not meter.is_due or worker.waiting:
            return
        look = partial(meter.look, PROBE_S, lambda: worker.waiting > 0)
        worker.submit(Job(lambda _: [look()], None, Deadline.after(PROBE_S, "a look")))

    def _probe(self, session: Session, frame: Frame) -> None:
        request = frame.read(Probe)
        if request.reply_bytes > MAX_PROBE_REPLY:
            session.refuse(request.id, RequestError(f"a probe reply is limited to {MAX_PROBE_REPLY} bytes"))
            return
        session.send(Probed(request.id), [np.zeros(request.reply_bytes, np.uint8)] if request.reply_bytes else [])

    def _status(self, session: Session, frame: Frame) -> None:
        request = frame.read(Status)
        if not session.agreed:
            self._check_token(request.token)
            session.peer.is_known = True
            if self._config.is_worker:
                session.trust()
        if request.stays and self.server.is_stopping:
            session.peer.moves = False
        session.send(self._state())
        self._look_at_speed()

    def _state(self) -> State:
        worker, server, sent = self._worker, self.server, self._accepting
        return State(
            load=self._meter.load,
            queue_s=worker.queue_s,
            waiting=worker.waiting,
            max_queue=self._config.max_queue,
            connections=server.count,
            draining=server.is_stopping,
            speed=self._speed,
            sent=" ".join(sent.names) if sent is not None else "",
            store_bytes=sent.store.used_bytes if sent is not None else 0,
        )

    def _answer(self, session: Session, frame: Frame) -> None:
        answers = {
            FrameType.INFER: self._infer,
            FrameType.CHUNK: self._chunk,
            FrameType.PROBE: self._probe,
            FrameType.STATUS: self._status,
        }
        if frame.kind not in answers:
            raise ProtocolError(f"unexpected {frame.kind.name} frame")
        answers[frame.kind](session, frame)
