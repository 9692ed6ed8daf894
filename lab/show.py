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
    found = "" if best is None else say("found_best", point=best.point, total=format_seconds(best.total_s))
    unstable = len({(r.who, r.asked) for r in records if UNSTABLE in r.flags})
    shaky = say("some_unstable", n=unstable) if unstable else ""
    took, cell = format_seconds(took_s), cell_text(place.cell)
    return say("cell_line", cell=cell, n=len(records), took=took, found=found, shaky=shaky)


def table(found: Sequence[Best]) -> "Table":
    """The best point of every cell, and what the edge chose."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False)
    for name in ("cell", "best_point", "layer", "total", "auto", "total_of_auto", "regret", "noise", "", " "):
        left = name.strip() in ("cell", "layer", "")
        made.add_column(say(name) if name.strip() else name, justify="left" if left else "right")
    for best in found:
        auto = (say("several") if best.auto_point is None else str(best.auto_point)) if best.auto_s is not None else "-"
        auto_s = "-" if best.auto_s is None else format_seconds(best.auto_s)
        judged = best.regret
        regret = (
            ("-", "-", "")
            if judged is None
            else (f"{judged.share:.1%}", f"{judged.noise:.1%}", say(f"verdict_{judged.verdict}"))
        )
        shaky = say("unstable") if best.is_unstable else ""
        point = (str(best.point), best.layer, format_seconds(best.total_s))
        made.add_row(cell_text(best.cell), *point, auto, auto_s, *regret, shaky)
    made.caption = _regret_line(Summary.of([best.regret for best in found if best.regret is not None]))
    made.caption_justify = "left"
    return made


def _regret_line(found: Summary | None) -> str | None:
    """The regret of all cells; every number in it is of the table."""
    if found is None:
        return None
    shown = {name: f"{getattr(found, name):.1%}" for name in ("mean", "worst", "worst_noise")}
    return say("regrets", better=found.better, of=found.cells, equal=found.equal, bad=found.worse, **shown)


def who_table(records: Sequence[CellRecord]) -> "Table":
    """Everyone's median time in every cell, for experiments without points."""
    from rich.table import Table

    totals: dict[Cell, dict[str, float]] = {}
    for kept in groups(records).values():
        totals.setdefault(kept[0].cell, {})[kept[0].who] = median(record.total_s for record in kept)
    names = list(dict.fromkeys(who for found in totals.values() for who in found))
    made = Table(say("cell"), box=None, pad_edge=False)
    for name in names:
        made.add_column(name, justify="right")
    for cell, found in totals.items():
        made.add_row(cell_text(cell), *(format_seconds(found[name]) if name in found else "-" for name in names))
    return made


def agreement_table(found: Mapping[str, tuple[Best, Best, bool]], names: tuple[str, str]) -> "Table":
    """Cells of two runs side by side."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False)
    mine_best, their_best = (say("best_of", name=name) for name in names)
    made.add_column(say("cell"))
    for name in (mine_best, say("total"), their_best, say("total"), say("difference")):
        made.add_column(name, justify="right")
    made.add_column()
    for mine, theirs, is_same in found.values():
        difference = f"{theirs.total_s / mine.total_s - 1:+.1%}"
        both = [text for best in (mine, theirs) for text in (str(best.point), format_seconds(best.total_s))]
        made.add_row(cell_text(mine.cell), *both, difference, say("agree" if is_same else "differ"))
    return made
