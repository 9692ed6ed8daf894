"""Throughput and schedules, checked against a simulation and against brute force over all options and all orders."""

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecloud.models.graph import Layer, LayerGraph
from edgecloud.partition import chain
from edgecloud.partition.cost import CloudTimes, Link, Problem
from edgecloud.partition.schedule import APART, Job, Sharing, johnson, lower_bound, makespan, occupied_s, plan
from edgecloud.partition.throughput import Stages, best, is_light, mean, stages_of
from tests.conftest import many
from tests.models.test_graph import random_graph

# Rounding only.
EXACT = 1 + 1e-9
WHOLE = st.integers(0, 5)


def simulated(stages: Sequence[Stages]) -> float:
    """Last answer of tasks that queue at edge, link and cloud: events in time, first come, first served."""
    times = [(s.edge_s, s.link_s, s.cloud_s) for s in stages]
    waiting = [deque(range(len(stages))), deque[int](), deque[int]()]
    idle = [True, True, True]
    events: list[tuple[float, int, int]] = []
    now, last = 0.0, 0.0
    while True:
        for station, queue in enumerate(waiting):
            if idle[station] and queue:
                idle[station] = False
                heapq.heappush(events, (now + times[queue[0]][station], station, queue.popleft()))
        if not events:
            return last
        now, station, task = heapq.heappop(events)
        idle[station] = True
        if station < 2:
            waiting[station + 1].append(task)
        else:
            last = max(last, now + stages[task].delay_s)


def brute_force(jobs: Sequence[Job], groups: Sequence[int] | None = None, sharing: Sharing = APART) -> float:
    """Least makespan over all options and all orders, all combinations of options at once."""
    numbers = range(len(jobs))
    picks = np.array(list(itertools.product(*(range(len(job.options)) for job in jobs))))
    tables = [np.array([(o.edge_s, o.link_s, o.cloud_s, o.delay_s) for o in job.options]) for job in jobs]
    taken = [tables[number][picks[:, number]] for number in numbers]
    least = np.inf
    for order in itertools.permutations(numbers):
        if groups is not None and any(groups[a] < groups[b] for a, b in itertools.pairwise(order)):
            continue
        edge = link = cloud = end = np.zeros(len(picks))
        for number in order:
            edge = edge + taken[number][:, 0]
            link = np.maximum(edge, link) + taken[number][:, 1]
            cloud = np.maximum(link, cloud) + taken[number][:, 2]
            end = np.maximum(end, cloud + taken[number][:, 3])
        work = sum(table[:, 0] * sharing.edge + table[:, 2] * sharing.cloud for table in taken) / sharing.cores
        least = min(least, np.maximum(end, work).min())
    return float(least)


def planned(jobs: Sequence[Job], groups: Sequence[int] | None = None, sharing: Sharing = APART) -> float:
    """The makespan of `plan`, after a check that the plan is one and that it says the truth about itself."""
    found = plan(jobs, groups, sharing)
    assert sorted(found.order) == list(range(len(jobs)))
    stages = [jobs[number].options[found.chosen[number]] for number in found.order]
    assert found.makespan_s == pytest.approx(max(simulated(stages), occupied_s(stages, sharing)), abs=1e-12)
    assert found.bound_s <= found.makespan_s
    assert found.bound_s == pytest.approx(lower_bound(jobs, sharing), rel=1e-9)
    if groups is not None:
        in_order = [groups[number] for number in found.order]
        assert in_order == sorted(in_order, reverse=True)
    return found.makespan_s


def random_job(rng: random.Random, scale: Stages, most: int = 4) -> Job:
    """Up to `most` options with seconds up to those of `scale`, half of the time one of them all on the edge."""
    options = [
        Stages(*(limit * rng.random() for limit in (scale.edge_s, scale.link_s, scale.cloud_s, scale.delay_s)))
        for _ in range(rng.randint(1, most - 1))
    ]
    if rng.random() < 0.5:
        options.append(Stages(2 * scale.edge_s * rng.random(), 0, 0))
    return Job(tuple(options))


def chain_job(rng: random.Random, most: int = 4) -> Job:
    """Options as a network has them: heads grow, tails shrink, and the last one is all on the edge."""
    heads, tails = sorted(rng.random() for _ in range(most)), sorted(rng.random() for _ in range(most))
    options = [Stages(head, rng.random(), tail, 0.1) for head, tail in zip(heads, tails[::-1], strict=True)]
    return Job((replace(options[0], edge_s=0.0), *options[1:-1], Stages(heads[-1], 0, 0)))


SCALES = {
    "alike": Stages(1, 1, 1, 0),
    "round trips": Stages(1, 1, 1, 2),
    "cloud slower than edge": Stages(1, 1, 5, 0.1),
    "free link": Stages(1, 0, 1, 0),
    "slow link": Stages(1, 5, 0.2, 0.5),
    "fast edge, all on it is best": Stages(0.1, 1, 1, 0.5),
    "slow edge": Stages(5, 1, 0.2, 0.1),
}


def network(rng: random.Random, layers: int, edge_s: float, link: Link) -> Job:
    """A chain of layers with tensors that shrink unevenly and a cloud 15 times as fast, scanned as the program does."""
    sizes = [int(600_000 * rng.lognormvariate(0, 0.8) * 0.02 ** (n / layers)) + 4 for n in range(layers)]
    built = [Layer(f"l{n}", "k", (n - 1,) if n else (), size) for n, size in enumerate(sizes)]
    graph = LayerGraph("chain", tuple(built), (layers - 1,))
    weights = [0.0, *(rng.lognormvariate(0, 1) for _ in range(layers - 1))]
    seconds = [edge_s * weight / sum(weights) for weight in weights]
    cloud = CloudTimes([s / 15 for s in seconds], [0.001] * layers, load=1.5, queue_s=0.002)
    return Job(tuple(stages_of(c.predicted) for c in chain.scan(Problem(graph, seconds, cloud, link))))


@settings(max_examples=many(60, 200))
@given(st.lists(st.builds(Stages, WHOLE, WHOLE, WHOLE, WHOLE), max_size=7))
def test_the_makespan_is_that_of_a_simulation(stages: list[Stages]) -> None:
    assert makespan(stages) == simulated(stages)


def test_the_makespan_by_hand() -> None:
    assert makespan([]) == 0
    assert makespan([Stages(1, 2, 3, 4)]) == 10
    # The link is busy with the first until 5, and the round trip of the first ends after the second has finished.
    assert makespan([Stages(1, 4, 1, 9), Stages(2, 1, 1)]) == 15
    assert makespan([Stages(2, 1, 1), Stages(1, 4, 1, 9)]) == 17


def test_johnson_is_optimal_on_edge_and_link() -> None:
    rng = random.Random(1)
    for _ in range(20):
        stages = [Stages(rng.randrange(6), rng.randrange(6), 0) for _ in range(rng.randint(1, 7))]
        found = makespan([stages[number] for number in johnson(stages)])
        assert found == brute_force([Job((s,)) for s in stages])


def test_johnson_is_optimal_where_the_link_is_never_the_longest() -> None:
    rng = random.Random(2)
    for _ in range(40):
        stages = [Stages(3 + rng.random(), 3 * rng.random(), 5 * rng.random()) for _ in range(rng.randint(1, 6))]
        found = makespan([stages[number] for number in johnson(stages)])
        assert found <= brute_force([Job((s,)) for s in stages]) * EXACT


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES.keys())
def test_plans_equal_brute_force_or_nearly(scale: Stages) -> None:
    rng, equal = random.Random(3), 0
    for count in (1, 2, 2, 3, 3, 3, 4, 4, 4, 4, 5, 5):
        jobs = [random_job(rng, scale) for _ in range(count)]
        least, found = brute_force(jobs), planned(jobs)
        assert lower_bound(jobs) <= least * EXACT
        assert least <= found * EXACT <= 1.05 * least
        equal += found <= least * EXACT
    assert equal >= 11


@pytest.mark.parametrize("sharing", [Sharing(2, 2, 1), Sharing(2, 0.2, 2), Sharing(1), Sharing(1, 3, 0.1), Sharing(8)])
def test_a_machine_that_is_edge_and_cloud_is_bounded_by_its_cores(sharing: Sharing) -> None:
    rng, equal = random.Random(6), 0
    for count in (1, 2, 3, 3, 4, 4):
        jobs = [chain_job(rng) for _ in range(count)]
        least, found = brute_force(jobs, sharing=capped(sharing)), planned(jobs, sharing=sharing)
        assert lower_bound(jobs, sharing) <= least * EXACT
        assert least <= found * EXACT <= 1.05 * least
        equal += found <= least * EXACT
    assert equal >= 4


def capped(sharing: Sharing) -> Sharing:
    """A stage occupies no more cores than there are."""
    return replace(sharing, edge=min(sharing.edge, sharing.cores), cloud=min(sharing.cloud, sharing.cores))


def test_with_one_core_for_both_the_work_adds_up() -> None:
    jobs = [Job((Stages(1, 0.1, 2),))] * 10
    assert lower_bound(jobs) == pytest.approx(1.1 + 10 * 2)
    assert lower_bound(jobs, Sharing(1)) == pytest.approx(10 * 3)
    assert lower_bound(jobs, Sharing(2, 0.5, 2)) == pytest.approx(10 * (0.25 + 2))
    for wrong in ((0.0, 1.0, 1.0), (2.0, -1.0, 1.0), (2.0, 1.0, math.nan)):
        with pytest.raises(ValueError, match="cores"):
            Sharing(*wrong)


def test_plans_of_networks_alike_and_different_equal_brute_force_or_nearly() -> None:
    """Networks are the hardest cases: no option is much worse than its neighbours."""
    rng, equal = random.Random(4), 0
    for count in (2, 3, 3, 4, 4, 4, 4, 5, 5, 5):
        for jobs in ([chain_job(rng)] * count, [chain_job(rng) for _ in range(count)]):
            least, found = brute_force(jobs), planned(jobs)
            assert lower_bound(jobs) <= least * EXACT
            assert least <= found * EXACT <= 1.05 * least
            equal += found <= least * EXACT
    assert equal >= 19


def test_the_bound_holds_whatever_is_chosen() -> None:
    rng = random.Random(5)
    for _ in range(100):
        jobs = [random_job(rng, rng.choice(list(SCALES.values()))) for _ in range(rng.randint(1, 12))]
        bound_s = lower_bound(jobs)
        for _ in range(20):
            stages = [rng.choice(job.options) for job in rng.sample(jobs, len(jobs))]
            assert bound_s <= makespan(stages)


def test_the_bound_is_met_where_one_stage_is_all() -> None:
    stages = [Stages(1, 2, 0.5, 0.25), Stages(2, 3, 0.25), Stages(3, 2, 0.125)]
    # One starts first and one ends last: 1 before the uploads, 0.125 after them.
    assert lower_bound([Job((s,)) for s in stages]) == pytest.approx(1 + 7 + 0.125)
    assert planned([Job((s,)) for s in stages]) == pytest.approx(8.125)
    assert planned([Job((Stages(3, 0, 0), Stages(1, 9, 9)))] * 4) == pytest.approx(12)
    assert lower_bound([Job((Stages(3, 0, 0),))] * 4) == pytest.approx(12)


@pytest.mark.parametrize("upload", [3e5, 1e6, 1e7], ids=["slow link", "middling link", "fast link"])
def test_a_hundred_identical_tasks_end_near_the_bound(upload: float) -> None:
    jobs = [network(random.Random(6), 22, 1.0, Link(upload, upload, 0.03))] * 100
    assert planned(jobs) <= 1.05 * lower_bound(jobs)


@pytest.mark.parametrize("upload", [3e5, 1e6, 1e7], ids=["slow link", "middling link", "fast link"])
def test_a_mix_of_networks_ends_near_the_bound(upload: float) -> None:
    rng = random.Random(7)
    link = Link(upload, upload, 0.03)
    kinds = [network(rng, layers, rng.uniform(0.2, 2), link) for layers in (20, 45, 90, 150)]
    jobs = kinds * 10
    rng.shuffle(jobs)
    assert planned(jobs) <= 1.05 * lower_bound(jobs)


def test_plans_are_no_worse_than_jps_for_identical_networks() -> None:
    """JPS: two cuts, each for some of the tasks; here every pair of cuts in every proportion."""
    rng = random.Random(8)
    for count in (5, 12):
        job = network(rng, 8, 1.0, Link(1e6, 1e6, 0.01))
        mixes = (
            [first] * number + [second] * (count - number)
            for first, second in itertools.combinations(job.options, 2)
            for number in range(count + 1)
        )
        jps = min(makespan([mix[number] for number in johnson(mix)]) for mix in mixes)
        assert planned([job] * count) <= jps * EXACT


def test_mixing_two_cuts_beats_every_single_cut() -> None:
    """The point of JPS: one cut fills the link, the other the edge."""
    early, late = Stages(1, 3, 0), Stages(3, 1, 0)
    alone = min(makespan([option] * 10) for option in (early, late))
    assert planned([Job((early, late))] * 10) == pytest.approx(21)
    assert alone == 31


def test_higher_groups_start_first_and_plans_still_equal_brute_force_or_nearly() -> None:
    rng = random.Random(9)
    for count in (2, 3, 4, 5):
        for scale in SCALES.values():
            jobs = [random_job(rng, scale, 3) for _ in range(count)]
            groups = [rng.choice([-1, 0, 7]) for _ in jobs]
            least = brute_force(jobs, groups)
            assert least <= planned(jobs, groups) * EXACT <= 1.05 * least


def test_one_group_is_no_group() -> None:
    rng = random.Random(10)
    jobs = [chain_job(rng) for _ in range(12)]
    assert plan(jobs, [3] * 12) == plan(jobs)


def test_the_same_jobs_get_the_same_plan() -> None:
    jobs = [chain_job(random.Random(number % 5), 12) for number in range(30)]
    assert plan(jobs) == plan([Job(tuple(job.options)) for job in jobs])


def test_no_job_one_job_and_jobs_with_one_option() -> None:
    nothing = plan([])
    assert (nothing.order, nothing.chosen, nothing.makespan_s, nothing.bound_s) == ((), (), 0, 0)
    assert plan([], []) == nothing
    alone = plan([Job((Stages(5, 0, 0), Stages(1, 1, 1, 1), Stages(1, 1, 1, 2)))])
    assert (alone.order, alone.chosen, alone.makespan_s) == ((0,), (1,), 4)
    assert alone.bound_s == pytest.approx(4)
    assert planned([Job((Stages(0, 0, 0),))] * 3) == 0
    assert plan([Job((Stages(2, 1, 1),)), Job((Stages(1, 2, 1),))]).chosen == (0, 0)


def test_options_of_very_different_length_are_no_trouble() -> None:
    jobs = [Job((Stages(1e7, 0, 0), Stages(2e-4, 1e-3, 1e-4), Stages(1e-3, 2e-4, 1e-4)))] * 9
    least = min(makespan([jobs[0].options[1]] * number + [jobs[0].options[2]] * (9 - number)) for number in range(10))
    assert lower_bound(jobs) <= least
    assert planned(jobs) <= least * EXACT <= 1.25 * lower_bound(jobs)


def test_jobs_and_groups_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one option"):
        Job(())
    for seconds in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="finite"):
            Job((Stages(1, 1, 1), Stages(1, seconds, 1)))
    with pytest.raises(ValueError, match="1 jobs, but 2 group numbers"):
        plan([Job((Stages(1, 1, 1),))], [1, 2])


def test_the_best_option_has_the_shortest_longest_stage() -> None:
    rng = random.Random(11)
    for _ in range(300):
        options = [Stages(*(rng.randrange(4) for _ in range(4))) for _ in range(rng.randint(1, 6))]
        found = options[best(options)]
        rank = (max(found.edge_s, found.link_s, found.cloud_s), found.total_s)
        assert all(rank <= (max(o.edge_s, o.link_s, o.cloud_s), o.total_s) for o in options)
    with pytest.raises(ValueError, match="no option"):
        best([])


def test_a_long_stream_runs_at_the_rate_of_the_longest_stage() -> None:
    stages = Stages(0.2, 0.5, 0.3, 2)
    assert makespan([stages] * 10_000) / 10_000 == pytest.approx(stages.longest_s, rel=1e-3)


def test_stages_add_up_to_the_predicted_latency() -> None:
    rng = random.Random(12)
    for _ in range(100):
        graph = random_graph(rng, rng.randint(2, 9))
        size = len(graph.layers)
        cloud = CloudTimes([rng.random() for _ in range(size)], [0.1] * size, 1 + rng.random(), rng.random())
        link = Link(rng.uniform(1, 99), rng.uniform(1, 99), rng.random())
        candidates = chain.scan(Problem(graph, [rng.random() for _ in range(size)], cloud, link))
        stages = [stages_of(candidate.predicted) for candidate in candidates]
        assert [s.total_s for s in stages] == pytest.approx([c.predicted.total_s for c in candidates])
        assert all(s.link_s == c.boundary_bytes / link.up_bytes_per_s for s, c in zip(stages, candidates, strict=True))
        delays = [c.predicted.transfer_s + c.predicted.queue_s for c in candidates]
        assert [s.link_s + s.delay_s for s in stages] == pytest.approx(delays)
        assert (stages[-1].link_s, stages[-1].cloud_s, stages[-1].delay_s) == (0, 0, 0)


def test_load_is_light_while_the_longest_stage_of_the_mix_keeps_up() -> None:
    mix = [Stages(0.1, 0.4, 0.1, 9), Stages(0.4, 0.1, 0.1, 9)]
    average = mean(mix, [1, 3])
    assert (average.edge_s, average.link_s, average.cloud_s, average.delay_s) == pytest.approx((0.325, 0.175, 0.1, 9))
    assert is_light(mix, [1, 1], 3.9)  # a task takes 0.25 s of edge and of link on average
    assert not is_light(mix, [1, 1], 4.1)
    assert not is_light(mix, [1, 0], 3.9)
    assert is_light(mix, [2, 0], 2.4)
    assert is_light(mix, [1, 1], 0)
    for weights in ([1], [0, 0], [1, -1], [float("nan"), 1]):
        with pytest.raises(ValueError, match="weight"):
            is_light(mix, weights, 1)


def test_a_bound_that_cannot_be_found_is_an_error_and_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scipy.optimize.linprog", lambda *_: SimpleNamespace(success=False, message="too hard"))
    with pytest.raises(ArithmeticError, match="too hard"):
        lower_bound([Job((Stages(1, 2, 1),))] * 4)
