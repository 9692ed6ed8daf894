"""A network that the cloud has never heard of: the edge answers from the first moment, then with the cloud."""

import time
from pathlib import Path

import numpy as np
import pytest

import edgecloud as ec
from benchmarks.clouds import running_cloud
from tests import bundles
from tests.conftest import LONG_S


def test_an_edge_answers_while_it_sends_its_network_and_then_with_the_cloud(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, own = bundles.pair(tmp_path / "chain.bundle", bundles.Chain(), (1, 3, 24, 24))
    net = ec.load(tmp_path / "chain.bundle")
    x = np.random.default_rng(1).standard_normal((1, 3, 24, 24)).astype(np.float32)
    expected = own.whole(x)[0]
    flags = ("--accept-networks", "--network-store", str(tmp_path / "store"))
    with running_cloud(cache, *flags) as cloud:
        place = f"127.0.0.1:{cloud.port}"
        with ec.Edge(net, cloud=place, point=1, cache_dir=cache) as edge:
            first = edge(x)
            assert first.completed_by == "fallback"
            answer, end = first, time.monotonic() + LONG_S
            while answer.completed_by == "fallback":
                np.testing.assert_allclose(answer.outputs[0], expected, rtol=1e-3, atol=1e-4)
                assert time.monotonic() < end, answer.fallback
                time.sleep(0.01)
                answer = edge(x)
        assert answer.completed_by == "split"
        np.testing.assert_allclose(answer.outputs[0], expected, rtol=1e-3, atol=1e-4)
        with ec.Edge(net, cloud=place, point=1, cache_dir=cache) as edge:  # it is there now
            assert edge(x).completed_by == "split"
    assert "is being sent to the cloud" in caplog.text
