"""The least time that any plan could have taken, with stages as long as they were in the run. Pure.

A plan's own bound holds for its predictions. To judge a run, the stages of every option are corrected by measured over
predicted seconds, summed over all tasks of that run, and taken at the best conditions that there were.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from edgecloud.partition.schedule import APART, Job, Sharing, lower_bound
from edgecloud.partition.throughput import Stages
from edgecloud.tasks.tasks import Task

Way = tuple[int, str]
"""A point, and the codec of the boundary tensor there."""


@dataclass
class Options:
    """What every network could be cut and packed like, each at the best conditions so far."""

    of: dict[str, dict[Way, Stages]] = field(default_factory=dict)

    def note(self, model: str, ways: Iterable[tuple[Way, Stages]]) -> None:
        """Add the options of a plan."""
        known = self.of.setdefault(model, {})
        for way, stages in ways:
            known[way] = stages if way not in known else _least(known[way], stages)


def _least(one: Stages, other: Stages) -> Stages:
    return Stages(
        min(one.edge_s, other.edge_s),
        min(one.link_s, other.link_s),
        min(one.cloud_s, other.cloud_s),
        min(one.delay_s, other.delay_s),
    )


def least_s(
    tasks: Sequence[Task],
    options: Options,
    ran: Sequence[tuple[Stages, Stages]],
    *,
    sharing: Sharing = APART,
    is_serial: bool = False,
) -> float | None:
    """Seconds that no plan for these tasks could have beaten; with `is_serial` no plan of one after the other.

    `ran` has the predicted and the measured stages of the tasks that ran as planned. None where there is nothing to
    judge by, or the solver fails.
    """
    if not ran or any(task.model not in options.of for task in tasks):
        return None
    factors = _factors(ran)
    jobs = {model: Job(tuple(_scaled(one, factors) for one in ways.values())) for model, ways in options.of.items()}
    alone_s = {model: min(option.total_s for option in job.options) for model, job in jobs.items()}
    if is_serial:
        return sum(alone_s[task.model] for task in tasks)
    last_s = max((task.arrival_s + alone_s[task.model] for task in tasks), default=0.0)
    try:
        return max(last_s, lower_bound([jobs[task.model] for task in tasks], sharing))
    except ArithmeticError:
        return None


def _factors(ran: Sequence[tuple[Stages, Stages]]) -> Mapping[str, float]:
    """Measured over predicted of each stage, 1 where nothing was predicted."""
    sums = {name: [sum(getattr(pair[side], name) for pair in ran) for side in (0, 1)] for name in STAGES}
    return {name: measured / predicted if predicted > 0 else 1.0 for name, (predicted, measured) in sums.items()}


STAGES = ("edge_s", "link_s", "cloud_s")


def _scaled(stages: Stages, factors: Mapping[str, float]) -> Stages:
    return Stages(delay_s=stages.delay_s, **{name: getattr(stages, name) * factors[name] for name in STAGES})
