"""From a captured graph to layers that make one tensor each, in an order in which every cut is right.

* Values that are not tensors (shapes, flags) are folded to constants, since the input size is fixed, so that only
  tensors can cross a cut; what depends on the values of the input (`models.bound`) is in one layer with its readers;
* every layer makes exactly one tensor that can be sent: what makes several at once, or one of a type that no message
  has, is in one layer with each of its readers (for an LSTM, one layer for each of its states), and runs once for all
  of those on a side;
* what depends on parameters alone is a constant: no layer, but copied to the side that needs it.
"""

import operator
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_aggregate

from edgecloud.models.bound import find_bound, through
from edgecloud.models.capture import KEPT, NotCuttableError, tensors_in
from edgecloud.models.example import Example
from edgecloud.models.form import ALONE, Call, Form
from edgecloud.models.graph import Layer, LayerGraph
from edgecloud.utils.dtypes import TRAVELLING


@dataclass(frozen=True)
class Traced:
    """A network in eval mode with its graph of layers."""

    graph: LayerGraph
    module: fx.GraphModule
    nodes: tuple[tuple[fx.Node, ...], ...]
    """For every layer its fx nodes; the last one makes the layer's tensor. Those of inputs are the placeholders."""
    capture: str
    """`fx` or `export`."""
    views: frozenset[int] = frozenset()
    """Layers that look at their input's memory in another way and compute nothing."""
    strided: frozenset[int] = frozenset()
    """Layers whose output does not lie in memory in the order of its indices."""
    overwritten: Mapping[int, frozenset[int]] = field(default_factory=dict)
    """Of each layer whose output others write into, those others."""
    bound: frozenset[int] = frozenset()
    """Layers that hold something which depends on the values of the input and could not cross a cut."""
    numbers: str = ""
    """Of a custom model, a digest of the numbers in the graph that are not parameters."""
    kept: Mapping[str, str] = field(default_factory=dict)
    """Modules that could not be captured inside and are one layer each, with the reason."""
    answer: Form = ALONE
    """The structure of its answer, of which the graph's outputs are the tensors."""


# --- one run that tells what every node makes and whom it changes


@dataclass(frozen=True)
class _Record:
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
    parts: "tuple[_Record, ...] | None" = None
    """Of a tuple or list, what is in it."""
    sequence: type | None = None
    """Which of the two it is, or a named tuple."""

    @property
    def holds_tensors(self) -> bool:
        return bool(self.shapes)


def _record(value: Any, changed: frozenset[int] = frozenset()) -> _Record:
    tensors = _tensors(value)
    return _Record(
        value=None if tensors else value,
        shapes=tuple(tuple(t.shape) for t in tensors),
        dtypes=tuple(str(t.dtype).removeprefix("torch.") for t in tensors),
        bytes=sum(t.numel() * t.element_size() for t in tensors),
        storages=frozenset(map(_storage, tensors)),
        changed=changed,
        is_tensor=isinstance(value, torch.Tensor),
        is_contiguous=all(t.layout is not torch.strided or t.is_contiguous() for t in tensors),
        parts=tuple(map(_record, value)) if tensors and isinstance(value, tuple | list) else None,
        sequence=type(value) if isinstance(value, tuple | list) else None,
    )


@dataclass
class _Recorder(fx.Interpreter):
    """Runs the graph once; keeps every value alive so that equal storage addresses mean shared memory."""

    module: fx.GraphModule
    records: dict[fx.Node, _Record] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(self.module, garbage_collect_values=False)

    def run_node(self, n: fx.Node) -> Any:
        arguments = [t for source in n.all_input_nodes for t in _tensors(self.env.get(source))]
        versions = [t._version for t in arguments]
        value = super().run_node(n)
        changed = frozenset(_storage(t) for t, before in zip(arguments, versions, strict=True) if t._version != before)
        self.records[n] = _record(value, changed)
        return value


def _tensors(value: Any) -> list[torch.Tensor]:
    tensors: list[torch.Tensor] = []
    map_aggregate(value, lambda v: tensors.append(v) if isinstance(v, torch.Tensor) else None)
    return tensors


def _storage(tensor: torch.Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # made of other tensors, as quantised ones of packages are
        return id(tensor)


# --- putting the graph in order


def put_in_order(module: fx.GraphModule, example: Example, form: Form, name: str, capture: str) -> Traced:
    """Number the layers of a captured graph. Raises NotCuttableError where cutting it would change its answer."""
    graph = module.graph
    sources = list(graph.find_nodes(op="placeholder"))
    if len(sources) != len(example.tensors):
        raise NotCuttableError(f"the graph reads {len(sources)} inputs, {len(example.tensors)} are given")
    recorder = _Recorder(module)
    given = [tensor.clone() for tensor in example.tensors]
    with torch.no_grad():
        recorder.run(*given)
    records = recorder.records
    _forbid_shared_in_place(graph, records)
    pairs = zip(given, example.tensors, strict=True)
    if not all(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in pairs):
        raise NotCuttableError("a layer modifies the network's input")
    bound = _find_bound(graph, sources, records)
    _fold_constants(graph, records, bound)
    _take_apart(graph, records, bound)
    _erase_unread(graph, records)
    _answer_constants_last(graph, records)
    graph.lint()
    module.recompile()
    left, unsent = set(graph.nodes), _find_unsent(graph, records)
    traced = _number_layers(module, example.call, records, bound & left, unsent, name, capture)
    return replace(traced, answer=form)


def _find_bound(graph: fx.Graph, sources: list[fx.Node], records: Mapping[fx.Node, _Record]) -> set[fx.Node]:
    """Raises NotCuttableError where the answer itself could not travel."""
    tensors = {
        node: tuple((shape, getattr(torch, dtype)) for shape, dtype in zip(record.shapes, record.dtypes, strict=True))
        for node, record in records.items()
        if record.holds_tensors
    }
    bound = find_bound(graph, sources, tensors)
    for node in graph.output_node().all_input_nodes:
        if node in bound:
            what = "the shape of its answer" if records[node].holds_tensors else "its answer is a number that"
            raise NotCuttableError(
                f"{what} depends on the values of its input ({node.name}), not on its shape alone: return tensors of a "
                "fixed size"
            )
    for node in bound:
        if records[node].changed:
            raise NotCuttableError(f"{node.name} works in place, on data that depends on the values of the input")
    return bound


def _forbid_shared_in_place(graph: fx.Graph, records: dict[fx.Node, _Record]) -> None:
    """Raise where an in-place operation changes memory that anybody else reads, before or after it."""
    earlier: list[fx.Node] = []
    for node in graph.nodes:
        changed = records[node].changed
        for maker in earlier if changed else ():
            if not records[maker].storages & changed:
                continue
            others = [u for u in maker.users if u is not node and not (u in earlier and records[u].storages & changed)]
            if others or maker.op in ("placeholder", "get_attr"):
                raise NotCuttableError(f"{node.name} works in place on a tensor that other layers read")
        earlier.append(node)


def _fold_constants(graph: fx.Graph, records: dict[fx.Node, _Record], bound: set[fx.Node]) -> None:
    """What is no tensor becomes a constant, unless it depends on the values of the input."""
    for node in list(graph.nodes):
        if node.op in ("placeholder", "output") or records[node].holds_tensors or node in bound:
            continue
        if isinstance(records[node].value, nn.Module):
            continue  # a branch of torch.cond, say: it is called by its name
        value = _plain(records[node].value)
        for user in list(node.users):
            user.args = _replace(user.args, node, value)
            user.kwargs = _replace(user.kwargs, node, value)
    for node in reversed(list(graph.nodes)):
        if node.op not in ("placeholder", "output") and not records[node].holds_tensors and not node.users:
            graph.erase_node(node)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, torch.Size) else value


def _replace(arguments: Any, node: fx.Node, value: Any) -> Any:
    return map_aggregate(arguments, lambda a: value if a is node else a)


def _erase_unread(graph: fx.Graph, records: dict[fx.Node, _Record]) -> None:
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op not in ("placeholder", "output") and not records[node].changed:
            graph.erase_node(node)


def _take_apart(graph: fx.Graph, records: dict[fx.Node, _Record], bound: set[fx.Node]) -> None:
    """Where several tensors are used as one value, as a list is, name each of them: then each can cross a cut."""
    for node in list(graph.nodes):
        if node.op == "output" or records[node].parts is None or node in bound:
            continue
        is_plain = records[node].sequence in (tuple, list)
        users = [
            user
            for user in node.users
            if user.op == "output" or (is_plain and not (user.target is operator.getitem and user.args[0] is node))
        ]
        whole = _each_of(graph, node, records) if users else None
        for user in users:
            user.args = _replace(user.args, node, whole)
            user.kwargs = _replace(user.kwargs, node, whole)


def _each_of(graph: fx.Graph, node: fx.Node, records: dict[fx.Node, _Record]) -> Any:
    """The same tuple or list, of nodes."""
    record, members = records[node], []
    for number, part in enumerate(record.parts or ()):
        if not part.holds_tensors:
            members.append(_plain(part.value))
            continue
        with graph.inserting_after(members[-1] if members and isinstance(members[-1], fx.Node) else node):
            member = graph.call_function(operator.getitem, (node, number))
        records[member] = part
        members.append(member)
    members = [
        _each_of(graph, each, records) if isinstance(each, fx.Node) and records[each].parts is not None else each
        for each in members
    ]
    return members if record.sequence is list else tuple(members)


def _find_unsent(graph: fx.Graph, records: Mapping[fx.Node, _Record]) -> set[fx.Node]:
    """The nodes that make something other than one tensor, or one that no message has: by its type, or without numbers.

    Raises NotCuttableError where that is the answer, or the only trace of it is what was written elsewhere.
    """
    unsent = set()
    for node in graph.nodes:
        record = records.get(node)
        if node.op in ("placeholder", "output") or record is None or not record.holds_tensors:
            continue
        strange = sorted(set(record.dtypes) - set(TRAVELLING)) if record.is_tensor else []
        strange += [f"shape {record.shapes[0]}"] if record.is_tensor and 0 in record.shapes[0] else []
        strange += [f"shape {record.shapes[0]}"] if record.is_tensor and 0 in record.shapes[0] else []
        if record.is_tensor and not strange:
            continue
        if strange and graph.output_node() in node.users:
            raise NotCuttableError(f"its answer has tensors of {strange[0]}, which cannot be sent")
        if record.changed and not node.users:
            raise NotCuttableError(f"{node.name} works in place on what cannot be sent")
        unsent.add(node)
    return unsent


def _answer_constants_last(graph: fx.Graph, records: dict[fx.Node, _Record]) -> None:
    """What is answered and is the same for every input is made at the end, where it keeps no tensor waiting."""
    constants, output = _constants(graph), graph.output_node()
    for node in output.all_input_nodes:
        if node in constants:
            with graph.inserting_before(output):
                copy = graph.node_copy(node, lambda a: a)
            records[copy] = records[node]
            output.replace_input_with(node, copy)
            if not node.users:
                graph.erase_node(node)


def _constants(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that depend on no input."""
    constants: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op not in ("placeholder", "output") and all(read in constants for read in node.all_input_nodes):
            constants.add(node)
    return constants


def _number_layers(
    module: fx.GraphModule,
    call: Call,
    records: dict[fx.Node, _Record],
    bound: set[fx.Node],
    unsent: set[fx.Node],
    name: str,
    capture: str,
) -> Traced:
    """Every tensor that can be sent is a layer, with what it is made of that cannot.

    Several tensors that are made at once are several layers with the same node in them: it runs once on each side that
    has any of them.
    """
    constants = _constants(module.graph)
    together = (bound | unsent) - constants
    kept = {node for node in module.graph.nodes if KEPT in node.meta or _branches(node)}
    sources, answers = list(module.graph.find_nodes(op="placeholder")), _answers(module.graph)
    number_of: dict[fx.Node, int] = {source: number for number, source in enumerate(sources)}
    groups: list[tuple[fx.Node, ...]] = [(source,) for source in sources]
    ids: set[str] = set()
    names = ["input"] if len(sources) == 1 else [_unused(each[:100], ids) for each in call.names]
    ids.update(names)
    layers = [_layer(each, "input", (), records[source]) for each, source in zip(names, sources, strict=True)]
    for node in module.graph.nodes:
        if node in number_of or node.op == "output":
            continue
        if node in constants:
            if node in answers:  # every layer reads something, and this one nothing that matters
                number_of[node] = len(layers)
                groups.append((node,))
                layers.append(_layer(_unique_id(node, ids), CONSTANT, (len(layers) - 1,), records[node]))
            continue
        if not records[node].is_tensor or node in together:
            continue  # joins the selection that reads it, or whatever else does
        inner = tuple(through(node, together))
        group = (*inner, node)
        reads = [read for member in group for read in member.all_input_nodes]
        inputs = tuple(dict.fromkeys(number_of[read] for read in reads if read in number_of))
        number_of[node] = len(layers)
        groups.append(group)
        named = group[0] if _selects(group) and not bound.intersection(inner) else node
        kind = _name_of_kind(module, group, named, is_of_values=bool((bound | kept).intersection(group)))
        layers.append(_layer(_unique_id(named, ids), kind, inputs, records[node]))
    _forbid_writing_twice(groups, records)
    outputs = tuple(number_of[node] for node in answers)
    views = frozenset(n for n, group in enumerate(groups) if layers[n].inputs and _is_view(group, records))
    views |= _later_of_one(groups)
    strided = frozenset(n for n, group in enumerate(groups) if not records[group[-1]].is_contiguous)
    holding = frozenset(n for n, group in enumerate(groups) if (bound | kept).intersection(group))
    graph = LayerGraph(name, tuple(layers), outputs)
    return Traced(graph, module, tuple(groups), capture, views, strided, _overwritten(groups, records), holding)


def _branches(node: fx.Node) -> bool:
    """Whether it is torch.cond or its like, which take one way for all that they are given."""
    return isinstance(node.target, torch._ops.HigherOrderOperator)


def _forbid_writing_twice(groups: list[tuple[fx.Node, ...]], records: dict[fx.Node, _Record]) -> None:
    """Raise where something works in place and is in several layers: on two sides it would do so twice."""
    count = Counter(node for group in groups for node in group)
    for node, times in count.items():
        if times > 1 and records[node].changed:
            raise NotCuttableError(f"{node.name} works in place, and several layers need it")


def _selects(group: tuple[fx.Node, ...]) -> bool:
    """Whether all but the first node only take something out of what the first makes."""
    selecting = (operator.getitem, getattr, tensors_in)
    return all(node.target in selecting and len(node.all_input_nodes) == 1 for node in group[1:])


def _later_of_one(groups: list[tuple[fx.Node, ...]]) -> frozenset[int]:
    """Layers that only take another tensor out of what an earlier one has made."""
    makers: set[fx.Node] = set()
    later = set()
    for number, group in enumerate(groups):
        if len(group) > 1 and _selects(group):
            if group[0] in makers:
                later.add(number)
            makers.add(group[0])
    return frozenset(later)


def _name_of_kind(module: fx.GraphModule, group: tuple[fx.Node, ...], named: fx.Node, *, is_of_values: bool) -> str:
    kind = kind_of(module, named)
    if is_of_values:
        return kind + OF_VALUES
    return kind if named is group[0] else f"{kind_of(module, group[0])}+{kind}"


CONSTANT = "constant"
"""The kind of a layer whose output is no more than a parameter, or made of parameters, and is answered."""
OF_VALUES = "_of_values"
"""Ends the kind of a layer with numbers in it that depend on the values of its input: no predictor knows those."""


def _overwritten(groups: list[tuple[fx.Node, ...]], records: dict[fx.Node, _Record]) -> dict[int, frozenset[int]]:
    writers: dict[int, set[int]] = {}
    for number, group in enumerate(groups):
        for storage in frozenset().union(*(records[node].changed for node in group)):
            writers.setdefault(storage, set()).add(number)
    overwriters = {}
    for number, group in enumerate(groups):
        later = {w for storage in records[group[-1]].storages for w in writers.get(storage, ()) if w > number}
        if later:
            overwriters[number] = frozenset(later)
    return overwriters


def _is_view(group: tuple[fx.Node, ...], records: dict[fx.Node, _Record]) -> bool:
    read = frozenset().union(*(records[source].storages for source in group[0].all_input_nodes))
    return records[group[-1]].storages <= read and not any(records[node].changed for node in group)


def _layer(layer_id: str, kind: str, inputs: tuple[int, ...], record: _Record) -> Layer:
    return Layer(layer_id, kind, inputs, record.bytes, record.shapes[0], record.dtypes[0])


def _unique_id(node: fx.Node, ids: set[str]) -> str:
    """The module's own dotted name where there is one, else fx's name; a module called again gets a number."""
    return _unused(str(node.target) if node.op == "call_module" else node.name, ids)


def _unused(name: str, ids: set[str]) -> str:
    candidate, again = name, 1
    while candidate in ids:
        again += 1
        candidate = f"{name}:{again}"
    ids.add(candidate)
    return candidate


def kind_of(module: fx.GraphModule, node: fx.Node) -> str:
    """What torch calls an operation."""
    if node.op == "call_module":
        return type(module.get_submodule(str(node.target))).__name__
    if isinstance(node.target, str):
        return node.target
    return str(getattr(node.target, "__name__", node.target)).split(".")[0]


def _answers(graph: fx.Graph) -> list[fx.Node]:
    (answer,) = graph.output_node().args
    answers = list(answer) if isinstance(answer, tuple | list) else [answer]
    return [node for node in answers if isinstance(node, fx.Node)]  # the others are numbers that never change
