"""What a decision depends on beside the network."""

import pytest

from edgecloud.client.conditions import Conditions, slowdown
from edgecloud.net.link import LinkEstimate
from edgecloud.net.messages import Ready, State


@pytest.mark.parametrize(
    ("load", "speed", "expected"),
    [(1.0, 1.0, 1.0), (1.5, 1.0, 1.5), (1.0, 0.5, 2.0), (2.0, 0.5, 2.0), (1.2, 0.5, 2.0), (1.0, 2.0, 1.0)],
)
def test_a_clouds_load_and_its_speed_are_not_counted_twice(load: float, speed: float, expected: float) -> None:
    """A hog on the cloud is seen by its own runs as well as by a look at the machine."""
    assert slowdown(State(load, 0.0, 0, 32, 1, speed=speed)) == expected


def test_another_plan_is_due_where_the_edge_has_become_slower() -> None:
    ready = {"m": Ready([0.0], [0.0], 0.0, "cpu", ["raw"], 1, "measured")}
    now = Conditions(LinkEstimate(1e6, 1e6, 0.01, "probe"), ready)
    assert not Conditions(now.link, ready, edge_speed=0.9).differs(now)
    assert Conditions(now.link, ready, edge_speed=0.5).differs(now)
