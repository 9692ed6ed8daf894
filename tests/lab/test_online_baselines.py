"""A cut that is kept, and the bandit, as baselines of the lab: on graphs that a person can check."""

import pytest

from edgecloud.lab.baselines.inputs import BaselineInputs, Sides
from edgecloud.lab.baselines.online import NOMINAL_BYTES_PER_S
from edgecloud.lab.baselines.registry import baseline
from edgecloud.models.graph import Layer, LayerGraph
from edgecloud.utils.errors import UsageError

LAYERS = (
    Layer("input", "input", (), 1_000_000),
    Layer("conv", "conv", (0,), 2_000_000),
    Layer("pool", "pool", (1,), 100_000),
    Layer("fc", "linear", (2,), 4000),
)
GRAPH = LayerGraph("small", LAYERS, (3,))
SIDES = Sides([0.0, 0.3, 0.01, 2.0], [0.0, 0.03, 0.001, 0.05])
"""On 10 mbit: 0.88 s all on the cloud, 1.96 after conv, 0.44 after pool, 2.31 all on the edge."""


def test_the_static_cut_is_that_of_the_nominal_link_on_every_link() -> None:
    for rate in (1e3, 1e5, 1e7, 1e9):
        choice = baseline("static-best").choose(BaselineInputs(GRAPH, rate, SIDES))
        assert (choice.who, choice.point) == ("static-best", 2)
        assert choice.expected_s == pytest.approx(0.31 + 100_000 / rate + 0.05 + 4000 / rate)
    assert baseline("static-best").choose(BaselineInputs(GRAPH, NOMINAL_BYTES_PER_S, SIDES)).head == {0, 1, 2}


@pytest.mark.parametrize(("rate", "best"), [(NOMINAL_BYTES_PER_S, 2), (1e9, 0), (1e3, 3)])
def test_the_bandit_settles_where_the_delay_is_least(rate: float, best: int) -> None:
    choice = baseline("ans").choose(BaselineInputs(GRAPH, rate, SIDES))
    assert (choice.who, choice.point) == ("ans", best)
    assert choice.points_text(GRAPH) == f"{best}:raw"


@pytest.mark.parametrize("name", ["static-best", "ans"])
def test_both_need_measured_times_and_say_so(name: str) -> None:
    with pytest.raises(UsageError, match=r"requires measured times of both sides: run deployment.py profile -t MODEL"):
        baseline(name).choose(BaselineInputs(GRAPH, 1e6))
