"""Where the time is lowest, and why: sentences from the numbers of one grid. Pure."""

from collections.abc import Callable, Sequence

from edgecloud.lab.report.document import show_joules, show_ms, show_percent, show_share
from edgecloud.lab.report.grid import CellResult, Grid
from edgecloud.lab.report.rows import PARTS, STAGES, Row
from edgecloud.lab.report.words import Words
from edgecloud.utils.units import format_bytes


def answer(grid: Grid, w: Words) -> list[str]:
    """Paragraphs. One that says so where no fixed point of the grid was measured."""
    pairs = [(value, result) for result in grid.results if (value := result.value(result.best)) is not None]
    if not pairs:
        return [w("why_nothing")]
    lowest = min(pairs, key=lambda pair: pair[0])[1]
    paragraphs = [w.join(_lowest(grid, lowest, len(pairs), w), _lower(grid, lowest, w))]
    if grid.objective != "energy":
        paragraphs += [w.join(_against_cloud(lowest, w), _against_edge(lowest, w)), _boundary(lowest, w)]
    paragraphs += [_moves(grid, w), _everywhere(grid, [result for _, result in pairs], w)]
    return [each for each in paragraphs if each]


def _lowest(grid: Grid, result: CellResult, cells: int, w: Words) -> str:
    best = result.ranked[0]
    parts = {name: show_ms(best.stages[name].median) for name in STAGES}
    sentence = w(
        "why_lowest" if cells > 1 else "why_only",
        model=grid.model,
        cells=cells,
        setting=w.setting(result.cell),
        where=w.where(best),
        **parts,
    )
    if grid.objective == "energy" and best.energy_j is not None:
        return w.join(sentence, w("why_joules", value=show_joules(best.energy_j.median)))
    name, share = max(_shares(best).items(), key=lambda pair: pair[1])
    return w.join(sentence, w("why_dominates", part=w(f"part_{name}"), share=show_share(share)))


def _lower(grid: Grid, lowest: CellResult, w: Words) -> str:
    """What the table has that is lower than the lowest fixed cut, if anything: the least, and whether that is noise."""
    least, fixed = lowest.value(lowest.best), lowest.best
    measurements = [
        (value, result, row)
        for result in grid.results
        for row in result.everything
        if not row.wrong and (value := result.value(row)) is not None
    ]
    value, result, row = min(measurements, key=lambda each: each[0])
    if least is None or fixed is None or value >= least:
        return ""
    is_noise = result is lowest and 1 - value / least <= result.noise(row, fixed)
    return w(
        "why_lower",
        who=w.who(row.who),
        setting=w.setting(result.cell),
        cut=w.packed(row),
        value=w("heat_joules", value=show_joules(value)) if grid.objective == "energy" else show_ms(value),
        less=show_percent(1 - value / least, sign=False),
        equal=int(is_noise),
    )


def _shares(row: Row) -> dict[str, float]:
    whole = sum(row.stages[name].median for name in PARTS) or 1.0
    return {name: row.stages[name].median / whole for name in PARTS}


def _saved(best: Row, other: Row, name: str) -> float:
    return other.stages[name].median - best.stages[name].median


def _against_cloud(result: CellResult, w: Words) -> str:
    """What the cut saves of sending everything, and what it costs; or why sending everything is best."""
    best, cloud = result.ranked[0], result.all_cloud
    if cloud is None:
        return ""
    if best is cloud:
        rival = result.runner_up
        if rival is None:
            return ""
        return w(
            "why_is_cloud",
            rival=w.where(rival),
            local=show_ms(_saved(best, rival, "local")),
            rest=_change(-_saved(best, rival, "transfer") - _saved(best, rival, "cloud"), w),
        )
    return w(
        "why_not_cloud",
        total=show_ms(cloud.total_s),
        sent=format_bytes(best.payload_bytes),
        instead=format_bytes(cloud.payload_bytes),
        transfer=_change(_saved(best, cloud, "transfer"), w),
        cloud=_change(_saved(best, cloud, "cloud"), w),
        local=show_ms(-_saved(best, cloud, "local")),
        net=show_ms(cloud.total_s - best.total_s),
    )


def _against_edge(result: CellResult, w: Words) -> str:
    best, edge = result.ranked[0], result.all_edge
    if edge is None:
        return ""
    if best is edge:
        rival = result.runner_up
        if rival is None:
            return ""
        return w(
            "why_is_edge",
            rival=w.where(rival),
            local=_change(-_saved(best, rival, "local"), w),
            paid=show_ms(rival.stages["transfer"].median + rival.stages["cloud"].median),
        )
    return w(
        "why_not_edge",
        total=show_ms(edge.total_s),
        local=_change(_saved(best, edge, "local"), w),
        cloud=show_ms(best.stages["cloud"].median),
        transfer=show_ms(best.stages["transfer"].median),
        net=show_ms(edge.total_s - best.total_s),
    )


def _change(saved_s: float, w: Words) -> str:
    """`785 ms less`, or more."""
    return w("less" if saved_s >= 0 else "more", value=show_ms(abs(saved_s)))


def _boundary(result: CellResult, w: Words) -> str:
    """Transfer sizes: the input's, the cut's, and the worst cut's."""
    best, cloud = result.ranked[0], result.all_cloud
    crossing = [row for row in result.ranked if row.raw_bytes > 0 and not row.ran_here]
    if cloud is None or not cloud.raw_bytes or len(crossing) < 3:
        return ""
    worst, largest = result.ranked[-1], max(crossing, key=lambda row: row.raw_bytes)
    worst_text = w("why_worst", where=w.where(worst), total=show_ms(worst.total_s), part=_dominant(worst, w))
    ratio, size = largest.raw_bytes / cloud.raw_bytes, format_bytes(largest.raw_bytes)
    where = w.where(largest)
    sizes = w("why_largest", where=where, size=size, ratio=f"{ratio:.2f}") if ratio > 1 else w("why_none_larger")
    if best.ran_here or best is cloud:
        return w.join(sizes, worst_text)
    small = w("why_small", size=format_bytes(best.raw_bytes), share=show_share(best.raw_bytes / cloud.raw_bytes))
    return w.join(small, sizes, worst_text)


def _dominant(row: Row, w: Words) -> str:
    shares = _shares(row)
    return w(f"part_{max(shares, key=lambda name: shares[name])}")


# --- how the best cut moves


def _moves(grid: Grid, w: Words) -> str:
    """Along links, for each device, and along devices, for each link."""
    sentences: list[str] = []
    rates = {place.up_bytes_per_s for place in grid.places}
    if len(rates) > 1:
        series = {w.cpu(cpu): [_best_point(grid.at(cpu, p)) for p in grid.places] for cpu in grid.cpus}
        sentences.append(_movement("link", series, lambda name, points: w("why_at_cpu", cpu=name, points=points), w))
    if len(grid.cpus) > 1:
        along = {w.link(p): [_best_point(grid.at(cpu, p)) for cpu in grid.cpus] for p in grid.places}
        sentences.append(_movement("cpu", along, lambda name, points: w("why_at_link", link=name, points=points), w))
    return w.join(*sentences)


def _best_point(result: CellResult | None) -> int | None:
    return None if result is None or result.best is None else result.best.point


def _movement(kind: str, series: dict[str, list[int | None]], show: Callable[[str, str], str], w: Words) -> str:
    steps = {key: " → ".join("?" if point is None else str(point) for point in at) for key, at in series.items()}
    listing = w("list_separator").join(show(key, points) for key, points in steps.items())
    ends = [_ends(points) for points in series.values()]
    earlier = sum(last < first for first, last in filter(None, ends))
    later = sum(last > first for first, last in filter(None, ends))
    sentence = w(f"why_{kind}_moves", shown=listing)
    expected, odd = (earlier, later) if kind == "link" else (later, earlier)
    if not expected and not odd:
        return w.join(sentence, w("why_stays"))
    because = w(f"why_{kind}_expected", n=expected, of=len(series)) if expected else ""
    against = w(f"why_{kind}_odd", n=odd, of=len(series)) if odd else ""
    return w.join(sentence, because, against)


def _ends(points: Sequence[int | None]) -> tuple[int, int] | None:
    numbers = [point for point in points if point is not None]
    return (numbers[0], numbers[-1]) if len(numbers) > 1 else None


# --- over the whole grid


def _everywhere(grid: Grid, results: Sequence[CellResult], w: Words) -> str:
    """Shares of the stages at the best cuts, gains over both ends, and ties."""
    bests = [result.ranked[0] for result in results]
    shares = {name: sum(_shares(row)[name] for row in bests) / len(bests) for name in PARTS}
    sentences = [w("why_shares", cells=len(bests), **{name: show_share(share) for name, share in shares.items()})]
    for key, other in (("why_gain_edge", "all_edge"), ("why_gain_cloud", "all_cloud")):
        gains = [gain for r in results if (gain := r.gain_over(getattr(r, other))) is not None]
        if gains:
            low, high = f"{min(gains):.2f}", f"{max(gains):.2f}"
            sentences.append(w(key, range=low if low == high else w("range", low=low, high=high)))
    ties = sum(result.is_tie for result in results)
    if ties:
        sentences.append(w("why_ties", n=ties, of=len(results)))
    missing = len(grid.cpus) * len(grid.places) - len(results)
    if missing:
        sentences.append(w("why_missing", n=missing))
    return w.join(*sentences)
