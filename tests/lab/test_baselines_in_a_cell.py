"""Baselines by the names of a spec: each is told what the edge found out, and answers what the edge can read."""

from collections.abc import Callable
from pathlib import Path

import pytest

from edgecloud.client import points
from edgecloud.engine import calibration
from edgecloud.engine.calibration import Calibration, Tried
from edgecloud.lab.baselines import registry
from edgecloud.lab.baselines.inputs import BaselineInputs, CellInfo, Needs, Sides
from edgecloud.lab.baselines.loader import InputLoader, Sources
from edgecloud.lab.baselines.registry import AUTO, AUTO_RAW, BASELINES, IN_BUDGET, Method
from edgecloud.models.specs import KINDS
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.predictor import dataset, store
from edgecloud.predictor.profile import Profile, ProfileKey
from edgecloud.tools import survey
from edgecloud.utils.errors import UsageError
from tests.predictor.test_dataset import HERE, rows

SHARE = 0.5
RATES = [1e3, 1e5, 1e7, 1e9]
MODEL = "le_net"
EDGE_S, CLOUD_S = 1e-3, 1e-4


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, network: Callable[[str], TorchNetwork]) -> Path:
    """A cache in which both sides have measured the network, and the survey of other layers beside it."""
    folder, graph = tmp_path_factory.mktemp("machine"), network(MODEL).traced.graph
    count = len(graph.layers)
    sides: list[tuple[str, float, dict[int, tuple[float, ...]]]] = [
        ("work", EDGE_S, {}),
        ("wall", CLOUD_S, {1: (CLOUD_S * count,)}),
    ]
    for clock, seconds, tails in sides:
        key = ProfileKey(graph.name, graph.digest, "w", "cpu", 1, "b", clock, "t")
        store.save(folder, Profile(key, ((0.0, *[seconds] * (count - 1)),), tails), graph)
    dataset.write(folder / "edge", {kind: rows(20, kind) for kind in KINDS}, HERE)
    return folder


def test_a_spec_may_have_every_baseline_and_no_other() -> None:
    registry.check((AUTO, AUTO_RAW, *BASELINES))
    with pytest.raises(UsageError, match=r"no baseline 'me': choose auto, auto-raw, .*dads"):
        registry.check(("dads", "me"))
    assert len(BASELINES) == len(registry.ROWS), "a name is there twice"


def test_what_a_baseline_needs_is_known_before_it_is_run() -> None:
    names = (AUTO, AUTO_RAW, *BASELINES)
    assert registry.cloud_flags(names) == ["--allow-jpeg"]
    assert registry.cloud_flags((AUTO, "all-cloud")) == []
    assert registry.needs(names) == set(Needs)
    assert registry.needs((AUTO, "dads")) == {Needs.MEASURED}


def test_the_edge_chooses_by_itself_where_no_baseline_does() -> None:
    assert registry.points_text(AUTO_RAW, CellInfo(MODEL, 3, {}, Path(), None)) == "auto:raw"


@pytest.mark.parametrize("name", BASELINES)
def test_a_choice_is_the_baselines_own_with_what_was_found_out_in_the_cell(
    name: str, machine: Path, network: Callable[[str], TorchNetwork], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "datasets", lambda: machine)
    graph = network(MODEL).traced.graph
    count = len(graph.layers) - 1
    measured = Sides([0.0, *[EDGE_S / SHARE] * count], [0.0, *[CLOUD_S] * count])
    by_hand = InputLoader(Sources(machine, machine / "edge", machine / "none"))
    found = set()
    for rate in RATES:
        document = {"link": {"up_bytes_per_s": rate}}
        text = registry.points_text(name, CellInfo(MODEL, len(graph.points), document, machine, SHARE))
        inputs = BaselineInputs(graph, rate, measured)
        if BASELINES[name].needs is Needs.REGRESSED:
            inputs = by_hand.load(MODEL, rate, {Needs.REGRESSED}, SHARE)
        expected = BASELINES[name].choose(inputs)
        assert text == expected.points_text(graph)
        (wanted,) = points.parse(text, graph)
        assert (wanted.point, wanted.codec) == (expected.point, expected.codec)
        found.add(wanted.point)
    looks = isinstance(BASELINES[name], Method) and name not in ("static-best", IN_BUDGET)
    assert (len(found) > 1) == looks, "only methods look at the link, and a cut that is chosen once does not"


@pytest.mark.parametrize(
    ("changed", "budget", "text"),
    [(1, 0.01, "0:jpeg"), (2, 0.01, "0:pixels+zstd"), (0, 0.0, "0:pixels+zstd")],
)
def test_all_on_the_cloud_sends_a_jpeg_only_where_a_calibration_finds_it_within_the_budget(
    changed: int, budget: float, text: str, tmp_path: Path, network: Callable[[str], TorchNetwork]
) -> None:
    subject = network(MODEL)
    graph = subject.graph
    row = Tried(graph.layers[0].id, "jpeg", 100, changed, None, None, 0.01)
    calibration.keep(tmp_path, Calibration(MODEL, graph.digest, subject.weights.digest, "here", (row,)))
    document = {"link": {"up_bytes_per_s": 1e6}}
    cell = CellInfo(MODEL, len(graph.points), document, tmp_path, SHARE, budget)
    assert registry.points_text(IN_BUDGET, cell) == text
