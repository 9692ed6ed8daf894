"""One call of tasks_edge_api.py: prepare, run the tasks, verify. cli.task_report shows the outcome."""

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from edgecloud.client.clouds import CloudAddress
from edgecloud.client.connection_manager import ConnectionManager, connection_of
from edgecloud.client.fallback import first_wait_s, is_covered
from edgecloud.client.handshake import is_nobody
from edgecloud.client.shipping import shipping_of
from edgecloud.client.subprocesses import CloudAccess, own_cloud_threads
from edgecloud.engine.answers import is_same_top, matches, max_abs_diff, told_difference, top_of
from edgecloud.engine.packing import check_taken
from edgecloud.engine.speed import QUIET, Speed
from edgecloud.engine.times import Times
from edgecloud.models import registry
from edgecloud.net.link import LinkEstimate
from edgecloud.net.monitor import Monitor
from edgecloud.net.recorder import Recorder
from edgecloud.net.tensors import Array
from edgecloud.partition.schedule import APART, Sharing
from edgecloud.predictor.reference import cores_at_work
from edgecloud.tasks import bound
from edgecloud.tasks.fleet import Fleet, inputs_for, known_models, pictures_in
from edgecloud.tasks.pipeline import Pipeline, TaskRecord, stages_of
from edgecloud.tasks.planner import ClosedQueue, Move, OpenQueue, Planner, Profiled
from edgecloud.tasks.tasks import RejectedLine, Task, arriving, draw, read_file
from edgecloud.tasks.tasks_config import TasksConfig
from edgecloud.utils import addresses
from edgecloud.utils.errors import AppError, UsageError
from edgecloud.utils.files import write_atomically
from edgecloud.utils.inference_utils import available_cores, check_device, set_threads
from edgecloud.utils.progress import Show
from edgecloud.utils.units import printable

log = logging.getLogger(__name__)

NO_LINK = LinkEstimate(0.0, 0.0, 0.0, "none")


@dataclass(frozen=True)
class TasksOutcome:
    """Everything that one call found out. Moments are seconds after the start of the run."""

    problems: tuple[RejectedLine, ...]
    skipped: int
    """Tasks that an earlier call had done."""
    records: tuple[TaskRecord, ...] = ()
    wall_s: float = 0.0
    first_link: LinkEstimate = NO_LINK
    history: tuple[tuple[float, float], ...] = ()
    """The upload in bytes per second as estimated over time."""
    moves: tuple[Move, ...] = ()
    bound_s: float | None = None
    """What no choice of cuts and no order could have beaten, with stages as long as they were."""
    planned_s: float | None = None
    """Of a closed queue: what its plan was predicted to take."""
    planned_bound_s: float | None = None
    """The same of any plan, by the same predictions."""
    sent_bytes: int = 0
    probes: int = 0
    probe_bytes: int = 0
    connects: int = 0
    moved: int = 0
    """How many of them because a cloud asked for that."""
    cloud_place: str = ""
    """Where the cloud is that was used last; "" for none."""
    cloud_error: str = ""
    """Why there was no cloud when it was looked for last, where it was missed at all."""
    is_interrupted: bool = False
    left: int = 0
    objective: str = ""
    edge_speed: Speed = QUIET
    """How fast this machine was at the end beside itself when it is quiet, and how sure that is ..."""
    cloud_speed: float | None = None
    """... and the cloud, as it said last; None where there was none."""


@dataclass
class TasksRun:
    """A running call, for displays."""

    total: int = 0
    done: int = 0
    pipeline: Pipeline | None = None
    cloud: ConnectionManager | None = None
    is_stopped: bool = False
    on_answer: Callable[[TaskRecord], None] | None = None
    """Is given every task with its outputs, which are not kept after that."""

    def begin(self, total: int, pipeline: Pipeline, cloud: ConnectionManager) -> None:
        """From now on there is something to show, and to stop."""
        self.total, self.cloud, self.pipeline = total, cloud, pipeline
        if self.is_stopped:
            pipeline.stop()

    def stop(self) -> bool:
        """Start nothing new. False where nothing has begun, or this was asked for before. Safe in a signal handler."""
        is_first, self.is_stopped = not self.is_stopped, True
        if self.pipeline is None:
            return False
        self.pipeline.stop()
        return is_first


OnRecord = Callable[[TasksRun, TaskRecord], None]
"""Is given every task that has ended."""


def run(config: TasksConfig, progress: Show, on_record: OnRecord, call: TasksRun) -> TasksOutcome:
    """Do what the configuration says. Raises AppError for what goes wrong for an outside reason before they start."""
    with ExitStack() as stack:
        recorder = None if config.link.record is None else stack.enter_context(Recorder(config.link.record))
        tasks, problems = gather(config)
        journal = None if config.tasks_file is None else Journal(config.tasks_file, is_resumed=config.is_resumed)
        skipped = 0
        if journal is not None:
            remaining = [task for task in tasks if not journal.has(task)]
            skipped, tasks = len(tasks) - len(remaining), remaining
        cloud = CloudAccess.of(stack, config, "tasks_cloud_api.py")
        if tasks:
            cloud.start()  # it loads while we do
        fleet = make_fleet(config, tasks, progress)
        wrong = fleet.check(tasks)
        problems += wrong
        refused = {problem.line for problem in wrong}
        tasks = [task for task in tasks if task.id not in refused]
        if not tasks and not skipped:
            first = f": {_where(config, problems[0])}" if problems else ""
            raise UsageError(f"no runnable task{first}")
        if not tasks:
            return TasksOutcome(tuple(problems), skipped)
        progress("waiting for the cloud", 0.0)
        address = cloud.address(is_checked=config.cloud.fallback != "always")
        more = cloud.more()
        if config.rate_per_s is not None:
            tasks = arriving(tasks, config.rate_per_s, config.seed)
        prepared = _Prepared(config, tasks, problems, skipped, fleet, address, journal, recorder, more)
        return _run_tasks(prepared, progress, on_record, call)


def _where(config: TasksConfig, problem: RejectedLine) -> str:
    return f"{config.tasks_file or 'task'}, line {problem.line}: {problem.text}"


@dataclass(frozen=True)
class _Prepared:
    """The tasks that are left to do, and what they need."""

    config: TasksConfig
    tasks: Sequence[Task]
    problems: Sequence[RejectedLine]
    skipped: int
    fleet: Fleet
    address: tuple[str, int]
    journal: "Journal | None"
    recorder: Recorder | None
    more: tuple[CloudAddress, ...]
    """Further clouds."""


def _run_tasks(prepared: _Prepared, progress: Show, on_record: OnRecord, call: TasksRun) -> TasksOutcome:
    config, fleet, journal = prepared.config, prepared.fleet, prepared.journal
    planner = make_planner(config, prepared.tasks, fleet, progress)
    checker = Checker(fleet) if config.verify else None
    with ExitStack() as stack:
        cloud = _manager_of(prepared)
        stack.callback(cloud.close)
        cloud.listener = pipeline = _pipeline(config, fleet, planner, cloud)
        pipeline.ended = lambda record: _ended(call, record, journal, on_record, checker)
        progress("waiting for the cloud, then probing the link", 0.0)
        _open(config, fleet, cloud)
        call.begin(len(prepared.tasks), pipeline, cloud)
        _warm_up(fleet, planner, cloud)
        monitor = Monitor(cloud.tick, config.interval_s)
        stack.callback(monitor.stop)
        stack.callback(cloud.leave)  # before: a connection that is being opened would be waited for
        if journal is not None:
            journal.begin()
        monitor.start()
        pipeline.run()
        wall_s = pipeline.now_s
        if checker is not None:
            checker.check(progress)
        outcome = _outcome(prepared, planner, cloud, pipeline)
        return replace(outcome, first_link=cloud.first_link or NO_LINK, wall_s=wall_s, is_interrupted=call.is_stopped)


def _pipeline(config: TasksConfig, fleet: Fleet, planner: Planner, cloud: ConnectionManager) -> Pipeline:
    has_fallback = config.cloud.fallback != "off"
    return Pipeline(
        fleet, planner, cloud, is_serial=config.is_serial, timeout_s=config.cloud.timeout_s, has_fallback=has_fallback
    )


def _open(config: TasksConfig, fleet: Fleet, cloud: ConnectionManager) -> None:
    """Connect to the cloud, or continue without one as far as `--fallback` covers that. Raises AppError."""
    if config.cloud.fallback == "always":
        here_s = max(sum(member.timing.current.seconds) for member in fleet.members.values())
        cloud.open_in_background(first_wait_s(here_s, config.cloud.timeout_s))
        return
    try:
        cloud.open()
    except AppError as error:
        has_left = config.cloud.fallback == "on" and cloud.has_connected and is_nobody(error)  # between two connections
        if not has_left and not is_covered(error, config.cloud.fallback):
            raise
        log.warning("running everything on the edge until the cloud is reachable: %s", printable(str(error), 200))
    for ready in (cloud.conditions().ready or {}).values():
        check_taken(config.codec.name, ready.codecs)


def _manager_of(prepared: _Prepared) -> ConnectionManager:
    config, members = prepared.config, prepared.fleet.members
    shipping = shipping_of(config, prepared.address, [(each.entry, each.network) for each in members.values()])
    settings = connection_of(config, prepared.address, prepared.recorder, config.interval_s, shipping, prepared.more)
    hellos = [member.hello(config.cloud.token) for member in members.values()]
    return ConnectionManager(
        settings, hellos, {name: len(member.network.graph.layers) for name, member in members.items()}
    )


def _outcome(prepared: _Prepared, planner: Planner, cloud: ConnectionManager, pipeline: Pipeline) -> TasksOutcome:
    """What can be told once the last task has ended."""
    return TasksOutcome(
        problems=tuple(sorted(prepared.problems, key=lambda problem: problem.line)),
        skipped=prepared.skipped,
        records=tuple(pipeline.records),
        history=tuple((moment - pipeline.started, rate) for moment, rate in cloud.history),
        moves=tuple(planner.moves),
        bound_s=_bound_s(prepared, planner, pipeline),
        planned_s=planner.makespan_s,
        planned_bound_s=planner.bound_s,
        sent_bytes=cloud.sent_bytes,
        probes=cloud.probes,
        probe_bytes=cloud.probe_bytes,
        connects=cloud.connects,
        moved=cloud.moved,
        cloud_place=cloud.place,
        cloud_error=cloud.why,
        left=planner.left,
        objective=planner.objective,
        edge_speed=prepared.fleet.speed,
        cloud_speed=cloud.speed,
    )


def _bound_s(prepared: _Prepared, planner: Planner, pipeline: Pipeline) -> float | None:
    done = [record for record in pipeline.records if record.completed_by]
    ran = [
        (record.choice.predicted, stages_of(record))
        for record in done
        if record.choice is not None and record.completed_by != "fallback"
    ]
    return bound.least_s(
        [record.task for record in done],
        planner.options,
        ran,
        sharing=sharing_of(prepared.config, prepared.fleet),
        is_serial=prepared.config.is_serial,
    )


def sharing_of(config: TasksConfig, fleet: Fleet) -> Sharing:
    """Whether edge and cloud are one machine, and how much of it each occupies."""
    if config.cloud.own is None and not all(map(addresses.is_here, config.cloud.hosts)):
        return APART
    edge = min(
        (member.executor.machine.threads * member.executor.share for member in fleet.members.values()), default=1.0
    )
    cloud = 1 if config.cloud.own is None else own_cloud_threads()  # of a cloud that was given only that it computes
    return Sharing(cores_at_work(available_cores()), edge, cloud)


def _ended(
    call: TasksRun, record: TaskRecord, journal: "Journal | None", on_record: OnRecord, checker: "Checker | None"
) -> None:
    call.done += 1
    if record.outputs:
        record.top = top_of(record.outputs[0])
        if call.on_answer is not None and record.completed_by:
            call.on_answer(record)
    if journal is not None and record.completed_by:
        journal.note(record)
    if checker is not None:
        checker.keep(record)
    record.outputs = []
    on_record(call, record)


def gather(config: TasksConfig) -> tuple[list[Task], list[RejectedLine]]:
    """The tasks, and what is wrong with lines of their file. Raises UsageError where there are none at all."""
    problems: list[RejectedLine] = []
    entries = [registry.resolve_trusted(model, config.device.cache_dir) for model in config.models]
    if config.tasks_file is not None:
        tasks, problems = read_file(config.tasks_file)
    else:
        pictures: list[str] = []
        if config.image_dir is not None:
            pictures, bad = pictures_in(config.image_dir)
            problems += [RejectedLine(0, text) for text in bad]
        tasks = draw(config.tasks, config.seed, [e.name for e in entries], lambda name: inputs_for(name, pictures))
    tasks, unknown = known_models(tasks)
    return tasks, problems + unknown


def make_fleet(config: TasksConfig, tasks: Sequence[Task], progress: Show) -> Fleet:
    """Build every network that a task needs."""
    check_device(config.device.name)
    set_threads(1 if config.cpu_share is not None else config.device.threads)
    times = Times.of(config.device, "edge")
    fleet = Fleet(config.device.name, config.cpu_share, times, config.weights, config.device.backend)
    for model in dict.fromkeys(task.model for task in tasks):
        progress(f"loading {model}", 0.0)
        fleet.add(registry.lookup(model), lambda done, model=model: progress(f"measuring {model}", done))  # type: ignore[misc]
    return fleet


def make_planner(config: TasksConfig, tasks: Sequence[Task], fleet: Fleet, progress: Show) -> Planner:
    """A closed queue, or open arrivals."""
    profiles = {}
    for name, member in fleet.members.items():
        allowed = fleet.allowed(name, tasks, config.codec, lambda done, name=name: progress(f"packing {name}", done))  # type: ignore[misc]
        profiles[name] = Profiled(member.network.graph, member.timing.quiet.seconds, allowed)
    if config.rate_per_s is None:
        return ClosedQueue(tasks, profiles, is_serial=config.is_serial, sharing=sharing_of(config, fleet))
    return OpenQueue(tasks, profiles, config.rate_per_s)


def _warm_up(fleet: Fleet, planner: Planner, cloud: ConnectionManager) -> None:
    """What torch and the solver do only the first time is not the first task's fault."""
    fleet.look()
    planner.refresh(0.0, fleet.conditions(cloud.conditions()))
    for member in fleet.members.values():
        graph = member.network.graph
        member.executor.warm_up(member.executor.load(graph.everything), member.network.example.arrays)


class Checker:
    """Compares every answer with the whole network's, after the run. Answers are kept until then."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._answers: list[tuple[TaskRecord, list[Array]]] = []

    def keep(self, record: TaskRecord) -> None:
        """Remember an answer."""
        if record.completed_by:
            self._answers.append((record, record.outputs))

    def check(self, progress: Show) -> None:
        """Run the whole network for every different input."""
        expected: dict[tuple[str, str], list[Array]] = {}
        for done, (record, outputs) in enumerate(self._answers):
            progress("checking against the full models", done / len(self._answers))
            key = (record.task.model, record.task.input)
            if key not in expected:
                expected[key] = self._fleet.whole(record.task)
            record.matches = (is_same_top if record.is_rounded else matches)(outputs, expected[key])
            record.max_abs_diff, record.difference = told_difference(max_abs_diff(outputs, expected[key]))


class Journal:
    """Which lines of a tasks file are done, and what came of them, in a file beside it, so that --resume can go on."""

    def __init__(self, tasks_file: Path, *, is_resumed: bool) -> None:
        self.path = tasks_file.with_name(f"{tasks_file.name}.done")
        self._is_resumed = is_resumed
        self._keys = self._read() if is_resumed else set()
        self._is_broken = False

    def _read(self) -> set[tuple[int, str, str]]:
        keys: set[tuple[int, str, str]] = set()
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read {self.path}: {error}") from None
        for line in lines:
            try:
                row = json.loads(line)
                keys.add((int(row["id"]), str(row["model"]), str(row["input"])))
            except (ValueError, TypeError, KeyError):
                continue  # the last line of a call that was killed
        return keys

    def has(self, task: Task) -> bool:
        """Whether an earlier call did this very line."""
        return (task.id, task.model, task.input) in self._keys

    def begin(self) -> None:
        """Start anew, unless an earlier call is resumed."""
        if not self._is_resumed:
            self._try(lambda: write_atomically(self.path, ""))

    def note(self, record: TaskRecord) -> None:
        """It is done now."""
        task = record.task
        row = {"id": task.id, "model": task.model, "input": task.input, "completed_by": record.completed_by}
        row |= {"top": record.top, "total_s": round(record.total_s, 6)}
        self._try(lambda: self._append(f"{json.dumps(row)}\n"))

    def _append(self, line: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line)

    def _try(self, write: Callable[[], None]) -> None:
        """Tasks are worth more than the journal: where it cannot be written that is said once."""
        if self._is_broken:
            return
        try:
            write()
        except OSError as error:
            self._is_broken = True
            log.warning("cannot write %s, so --resume will repeat these tasks: %s", self.path, error.strerror or error)
