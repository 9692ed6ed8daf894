"""Inputs of other sizes than the example's: the network is captured for them where it takes them."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import edgecloud as ec
from edgecloud.client.config import DeviceConfig, EdgeConfig
from edgecloud.client.edge import Edge, read_input
from edgecloud.library import edge as edges
from edgecloud.models import registry
from tests.conftest import running_cloud

SIZES = [(1, 3, 24, 40), (1, 3, 17, 17), (3, 3, 32, 32), (1, 3, 32, 32)]


class Pooled(nn.Module):
    """Takes pictures of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return {"scores": self.last(x.mean((2, 3))), "map": x}


class Flat(nn.Module):
    """Takes pictures of one size."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 2, 3), nn.Linear(2 * 30 * 30, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(self.first(x).flatten(1))
        return out


def pictures() -> Iterator[torch.Tensor]:
    random = torch.Generator().manual_seed(5)
    for size in SIZES:
        yield torch.rand(size, generator=random)


@pytest.fixture(scope="module")
def module() -> Pooled:
    torch.manual_seed(3)
    return Pooled().eval()


def assert_equal(answer: Any, module: nn.Module, x: torch.Tensor) -> None:
    expected = module(x)
    assert set(answer) == set(expected)
    for name, tensor in expected.items():
        assert answer[name].shape == tensor.shape
        torch.testing.assert_close(answer[name], tensor, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_whole_network_takes_any_size_that_its_module_takes(module: Pooled) -> None:
    net = ec.load((module, torch.zeros(1, 3, 32, 32)))
    for x in pictures():
        assert_equal(net.value(net(x)), module, x)
    with pytest.raises(ec.UsageError, match=r"does not take inputs of \(1, 3, 2, 2\): "):
        net(torch.zeros(1, 3, 2, 2))


@torch.no_grad()
def test_an_edge_plans_for_other_sizes_and_keeps_a_few_of_them(
    module: Pooled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edges, "SIZES_KEPT", 2)
    with ec.Edge(module, torch.zeros(1, 3, 32, 32), cloud=None, cache_dir=tmp_path) as edge:
        for x in pictures():
            answer = edge(x)
            assert_equal(answer.value, module, x)
            assert answer.completed_by == "edge"
        assert len(edge._resized) == 2
        mixed = [*pictures()] * 2
        for x, answer in zip(mixed, edge.map(mixed), strict=True):
            assert_equal(answer.value, module, x)
        with pytest.raises(ec.UsageError, match="fails on its input"):
            edge(torch.zeros(1, 3, 2, 2))
        others = list(edge._resized.values())
    assert all(other._is_closed for other in others)


def test_an_answer_that_cannot_be_given_is_an_error_for_who_waits(
    module: Pooled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> None:
        raise ValueError("no answer")

    monkeypatch.setattr(edges.Edge, "_answer", failing)
    x = torch.zeros(1, 3, 32, 32)
    with ec.Edge(module, x, cloud=None, cache_dir=tmp_path) as edge, pytest.raises(ValueError, match="no answer"):
        edge.submit(x).result(60)


def test_few_sizes_in_rotation_are_made_once_and_closing_waits_for_what_is_under_way(
    module: Pooled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = ec.Edge(module, torch.zeros(1, 3, 32, 32), cloud=None, cache_dir=tmp_path)
    made: list[Any] = []
    make = edge._made_for
    monkeypatch.setattr(edge, "_made_for", lambda *about: made.append(about) or make(*about))  # type: ignore[func-returns-value]
    sizes = [(1, 3, 24, 40), (1, 3, 17, 17), (2, 3, 32, 32)]
    for size in sizes * 3:
        edge(torch.zeros(size))
    assert len(made) == len(sizes)
    futures = [edge.submit(torch.zeros(size)) for size in sizes]
    edge.close()
    assert all(future.done() for future in futures)
    with pytest.raises(ec.UsageError, match="closed"):
        edge(torch.zeros(sizes[0]))


def test_a_network_of_one_size_says_so(tmp_path: Path) -> None:
    torch.manual_seed(4)
    with ec.Edge(Flat(), torch.zeros(1, 3, 32, 32), cloud=None, cache_dir=tmp_path) as edge:
        for x in (torch.zeros(1, 3, 30, 30), np.zeros((1, 3, 30, 30), np.float32)):
            with pytest.raises(ec.UsageError) as raised:
                edge(x)
            assert "module:Flat fails on its input of shape (1, 3, 30, 30)" in str(raised.value)
            assert "\n" not in str(raised.value)
        for wrong in (torch.zeros(3, 32), torch.zeros(1, 3, 30, 30, dtype=torch.int64)):
            with pytest.raises(ec.UsageError):
                edge(wrong)


@torch.no_grad()
def test_a_cloud_without_a_graph_for_them_leaves_them_to_the_edge(
    module: Pooled, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    net, x = ec.load((module, torch.zeros(1, 3, 32, 32))), next(pictures())
    with (
        caplog.at_level(logging.WARNING),
        ec.Cloud(networks=[net], cache_dir=tmp_path) as cloud,
        ec.Edge(net, cloud=cloud.address, point=2, cache_dir=tmp_path) as edge,
    ):
        answer = edge(x)
        assert_equal(answer.value, module, x)
        assert answer.completed_by == "edge"
        assert edge(torch.zeros(1, 3, 32, 32)).completed_by == "split"
    assert "inputs of (1, 3, 24, 40) are answered on the edge" in caplog.text


@torch.no_grad()
def test_a_cloud_that_takes_networks_gets_each_size(module: Pooled, tmp_path: Path) -> None:
    with running_cloud(tmp_path, "--accept-networks") as cloud:
        address = f"127.0.0.1:{cloud.port}"
        example = torch.zeros(1, 3, 32, 32)
        with ec.Edge(module, example, cloud=address, point=2, ship="wait", cache_dir=tmp_path / "edge") as edge:
            for x in [*pictures()][:2]:
                answer = edge(x)
                assert_equal(answer.value, module, x)
                assert answer.completed_by == "split"


FILE = """
import torch
from torch import nn

INPUT_SHAPE = (3, 32, 32)


def build():
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
"""


def test_an_array_for_a_file_may_have_other_sizes(tmp_path: Path) -> None:
    path = tmp_path / "any_size.py"
    path.write_text(FILE, encoding="utf-8")
    entry = registry.resolve_trusted(str(path))
    for size, is_taken in (((1, 3, 40, 24), True), ((2, 3, 32, 32), True), ((3, 32, 32), True), ((1, 32, 32), False)):
        np.save(tmp_path / "x.npy", np.random.default_rng(1).random(size, np.float32))
        config = EdgeConfig(model=str(path), array=tmp_path / "x.npy", device=DeviceConfig(cache_dir=tmp_path))
        if not is_taken:
            with pytest.raises(ec.UsageError, match="does not match the network's input"):
                read_input(config, entry)
            continue
        example = read_input(config, entry)
        edge = Edge.build(config, entry, example)
        assert edge.entry.is_resized == (size != (3, 32, 32))
        assert edge.entry.input_specs[0].shape == (size if len(size) == 4 else (1, *size))
        assert edge.graph.layers[0].out_shape == edge.entry.input_specs[0].shape
