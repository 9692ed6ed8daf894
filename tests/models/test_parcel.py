"""A captured network that another process has loaded is the same network, over the same memory."""

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from edgecloud.models import inputs, parcel, registry, weights
from edgecloud.models.parcel import CannotPackError
from edgecloud.models.split import segment
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.models.trace import Traced, trace

X = torch.randn((1, 4, 6, 6), generator=torch.Generator().manual_seed(0))


class Tied(nn.Module):
    """One parameter in two places, a buffer that is a view of another, work in place that only export takes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 4, 1)
        self.second = nn.Conv2d(4, 4, 1)
        self.second.weight = self.first.weight
        self.table: torch.Tensor
        self.part: torch.Tensor
        table = torch.arange(8.0)
        self.register_buffer("table", table)
        self.register_buffer("part", table[2:6].reshape(4, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.second(self.first(x)) * self.part + self.table.sum()
        return y.relu_() + y


def whole(traced: Traced, x: torch.Tensor) -> torch.Tensor:
    made = segment(traced, traced.graph.everything).module(x.clone())
    assert isinstance(made[0], torch.Tensor)
    return made[0]


def there_and_back(model: nn.Module, x: torch.Tensor) -> tuple[Traced, Traced, parcel.Shared]:
    shared = parcel.share(model)
    traced = trace(model, x, "toy")
    found, more = parcel.unpack(parcel.pack(traced, {"x": x}, shared), shared.descriptor)
    assert torch.equal(more["x"], x)
    return traced, found, shared


def quantised() -> nn.Module:
    """Its weights are of a kind that torch alone can take apart."""
    quantise: Any = torch.ao.quantization.quantize_dynamic  # torch gives it no types
    found: nn.Module = quantise(nn.Sequential(nn.Flatten(), nn.Linear(144, 3)))
    return found


KINDS = [Tied, quantised, lambda: nn.Sequential(nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2), nn.Flatten())]


@pytest.mark.filterwarnings("ignore")  # torch.export's own
@pytest.mark.parametrize("kind", KINDS)
def test_it_gives_the_same_answer_bit_for_bit(kind: Callable[[], nn.Module]) -> None:
    model = kind().eval().requires_grad_(False)
    expected = model(X.clone())
    traced, found, shared = there_and_back(model, X)
    assert found.graph == traced.graph
    assert (found.capture, found.views, found.strided) == (traced.capture, traced.views, traced.strided)
    assert torch.equal(whole(found, X), expected)
    assert torch.equal(model(X.clone()), expected)  # what was moved is still what it was
    os.close(shared.descriptor)


@pytest.mark.parametrize("name", ["senna_pos", "mobile_net"])
def test_parameters_are_in_memory_once(name: str) -> None:
    entry = registry.lookup(name)
    loaded, example = weights.load(entry), inputs.sample(entry.sample, entry.preprocess)
    before = weights.digest(loaded.model)
    traced, found, shared = there_and_back(loaded.model, example.tensor)
    assert weights.digest(loaded.model) == before
    assert torch.equal(whole(found, example.tensor), whole(traced, example.tensor))
    mine = dict(traced.module.named_parameters())
    for key, parameter in found.module.named_parameters():
        with torch.no_grad():
            mine[key].zero_()
        assert not parameter.any(), key
    os.close(shared.descriptor)


def test_what_exists_in_one_process_only_is_refused(network: Callable[[str], TorchNetwork]) -> None:
    class Local(nn.ReLU):
        is_one_layer = True

    model = nn.Sequential(Local())
    shared = parcel.share(model)
    with pytest.raises(CannotPackError):
        parcel.pack(trace(model, X, "toy"), None, shared)
    os.close(shared.descriptor)
