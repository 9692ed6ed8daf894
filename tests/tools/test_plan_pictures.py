"""Pictures of plans: files that can be opened, whatever the plan, with words that do not hide each other."""

import random
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.text import Text

from edgecloud.client.power import PowerChoice
from edgecloud.models.graph import Layer, LayerGraph
from edgecloud.partition.cost import CloudTimes, Link, Part, Power, Problem, StageWeights, parts_of, predict
from edgecloud.partition.decide import Decision, Goal, decide
from edgecloud.partition.decision_map import DecisionMap, follow
from edgecloud.partition.pareto import front
from edgecloud.tools.pictures import (
    PICTURES,
    draw_all,
    front_picture,
    gain_picture,
    graph_picture,
    layers_picture,
    map_picture,
    style,
)
from edgecloud.tools.pictures.gain import surface_of
from edgecloud.tools.pictures.graph import LONGEST
from edgecloud.tools.pictures.layout import Layout, column_begins, depths_of, lanes_of
from edgecloud.tools.pictures.map import share_on_edge
from edgecloud.tools.pictures.view import View
from edgecloud.tools.whatif import PlanConfig, Planned
from edgecloud.utils.errors import UsageError
from edgecloud.utils.units import format_rate
from tests.models.test_graph import random_graph

POWER = ("jetson_tk1", "wifi")
MBIT = 125_000.0
SMALLEST_PICTURE = 2_000  # bytes, with the few pixels of tests


@pytest.fixture(autouse=True)
def _small_and_coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few pixels, and few of what is drawn many times in the same way."""
    for name, value in (("style.DPI", 50), ("map.RATES", 9), ("map.LOADS", 4), ("gain.RATES", 9), ("gain.ROWS", 8)):
        monkeypatch.setattr(f"edgecloud.tools.pictures.{name}", value)


def planned_of(problem: Problem, goal: Goal | None = None, power: Power | None = None) -> Planned:
    """What tools.whatif makes of a problem."""
    link, choice, goal = problem.link, PowerChoice.of(*POWER), goal or Goal()
    power = power or choice.at(link)
    config = PlanConfig(
        model=problem.graph.name,
        graph_file=None,
        cache_dir=Path("nowhere"),
        up_bytes_per_s=link.up_bytes_per_s,
        goal=goal,
        power=POWER[0],
        radio=POWER[1],
    )

    def weights_at(link: Link) -> StageWeights:
        return goal.weights(choice.at(link))

    has_map = goal.max_cost is None and goal.objective != "throughput"
    found = DecisionMap.of(problem, follow(link), weights_at) if has_map else None
    return Planned(config, problem, decide(problem, goal, power), 0.0, power, found, front(problem, power))


def problem_of(layers: Sequence[Layer], edge_s: Sequence[float], up_mbit: float = 5.0) -> Problem:
    """A cloud that is twenty times as fast as the edge."""
    graph = LayerGraph("drawn", tuple(layers), (len(layers) - 1,))
    cloud = CloudTimes([seconds / 20 for seconds in edge_s], [0.0] * len(edge_s))
    return Problem(graph, edge_s, cloud, Link(up_mbit * MBIT, up_mbit * MBIT, 0.02))


def diamond(goal: Goal | None = None) -> Planned:
    """Five layers; at 5 mbit both branches of the diamond cross."""
    layers = (
        Layer("input", "input", (), 600_000),
        Layer("stem", "conv", (0,), 400_000),
        Layer("left", "conv", (1,), 40_000),
        Layer("right", "conv", (1,), 30_000),
        Layer("join", "add", (2, 3), 500_000),
        Layer("answer", "linear", (4,), 4_000),
    )
    return planned_of(problem_of(layers, (0, 0.05, 0.03, 0.08, 0.002, 0.2)), goal)


def chain_of(names: Sequence[str], seconds: float = 0.1) -> Planned:
    """Layers one after the other, each with a smaller tensor."""
    layers = [Layer("input", "input", (), 100_000)]
    layers += [Layer(name, "layer", (k,), 90_000 // (k + 1)) for k, name in enumerate(names)]
    return planned_of(problem_of(layers, [0.0, *(seconds for _ in names)]))


def cut_at(planned: Planned, head: set[int]) -> Planned:
    """The same with another decision."""
    return placed(planned, parts_of(planned.graph, frozenset(head)))


def placed(planned: Planned, parts: tuple[Part, ...]) -> Planned:
    """The same with layers in other places."""
    predicted = predict(planned.problem, parts)
    return replace(planned, decision=replace(planned.decision, parts=parts, predicted=predicted))


def is_png(path: Path) -> bool:
    """Whether it begins as a PNG does and is large enough to show something."""
    data = path.read_bytes()
    return data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) > SMALLEST_PICTURE


def words(path: Path) -> str:
    """An SVG with its texts, which matplotlib keeps as comments beside their outlines."""
    assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    return path.read_text(encoding="utf-8")


# --- files


def test_all_pictures_are_drawn_into_a_folder_that_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "some" / "where"
    paths = draw_all(diamond(), folder, ".PNG")
    assert [path.name for path in paths] == ["map.PNG", "gain.PNG", "layers.PNG", "graph.PNG", "front.PNG"]
    assert sorted(folder.iterdir()) == sorted(paths), "nothing temporary is left"
    assert all(is_png(path) for path in paths)


def test_each_can_be_an_svg_and_tells_the_network_the_link_the_wish_and_the_cut(tmp_path: Path) -> None:
    for path in draw_all(diamond(), tmp_path, ".svg"):
        told = words(path)
        for part in ("drawn", "5 mbit up", "20 ms round trip", "lowest latency", "2 tensors, after right"):
            assert part in told, path


@pytest.mark.parametrize("suffix", [".pdf", ".jpg", "", ".png.txt"])
def test_another_suffix_is_refused_by_its_name_before_anything_is_made(suffix: str, tmp_path: Path) -> None:
    told = Path(f"map{suffix}").suffix or "this file has none"
    with pytest.raises(UsageError, match=told):
        draw_all(diamond(), tmp_path / "new", suffix)
    for draw in PICTURES.values():
        with pytest.raises(UsageError, match=told):
            draw(diamond(), tmp_path / f"map{suffix}")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UsageError, match=r"cannot write to .*file.inside"):
        draw_all(diamond(), tmp_path / "file" / "inside")
    with pytest.raises(UsageError, match=r"cannot write .*file.a\.png: Not a directory"):
        front_picture(diamond(), tmp_path / "file" / "a.png")
    with pytest.raises(UsageError, match=r"cannot write .*missing.a\.svg: No such file"):
        graph_picture(diamond(), tmp_path / "missing" / "a.svg")


def test_a_failed_picture_leaves_the_old_one_and_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "front.png"
    path.write_bytes(b"old")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(UsageError, match="No space left"):
        front_picture(diamond(), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    assert not plt.get_fignums()


def test_the_same_plan_gives_the_same_file(tmp_path: Path) -> None:
    for name in ("one.svg", "two.svg"):
        front_picture(diamond(), tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


# --- what they say


def test_the_map_names_the_cut_of_every_region_and_where_it_begins(tmp_path: Path) -> None:
    planned = diamond()
    assert planned.map is not None
    assert len(planned.map.regions) > 2
    map_picture(planned, tmp_path / "map.svg")
    told = words(tmp_path / "map.svg")
    for region in planned.map.regions[1:]:
        label = style.cut_label(planned.graph, region.head)
        assert f"{label} from {format_rate(region.from_bytes_per_s)}" in told
    assert "share of layers on the edge" in told


def test_the_share_of_layers_on_the_edge_goes_from_nothing_to_everything() -> None:
    graph = diamond().graph
    shares = [share_on_edge(graph, graph.head_at(point.number)) for point in graph.points]
    assert shares[0] == 0
    assert shares[-1] == 1
    assert shares == sorted(shares)


def test_the_graph_tells_the_size_of_each_tensor_that_crosses(tmp_path: Path) -> None:
    graph_picture(diamond(), tmp_path / "graph.svg")
    told = words(tmp_path / "graph.svg")
    assert "left  40 kB" in told
    assert "right  30 kB" in told
    assert "2 tensors sent: 70 kB" in told
    assert "stem  400 kB" not in told


def test_layers_that_take_no_time_are_marked_and_not_forgotten(tmp_path: Path) -> None:
    layers_picture(diamond(), tmp_path / "layers.svg")
    assert "zero time" in words(tmp_path / "layers.svg")


def test_ids_of_layers_are_thinned_out_where_there_are_many(tmp_path: Path) -> None:
    layers_picture(chain_of([f"layer{number}" for number in range(1, 121)]), tmp_path / "layers.svg")
    told = words(tmp_path / "layers.svg")
    assert "(1 in 3 labeled)" in told
    assert "layer3 " in told
    assert "layer4 " not in told


def test_the_front_marks_both_ends_and_the_plan(tmp_path: Path) -> None:
    layers = (Layer("input", "input", (), 100_000), Layer("a", "x", (0,), 50_000), Layer("b", "x", (1,), 4_000))
    problem = problem_of(layers, (0.0, 0.1, 0.15), up_mbit=20)
    planned = planned_of(problem, power=Power(compute_w=1, idle_w=0, transmit_w=20, receive_w=0))
    assert len(planned.front) > 1
    front_picture(planned, tmp_path / "front.svg")
    told = words(tmp_path / "front.svg")
    assert "fastest: " in told
    assert "lowest energy: " in told
    assert "(this plan)" in told


def test_a_plan_that_is_not_on_the_front_is_named_apart(tmp_path: Path) -> None:
    front_picture(cut_at(diamond(), {0, 1}), tmp_path / "front.svg")
    assert "this plan: after stem" in words(tmp_path / "front.svg")


def test_labels_above_a_picture_cover_no_other_label_and_no_pole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style, "DPI", 110)  # letters of few pixels are not where they should be
    rng = random.Random(5)
    for _ in range(3):
        figure = style.new_figure(8, 4)
        axes = figure.add_axes((0.1, 0.1, 0.8, 0.6))
        axes.set(xscale="log", xlim=(1, 1000))
        rates = [10 ** rng.uniform(0, 3) for _ in range(9)]
        style.raise_flags(axes, [style.Flag(x, 0.5, "l" * rng.randrange(1, 30)) for x in rates])
        figure.draw_without_rendering()  # which moves labels to their places
        boxes = [Text.get_window_extent(text) for text in axes.texts]  # of the words alone, without their poles
        assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
        for one, other in permutations(boxes, 2):
            assert not (other.x0 + 2 < one.x0 < other.x1 and other.y0 < one.y0), "a pole goes through a label"


# --- the layout of graphs


def test_each_layer_has_its_own_place_below_all_that_it_reads() -> None:
    rng = random.Random(3)
    for size in (2, 5, 12, 40):
        for _ in range(10):
            graph = random_graph(rng, size)
            depths = depths_of(graph)
            lanes = lanes_of(graph, depths)
            assert len(set(zip(depths, lanes, strict=True))) == len(graph.layers)
            assert all(depths[s] < depths[n] for n, layer in enumerate(graph.layers) for s in layer.inputs)


def test_an_answer_that_nobody_reads_keeps_its_place() -> None:
    layers = (Layer("input", "input", (), 8), Layer("one", "x", (0,), 8), Layer("other", "x", (0,), 8))
    graph = LayerGraph("two answers", layers, (1, 2))
    assert lanes_of(graph, depths_of(graph)) == [0, 0, 1]


def test_a_branch_stays_in_its_lane_and_the_trunk_in_the_middle() -> None:
    graph = diamond().graph
    assert lanes_of(graph, depths_of(graph)) == [0, 0, 0, 1, 0, 0]


def test_a_long_graph_wraps_where_few_tensors_go_to_the_next_column() -> None:
    layers = [Layer("input", "input", (), 8)]
    for number in range(1, 41):  # blocks of five, of which the last adds what came before the block
        layers.append(Layer(f"l{number}", "x", (number - 1, number - 5) if number % 5 == 0 else (number - 1,), 8))
    graph = LayerGraph("blocks", tuple(layers), (40,))
    begins = column_begins(graph, depths_of(graph), 3)
    assert begins == [0, 16, 26], "one tensor each, and blocks stay whole"
    planned = planned_of(problem_of(layers, [0.0, *[0.1] * 40]))
    layout = Layout(planned.graph, style.crossing_of(planned))
    left, right, bottom, top = layout.extent
    assert layout.columns > 1
    assert 0.3 < (top - bottom) / (right - left) < 3, "no needle"


def test_hundreds_of_layers_with_a_cut_through_branches_are_drawn(tmp_path: Path) -> None:
    layers = [Layer("input", "input", (), 600_000)]
    for block in range(40):
        begin = len(layers) - 1
        layers += [Layer(f"block{block}.branch{each}", "x", (begin,), 50_000) for each in range(3)]
        layers += [Layer(f"block{block}.deep", "x", (begin + 3,), 50_000)]
        layers += [Layer(f"block{block}.join", "x", (begin + 1, begin + 2, begin + 4), 90_000)]
    planned = planned_of(problem_of(layers, [0.0, *[0.01] * 200]))
    cut = cut_at(planned, set(range(103)))
    assert not cut.graph.is_chain
    layers_picture(cut, tmp_path / "layers.png")
    graph_picture(cut, tmp_path / "graph.svg")
    assert is_png(tmp_path / "layers.png")
    told = words(tmp_path / "graph.svg")
    assert "block20.branch0  50 kB" in told
    assert "block7.branch0" not in told


# --- unusual plans


@pytest.mark.parametrize("objective", ["throughput", "energy", "weighted", "auto"])
def test_every_objective_has_its_pictures(objective: str, tmp_path: Path) -> None:
    weights = {"seconds_per_joule": 0.5} if objective == "weighted" else {}
    rates = {"rate_per_s": 1000.0} if objective == "auto" else {}
    method = "chain" if objective in ("throughput", "auto") else "auto"
    planned = diamond(Goal(objective, method, **weights, **rates))
    map_picture(planned, tmp_path / "map.svg")
    told = words(tmp_path / "map.svg")
    if planned.decision.objective == "throughput":
        assert "bottleneck stage" in told
        assert "No map of best cuts" in told
        assert "cloud load" not in told
    else:
        assert "cloud load" in told


def test_a_placement_that_goes_back_and_forth_under_a_limit_of_cost(tmp_path: Path) -> None:
    planned = chain_of("abcdefgh")
    places: Sequence[tuple[str, set[int]]] = (
        ("edge", {0, 1, 2}),
        ("cloud", {3, 4}),
        ("edge", {5, 6}),
        ("cloud", {7, 8}),
    )
    parts = tuple(Part("edge" if place == "edge" else "cloud", frozenset(layers)) for place, layers in places)
    goal = Goal(max_cost=0.5, price_per_s=1.0)
    limited = replace(planned, config=replace(planned.config, goal=goal), map=None)
    for draw, path in ((map_picture, tmp_path / "map.svg"), (graph_picture, tmp_path / "graph.svg")):
        draw(placed(limited, parts), path)
        assert "4 alternating parts" in words(path)
    assert "3 tensors sent" in words(tmp_path / "graph.svg"), "two go up, one comes back"
    assert "with a cost limit" in words(tmp_path / "map.svg")


@pytest.mark.parametrize("names", [[], ["only"]])
def test_the_smallest_graphs(names: list[str], tmp_path: Path) -> None:
    for path in draw_all(chain_of(names), tmp_path):
        assert is_png(path)


def test_a_map_of_one_region(tmp_path: Path) -> None:
    problem = problem_of((Layer("input", "input", (), 10), Layer("a", "x", (0,), 10)), (0.0, 1e-6))
    planned = planned_of(problem)
    assert planned.map is not None
    assert len(planned.map.regions) == 1
    map_picture(planned, tmp_path / "map.svg")
    assert "all on the edge" in words(tmp_path / "map.svg")


@pytest.mark.parametrize("up_mbit", [1e-7, 1e7])
def test_links_outside_of_what_maps_search(up_mbit: float, tmp_path: Path) -> None:
    problem = problem_of((Layer("input", "input", (), 10), Layer("a", "x", (0,), 10)), (0.0, 0.1), up_mbit)
    map_picture(planned_of(problem), tmp_path / "map.png")
    view = View.of(planned_of(problem))
    assert is_png(tmp_path / "map.png")
    assert view.low < up_mbit * MBIT < view.high


def test_times_and_tensors_of_nothing(tmp_path: Path) -> None:
    problem = problem_of((Layer("input", "input", (), 0), Layer("a", "x", (0,), 0)), (0.0, 0.0))
    for path in draw_all(planned_of(problem), tmp_path):
        assert is_png(path)
    map_picture(planned_of(problem, Goal("throughput")), tmp_path / "stages.png")
    assert is_png(tmp_path / "stages.png")


def test_names_that_mean_something_to_matplotlib_or_to_a_browser(tmp_path: Path) -> None:
    names = ["$\\no{$", "_{x", "слой" * 20, "x" * 200, "a\\$b$", '<&>"', "\x00\n\t", "--"]
    planned = cut_at(chain_of(names), {0, 1})
    for draw in (layers_picture, graph_picture, front_picture):
        draw(planned, tmp_path / "picture.svg")
        assert "after " in words(tmp_path / "picture.svg")


def test_a_busy_cloud_is_told_and_is_in_the_picture(tmp_path: Path) -> None:
    planned = diamond()
    problem = replace(planned.problem, cloud=replace(planned.problem.cloud, load=3000.0))
    map_picture(planned_of(problem), tmp_path / "map.svg")
    told = words(tmp_path / "map.svg")
    assert "cloud load 3000" in told
    assert "<!-- 1000 -->" in told, "the axis of loads goes so far"


def test_thousands_of_branches_are_not_too_many_pixels(tmp_path: Path) -> None:
    layers = [Layer("input", "input", (), 8), *(Layer(f"l{number}", "x", (0,), 8) for number in range(1100))]
    layers.append(Layer("end", "x", tuple(range(1, 1101)), 8))
    graph_picture(planned_of(problem_of(layers, [0.0, *[0.001] * 1101])), tmp_path / "graph.png")
    assert is_png(tmp_path / "graph.png")
    width = int.from_bytes((tmp_path / "graph.png").read_bytes()[16:20], "big")
    assert width < 1.2 * LONGEST * style.DPI


def test_an_all_edge_decision_shades_no_layer_and_sends_nothing(tmp_path: Path) -> None:
    planned = diamond()
    everything: Decision = cut_at(planned, set(planned.graph.everything)).decision
    edge = replace(planned, decision=everything)
    layers_picture(edge, tmp_path / "layers.svg")
    graph_picture(edge, tmp_path / "graph.svg")
    assert "layers on the cloud" not in words(tmp_path / "layers.svg")
    assert "nothing is sent" in words(tmp_path / "graph.svg")
    assert np.isclose(edge.decision.predicted.total_s, 0.362)


# --- where a cut pays


def test_each_place_of_the_map_of_gains_has_the_gain_of_a_plan_for_it() -> None:
    planned = diamond()
    surface = surface_of(planned)
    problem, gains = planned.problem, []
    for row, speed in enumerate(surface.speeds.tolist()):
        for column, rate in enumerate(surface.rates.tolist()):
            link = Link(rate, rate, problem.link.rtt_s)
            found = decide(replace(problem, link=link, edge_s=[each / speed for each in problem.edge_s]), Goal())
            assert found.gain is not None
            gains.append(surface.gains[row, column] / found.gain.over)
            assert surface.areas[row, column] in (0, 1, 2)
    assert gains == pytest.approx([1.0] * len(gains))
    assert surface.gains.max() > 1.2
    assert {0.0, 1.0} <= set(np.unique(surface.areas)), "a cut wins somewhere, and the cloud"


def test_the_map_of_gains_says_where_most_is_gained_or_that_no_cut_pays(tmp_path: Path) -> None:
    path = tmp_path / "gain.svg"
    gain_picture(diamond(), path)
    told = words(path)
    assert "Where a cut pays" in told
    assert "Most: " in told
    assert "2 tensors, after right" in told
    growing = [Layer("input", "input", (), 1_000), *(Layer(f"l{n}", "k", (n,), 50_000) for n in range(3))]
    gain_picture(planned_of(problem_of(growing, (0, 0.1, 0.1, 0.1))), path)
    assert "No cut pays here" in words(path)
    gain_picture(diamond(Goal("throughput")), path)
    assert "No map of best cuts" in words(path)
