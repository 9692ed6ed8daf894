"""Output of `lab run` and `lab compare`."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING

from edgecloud.lab.grid import UNSTABLE, Best, Place, groups, summary
from edgecloud.lab.records import Cell, CellRecord
from edgecloud.lab.regret import Summary
from edgecloud.lab.texts import say
from edgecloud.utils.units import format_seconds

if TYPE_CHECKING:
    from rich.table import Table


def cell_text(cell: Cell) -> str:
    """A cell in a few words."""
    cpu = say("whole_core") if cell.cpu is None else say("cpu", share=f"{cell.cpu:g}")
    rest = [text for text in (cell.trace, "" if cell.objective == "latency" else cell.objective) if text]
    return say("between").join([cell.model, cpu, cell.link_name, *rest])


def cell_line(place: Place, records: Sequence[CellRecord], took_s: float) -> str:
    """One cell that was just measured."""
    best = next(iter(summary(records)), None)
    best_text = "" if best is None else say("found_best", point=best.point, total=format_seconds(best.total_s))
    unstable = len({(r.who, r.asked) for r in records if UNSTABLE in r.flags})
    shaky = say("some_unstable", n=unstable) if unstable else ""
    took, cell = format_seconds(took_s), cell_text(place.cell)
    return say("cell_line", cell=cell, n=len(records), took=took, found=best_text, shaky=shaky)


def table(bests: Sequence[Best]) -> "Table":
    """The best point of every cell, and what the edge chose."""
    from rich.table import Table

    rich_table = Table(box=None, pad_edge=False)
    for name in ("cell", "best_point", "layer", "total", "auto", "total_of_auto", "regret", "noise", "", " "):
        is_left = name.strip() in ("cell", "layer", "")
        rich_table.add_column(say(name) if name.strip() else name, justify="left" if is_left else "right")
    for best in bests:
        auto = (say("several") if best.auto_point is None else str(best.auto_point)) if best.auto_s is not None else "-"
        auto_s = "-" if best.auto_s is None else format_seconds(best.auto_s)
        comparison = best.regret
        regret = (
            ("-", "-", "")
            if comparison is None
            else (f"{comparison.share:.1%}", f"{comparison.noise:.1%}", say(f"verdict_{comparison.verdict}"))
        )
        shaky = say("unstable") if best.is_unstable else ""
        point = (str(best.point), best.layer, format_seconds(best.total_s))
        rich_table.add_row(cell_text(best.cell), *point, auto, auto_s, *regret, shaky)
    rich_table.caption = _regret_line(Summary.of([best.regret for best in bests if best.regret is not None]))
    rich_table.caption_justify = "left"
    return rich_table


def _regret_line(regrets: Summary | None) -> str | None:
    """The regret of all cells; every number in it is of the table."""
    if regrets is None:
        return None
    percents = {name: f"{getattr(regrets, name):.1%}" for name in ("mean", "worst", "worst_noise")}
    return say("regrets", better=regrets.better, of=regrets.cells, equal=regrets.equal, bad=regrets.worse, **percents)


def who_table(records: Sequence[CellRecord]) -> "Table":
    """Everyone's median time in every cell, for experiments without points."""
    from rich.table import Table

    totals: dict[Cell, dict[str, float]] = {}
    for group in groups(records).values():
        totals.setdefault(group[0].cell, {})[group[0].who] = median(record.total_s for record in group)
    names = list(dict.fromkeys(who for row in totals.values() for who in row))
    rich_table = Table(say("cell"), box=None, pad_edge=False)
    for name in names:
        rich_table.add_column(name, justify="right")
    for cell, row in totals.items():
        rich_table.add_row(cell_text(cell), *(format_seconds(row[name]) if name in row else "-" for name in names))
    return rich_table


def agreement_table(cells: Mapping[str, tuple[Best, Best, bool]], names: tuple[str, str]) -> "Table":
    """Cells of two runs side by side."""
    from rich.table import Table

    rich_table = Table(box=None, pad_edge=False)
    mine_best, their_best = (say("best_of", name=name) for name in names)
    rich_table.add_column(say("cell"))
    for name in (mine_best, say("total"), their_best, say("total"), say("difference")):
        rich_table.add_column(name, justify="right")
    rich_table.add_column()
    for mine, theirs, is_same in cells.values():
        difference = f"{theirs.total_s / mine.total_s - 1:+.1%}"
        both = [text for best in (mine, theirs) for text in (str(best.point), format_seconds(best.total_s))]
        rich_table.add_row(cell_text(mine.cell), *both, difference, say("agree" if is_same else "differ"))
    return rich_table
