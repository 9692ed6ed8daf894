"""Small networks, and bundles of them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from edgecloud.models import bundle, bundle_network, export
from edgecloud.models.bundle import Content, Identity, InputForm
from edgecloud.models.bundle_network import BundleNetwork
from edgecloud.models.inputs import Input
from edgecloud.models.network import Weights
from edgecloud.models.specs import UnknownLayerError, describe
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.models.trace import Traced, trace
from edgecloud.models.weights import Loaded


class Chain(nn.Module):
    """Every layer reads the one before: in-place layers that may not run twice, one that does nothing, a view."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.Hardswish(inplace=True),
            nn.Dropout(0.5),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, groups=8, padding=1),
            nn.ELU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 32),
            nn.Linear(32, 5),
        )

    def forward(self, x: torch.Tensor) -> Any:
        return self.layers(x)


class States(nn.Module):
    """Layers that make several tensors at once, of more than one type."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.last = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> Any:
        output, (hidden, cell) = self.recurrent(x)
        largest, places = (output * cell[0].unsqueeze(1)).topk(2, dim=1)
        return self.last(largest + hidden[0].unsqueeze(1)), places


class Branches(nn.Module):
    """Tensors that are read again later, a layer called twice, tensors split and joined, two answers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.again = nn.Conv2d(8, 8, 1)
        self.last = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> Any:
        a = self.first(x)
        b = self.again(self.again(torch.relu(a)))
        left, right = b.chunk(2, 1)
        left = left + b[:, 0].unsqueeze(1)
        joined = torch.cat([left * 2, right, a], 1)
        scores = self.last(joined.mean((2, 3)))
        return scores, a + 1


@fx.wrap
def beside(token: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """A token beside each input, and the words in windows and back: one layer, as attention is in some networks."""
    count, length, width = words.shape
    windows = words.reshape(count * (length // 4), 4, width).tanh()
    return torch.cat([token.expand(count, -1, -1), windows.reshape(count, length, width)], 1)


class Counted(nn.Module):
    """Layers deep inside that need the number of inputs, and have it from what they read."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.token = nn.Conv2d(3, 8, 3, padding=1), nn.Parameter(torch.zeros(1, 1, 8))
        self.inner, self.mean, self.last = nn.Linear(8, 8), nn.AdaptiveAvgPool2d(1), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> Any:
        words = self.inner(self.first(x).flatten(2).permute(0, 2, 1)).relu()
        words = beside(self.token, words + beside(self.token, words)[:, 1:])
        square = words[:, 1:].permute(0, 2, 1).unflatten(2, (8, 8))  # type: ignore[no-untyped-call]  # torch lacks its types
        return self.last(self.mean(square).flatten(1) + words[:, 0])


class FixedShape(nn.Module):
    """Written for one input at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> Any:
        return self.score(torch.tanh(x).reshape(1, 12))


def traced_of(module: nn.Module, shape: tuple[int, ...], name: str = "") -> tuple[Traced, torch.Tensor]:
    """A module with seeded numbers, captured for a seeded input."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.2)
    x = torch.randn(shape, generator=generator)
    return trace(module.eval(), x, name or type(module).__name__), x


def write(path: Path, traced: Traced, x: torch.Tensor) -> export.Exported:
    """A bundle of a captured network."""
    exported = export.export(traced, (x,))
    try:
        specs = describe(traced)
    except UnknownLayerError:
        specs = None
    content = Content(
        identity=Identity(traced.graph.name, "sha256:0", "test", is_trained=False),
        input=InputForm(tuple(x.shape[1:]), "tensor", "test", labels=("a", "b")),
        graph=traced.graph,
        tensors=exported.tensors,
        is_batched=exported.is_batched,
        specs=specs,
        answer=traced.answer,
    )
    bundle.write(path, content, exported.model, exported.weights, np.asarray(x))
    return exported


def pair(path: Path, module: nn.Module, shape: tuple[int, ...] = (1, 3, 24, 24)) -> tuple[BundleNetwork, TorchNetwork]:
    """A bundle, and the network that it was made of."""
    traced, x = traced_of(module, shape)
    write(path, traced, x)
    return bundle_network.read(path), in_torch(traced, x)


def in_torch(traced: Traced, x: torch.Tensor, weights: str = "sha256:0") -> TorchNetwork:
    """A captured module as a network."""
    loaded = Loaded(*vars(Weights(weights, "test", trained=False)).values(), model=traced.module)
    return TorchNetwork(loaded, traced, Input(np.asarray(x), "test"))
