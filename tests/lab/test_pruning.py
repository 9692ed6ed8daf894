"""Points that are not measured cannot be the best: brute force over made-up worlds, and a real run."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecloud.client.power import PowerChoice
from edgecloud.lab import spec as specs
from edgecloud.lab.__main__ import main as lab
from edgecloud.lab.baselines.registry import AUTO, POINT
from edgecloud.lab.grid import Key, Want, key_of, places, wants
from edgecloud.lab.pruning import CROSSING, Floor, floor_of, next_contender
from edgecloud.lab.records import Cell, CellRecord, read
from edgecloud.lab.report.build import build
from edgecloud.lab.report.grid import grids_of
from edgecloud.lab.report.rows import number, rows_of
from edgecloud.lab.report.words import Words
from edgecloud.lab.spec import Spec
from edgecloud.utils.errors import UsageError
from tests.conftest import call
from tests.made_records import ENVIRONMENT

RATE = 137_500.0
SHAPE = "1.1mbit,0ms,2.0275mbit"
JOULES = PowerChoice.of("jetson_tk1", "3g")


@dataclass(frozen=True)
class World:
    """A network of which everything is known: seconds of each layer on both sides, and what crosses after it."""

    edge_s: tuple[float, ...]
    cloud_s: tuple[float, ...]
    crossing: tuple[int, ...]

    def measured(self, point: int) -> dict[str, float]:
        edge_s, cloud_s = sum(self.edge_s[: point + 1]), sum(self.cloud_s[point + 1 :])
        transfer_s = self.crossing[point] / RATE
        times = {"edge_s": edge_s, "encode_s": 0.0, "transfer_s": transfer_s, "queue_s": 0.0, "cloud_s": cloud_s}
        return times | {"total_s": sum(times.values())}

    def joules(self, point: int) -> float:
        times = self.measured(point)
        profile, radio = JOULES.profile, JOULES.radio
        spent = profile.compute_w * times["edge_s"] + radio.transmit_w(RATE) * times["transfer_s"]
        return spent + profile.idle_w * times["cloud_s"]

    def record(self, cell: Cell, want: Want, point: int) -> CellRecord:
        plan: dict[str, Any] = {"asked": want.asked, "points": len(self.crossing)}
        return CellRecord(
            environment=ENVIRONMENT.key,
            at="2026-11-21T13:00:00+00:00",
            cell=cell,
            who=want.who,
            point=point,
            layer=f"layer{point}",
            codec="zstd" if point % 2 else "raw",
            repeat=0,
            plan=plan | ({CROSSING: list(self.crossing)} if want.who == AUTO else {}),
            link_seen=None,
            measured=self.measured(point),
            energy={"measured_stages": {"total_j": self.joules(point)}},
            result_top=0,
            completed_by="split",
        )


@st.composite
def worlds(draw: st.DrawFn) -> World:
    count = draw(st.integers(1, 12))
    seconds = st.lists(st.floats(0.0, 0.5), min_size=count, max_size=count).map(tuple)
    crossing = st.lists(st.integers(1, 600_000), min_size=count - 1, max_size=count - 1).map(lambda c: (*c, 0))
    return World(draw(seconds), draw(seconds), draw(crossing))


def experiment(*objectives: str, **more: Any) -> Spec:
    link = {"name": "3G", "link": SHAPE, "radio": "3g"}
    given = {"models": ["any"], "links": [link], "points": "contenders", "codec": "auto", "repeat": 1}
    return specs.of(given | {"objectives": list(objectives), "power": "jetson_tk1", "baselines": ["auto"]} | more)


def run(world: World, spec: Spec, choice: int) -> dict[Key, list[CellRecord]]:
    """What an experiment measures in such a world, where the edge chooses `choice`."""
    done: dict[Key, list[CellRecord]] = {}
    for place in places(spec):
        for want in wants(spec, len(world.crossing), place.cell.objective):
            done[key_of(place.cell, want.who, want.asked)] = [world.record(place.cell, want, choice)]
        while (found := next_contender(place, spec, done)) is not None:
            key = key_of(place.cell, found.who, found.asked)
            assert key not in done, "it would be measured twice"
            done[key] = [world.record(place.cell, found, int(found.asked.partition(":")[0]))]
    return done


def points(done: dict[Key, list[CellRecord]]) -> list[int]:
    return [kept[0].point for kept in done.values() if kept[0].who == POINT and kept[0].point is not None]


@given(worlds(), st.data())
def test_the_best_of_all_points_is_among_those_that_are_measured(world: World, data: st.DataObject) -> None:
    every = range(len(world.crossing))
    choice = data.draw(st.sampled_from(every))
    objectives = data.draw(st.sampled_from([("latency",), ("energy",), ("latency", "energy")]))
    found = points(run(world, experiment(*objectives), choice))
    assert len(found) == len(set(found))
    totals = {"latency": lambda point: world.measured(point)["total_s"], "energy": world.joules}
    for objective in objectives:
        assert min(every, key=totals[objective]) in found


@given(worlds(), st.data())
def test_the_report_knows_which_points_are_beaten(world: World, data: st.DataObject) -> None:
    choice = data.draw(st.sampled_from(range(len(world.crossing))))
    spec = experiment("latency")
    done = run(world, spec, choice)
    records = [record for kept in done.values() for record in kept]
    (grid,) = grids_of(rows_of(number(records)), lambda _: RATE, (), floor_of)
    (result,) = grid.results
    assert sorted((*result.beaten, *points(done))) == list(range(len(world.crossing)))
    assert result.best is not None
    assert result.best.total_s == min(world.measured(point)["total_s"] for point in range(len(world.crossing)))
    assert not build(ENVIRONMENT, records, Words("en")).warnings


def test_what_a_slow_link_cannot_win_is_left_out() -> None:
    """Layers of 0.1 s on the edge and none on the cloud; only the third one shrinks what crosses."""
    world = World((0.0, 0.1, 0.1, 0.1, 0.1), (0.0,) * 5, (600_000, 600_000, 1_000, 600_000, 0))
    assert points(run(world, experiment("latency"), 4)) == [4, 2]
    assert points(run(world, experiment("latency"), 0)) == [0, 1, 2, 4]  # until 2 is known, the first may be the best


def test_a_packed_choice_rules_out_no_point_that_is_sent_as_it_is() -> None:
    """Packed, the input takes 0.77 s; of the tensors as they are the third cut is best, with 1.0 s."""
    packed = World((0.0, 0.02, 0.0, 0.88, 0.0), (0.04,) * 5, (100_000, 200_000, 130_000, 200_000, 0))
    raw = replace(packed, crossing=(200_000, 400_000, 130_000, 400_000, 0))
    spec = experiment("latency", codec="raw")
    (place,) = places(spec)
    done = {key_of(place.cell, AUTO, AUTO): [packed.record(place.cell, Want(AUTO, AUTO), 0)]}
    while (found := next_contender(place, spec, done)) is not None:
        point = int(found.asked.partition(":")[0])
        done[key_of(place.cell, found.who, found.asked)] = [raw.record(place.cell, found, point)]
    best = min(range(5), key=lambda point: raw.measured(point)["total_s"])
    assert best in points(done)
    records = [record for kept in done.values() for record in kept]
    (grid,) = grids_of(rows_of(number(records)), lambda _: RATE, (), floor_of)
    assert grid.results[0].best is not None
    assert grid.results[0].best.point == best


def test_a_head_that_met_a_busy_moment_rules_nothing_out() -> None:
    floor = Floor((10, 10, 10, 10, 0), 1e9)
    assert floor.beaten({1: 0.9, 3: 0.4}, 0.45) == frozenset()
    assert floor.beaten({1: 0.9, 3: 0.8}, 0.45) == {1, 2, 3, 4}


def test_what_is_neither_measured_nor_beaten_leaves_the_best_open() -> None:
    world = World((0.0, 0.1, 0.1, 0.1, 0.1), (0.0,) * 5, (90_000, 600_000, 1_000, 600_000, 0))
    spec = experiment("latency")
    whole = run(world, spec, 0)
    (grid,) = grids_of(rows_of(number(r for kept in whole.values() for r in kept)), lambda _: RATE, (), floor_of)
    assert grid.results[0].best is not None
    assert grid.results[0].best.point == 2
    begun = list(whole.values())[:2]
    (grid,) = grids_of(rows_of(number(r for kept in begun for r in kept)), lambda _: RATE, (), floor_of)
    assert grid.results[0].beaten
    assert grid.results[0].best is None


def test_records_of_a_board_whose_power_profile_is_elsewhere_rule_nothing_out() -> None:
    cell = replace(places(experiment("energy"))[0].cell, power="profiles/my_board.yaml")
    assert floor_of(cell, "energy", [1, 0]) is None
    assert floor_of(cell, "latency", [1, 0]) is not None
    assert floor_of(cell, "throughput", [1, 0]) is None


def test_fixed_points_are_measured_under_the_first_objective_only() -> None:
    found = experiment("energy", "latency", points="all", baselines=["auto", "all-edge"])
    assert [want.who for want in wants(found, 3, "energy")] == ["auto", "all-edge", "point", "point", "point"]
    assert wants(found, 3, "latency") == [Want(AUTO, AUTO)]


def test_a_link_that_changes_has_no_floor() -> None:
    cell = places(experiment("latency"))[0].cell
    assert floor_of(cell, "latency", [1, 0]) is not None
    assert floor_of(replace(cell, trace="walk"), "latency", [1, 0]) is None


def test_records_that_do_not_say_what_crosses_are_refused() -> None:
    spec = experiment("latency")
    (place,) = places(spec)
    record = World((0.1,), (0.0,), (0,)).record(place.cell, Want(AUTO, AUTO), 0)
    old = {key_of(place.cell, AUTO, AUTO): [replace(record, plan={"asked": "auto"})]}
    with pytest.raises(UsageError, match="another --out"):
        next_contender(place, spec, old)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"baselines": ["all-edge"]}, "requires the baseline auto"),
        ({"codec": "int8+zstd"}, "the codec raw or auto"),
    ],
)
def test_contenders_that_cannot_be_known_are_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        experiment("latency", **more)


def test_contenders_of_a_real_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Over 100 kbit the feature maps of MNIST's network take longer than the whole of it does on the edge."""
    command = ("--model", "mnist", "--cpu", "0.5", "--link", "100kbit,2ms", "--points", "contenders", "--codec", "auto")
    where = ("--mode", "emulated", "--out", str(tmp_path / "out"))
    done = call(lab, ["run", *command, "--repeat", "1", *where], capsys)
    assert done.code == 0, done.stderr
    _, records = read(tmp_path / "out")
    measured = {record.point for record in records if record.who == POINT}
    crossing = next(record.plan[CROSSING] for record in records if record.who == AUTO)
    assert measured
    assert not measured & {point for point, sent in enumerate(crossing) if sent > 5_000}  # 0.4 s and more
    assert lab(["run", "--resume", str(tmp_path / "out")]) == 0
    assert read(tmp_path / "out")[1] == records, "nothing was missing, so nothing is measured again"
