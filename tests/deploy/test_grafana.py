"""The Grafana dashboard asks for metrics that a cloud has, and for no others."""

import json
import re

import pytest

from tests.conftest import ROOT

DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboard.json").read_text(encoding="utf-8"))


def test_every_metric_of_the_dashboard_is_one_of_a_cloud() -> None:
    pytest.importorskip("prometheus_client", reason="without prometheus_client a cloud has no metrics")
    from prometheus_client import generate_latest

    from edgecloud.net.metrics import Gauges, Spent
    from edgecloud.server.prometheus import PrometheusMetrics

    metrics = PrometheusMetrics()
    metrics.watch(Gauges(lambda: 1, lambda: 0, lambda: 1.0, lambda: 1.0))
    metrics.received("le_net", {"raw": 1})
    metrics.answered("le_net", Spent(0.1, 0.1, 0.1, 0.1), {"raw": 1})
    metrics.refused("BUSY", "10.0.0.1:5")
    there = set(re.findall(r"^(\w+)[{ ]", generate_latest(metrics.registry).decode(), re.MULTILINE))
    expressions = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    asked = {name for text in expressions for name in re.findall(r"\b(?:edgecloud|process)_\w+", text)}
    assert len(asked) >= 10
    assert asked <= there


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    }
    assert len(places) == sum(panel["gridPos"]["w"] * panel["gridPos"]["h"] for panel in panels)
