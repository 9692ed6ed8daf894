"""From a torch network to a graph of layers that can be cut anywhere.

torch.fx captures the network first, because its node names are the network's own layer names; torch.export captures
what fx cannot, and what fx captures but cannot be cut safely. The captured graph is then put in order:

* values that are not tensors (shapes, flags) are folded to constants, since the input size is fixed, so that only
  tensors can cross a cut;
* an operation that makes several tensors is joined with the selection of one of them, so that every layer makes
  exactly one tensor;
* what depends on parameters alone is a constant: no layer, but copied to the side that needs it.

In-place operations are the trap: cut between such an operation and another reader of its input, the two halves would
compute something else than the whole network. Where that could happen the functional graph of torch.export is used.
"""

import operator
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_aggregate

from models.graph import Layer, LayerGraph
from utils.dtypes import TRAVELLING
from utils.errors import UsageError


@dataclass(frozen=True)
class Traced:
    """A network in eval mode with its graph of layers."""

    graph: LayerGraph
    module: fx.GraphModule
    nodes: tuple[tuple[fx.Node, ...], ...]
    """For every layer its fx nodes; the last one makes the layer's tensor. The input's is the placeholder."""
    capture: str
    """`fx` or `export`."""
    views: frozenset[int] = frozenset()
    """Layers that look at their input's memory in another way and compute nothing."""
    strided: frozenset[int] = frozenset()
    """Layers whose output does not lie in memory in the order of its indices."""
    numbers: str = ""
    """Of a network of one's own, a digest of the numbers in the graph that are no parameters."""


class NotCuttableError(Exception):
    """This capture of the network cannot be cut; another one may."""


def trace(model: nn.Module, example: torch.Tensor, name: str, *, is_checked: bool = True) -> Traced:
    """Capture `model`, put in eval mode, for inputs of the shape of `example` (1, ...).

    Raises UsageError where neither fx nor export gives a graph that computes what the network computes. Without the
    check the graph is good for measuring only.
    """
    model.eval()
    reasons = []
    for capture, take in _CAPTURES.items():
        try:
            # fx and export raise whatever the network's own code makes them raise
            traced = _put_in_order(take(model, example), example, name, capture)
            if is_checked:
                _check_equal(model, traced, example)
        except Exception as error:  # noqa: BLE001
            reasons.append(f"{capture}: {_first_line(error)}")
        else:
            return traced
    raise UsageError(f"{name} cannot be captured as a graph of layers ({'; '.join(reasons)})")


class _Tracer(fx.Tracer):
    """Takes torch's own modules for layers, and those of others that say that they are one."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return bool(getattr(m, "is_one_layer", False)) or super().is_leaf_module(m, module_qualified_name)


def _capture_fx(model: nn.Module, example: torch.Tensor) -> fx.GraphModule:
    graph = _Tracer().trace(model)
    module = fx.GraphModule(model, graph, type(model).__name__)
    for node in list(module.graph.nodes):
        if node.target in (torch._assert, torch._check):
            module.graph.erase_node(node)
    return module


def _capture_export(model: nn.Module, example: torch.Tensor) -> fx.GraphModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations, of no use to our users
        program = torch.export.export(model, (example,)).run_decompositions({})
        module: fx.GraphModule = program.module(check_guards=False)
    module.graph.set_codegen(fx.graph.CodeGen())  # plain tensors in and out
    for node in module.graph.find_nodes(op="call_function", target=torch.ops.aten.copy_.default):
        module.graph.erase_node(node)  # the network worked in place on its input, which nobody looks at afterwards
    return module


_CAPTURES: dict[str, Callable[[nn.Module, torch.Tensor], fx.GraphModule]] = {
    "fx": _capture_fx,
    "export": _capture_export,
}


# --- one run that tells what every node makes and whom it changes


@dataclass(frozen=True)
class _Seen:
    value: Any
    """The value where it holds no tensor, else None."""
    shapes: tuple[tuple[int, ...], ...] = ()
    dtypes: tuple[str, ...] = ()
    bytes: int = 0
    storages: frozenset[int] = frozenset()
    changed: frozenset[int] = frozenset()
    """Storages that the node wrote into."""
    is_tensor: bool = False
    is_contiguous: bool = True

    @property
    def holds_tensors(self) -> bool:
        return bool(self.shapes)


@dataclass
class _Recorder(fx.Interpreter):
    """Runs the graph once; keeps every value alive so that equal storage addresses mean shared memory."""

    module: fx.GraphModule
    seen: dict[fx.Node, _Seen] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(self.module, garbage_collect_values=False)

    def run_node(self, n: fx.Node) -> Any:
        read = [t for source in n.all_input_nodes for t in _tensors(self.env.get(source))]
        versions = [t._version for t in read]
        value = super().run_node(n)
        changed = frozenset(_storage(t) for t, before in zip(read, versions, strict=True) if t._version != before)
        made = _tensors(value)
        self.seen[n] = _Seen(
            value=None if made else value,
            shapes=tuple(tuple(t.shape) for t in made),
            dtypes=tuple(str(t.dtype).removeprefix("torch.") for t in made),
            bytes=sum(t.numel() * t.element_size() for t in made),
            storages=frozenset(map(_storage, made)),
            changed=changed,
            is_tensor=isinstance(value, torch.Tensor),
            is_contiguous=all(t.is_contiguous() for t in made),
        )
        return value


def _tensors(value: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    map_aggregate(value, lambda v: found.append(v) if isinstance(v, torch.Tensor) else None)
    return found


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


# --- putting the graph in order


def _put_in_order(module: fx.GraphModule, example: torch.Tensor, name: str, capture: str) -> Traced:
    graph = module.graph
    source = _only_input(graph)
    recorder = _Recorder(module)
    with torch.no_grad():
        recorder.run(example.clone())
    seen = recorder.seen
    _forbid_shared_in_place(graph, seen)
    _fold_constants(graph, seen)
    _erase_unread(graph, seen)
    _select_one_tensor(graph, seen)
    graph.lint()
    module.recompile()
    return _number_layers(module, source, seen, name, capture)


def _only_input(graph: fx.Graph) -> fx.Node:
    used: list[fx.Node] = [node for node in graph.find_nodes(op="placeholder") if node.users]
    if len(used) != 1:
        raise NotCuttableError(f"the network reads {len(used)} inputs, one is supported")
    for node in graph.find_nodes(op="placeholder"):
        if node is not used[0]:
            graph.erase_node(node)
    return used[0]


def _forbid_shared_in_place(graph: fx.Graph, seen: dict[fx.Node, _Seen]) -> None:
    """Raise where an in-place operation changes memory that anybody else reads, before or after it."""
    earlier: list[fx.Node] = []
    for node in graph.nodes:
        changed = seen[node].changed
        for maker in earlier if changed else ():
            if not seen[maker].storages & changed:
                continue
            others = [u for u in maker.users if u is not node and not (u in earlier and seen[u].storages & changed)]
            if others or maker.op in ("placeholder", "get_attr"):
                raise NotCuttableError(f"{node.name} works in place on a tensor that others read")
        earlier.append(node)


def _fold_constants(graph: fx.Graph, seen: dict[fx.Node, _Seen]) -> None:
    for node in list(graph.nodes):
        if node.op in ("placeholder", "output") or seen[node].holds_tensors:
            continue
        value = _plain(seen[node].value)
        for user in list(node.users):
            user.args = _replace(user.args, node, value)
            user.kwargs = _replace(user.kwargs, node, value)
    for node in reversed(list(graph.nodes)):
        if node.op not in ("placeholder", "output") and not seen[node].holds_tensors:
            graph.erase_node(node)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, torch.Size) else value


def _replace(arguments: Any, node: fx.Node, value: Any) -> Any:
    return map_aggregate(arguments, lambda a: value if a is node else a)


def _erase_unread(graph: fx.Graph, seen: dict[fx.Node, _Seen]) -> None:
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op not in ("placeholder", "output") and not seen[node].changed:
            graph.erase_node(node)


def _select_one_tensor(graph: fx.Graph, seen: dict[fx.Node, _Seen]) -> None:
    """Give every selection from a node of several tensors a maker of its own, which costs nothing for views."""
    for node in list(graph.nodes):
        if node.op == "output" or seen[node].is_tensor:
            continue
        selections = list(node.users)
        if any(user.target is not operator.getitem for user in selections):
            raise NotCuttableError(f"{node.name} makes several tensors that are used as one value")
        is_view = bool(node.all_input_nodes) and seen[node].storages <= seen[node.all_input_nodes[0]].storages
        if len(selections) > 1 and not is_view:
            raise NotCuttableError(f"{node.name} makes several tensors at once")
        for selection in selections[1:]:
            with graph.inserting_before(selection):
                copy = graph.node_copy(node, lambda a: a)
            seen[copy] = seen[node]
            selection.replace_input_with(node, copy)


def _number_layers(
    module: fx.GraphModule, source: fx.Node, seen: dict[fx.Node, _Seen], name: str, capture: str
) -> Traced:
    strange = {dtype for found in seen.values() for dtype in found.dtypes} - set(TRAVELLING)
    if strange:
        raise NotCuttableError(f"tensors of {', '.join(sorted(strange))} do not travel")
    number_of: dict[fx.Node, int] = {source: 0}
    groups: list[tuple[fx.Node, ...]] = [(source,)]
    layers = [_layer("input", "input", (), seen[source])]
    constants: set[fx.Node] = set()
    ids = {"input"}
    for node in module.graph.nodes:
        if node is source or node.op == "output":
            continue
        if all(read in constants for read in node.all_input_nodes):
            constants.add(node)
            continue
        if not seen[node].is_tensor:
            continue  # joins the selection that reads it
        maker = node.all_input_nodes[0]
        group = (node,) if seen[maker].is_tensor else (maker, node)
        reads = [read for member in group for read in member.all_input_nodes]
        inputs = tuple(dict.fromkeys(number_of[read] for read in reads if read in number_of))
        number_of[node] = len(layers)
        groups.append(group)
        layers.append(_layer(_unique_id(group[0], ids), _kind(module, group[0]), inputs, seen[node]))
    outputs = tuple(number_of[node] for node in _answers(module.graph))
    views = frozenset(n for n, group in enumerate(groups) if n and _is_view(group, seen))
    strided = frozenset(n for n, group in enumerate(groups) if not seen[group[-1]].is_contiguous)
    return Traced(LayerGraph(name, tuple(layers), outputs), module, tuple(groups), capture, views, strided)


def _is_view(group: tuple[fx.Node, ...], seen: dict[fx.Node, _Seen]) -> bool:
    read = frozenset().union(*(seen[source].storages for source in group[0].all_input_nodes))
    return seen[group[-1]].storages <= read and not any(seen[node].changed for node in group)


def _layer(layer_id: str, kind: str, inputs: tuple[int, ...], seen: _Seen) -> Layer:
    return Layer(layer_id, kind, inputs, seen.bytes, seen.shapes[0], seen.dtypes[0])


def _unique_id(node: fx.Node, taken: set[str]) -> str:
    """The module's own dotted name where there is one, else fx's name; a module called again gets a number."""
    name = str(node.target) if node.op == "call_module" else node.name
    candidate, again = name, 1
    while candidate in taken:
        again += 1
        candidate = f"{name}:{again}"
    taken.add(candidate)
    return candidate


def _kind(module: fx.GraphModule, node: fx.Node) -> str:
    if node.op == "call_module":
        return type(module.get_submodule(str(node.target))).__name__
    if isinstance(node.target, str):
        return node.target
    return str(getattr(node.target, "__name__", node.target)).split(".")[0]


def _answers(graph: fx.Graph) -> list[fx.Node]:
    (answer,) = graph.output_node().args
    found = list(answer) if isinstance(answer, tuple | list) else [answer]
    if not found or not all(isinstance(node, fx.Node) for node in found):
        raise NotCuttableError("the network must return a tensor or a tuple of tensors")
    return found  # type: ignore[return-value]  # checked above


# --- the oracle


class _AsIfCut(fx.Interpreter):
    """Runs the graph as if every tensor crossed a cut, which makes it contiguous.

    `reshape` and its like copy what is not contiguous and otherwise give a view. Where an in-place operation follows,
    the two differ, and a cut would change the answer.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)

    def run_node(self, n: fx.Node) -> Any:
        return map_aggregate(super().run_node(n), lambda v: v.contiguous() if isinstance(v, torch.Tensor) else v)


def _check_equal(model: nn.Module, traced: Traced, example: torch.Tensor) -> None:
    """Compare with the network itself, on the example and, as if cut everywhere, on another input.

    Raises NotCuttableError where they differ, as they do when a value that depends on the input became a constant.
    """
    other = torch.randn(example.shape, generator=torch.Generator().manual_seed(1)).to(example)
    with torch.no_grad():
        for x, run in ((example, traced.module), (other, _AsIfCut(traced.module).run)):
            expected, got = _as_tuple(model(x.clone())), _as_tuple(run(x.clone()))
            if not all(
                torch.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True) for a, b in zip(got, expected, strict=True)
            ):
                raise NotCuttableError("the captured graph gives another answer than the network")


def _as_tuple(value: Any) -> tuple[torch.Tensor, ...]:
    if isinstance(value, torch.Tensor):
        return (value,)
    if isinstance(value, tuple | list) and value and all(isinstance(v, torch.Tensor) for v in value):
        return tuple(value)
    raise UsageError(f"a network must return a tensor or a tuple of tensors, this one returns {type(value).__name__}")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
