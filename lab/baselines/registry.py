"""The baselines, by the names that specs and records have. Light: a method is imported when it is used.

A new baseline is a row in `BASELINES`: a `FixedPoint`, or a `Method` whose function stands in a module of this package.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from edgecloud.lab.baselines.inputs import JPEG, PIXELS, RAW, BaselineInputs, CellInfo, Choice, Needs
from edgecloud.utils.errors import UsageError

POINT, AUTO, AUTO_RAW = "point", "auto", "auto-raw"
"""Who chose, if not a baseline: the author of the spec; the edge; the edge with uncompressed tensors."""
OF_THE_OBJECTIVE = (AUTO, AUTO_RAW)
"""Those that choose by the objective; all others do the same under each, and are measured once."""
CONTENDERS = "contenders"
"""In place of `all` points: those that can be the best (lab.pruning)."""
ALL_EDGE, ALL_CLOUD, IN_BUDGET = "all-edge", "all-cloud", "all-cloud-in-budget"
HERE = __name__.rpartition(".")[0]


class Baseline(Protocol):
    """A way to choose a cut."""

    @property
    def name(self) -> str:
        """As specs and records have it."""

    @property
    def needs(self) -> Needs:
        """The times that `choose` has to be given."""

    @property
    def cloud_flag(self) -> str:
        """The flag that the lab's cloud is started with for it, or ""."""

    def choose(self, inputs: BaselineInputs) -> Choice:
        """The cut. Raises UsageError where times are missing that it needs."""

    def points_text(self, cell: CellInfo) -> str:
        """The cut in a cell, as `edge_api.py --points` takes it. Raises AppError where it cannot choose."""


@dataclass(frozen=True)
class FixedPoint:
    """The same point everywhere, -1 being the last one."""

    name: str
    point: int
    codec: str
    cloud_flag: str = ""
    needs: Needs = Needs.NOTHING

    def choose(self, inputs: BaselineInputs) -> Choice:
        """The point, with what it leaves on the edge."""
        number = self.point % len(inputs.graph.points)
        return Choice(self.name, inputs.graph.head_at(number), number, self.codec)

    def points_text(self, cell: CellInfo) -> str:
        """As `choose`; the network need not be built for it."""
        return f"{self.point % cell.points}:{self.codec}"


@dataclass(frozen=True)
class Method:
    """A function from BaselineInputs to a Choice."""

    name: str
    function: str
    """`MODULE:FUNCTION` in this package."""
    needs: Needs
    cloud_flag: str = ""

    def choose(self, inputs: BaselineInputs) -> Choice:
        """What the function answers, and raises."""
        module, _, function = self.function.partition(":")
        found = getattr(importlib.import_module(f"{HERE}.{module}"), function)
        return cast(Callable[[BaselineInputs], Choice], found)(inputs)

    def points_text(self, cell: CellInfo) -> str:
        """As `choose`, with the saved times of the cell and the rate that its edge measured."""
        from edgecloud.lab.baselines import loader  # and with it the predictors

        inputs = loader.of_cell(cell, {self.needs})
        return self.choose(inputs).points_text(inputs.graph)


ROWS: tuple[Baseline, ...] = (
    FixedPoint(ALL_EDGE, -1, RAW),
    FixedPoint(ALL_CLOUD, 0, RAW),
    FixedPoint("all-cloud-8bit", 0, PIXELS),
    FixedPoint("all-cloud-jpeg", 0, JPEG, cloud_flag="--allow-jpeg"),
    Method(IN_BUDGET, "ends:cloud_in_budget", Needs.CALIBRATED, cloud_flag="--allow-jpeg"),
    Method("neurosurgeon", "published:neurosurgeon", Needs.REGRESSED),
    Method("dads", "published:dads", Needs.MEASURED),
    Method("static-best", "online:static_best", Needs.MEASURED),
    Method("ans", "online:ans", Needs.MEASURED),
)
BASELINES = {row.name: row for row in ROWS}


def check(names: Sequence[str]) -> None:
    """Refuse a name that a spec cannot have. Raises UsageError."""
    _require_known(names, (AUTO, AUTO_RAW, *BASELINES))


def baseline(name: str) -> Baseline:
    """One of them. Raises UsageError for a name that there is not."""
    _require_known([name], tuple(BASELINES))
    return BASELINES[name]


def points_text(name: str, cell: CellInfo) -> str:
    """What the edge of a cell is asked to measure for a name of a spec other than `auto`. Raises AppError where the
    baseline cannot choose."""
    return f"{AUTO}:{RAW}" if name == AUTO_RAW else BASELINES[name].points_text(cell)


def needs(names: Sequence[str]) -> set[Needs]:
    """The times that have to be there where these are measured."""
    return {BASELINES[name].needs for name in names if name in BASELINES}


def cloud_flags(names: Sequence[str]) -> list[str]:
    """What the lab's cloud has to be started with where these are measured."""
    flags = [BASELINES[name].cloud_flag for name in names if name in BASELINES]
    return list(dict.fromkeys(flag for flag in flags if flag))


def _require_known(names: Sequence[str], known: Sequence[str]) -> None:
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        raise UsageError(f"no baseline {unknown[:40]!r}: choose {', '.join(known)}")
