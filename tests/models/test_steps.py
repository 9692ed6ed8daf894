"""Segments run without generated code: they make what the graph makes, and what is dropped is gone."""

import gc
import linecache
import weakref
from collections.abc import Callable

import torch
from torch import fx, nn

from edgecloud.engine.torch_executor import TorchExecutor, TorchSegment
from edgecloud.models.split import segment
from edgecloud.models.steps import Steps
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.models.trace import trace

X = torch.randn((1, 4, 6, 6), generator=torch.Generator().manual_seed(0))


class Everything(nn.Module):
    """Arguments of all shapes: nested, by name, slices, numbers alone; a buffer, a method, work in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.scale: torch.Tensor
        self.register_buffer("scale", torch.full((1, 4, 1, 1), 2.0))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = torch.relu_(self.conv(x)) * self.scale
        z = torch.cat([y, x[:, 1:3, ..., ::2].repeat_interleave(2, dim=-1)], dim=1)
        first, second = z.chunk(2, dim=1)
        return torch.clamp(first, min=0.1, max=0.9), second.permute(0, 2, 3, 1).contiguous()


def test_steps_make_bit_for_bit_what_the_graph_makes() -> None:
    module = fx.symbolic_trace(Everything().eval())
    nodes = list(module.graph.nodes)
    steps = Steps(module, nodes[:1], nodes[1:-1], nodes[-1].args[0])
    with torch.inference_mode():
        expected, made = module(X.clone()), steps(X.clone())
    assert isinstance(made, tuple)
    assert all(torch.equal(a, b) for a, b in zip(made, expected, strict=True))


def test_a_tensor_that_nobody_reads_any_more_is_freed_while_the_rest_runs() -> None:
    alive: list[int] = []
    kept: list[weakref.ref[torch.Tensor]] = []

    def note(x: torch.Tensor) -> torch.Tensor:
        kept.append(weakref.ref(x))
        alive.append(sum(ref() is not None for ref in kept))
        return x + 1

    graph = fx.Graph()
    node = graph.placeholder("x")
    nodes = []
    for _ in range(5):
        node = graph.call_function(note, (node,))
        nodes.append(node)
    Steps(nn.Module(), [nodes[0].args[0]], nodes, node)(X)  # type: ignore[list-item]
    assert max(alive) <= 3  # the input, which the caller holds, the one that is read, and no others


def test_ever_new_layer_sets_leave_nothing_behind(network: Callable[[str], TorchNetwork]) -> None:
    subject = network("le_net")
    executor = TorchExecutor(subject, "cpu")
    layers = sorted(subject.traced.graph.everything)[1:]
    sources = len(linecache.cache)
    gone = []
    for mask in range(1, 600):
        made = executor.load(frozenset(layer for bit, layer in enumerate(layers) if mask >> bit & 1))
        assert isinstance(made, TorchSegment)
        gone.append(weakref.ref(made.part.module))
    del made
    gc.collect()
    assert len(linecache.cache) == sources
    assert sum(ref() is not None for ref in gone) <= 128


def test_a_segment_of_an_exported_graph_runs_its_constants_too() -> None:
    class InPlaceOnShared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table: torch.Tensor
            self.register_buffer("table", torch.arange(6.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x * self.table.flip(0)
            return y.relu_() + y

    module = InPlaceOnShared().eval()
    traced = trace(module, X, "constants")
    every = frozenset(range(1, len(traced.graph.layers)))
    (made,) = segment(traced, every).module(X)
    assert torch.equal(made, module(X.clone()))
