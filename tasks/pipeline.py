"""The pipeline: the head of one task runs while another is sent and a third is on the cloud.

One thread computes (the caller of `run`), the connection has one that sends and one that receives, and every line
between them is bounded. A task whose request is refused or lost is completed on the edge, from the boundary that is
still held.
"""

import heapq
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgecloud.client.connection_manager import ConnectionManager
from edgecloud.client.fallback import RETRIES, reserve_s
from edgecloud.client.handshake import RefusedError
from edgecloud.client.multiplexed import MovedError, Request
from edgecloud.engine.answers import NETWORK_NOT_FINITE, NOT_FINITE, is_finite, is_finite_alike
from edgecloud.engine.packing import is_lossless, pack
from edgecloud.models.network import arrays_of
from edgecloud.net.messages import Error, Result
from edgecloud.net.tensors import Array
from edgecloud.partition.cost import NO_TIMES, StageTimes
from edgecloud.partition.schedule import makespan
from edgecloud.partition.throughput import Stages
from edgecloud.tasks.correcting import MeasuredStage
from edgecloud.tasks.fleet import Fleet
from edgecloud.tasks.planner import Line, Planner, TaskPlan
from edgecloud.tasks.tasks import Task
from edgecloud.utils.errors import AppError, ProtocolError
from edgecloud.utils.units import printable

WAITING = 2  # boundaries that wait for the link while another one travels
MOST_WAITING = 32  # while the edge is about to compute for longer than the cloud has work
MOST_HELD_BYTES = 32 << 20
SHARE_OF_TIMEOUT = 0.5  # of --timeout, in which the edge could finish all of them by itself
NAP_S = 0.2  # longest sleep of the thread that computes, which looks after time-outs when it wakes up


@dataclass
class TaskRecord:
    """What became of a task. Moments are seconds after the start."""

    task: Task
    choice: TaskPlan | None = None
    started_s: float = 0.0
    """The head began."""
    head_done_s: float = 0.0
    sent_s: float = 0.0
    """The first byte of the boundary left."""
    done_s: float = 0.0
    times: StageTimes = NO_TIMES
    """Its stages, where `upload_s` is from the first byte of the request to its last, as the cloud saw it."""
    batch: int = 0
    codec: str = ""
    """Of what was sent; empty: nothing was."""
    tries: int = 0
    completed_by: str = ""
    """split, edge, cloud, or fallback: completed on the edge after the cloud did not answer. Empty: failed."""
    error: str = ""
    outputs: list[Array] = field(default_factory=list)
    names: tuple[str, ...] = ()
    """What each output is called in the network's answer."""
    top: int | None = None
    """The class with the largest output."""
    matches: bool | None = None
    """Whether it is the whole network's answer; where rounded tensors made it, whether the class is."""
    max_abs_diff: float | None = None
    """None where it was not checked, or where no number says it: see `difference`."""
    difference: str = ""
    """Why `max_abs_diff` is not a number although the answer was checked."""

    @property
    def total_s(self) -> float:
        """Seconds from the start of the head to the answer."""
        return self.done_s - self.started_s

    @property
    def latency_s(self) -> float:
        """Seconds from the arrival to the answer."""
        return self.done_s - self.task.arrival_s

    @property
    def is_rounded(self) -> bool:
        """Whether the answer comes from tensors that a lossy codec has packed."""
        return self.completed_by in ("split", "cloud") and not is_lossless(self.codec.split(","))

    @property
    def is_late(self) -> bool:
        """Whether the answer came after the deadline."""
        return self.done_s > self.task.due_s


@dataclass
class _Flying:
    """A request under way, and the task that it belongs to."""

    record: TaskRecord
    request: Request
    values: dict[int, Array]
    theirs: tuple[Array, ...] = ()
    """What the cloud answered, where that has to be looked at again: it holds NaN or infinity."""


class Pipeline:
    """Runs tasks. `ended` is called with every one that has ended, by the thread that computes."""

    def __init__(
        self,
        fleet: Fleet,
        planner: Planner,
        cloud: ConnectionManager,
        *,
        is_serial: bool,
        timeout_s: float = math.inf,
        has_fallback: bool = True,
    ) -> None:
        self._fleet, self._planner, self._cloud = fleet, planner, cloud
        self._is_serial, self._timeout_s, self._has_fallback = is_serial, timeout_s, has_fallback
        self._changed = threading.Condition()
        self._flying: dict[Request, _Flying] = {}
        self._here: list[_Flying] = []
        """Tails that have to be computed here."""
        self._again: list[tuple[float, int, _Flying]] = []
        """Requests that a busy cloud should be asked again, by moment."""
        self._retries = 0
        self._answered_at = 0.0
        """When the cloud answered last."""
        self.started = 0.0
        """The moment of time.perf_counter at which `run` began."""
        self._is_stopping = False
        self._over: list[TaskRecord] = []
        """Tasks that have ended, and nobody was told yet."""
        self.records: list[TaskRecord] = []
        self.ended: Callable[[TaskRecord], None] = lambda _: None

    def stop(self) -> None:
        """Start nothing new; what is in flight is finished. Safe in a signal handler."""
        self._is_stopping = True

    @property
    def now_s(self) -> float:
        """Seconds after the start."""
        return time.perf_counter() - self.started

    @property
    def in_flight(self) -> int:
        """Tasks that have started and not ended."""
        return len(self._flying) + len(self._here) + len(self._again)

    @property
    def _may_start(self) -> bool:
        """Whether another task may begin."""
        return not self._is_stopping and not (self._is_serial and self.in_flight)

    def run(self) -> list[TaskRecord]:
        """Run every task; returns when the last one has ended. Raises what `ended` raises."""
        self.started = time.perf_counter()
        while (step := self._next()) is not None:
            step()
        return self.records

    def _tell(self, records: Sequence[TaskRecord]) -> None:
        for record in records:
            self.records.append(record)
            self.ended(record)

    # --- what is next; the thread that computes

    def _next(self) -> Callable[[], None] | None:
        while True:
            self._cloud.hang_up_if_overdue()
            with self._changed:
                backlog_s = self._backlog_s()
            # it may take long: not with the lock held
            self._planner.refresh(self.now_s, self._fleet.conditions(self._cloud.conditions()), backlog_s)
            with self._changed:
                if self._over:
                    over, self._over = self._over, []
                    return lambda: self._tell(over)
                if self._here:
                    flying = self._here.pop(0)
                    self._flying[flying.request] = flying
                    return lambda: self._finish_here(flying)
                self._ask_again()
                if self._may_start and (step := self._next_task(backlog_s)) is not None:
                    return step
                if not self.in_flight and (self._is_stopping or not self._planner.left):
                    return None
                self._changed.wait(self._pause_s())

    def _next_task(self, backlog_s: float) -> Callable[[], None] | None:
        now_s = self.now_s
        line = Line(self._has_room(), self._may_queue_more(), backlog_s)
        assignment = self._planner.take(now_s, line)
        if assignment is None:
            return None
        task, choice = assignment
        if now_s >= task.due_s:
            return lambda: self._fail(TaskRecord(task, started_s=now_s), "its deadline has passed")
        return lambda: self._start(task, choice)

    def _has_room(self) -> bool:
        """Whether a boundary would fit into the queue for the link; without a cloud the next plan is all on the
        edge."""
        client = self._cloud.client
        return client is None or client.has_room(WAITING)

    def _backlog_s(self) -> float:
        """Predicted seconds until the link and the cloud have done what they were given."""
        out = list(self._flying.values())
        if not out:
            return 0.0
        ahead = [
            Stages(0.0, 0.0 if flying.request.sent_at else choice.stages.link_s, choice.stages.cloud_s)
            for flying in out
            if (choice := flying.record.choice) is not None
        ]
        running_s = time.perf_counter() - max(self._answered_at, out[0].request.sent_at or math.inf)
        return makespan(ahead) - min(max(0.0, running_s), ahead[0].cloud_s if ahead else 0.0)

    def _may_queue_more(self) -> bool:
        """Whether more may wait for the link than usual: memory has a limit, and so has the time that they may take."""
        client = self._cloud.client
        if client is None or not client.has_room(MOST_WAITING, MOST_WAITING):
            return False
        out = [flying.request for flying in self._flying.values()]
        held_bytes, here_s = sum(one.payload_bytes for one in out), sum(one.here_s for one in out)
        return held_bytes < MOST_HELD_BYTES and reserve_s(here_s) < SHARE_OF_TIMEOUT * self._timeout_s

    def _ask_again(self) -> None:
        while self._again and self._again[0][0] <= time.perf_counter():
            flying = heapq.heappop(self._again)[-1]
            self._flying[flying.request] = flying
            self._submit(flying)

    def _pause_s(self) -> float:
        pauses = [NAP_S]
        if self._again:
            pauses.append(self._again[0][0] - time.perf_counter())
        arrival_s = self._planner.next_arrival_s()
        if self._may_start and arrival_s is not None:
            pauses.append(arrival_s - self.now_s)
        return max(0.0, min(pauses))

    # --- computing

    def _start(self, task: Task, choice: TaskPlan) -> None:
        """Run the head; hand the boundary over if there is a tail."""
        record = TaskRecord(task, choice)
        try:
            x = self._fleet.fed(task)
        except AppError as error:  # it could be read before
            self._fail(record, str(error))
            return
        member = self._fleet.members[task.model]
        graph = member.network.graph
        head = frozenset(range(choice.layer + 1))
        segment = member.executor.load(head)
        record.started_s = self.now_s
        ran = member.executor.run(segment, arrays_of(x))
        member.timing.ran(head, ran)
        if not ran.is_first:
            self._planner.ran(task.model, "edge", MeasuredStage(head, ran.seconds, self.now_s))
        record.head_done_s, record.times = self.now_s, StageTimes(ran.seconds)
        values = dict(zip(segment.outputs, ran.arrays, strict=True))
        if choice.is_local:
            self._complete(record, "edge", [values[number] for number in graph.outputs])
            self._keep(record)
            return
        boundary = [np.asarray(values[number], order="C") for number in graph.boundary(head)]
        here_s = sum(member.timing.current.seconds[number] for number in graph.everything - head)
        flying = _Flying(
            record, Request(0, task.model, graph, graph.everything - head, boundary, here_s=here_s), values
        )
        with self._changed:
            self._flying[flying.request] = flying
        self._submit(flying)

    def _submit(self, flying: _Flying) -> None:
        request, client = flying.request, self._cloud.client
        if client is None:
            self._end_all([request], AppError("no cloud available"))
            return
        self._pack(flying, client.ready[request.model].codecs)
        client.submit(request)

    def _pack(self, flying: _Flying, codecs: Sequence[str]) -> None:
        """Pack the boundary, unless it is packed for this cloud already.

        Here, by the thread that computes, and not by the one that sends: packing is work for the same processor, and
        what waits for the link is ready to leave, so the link does not stand idle while a tensor is packed. Forty tasks
        planned with measured seconds end 5 to 10 % sooner so over 5 mbit, and at the same time from 20 mbit on.
        """
        request, record, choice = flying.request, flying.record, flying.record.choice
        if choice is None or (request.packed and all(one.codec in codecs for one in request.packed)):
            return
        member, crossing = self._fleet.members[request.model], request.graph.inputs_of(request.tail)
        sided = [member.sided.get((number, choice.codec)) for number in crossing]
        names = [choice.codec] * len(request.boundary)
        request.packed, encode_s = pack(member.executor, request.boundary, names, codecs, sided)
        sizes = {"payload_bytes": request.payload_bytes, "raw_bytes": sum(one.nbytes for one in request.boundary)}
        record.times = replace(record.times, encode_s=record.times.encode_s + encode_s, **sizes)
        record.codec = ",".join(dict.fromkeys(one.codec for one in request.packed))

    def _finish_here(self, flying: _Flying) -> None:
        """The tail, from the boundary that is still held."""
        request, record = flying.request, flying.record
        executor = self._fleet.members[request.model].executor
        segment = executor.load(request.tail)
        ran = executor.run(segment, request.boundary)
        record.times = record.times.plus(StageTimes(ran.seconds))
        values = flying.values | dict(zip(segment.outputs, ran.arrays, strict=True))
        outputs = [values[number] for number in request.graph.outputs]
        if not flying.theirs:
            self._complete(record, "fallback", outputs)
        else:
            self._judge(flying, outputs)
        self._keep(record, request)

    def _judge(self, flying: _Flying, ours: list[Array]) -> None:
        """Whether NaN and infinity of the cloud are those of the network."""
        request, record = flying.request, flying.record
        if is_finite_alike(flying.theirs, ours):
            record.error = ""
            self._complete(record, ran_by(request), ours)
            return
        self._cloud.blame(ProtocolError(NOT_FINITE))
        if self._has_fallback:
            self._complete(record, "fallback", ours)
        else:
            record.done_s = self.now_s

    def _complete(self, record: TaskRecord, by: str, outputs: list[Array]) -> None:
        """There is an answer; one whose first output is not a number counts as none, as for edge_api.py."""
        record.done_s = self.now_s
        if is_finite(outputs[:1]):
            record.completed_by, record.outputs = by, outputs
            record.names = self._fleet.members[record.task.model].network.answer.names
        else:
            record.error = NETWORK_NOT_FINITE

    # --- what became of requests; the connection's threads

    def departed(self, request: Request) -> None:
        """There is room in the line for the link."""
        del request
        with self._changed:
            self._changed.notify()

    def answered(self, request: Request, result: Result, arrays: list[Array]) -> None:
        """The cloud answered."""
        now_s = self.now_s
        with self._changed:
            flying = self._flying[request]
            self._answered_at = time.perf_counter()
        record = flying.record
        record.times = replace(
            record.times,
            upload_s=result.received_s,
            queue_s=result.queue_s,
            decode_s=result.decode_s,
            cloud_s=result.cloud_s,
            received_bytes=sum(array.nbytes for array in arrays),
        )
        self._note_try(flying)
        record.batch = result.batch
        values = flying.values | dict(zip(request.graph.outputs_of(request.tail), arrays, strict=True))
        outputs = [values[number] for number in request.graph.outputs]
        if not is_finite(outputs):
            self._doubt(flying, outputs)
            return
        if result.batch == 1:  # what a task takes of a batch is not known layer by layer
            self._planner.ran(request.model, "cloud", MeasuredStage(request.tail, result.cloud_s, now_s))
        self._cloud.on_result(result)
        self._cloud.on_success()
        record.completed_by = ran_by(request)
        record.done_s, record.outputs = now_s, outputs
        self._keep(record, request)

    def _doubt(self, flying: _Flying, outputs: Sequence[Array]) -> None:
        """An answer with NaN or infinity may be the cloud's fault or the network's: run the tail here and see."""
        with self._changed:
            del self._flying[flying.request]
            flying.record.error, flying.theirs = NOT_FINITE, tuple(outputs)
            self._here.append(flying)
            self._changed.notify()

    def _end_here(self, flying: _Flying) -> None:
        """The cloud has not done it: the edge does, or without a fallback the task has failed. With the lock held."""
        if self._has_fallback:
            self._here.append(flying)
        else:
            flying.record.done_s = self.now_s
            self._over.append(flying.record)

    def _note_try(self, flying: _Flying) -> None:
        request, record = flying.request, flying.record
        record.tries = request.tries
        record.sent_s = max(0.0, request.sent_at - self.started)

    def refused(self, request: Request, error: Error) -> None:
        """A busy cloud is asked again later; on any other reply the edge completes the task."""
        refusal = RefusedError(error)
        pause_s = self._cloud.on_failure(refusal, request.tries)
        with self._changed:
            flying = self._flying.pop(request)
            self._note_try(flying)
            moment = time.perf_counter() + (pause_s or 0.0)
            left_s = flying.record.head_done_s + self._timeout_s - (moment - self.started)
            if pause_s is not None and left_s > reserve_s(request.here_s):
                self._retries += 1
                heapq.heappush(self._again, (moment, self._retries, flying))
            else:
                flying.record.error = f"the cloud refused: {printable(error.text, 200)}"
                self._end_here(flying)
            self._changed.notify()
        self._cloud.give_up(printable(str(refusal), 200))  # where it has refused too often

    def lost(self, requests: Sequence[Request], error: AppError) -> None:
        """The connection is gone: finish them here, or hand over anew what was handed over while it was left."""
        if isinstance(error, MovedError):
            for request in requests:
                self._submit(self._flying[request])
            return
        if requests:
            self._cloud.on_failure(error, RETRIES + 1)  # none of them is repeated: the edge has the time for them
        self._end_all(requests, error)

    def _end_all(self, requests: Sequence[Request], error: AppError) -> None:
        with self._changed:
            for request in requests:
                flying = self._flying.pop(request)
                self._note_try(flying)
                flying.record.error = printable(str(error), 200)
                self._end_here(flying)
            self._changed.notify()

    # --- ends

    def _fail(self, record: TaskRecord, error: str) -> None:
        record.done_s, record.error = self.now_s, error
        self._keep(record)

    def _keep(self, record: TaskRecord, request: Request | None = None) -> None:
        with self._changed:  # both at once: `run` returns when nothing is in flight any more
            self._over.append(record)
            if request is not None:
                del self._flying[request]
            self._changed.notify()


def ran_by(request: Request) -> str:
    """`cloud` where it ran every layer, else `split`."""
    return "cloud" if request.tail == request.graph.everything - request.graph.only_inputs else "split"


def stages_of(record: TaskRecord) -> Stages:
    """Seconds that a task occupied edge, link and cloud; of a batch on the cloud its part, but it unpacks alone."""
    times = record.times
    cloud_s = times.decode_s + times.cloud_s / max(1, record.batch)
    return Stages(times.edge_s + times.encode_s, times.upload_s, cloud_s)
