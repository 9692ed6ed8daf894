"""Results of each cell, and cells in grids of devices and links. Pure.

A row with another answer than the whole network's keeps its times, but is never the best.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from edgecloud.lab.baselines.inputs import JPEG
from edgecloud.lab.baselines.registry import ALL_CLOUD, ALL_EDGE, AUTO, AUTO_RAW, IN_BUDGET, OF_THE_OBJECTIVE, POINT
from edgecloud.lab.grid import LEAST_POINTS
from edgecloud.lab.pruning import Floor, heads_of, is_rival
from edgecloud.lab.records import Cell
from edgecloud.lab.regret import MeasuredCut, Regret, noise_of, regret
from edgecloud.lab.report.rows import PARTS, Row, Spread


def _seconds(row: Row) -> Spread | None:
    return row.stages["total"]


def _energy(row: Row) -> Spread | None:
    return row.energy_j


def _longest(row: Row) -> Spread | None:
    return max((row.stages[name] for name in PARTS), key=lambda stage: stage.median)


JUDGES: dict[str, Callable[[Row], Spread | None]] = {"latency": _seconds, "energy": _energy, "throughput": _longest}
"""What is least, by objective; of a row that was measured. Other objectives are judged by time."""


def judge_of(objective: str) -> Callable[[Row], Spread | None]:
    """What the best cut of a cell has least of."""
    return JUDGES.get(objective, _seconds)


@dataclass(frozen=True)
class CellResult:
    """All that was measured in one cell."""

    cell: Cell
    rows: tuple[Row, ...]
    borrowed: tuple[Row, ...] = ()
    """Those of the same cell under another objective that do not depend on it, where this one has none."""
    least_points: int = 1
    """How many fixed points have to be known before one of them is called the best."""
    floor: Floor | None = None
    """What an inference costs at least at each point, if the records have the boundary sizes."""

    def value(self, row: Row | None) -> float | None:
        """What is least in this cell, of a row; None where it was not measured."""
        spread = self._judged(row)
        return None if spread is None else spread.median

    def _judged(self, row: Row | None) -> Spread | None:
        return None if row is None or not row.is_measured else judge_of(self.cell.objective)(row)

    def _run(self, row: Row) -> MeasuredCut | None:
        """A row for `lab.regret`; None where it was not measured or gave a wrong answer."""
        spread = None if row.wrong else self._judged(row)
        cut = (row.point, "" if row.ran_here else row.codec)
        return None if spread is None else MeasuredCut(cut, spread.median, spread.low, spread.high)

    @property
    def everything(self) -> tuple[Row, ...]:
        """Its own rows, then the borrowed ones."""
        return (*self.rows, *self.borrowed)

    @cached_property
    def points(self) -> tuple[Row, ...]:
        """The fixed points, in order."""
        return tuple(sorted((row for row in self.everything if row.who == POINT), key=_place))

    @cached_property
    def ranked(self) -> tuple[Row, ...]:
        """The fixed points that were measured and gave the right answer, the best one first."""
        pairs = [(value, row) for row in self.points if (value := self.value(row)) is not None and not row.wrong]
        return tuple(row for _, row in sorted(pairs, key=lambda pair: pair[0]))

    @cached_property
    def beaten(self) -> frozenset[int]:
        """Points that need not be measured: whatever they take, it is more than the least here."""
        good = [row for row in self.everything if row.is_measured and not row.wrong]
        codecs = {row.asked.rpartition(":")[2] for row in self.points}
        rivals = [row for row in good if is_rival(row.who, row.point, row.asked, codecs, ran_here=row.ran_here)]
        values = [value for row in rivals if (value := self.value(row)) is not None]
        if self.floor is None or not values:
            return frozenset()
        heads_s = heads_of((row.point, row.edge_s) for row in good if row.edge_s is not None)
        return self.floor.beaten(heads_s, min(values)) - {row.point for row in self.points}

    @property
    def known(self) -> int:
        """How many fixed points were measured, or cannot be the best, which only counts where none is left."""
        points = next((row.points for row in self.rows if row.points), None)
        is_whole = len({row.point for row in self.points} | self.beaten) == points
        return len(self.ranked) + (len(self.beaten) if is_whole else 0)

    @property
    def best(self) -> Row | None:
        """The best fixed point; None where fewer than three (or all) are known, or than half of those of the grid."""
        return self.ranked[0] if self.ranked and self.known >= self.least_points else None

    @property
    def runner_up(self) -> Row | None:
        """The fixed point that comes second."""
        return self.ranked[1] if len(self.ranked) > 1 else None

    def by(self, who: str) -> Row | None:
        """The row of a baseline, or of the automatic choice, if it was measured."""
        return next((row for row in self.everything if row.who == who and row.is_measured), None)

    @property
    def auto(self) -> Row | None:
        """The automatic choice."""
        return self.by(AUTO)

    @property
    def all_edge(self) -> Row | None:
        """Everything on the edge: the point, or else the baseline of that name."""
        rows = (row for row in self.points if row.is_measured and row.ran_here)
        return next(rows, self.by(ALL_EDGE))

    @property
    def all_cloud(self) -> Row | None:
        """Everything on the cloud, sent as it is."""
        rows = (row for row in self.points if row.is_measured and row.point == 0 and row.codec == "raw")
        return next(rows, self.by(ALL_CLOUD))

    @cached_property
    def better_end(self) -> Row | None:
        """The end that takes less, each with the best codec that was measured; None where one was not. A JPEG counts
        only within the budget, which the automatic choice and a baseline see to."""
        values = [(value, row) for row in self.everything if (value := self.value(row)) is not None and _is_end(row)]
        has_both = len({row.ran_here for _, row in values}) == 2
        return min(values, key=lambda pair: pair[0])[1] if has_both else None

    @property
    def gain(self) -> tuple[float, Row, Row] | None:
        """How many times less the automatic choice takes than the better end, where there is none the best fixed point,
        with both rows; None where one was not measured."""
        chosen = self.choice if self.choice is not None and not self.choice.wrong else self.best
        end, least = self.value(self.better_end), self.value(chosen)
        if self.better_end is None or chosen is None or end is None or not least:
            return None
        return end / least, chosen, self.better_end

    @property
    def choice(self) -> Row | None:
        """What regret is of: the automatic choice, or the one that packs nothing where only that was run."""
        return self.auto or self.by(AUTO_RAW)

    @cached_property
    def regret(self) -> Regret | None:
        """Of the automatic choice (`lab.regret`); None where too few fixed points are known for a best one."""
        chosen = None if self.choice is None or self.best is None else self._run(self.choice)
        if chosen is None:
            return None
        fixed = (self._run(row) for row in self.ranked)
        others = (self._run(row) for row in self.everything if row.who not in (POINT, AUTO))
        return regret(chosen, filter(None, fixed), filter(None, others))

    def noise(self, *rows: Row) -> float:
        """How far apart two measurements of one of these cuts lie, as a share (`lab.regret`)."""
        runs = [run for row in self.everything if (run := self._run(row)) is not None]
        return max((noise_of(run, runs) for row in rows if (run := self._run(row)) is not None), default=0.0)

    @property
    def is_tie(self) -> bool:
        """Whether the second best point's repeats reach into the best one's."""
        if self.best is None or len(self.ranked) < 2 or self.cell.objective == "energy":
            return False
        first, second = self.ranked[:2]
        return second.stages["total"].low <= first.stages["total"].high

    def gain_over(self, row: Row | None) -> float | None:
        """How many times less the best point has than another row."""
        other, best = self.value(row), self.value(self.best)
        return None if other is None or not best else other / best


def _is_end(row: Row) -> bool:
    """Whether all of it ran on one side, with a right answer and a codec that an end may have."""
    is_lossy = row.codec == JPEG and row.who not in (AUTO, IN_BUDGET)
    return not row.wrong and not is_lossy and (row.ran_here or row.point == 0)


def _place(row: Row) -> tuple[int, str]:
    return (-1 if row.point is None else row.point, row.codec)


@dataclass(frozen=True, order=True)
class Place:
    """A column of a grid: the link."""

    up_bytes_per_s: float
    link: str
    name: str
    trace: str
    radio: str


@dataclass(frozen=True)
class Grid:
    """The cells of one network under one objective: devices in rows, links in columns."""

    model: str
    objective: str
    power: str
    cpus: tuple[float | None, ...]
    places: tuple[Place, ...]
    cells: Mapping[tuple[float | None, Place], CellResult]

    def at(self, cpu: float | None, place: Place) -> CellResult | None:
        """A cell, if anything in it was recorded."""
        return self.cells.get((cpu, place))

    @property
    def results(self) -> tuple[CellResult, ...]:
        """The cells in the order of rows and columns."""
        return tuple(result for cpu in self.cpus for place in self.places if (result := self.at(cpu, place)))

    @property
    def points(self) -> tuple[tuple[int | None, str, str], ...]:
        """Point, layer and codec of every fixed point that any of its cells has, in order."""
        points = {(row.point, row.layer, row.codec) for result in self.results for row in result.points}
        return tuple(sorted(points, key=lambda each: (-1 if each[0] is None else each[0], *each[1:])))


def place_of(cell: Cell, rate: Callable[[str], float]) -> Place:
    """The column of a cell; `rate` reads bytes per second up from its link."""
    return Place(rate(cell.link), cell.link, cell.link_name, cell.trace or "", cell.radio)


FloorOf = Callable[[Cell, str, Sequence[int]], Floor | None]
"""The lower bound of a cell under an objective, from the boundary size of each point."""


def grids_of(
    rows: Iterable[Row], rate: Callable[[str], float], expected: Iterable[Cell] = (), floor_of: FloorOf | None = None
) -> tuple[Grid, ...]:
    """All grids, in the order of their first rows; slow devices and slow links first.

    `expected` are cells that should be there: those that nothing was recorded of stay empty. Without `floor_of` no
    point counts as beaten.
    """
    rows = tuple(rows)
    by_key: dict[tuple[str, str, str], dict[tuple[float | None, Place], list[Row]]] = {}
    fixed: dict[Cell, list[Row]] = {}
    for row in rows:
        cell = row.cell
        grid = by_key.setdefault((cell.model, cell.objective, cell.power), {})
        grid.setdefault((cell.cpu, place_of(cell, rate)), []).append(row)
        if row.who not in OF_THE_OBJECTIVE:
            fixed.setdefault(replace(cell, objective=""), []).append(row)
    for cell in expected:
        grid = by_key.setdefault((cell.model, cell.objective, cell.power), {})
        grid.setdefault((cell.cpu, place_of(cell, rate)), [])
    grids = (
        Grid(
            *key,
            cpus=tuple(sorted({cpu for cpu, _ in cells}, key=lambda cpu: float("inf") if cpu is None else cpu)),
            places=tuple(sorted({place for _, place in cells})),
            cells={where: _result(cell_rows, fixed, floor_of) for where, cell_rows in cells.items() if cell_rows},
        )
        for key, cells in by_key.items()
    )
    return tuple(_demanding(grid) for grid in grids)


def _demanding(grid: Grid) -> Grid:
    """A grid whose cells call nothing the best of too few fixed points.

    Three, or all of a network that has fewer; and half of those that were measured in any cell of the grid.
    """
    points = min((row.points for cell in grid.results for row in cell.rows if row.points), default=LEAST_POINTS)
    half = -(-len(grid.points) // 2)
    least = max(half, min(LEAST_POINTS, points))
    return replace(grid, cells={where: replace(cell, least_points=least) for where, cell in grid.cells.items()})


def _result(rows: Sequence[Row], fixed: Mapping[Cell, Sequence[Row]], floor_of: FloorOf | None) -> CellResult:
    cell = rows[0].cell
    own = {row.who for row in rows}
    elsewhere = fixed.get(replace(cell, objective=""), ())
    crossing = next((row.crossing for row in rows if row.crossing), None)
    floor = None if crossing is None or floor_of is None else floor_of(cell, cell.objective, crossing)
    return CellResult(cell, tuple(rows), tuple(row for row in elsewhere if row.who not in own), floor=floor)
