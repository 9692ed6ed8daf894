"""A cloud is kept busy while a long task runs on the edge: the pipeline's rules, played through in simulated time."""

import heapq
import random
from dataclasses import replace
from statistics import median

import pytest

from edgecloud.client.conditions import Conditions
from edgecloud.net.link import LinkEstimate
from edgecloud.net.messages import Ready
from edgecloud.partition.throughput import Stages
from edgecloud.tasks.pipeline import MOST_WAITING, WAITING
from edgecloud.tasks.planner import ALL, ClosedQueue, Line, Profiled, TaskPlan, next_of
from edgecloud.tasks.tasks import Task
from tests.models.test_graph import chain

WINDOW = 6


class World:
    """The edge starts what the queue gives it; link and cloud serve one task after the other."""

    def __init__(self, queue: ClosedQueue, *, is_fed: bool, edge: float = 1.0, cloud: float = 1.0) -> None:
        """`edge` and `cloud` take that much longer than predicted."""
        self.queue, self.is_fed, self.edge, self.cloud = queue, is_fed, edge, cloud
        self.conditions: Conditions | None = None
        """Where the plan is to be made anew when it goes wrong."""
        self.now = self.link_free = self.cloud_free = 0.0
        self.out: list[tuple[float, float]] = []
        """When each request that is out begins to travel, and when it is back."""

    def step(self) -> bool:
        """Start one task, or wait for an answer; False once all have been given out."""
        self.out = [times for times in self.out if times[1] > self.now]
        waiting = sum(begins > self.now for begins, _ in self.out)
        has_room = waiting < WAITING and len(self.out) < WINDOW
        backlog_s = max(0.0, self.cloud_free - self.now)
        if self.conditions is not None:
            self.queue.refresh(self.now, self.conditions, backlog_s)
        line = Line(has_room, len(self.out) < MOST_WAITING, backlog_s) if self.is_fed else Line(has_room, False)
        pair = self.queue.take(self.now, line)
        if pair is not None:
            self.run(pair[1])
        elif self.queue.left:
            self.now = min((back for _, back in self.out), default=self.now)
        return pair is not None or bool(self.queue.left)

    def run(self, choice: TaskPlan) -> None:
        stages = replace(
            choice.stages, edge_s=choice.stages.edge_s * self.edge, cloud_s=choice.stages.cloud_s * self.cloud
        )
        self.now += stages.edge_s
        if choice.is_local:
            return
        before = heapq.nlargest(WINDOW, (back for _, back in self.out))
        free = before[-1] if len(before) == WINDOW else 0.0  # a cloud takes no more at once
        begins = max(self.now, self.link_free, free)
        self.link_free = begins + stages.link_s
        self.cloud_free = max(self.cloud_free, self.link_free) + stages.cloud_s
        self.out.append((begins, self.cloud_free + stages.delay_s))

    def ends_s(self) -> float:
        while self.step():
            pass
        return max(self.now, *(back for _, back in self.out), 0.0)


def queue_of(rng: random.Random, urgent: int = 0) -> ClosedQueue:
    """Small networks that are quick anywhere, and large ones that take long on the edge, of which it gets a few."""
    known, ready = {}, {}
    for name, work_s in (("small", 0.01), ("medium", 0.25), ("large", 2.5)):
        graph = chain([60, 50, 40, 30, 20])
        shares = [rng.random() for _ in graph.layers[1:]]
        seconds = [0.0, *(work_s * share / sum(shares) for share in shares)]
        known[name] = Profiled(graph.__class__(name, graph.layers, graph.outputs), seconds)
        ready[name] = Ready([s / 4 for s in seconds], [0.0] * len(seconds), 0.0, "cpu", ["raw"], 1 << 20, "measured")
    link = LinkEstimate(2000.0, 2000.0, 0.01, "given")
    tasks = [
        Task(n, rng.choice(["small", "small", "medium", "medium", "large"]), priority=n < urgent) for n in range(40)
    ]
    queue = ClosedQueue(tasks, known)
    queue.refresh(0.0, Conditions(link, ready, max_payload=1 << 20))
    return queue


@pytest.mark.parametrize(("edge", "cloud"), [(2.0, 1.0), (1.0, 2.0), (0.5, 1.0), (1.0, 0.5)])
def test_where_one_side_runs_out_of_work_the_rest_is_planned_anew(edge: float, cloud: float) -> None:
    """Nobody says that the seconds are wrong: it is seen from who stands idle."""
    gains = []
    for seed in (0, 3, 9, 18, 19):
        worlds = [World(queue_of(random.Random(seed)), is_fed=True, edge=edge, cloud=cloud) for _ in range(2)]
        worlds[1].conditions = worlds[1].queue._conditions
        kept_s, anew_s = (world.ends_s() for world in worlds)
        gains.append(kept_s / anew_s)
    assert min(gains) > 0.93
    assert max(gains) > 1.05


def test_a_run_ends_soon_after_its_bound_and_never_later_than_without_feeding_the_cloud() -> None:
    ratios, gains = [], []
    for seed in (0, 3, 9, 18, 19, 22, 33, 34):
        fed, starved = queue_of(random.Random(seed)), queue_of(random.Random(seed))
        assert fed.bound_s is not None
        ends_s = World(fed, is_fed=True).ends_s()
        ratios.append(ends_s / fed.bound_s)
        gains.append(World(starved, is_fed=False).ends_s() / ends_s)
    assert min(ratios) >= 1 - 1e-9
    assert median(ratios) < 1.07
    assert max(ratios) < 1.2
    assert min(gains) > 0.97
    assert median(gains) > 1.3, "and without it most runs are clearly longer"


def test_what_starts_next_is_short_then_feeds_the_cloud_then_long() -> None:
    stages = {
        "short": Stages(0.1, 0, 0),
        "short head": Stages(0.1, 0.3, 0.4),
        "long": Stages(2.0, 0, 0),
        "long head": Stages(2.0, 0.3, 0.4),
    }

    def first(names: str, line: Line) -> str | None:
        each = names.split(", ")
        number = next_of([TaskPlan(0, 0, "raw", stages[name], "makespan") for name in each], line, len(each))
        return None if number is None else each[number]

    everything = "long head, long, short head, short"
    assert first(everything, ALL) == "long head"
    assert first(everything, Line(True, True, 1.0)) == "short head"
    assert first("long head, long, short", Line(True, True, 1.0)) == "short"
    assert first("long head, long", Line(True, True, 1.0)) == "long head"
    assert first(everything, Line(False, True, 1.0)) == "short"
    assert first("long, short head", Line(False, True, 1.0)) == "short head"
    assert first("long, short head", Line(False, False, 1.0)) == "long"
    assert first("long head, long", Line(False, True, 3.0)) == "long"
    assert first("long head, short head", Line(False, True, 3.0)) == "long head"
    assert first("short head", Line(False, True, 3.0)) is None, "the cloud has enough to do: wait"
    assert first("short head", Line(True, False, 0.0)) == "short head"


def test_no_task_goes_before_a_more_urgent_one_while_there_is_room() -> None:
    queue = queue_of(random.Random(1), urgent=3)
    started = []
    while (pair := queue.take(0.0, Line(True, True, 0.1))) is not None:
        started.append(pair[0].priority)
    assert started == sorted(started, reverse=True)
