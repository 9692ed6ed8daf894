"""Runs the nodes of a graph one by one, without generating code for them.

torch.fx writes Python source for every graph that is to run, compiles it, and keeps the source for ever. A cloud runs
whatever layers its edges ask for, so there are as many graphs as edges think of: here a graph becomes a list of calls,
which is made in a fraction of the time, runs as fast, and is gone when it is dropped.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_arg

Values = list[Any]
"""What the steps have made so far; every node has its place."""


@dataclass(frozen=True, slots=True)
class _Step:
    """One call. Where it takes values as they are, `places` says which; else `arguments` makes them."""

    call: Callable[..., Any]
    places: tuple[int, ...]
    arguments: Callable[[Values], tuple[Any, Any]] | None
    into: int
    dropped: tuple[int, ...]
    """Places whose values nobody reads afterwards."""


class Steps:
    """Nodes as a function: takes tensors for the nodes `inputs`, and returns what `answer` holds, nodes at any depth.

    `nodes` are run in their order. Shares the modules and the parameters of `root`, from which they were captured.
    """

    def __init__(self, root: nn.Module, inputs: Sequence[fx.Node], nodes: Sequence[fx.Node], answer: Any) -> None:
        place = {node: number for number, node in enumerate((*inputs, *nodes))}
        self._inputs, self._count = len(inputs), len(nodes)
        self._answer = _template(answer, place)
        gone = _last_reads(nodes, answer)
        self._steps = [_step(root, node, place, tuple(place[read] for read in gone.get(node, ()))) for node in nodes]
        self.held = frozenset(str(node.target) for node in nodes if node.op in ("call_module", "get_attr"))
        """The names of the modules and the parameters that it uses."""
        self.runs = 0
        """How often it has run."""

    def __call__(self, *tensors: torch.Tensor) -> Any:
        """Run all of it."""
        if len(tensors) != self._inputs:
            raise TypeError(f"expected {self._inputs} tensors, got {len(tensors)}")
        self.runs += 1
        values: Values = [*tensors, *[None] * self._count]
        for step in self._steps:
            if step.arguments is None:
                values[step.into] = step.call(*[values[place] for place in step.places])
            else:
                args, kwargs = step.arguments(values)
                values[step.into] = step.call(*args, **kwargs)
                del args, kwargs
            for place in step.dropped:
                values[place] = None
        return self._answer(values)


def _last_reads(nodes: Sequence[fx.Node], answer: Any) -> dict[fx.Node, list[fx.Node]]:
    """For every node those that it reads and nobody after it, and itself where nobody does."""
    last_reads: dict[fx.Node, list[fx.Node]] = {}
    seen: set[fx.Node] = set()
    map_arg(answer, seen.add)
    for node in reversed(nodes):
        for read in (*node.all_input_nodes, node):
            if read not in seen:
                seen.add(read)
                last_reads.setdefault(node, []).append(read)
    return last_reads


def _step(root: nn.Module, node: fx.Node, place: dict[fx.Node, int], dropped: tuple[int, ...]) -> _Step:
    call = _CALLS[node.op](root, node.target)
    args = () if node.op == "get_attr" else node.args
    places = [place[read] for read in args if isinstance(read, fx.Node)]
    if len(places) == len(args) and not node.kwargs:
        return _Step(call, tuple(places), None, place[node], dropped)
    return _Step(call, (), _template((args, node.kwargs), place), place[node], dropped)


def _attribute(root: nn.Module, target: Any) -> Callable[..., Any]:
    return partial(operator.attrgetter(target), root)  # looked up when it runs: a buffer may have moved to a device


def _method(root: nn.Module, target: Any) -> Callable[..., Any]:
    def call(owner: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(owner, target)(*args, **kwargs)

    return call


_CALLS: dict[str, Callable[[nn.Module, Any], Callable[..., Any]]] = {
    "call_module": lambda root, target: root.get_submodule(target),
    "call_function": lambda root, target: target,
    "call_method": _method,
    "get_attr": _attribute,
}


def _constant(value: Any) -> Callable[[Values], Any]:
    return lambda _: value


def _template(value: Any, place: dict[fx.Node, int]) -> Callable[[Values], Any]:
    """What makes an argument, which may hold nodes at any depth, of the values that are there."""
    if isinstance(value, fx.Node):
        return operator.itemgetter(place[value])
    if isinstance(value, slice):
        bounds = _template((value.start, value.stop, value.step), place)
        return lambda values: slice(*bounds(values))
    if isinstance(value, dict):
        items = {key: _template(one, place) for key, one in value.items()}
        return lambda values: {key: one(values) for key, one in items.items()}
    if type(value) is tuple:
        parts = [_template(one, place) for one in value]
        return lambda values: tuple([part(values) for part in parts])
    if isinstance(value, list):
        parts = [_template(one, place) for one in value]
        return lambda values: [part(values) for part in parts]
    return _constant(value)
