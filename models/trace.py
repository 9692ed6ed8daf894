"""From a torch network to a graph of layers that can be cut anywhere.

torch.fx captures the network first, because its node names are the network's own layer names; torch.export captures
what fx cannot, and what fx captures but cannot be cut safely. The captured graph is then put in order:

* values that are not tensors (shapes, flags) are folded to constants, since the input size is fixed, so that only
  tensors can cross a cut; what depends on the values of the input (`models.bound`) is in one layer with its readers;
* every layer makes exactly one tensor that can be sent: what makes several at once, or one of a type that no message
  has, is in one layer with each of its readers (for an LSTM, one layer for each of its states), and runs once for all
  of those on a side;
* what depends on parameters alone is a constant: no layer, but copied to the side that needs it.

In-place operations are the trap: cut between such an operation and another reader of its input, the two halves would
compute something else than the whole network. Where that could happen the functional graph of torch.export is used.
"""

import hashlib
import operator
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_aggregate
from torch.nn.parameter import is_lazy

from edgecloud.models.bound import find_bound, through
from edgecloud.models.building import in_eval_mode
from edgecloud.models.capture import (
    KEPT,
    KEPT_S,
    MAX_KEPT,
    Capture,
    NotCuttableError,
    capture_export,
    capture_fx,
    first_line,
    left_as_it_is,
    to_keep,
    why,
    why_kept,
)
from edgecloud.models.example import Example, Tensors, take_apart
from edgecloud.models.fingerprint import address, update_tensor
from edgecloud.models.form import ALONE, Call, Form, FormError
from edgecloud.models.graph import Layer, LayerGraph
from edgecloud.utils.dtypes import TRAVELLING
from edgecloud.utils.errors import UsageError


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
    answer: Form = ALONE
    """The structure of its answer, of which the graph's outputs are the tensors."""
    kept: Mapping[str, str] = field(default_factory=dict)
    """Modules that could not be captured inside and are one layer each, with the reason."""


def trace(
    model: nn.Module, example: torch.Tensor | Example, name: str, *, is_checked: bool = True, is_own: bool = False
) -> Traced:
    """Capture `model`, put in eval mode, for inputs of the shapes of `example`; neither is changed.

    A custom model is checked on more inputs, and the numbers in its graph get a digest. Raises UsageError where
    neither fx nor export gives a graph that computes what the network computes. Without the check the graph is good for
    measuring only.
    """
    in_eval_mode(model)
    example = Example.of(example) if isinstance(example, torch.Tensor) else example
    cases = _Cases(model, example, name, is_own) if is_checked else None
    form = ALONE if cases is None else cases.form
    attempt = partial(_attempt, model, example, form, name, cases)
    reasons: dict[str, Exception] = {}
    traced = None
    for capture, take in _CAPTURES.items():
        try:
            traced = traced or attempt(capture, take)
        except Exception as error:  # noqa: BLE001  fx and export raise whatever the network's own code makes them raise
            reasons[capture] = error
    if traced is None and cases is not None and not cases.is_steady:
        raise UsageError(f"{name} gives a different answer each time: forward() uses random numbers or keeps state")
    for capture in reversed(_CAPTURES):
        traced = traced or _with_kept_blocks(model, attempt, capture, reasons[capture])
    if traced is not None:
        return replace(traced, numbers=_numbers(traced, model)) if is_own else traced
    raise UsageError(f"{name} cannot be captured as a graph of layers ({why(reasons)})")


def _attempt(
    model: nn.Module, example: Example, form: Form, name: str, cases: "_Cases | None", capture: str, take: Capture
) -> Traced:
    """Capture in one way, and compare. Raises whatever the network's own code raises, or NotCuttableError."""
    with left_as_it_is(model):
        captured = take(model, example, form)
    traced = _put_in_order(captured, example, form, name, capture)
    if cases is not None:
        _check_equal(traced, cases)
    return traced


def _with_kept_blocks(
    model: nn.Module, attempt: Callable[[str, Capture], Traced], capture: str, error: Exception
) -> Traced | None:
    """Keep the smallest module in which capturing failed as one layer, and try again; None where it is the network."""
    kept: dict[str, str] = {}
    begun = time.perf_counter()
    for _ in range(MAX_KEPT):
        path = to_keep(model, error, tuple(kept))
        if not path or time.perf_counter() - begun > KEPT_S:
            return None
        reason = next((why for other, why in kept.items() if other.startswith(f"{path}.")), why_kept(error))
        kept = {other: why for other, why in kept.items() if not other.startswith(f"{path}.")} | {path: reason}
        try:
            return replace(attempt(capture, partial(_CAPTURES[capture], kept=tuple(kept))), kept=kept)
        except Exception as another:  # noqa: BLE001  as before
            error = another
    return None


_CAPTURES: dict[str, Capture] = {"fx": capture_fx, "export": capture_export}


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


def _put_in_order(module: fx.GraphModule, example: Example, form: Form, name: str, capture: str) -> Traced:
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
    graph.lint()
    module.recompile()
    left = set(graph.nodes)
    unsent = _find_unsent(graph, records)
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
    """The nodes that make something other than one tensor, or one of a type that no message has.

    Raises NotCuttableError where that is the answer, or the only trace of it is what was written elsewhere.
    """
    unsent = set()
    for node in graph.nodes:
        record = records.get(node)
        if node.op in ("placeholder", "output") or record is None or not record.holds_tensors:
            continue
        strange = sorted(set(record.dtypes) - set(TRAVELLING)) if record.is_tensor else []
        if record.is_tensor and not strange:
            continue
        if strange and graph.output_node() in node.users:
            raise NotCuttableError(f"its answer has tensors of {strange[0]}, which cannot be sent")
        if record.changed and not node.users:
            raise NotCuttableError(f"{node.name} works in place on what cannot be sent")
        unsent.add(node)
    return unsent


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
    together = bound | unsent
    kept = {node for node in module.graph.nodes if KEPT in node.meta or _branches(node)}
    sources, answers = list(module.graph.find_nodes(op="placeholder")), _answers(module.graph)
    number_of: dict[fx.Node, int] = {source: number for number, source in enumerate(sources)}
    groups: list[tuple[fx.Node, ...]] = [(source,) for source in sources]
    ids: set[str] = set()
    names = ["input"] if len(sources) == 1 else [_unused(each[:100], ids) for each in call.names]
    ids.update(names)
    layers = [_layer(each, "input", (), records[source]) for each, source in zip(names, sources, strict=True)]
    constants: set[fx.Node] = set()
    for node in module.graph.nodes:
        if node in number_of or node.op == "output":
            continue
        if all(read in constants for read in node.all_input_nodes):
            constants.add(node)
            together.discard(node)
            if node not in answers or not records[node].is_tensor:
                continue
        if not records[node].is_tensor or node in together:
            continue  # joins the selection that reads it, or whatever else does
        inner = tuple(through(node, together))
        group = (*inner, node)
        reads = [read for member in group for read in member.all_input_nodes]
        inputs = tuple(dict.fromkeys(number_of[read] for read in reads if read in number_of))
        inputs = inputs or (len(layers) - 1,)  # a part of the answer that no input changes comes where the others do
        number_of[node] = len(layers)
        groups.append(group)
        named = group[0] if _selects(group) and not bound.intersection(inner) else node
        kind = _kind_of(module, group, named, is_of_values=bool((bound | kept).intersection(group)))
        layers.append(_layer(_unique_id(named, ids), kind, inputs, records[node]))
    _forbid_writing_twice(groups, records)
    outputs = tuple(number_of[node] for node in answers)
    views = frozenset(
        n for n, group in enumerate(groups) if layers[n].inputs and _is_view(group, records)
    ) | _later_of_one(groups)
    strided = frozenset(n for n, group in enumerate(groups) if not records[group[-1]].is_contiguous)
    holding = frozenset(n for n, group in enumerate(groups) if (bound | kept).intersection(group))
    graph = LayerGraph(name, tuple(layers), outputs)
    return Traced(
        graph,
        module,
        tuple(groups),
        capture,
        _later_of_one(groups) | views,
        strided,
        _overwritten(groups, records),
        holding,
    )


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
    return all(node.target in (operator.getitem, getattr) and len(node.all_input_nodes) == 1 for node in group[1:])


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


def _kind_of(module: fx.GraphModule, group: tuple[fx.Node, ...], named: fx.Node, *, is_of_values: bool) -> str:
    kind = _kind(module, named)
    if is_of_values:
        return kind + OF_VALUES
    return kind if named is group[0] else f"{_kind(module, group[0])}+{kind}"


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


def _kind(module: fx.GraphModule, node: fx.Node) -> str:
    if node.op == "call_module":
        return type(module.get_submodule(str(node.target))).__name__
    if isinstance(node.target, str):
        return node.target
    return str(getattr(node.target, "__name__", node.target)).split(".")[0]


def _answers(graph: fx.Graph) -> list[fx.Node]:
    (answer,) = graph.output_node().args
    answers = list(answer) if isinstance(answer, tuple | list) else [answer]
    return [node for node in answers if isinstance(node, fx.Node)]  # the others are numbers that never change


# --- the oracle


class _AsIfCut(fx.Interpreter):
    """Runs the graph as if every tensor crossed a cut, which makes it contiguous.

    `reshape` and its like copy what is not contiguous and otherwise give a view. Where an in-place operation follows,
    the two differ, and a cut would change the answer.
    """

    def __init__(self, traced: Traced) -> None:
        super().__init__(traced.module, garbage_collect_values=False)
        self.layers = {group[-1]: layer for group, layer in zip(traced.nodes, traced.graph.layers, strict=True)}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        layer = self.layers.get(n)
        if layer is not None and tuple(value.shape) != layer.out_shape:
            raise NotCuttableError(
                f"the shape of {layer.id} depends on the values of the input, not on its shape alone"
            )
        return map_aggregate(value, _as_sent)


def _as_sent(value: Any) -> Any:
    is_plain = isinstance(value, torch.Tensor) and value.layout is torch.strided
    return value.contiguous() if is_plain else value


@dataclass
class _Cases:
    """Inputs, and what the network itself answers to them; how many there are depends on how long it takes."""

    model: nn.Module
    example: Example
    name: str
    is_own: bool

    def __post_init__(self) -> None:
        """Raises UsageError where the network does not take its own example."""
        begun = time.perf_counter()
        try:
            with torch.no_grad():
                whole = self.example.answer(self.model)
        except Exception as error:  # noqa: BLE001  whatever the network's own code raises
            reason = first_line(error)[:200]
            cure = next((cure for pattern, cure in _CURES if re.search(pattern, reason)), "")
            raise UsageError(f"{self.name} fails on its {self.example.told}: {reason}{cure}") from None
        self.took_s = time.perf_counter() - begun
        try:
            self.form, answer = take_apart(whole)
        except FormError as error:
            raise UsageError(f"{self.name}: what forward() returns cannot be taken apart: {error}") from None
        self.first = (self.example.tensors, tuple(tensor.clone() for tensor in answer))
        self._others: list[_Case] | None = None

    @property
    def is_steady(self) -> bool:
        """Whether the network, asked again, gives the same answer."""
        x, answer = self.first
        return all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(self._answer(x), answer, strict=True))

    @property
    def others(self) -> "list[_Case]":
        """Other inputs, of values that reach other places in the network; those that it does not take are left out."""
        if self._others is None:
            self._others = list(self._made())
        return self._others

    def _made(self) -> "Iterator[_Case]":
        noise = _noise(self.example.tensors)
        if not self.is_own:
            yield noise, self._answer(noise)
            return
        affordable = max(MIN_CASES, int(CASES_S / max(self.took_s, 1e-9)))
        for x in list(_harder(self.example.tensors, noise))[:affordable]:
            try:
                answer = self._answer(x)
            except FormError:
                raise
            except Exception:  # noqa: BLE001  no valid input: a token that there is not, say
                continue
            if all(torch.isfinite(one).all() for one in answer if one.is_floating_point()):
                yield x, answer

    def _answer(self, x: Tensors) -> Tensors:
        """Raises FormError where the answer has another structure than the first."""
        with torch.no_grad():
            tensors, _ = self.form.leaves(self.example.answer(self.model, x), lambda _: False)
        return tuple(one.clone() for one in tensors)


_CURES = (
    ("required .*argument", ": an example gives all that forward() needs, as a tuple or as a dict by name"),
    ("dtype|should be the same|scalar type", ": an example is of the type that the network computes in"),
)
_Case = tuple[Tensors, Tensors]
MIN_CASES, CASES_S = 3, 1.0


def _noise(example: Tensors) -> Tensors:
    """Noise in place of numbers; of what may be anything but a number, such as tokens or a mask, other valid values."""
    generator = torch.Generator().manual_seed(1)
    return tuple(
        torch.randn(each.shape, generator=generator).to(each) if _is_number(each) else _drawn(each, generator)
        for each in example
    )


def _is_number(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _drawn(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Values of a tensor, each at any place."""
    if not tensor.numel():
        return tensor.clone()
    places = torch.randint(tensor.numel(), (tensor.numel(),), generator=generator)
    return tensor.reshape(-1)[places].reshape(tensor.shape)


def _shuffled(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    order = torch.randperm(tensor.numel(), generator=generator)
    return tensor.reshape(-1)[order].reshape(tensor.shape)


def _harder(example: Tensors, noise: Tensors) -> Iterator[Tensors]:
    """Inputs that reach what noise does not, the most telling first: other orders of valid values, large, few, none.

    Whole numbers and flags may be tokens or masks: they stay within the values of the example.
    """
    generator = torch.Generator().manual_seed(2)
    yield tuple(_shuffled(each, generator) for each in example)

    def few(tensor: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return noise * 100 * (torch.rand(tensor.shape, generator=generator) < 0.1).to(tensor)

    changes: tuple[Callable[[torch.Tensor, torch.Tensor], torch.Tensor], ...] = (
        few,
        lambda tensor, noise: noise,
        lambda tensor, noise: torch.zeros_like(tensor),
        lambda tensor, noise: tensor * 100,
        lambda tensor, noise: -tensor,
        lambda tensor, noise: tensor + 1000,
    )
    for change in changes:
        pairs = zip(example, noise, strict=True)
        yield tuple(change(a, b) if _is_number(a) else _drawn(a, generator) for a, b in pairs)


def _check_equal(traced: Traced, cases: _Cases) -> None:
    """Compare with the network itself, on the example and, as if cut everywhere, on other inputs.

    Raises NotCuttableError where they differ.
    """
    _compare(traced.module, *cases.first)
    as_if_cut = _AsIfCut(traced).run
    for x, expected in cases.others:
        _compare(as_if_cut, x, expected)


def _compare(run: Callable[..., Any], x: Tensors, expected: Tensors) -> None:
    with torch.no_grad():
        answer = run(*(each.clone() for each in x))
    answers = (answer,) if isinstance(answer, torch.Tensor) else tuple(answer)[: len(expected)]
    if len(answers) != len(expected) or not all(map(_is_close, answers, expected)):
        raise NotCuttableError("the captured graph gives a different answer than the network")


def _is_close(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    """Within rtol 1e-4 and atol 1e-5, the latter of the largest value where that is above 1."""
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return False
    largest = float(expected.abs().max()) if expected.is_floating_point() and expected.numel() else 0.0
    return torch.allclose(
        actual, expected, rtol=1e-4, atol=1e-5 * max(1.0, largest if largest < 1e30 else 1.0), equal_nan=True
    )


# --- the numbers in a graph


def _numbers(traced: Traced, model: nn.Module) -> str:
    """A digest of what every operation of the graph is given but tensors that are parameters or buffers."""
    addresses = {address(tensor) for tensor in (*model.parameters(), *model.buffers()) if not is_lazy(tensor)}
    sha = hashlib.sha256()
    number_of = {node: f"%{number}" for number, node in enumerate(traced.module.graph.nodes)}
    for node in traced.module.graph.nodes:
        arguments = (node.args, node.kwargs)
        sha.update(f"{node.op} {_kind(traced.module, node)} {_text(arguments, number_of)}\n".encode())
        if node.op == "get_attr":
            tensor = operator.attrgetter(str(node.target))(traced.module)
            if isinstance(tensor, torch.Tensor) and address(tensor) not in addresses:
                update_tensor(sha, tensor.detach())
        elif node.op == "call_module":
            sha.update(traced.module.get_submodule(str(node.target)).extra_repr().encode())
    return "sha256:" + sha.hexdigest()


def _text(value: Any, number_of: Mapping[fx.Node, str]) -> str:
    if isinstance(value, fx.Node):
        return number_of[value]
    if isinstance(value, tuple | list):
        return f"({', '.join(_text(each, number_of) for each in value)})"
    if isinstance(value, dict):
        return _text(sorted(value.items()), number_of)
    if isinstance(value, slice):
        return _text((value.start, value.stop, value.step), number_of)
    plain = value is None or isinstance(value, str | int | float | complex | torch.dtype | torch.device | torch.layout)
    return repr(value) if plain or isinstance(value, torch.memory_format) else type(value).__name__
