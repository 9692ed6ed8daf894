"""Cutting a traced network: any set of layers becomes a function of the tensors that it reads."""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import fx, nn

from edgecloud.models.steps import Steps
from edgecloud.models.trace import Traced


@dataclass(frozen=True)
class Segment:
    """Some layers of a network: `module` takes the tensors of `inputs` and returns a tuple with those of `outputs`.

    The numbers are layer numbers of the graph. An input layer belongs to the segment that holds it, which then takes
    that input of the network and passes it on if others read it.
    """

    module: Steps
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    overwritten: frozenset[int] = frozenset()
    """Those of the inputs into which a layer of the segment writes: what still holds them gets a copy."""


def device_of(module: nn.Module) -> torch.device:
    """Where a network's numbers are; a network without any runs on the processor."""
    return next((tensor.device for tensor in (*module.parameters(), *module.buffers())), torch.device("cpu"))


def segment(traced: Traced, layers: Collection[int]) -> Segment:
    """Build the function of any layers; it shares parameters with the whole network and copies none."""
    inside = frozenset(layers)
    inputs = tuple(number for number in traced.graph.inputs if number in inside) + traced.graph.inputs_of(inside)
    outputs = traced.graph.outputs_of(inside)
    sources = [traced.nodes[number][-1] for number in inputs]
    nodes = dict.fromkeys(sources)
    for number in sorted(inside - traced.graph.only_inputs):
        for node in traced.nodes[number]:
            _take(node, nodes)
    answer = tuple(traced.nodes[number][-1] for number in outputs)
    steps = Steps(traced.module, sources, list(nodes)[len(sources) :], answer)
    overwritten = frozenset(n for n in inputs if traced.overwritten.get(n, frozenset()) & inside)
    return Segment(steps, inputs, outputs, overwritten)


def _take(node: fx.Node, nodes: dict[fx.Node, None]) -> None:
    """Take a node, and before it the constants that it reads: what is computed from parameters alone is no layer."""
    if node not in nodes:
        for read in node.all_input_nodes:
            _take(read, nodes)
        nodes[node] = None


def split(traced: Traced, head: Collection[int]) -> tuple[Segment, Segment]:
    """Cut the network: the head for the edge and the tail for the cloud. Raises ValueError if `head` is no cut."""
    cut = traced.graph.check_cut(head)
    return segment(traced, cut), segment(traced, traced.graph.everything - cut)
