"""Two ways to capture a torch network as a graph of torch.fx, and what to do where neither can follow a module.

torch.fx keeps the network's own names and modules; torch.export follows loops over shapes and has no operation that
writes into its input. A module that neither can look into (control flow that depends on values, numpy, an operation
that torch.export does not know) stays what it is: while torch.export follows the network a stand-in makes tensors of
the same shapes, and in the graph the module itself is called.
"""

import dis
import inspect
import logging
import re
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import CodeType
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from edgecloud.models.example import Example, take_apart
from edgecloud.models.form import Form, FormError
from edgecloud.utils.quiet import silent_stderr

Capture = Callable[..., fx.GraphModule]
"""Of a network, its example, the form of its answer, and the names of the modules that are `kept`."""
KEPT = "kept"
"""Marks a node that calls a module which could not be captured inside."""
MAX_KEPT, KEPT_S = 8, 60.0
"""How often another module is kept as one layer before a network is given up, and for how long: each is another run of
torch.export."""


class NotCuttableError(Exception):
    """This capture of the network cannot be cut; another one may."""


@contextmanager
def left_as_it_is(model: nn.Module) -> Iterator[None]:
    """Capturing runs the network's code with stand-ins for tensors, which it may keep in its attributes."""
    modules = [module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)]
    snapshots = [(module, dict(vars(module))) for module in modules]
    holders = [(each, each.copy()) for _, inside in snapshots for each in inside.values() if type(each) in _HOLDERS]
    try:
        yield
    finally:
        for module, inside in snapshots:
            vars(module).clear()
            vars(module).update(inside)
        for holder, inside in holders:
            holder.clear()
            (holder.extend if isinstance(holder, list) else holder.update)(inside)


_HOLDERS = (dict, OrderedDict, list, set)


class _Tracer(fx.Tracer):
    """Takes torch's own modules for layers, and those of others that say that they are one.

    The network is followed from tensors to tensors: what they stand in on their way in and out is no part of the graph.
    torch changes nn.Module itself while it follows one, so modules that other threads call meanwhile come by here too:
    they are called, and no part of the graph.
    """

    def __init__(self, example: Example, form: Form, kept: Sequence[str]) -> None:
        super().__init__()
        self._example, self._form, self.kept = example, form, kept
        self._thread = threading.get_ident()

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """What is followed, and what it is given: the network itself, and something that stands in for each input."""
        names = [re.sub(r"\W", "_", name) for name in self._example.call.names]
        names = names if len(set(names)) == len(names) else [f"input_{number}" for number in range(len(names))]
        inputs = [self.create_proxy("placeholder", name, (), {}) for name in names]

        def flat(root: nn.Module, *given: Any) -> Any:
            args, kwargs = self._example.call.arguments(given)
            return _flat(self._form, root_fn(root, *args, **kwargs))

        return flat, [self.root, *inputs]

    def to_bool(self, obj: fx.Proxy) -> bool:
        """What a check of the network's own asks, which would raise, holds as it did for the example; any other
        question cannot be answered."""
        frame = inspect.currentframe()
        asking = frame.f_back.f_back if frame is not None and frame.f_back is not None else None  # of Proxy.__bool__
        expected = None if asking is None else _not_to_raise(asking.f_code, asking.f_lasti)
        return bool(super().to_bool(obj)) if expected is None else expected

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return (
            module_qualified_name in self.kept or _is_one_layer(m) or super().is_leaf_module(m, module_qualified_name)
        )


def _is_one_layer(module: nn.Module) -> bool:
    return bool(getattr(module, "is_one_layer", False)) or isinstance(module, torch.jit.ScriptModule)


def _not_to_raise(code: CodeType, offset: int) -> bool | None:
    """What has to be answered to the question at this place in a function if the other answer only leads to `raise`, as
    in an assertion; None where both lead on."""
    steps = list(dis.get_instructions(code))
    number = next((n for n, step in enumerate(steps) if step.offset == offset), len(steps))
    if number < len(steps) and steps[number].opname == "TO_BOOL":  # since Python 3.13 in front of the jump
        number += 1
    if number >= len(steps) or not re.fullmatch("POP_JUMP_(FORWARD_)?IF_(TRUE|FALSE)", steps[number].opname):
        return None
    if code.co_exceptiontable:
        return None  # it may catch what is raised
    jumps_if = steps[number].opname.endswith("TRUE")
    target = steps[number].argval
    there = next((n for n, step in enumerate(steps) if step.offset == target), number)
    if _only_raises(steps[number + 1 : there], target):
        return jumps_if
    raising = next((n for n in range(there, len(steps)) if steps[n].opname == "RAISE_VARARGS"), there)
    return not jumps_if if there > number and _only_raises(steps[there : raising + 1], None) else None


def _only_raises(steps: Sequence[dis.Instruction], elsewhere: int | None) -> bool:
    """Whether steps do nothing but raise, or ask more questions that lead `elsewhere`."""
    if not steps or steps[-1].opname != "RAISE_VARARGS":
        return False
    does = [step for step in steps if step.opname.startswith(("STORE", "POP_TOP", "RETURN", "DELETE", "YIELD"))]
    return not does and all(step.argval == elsewhere for step in steps if "JUMP" in step.opname)


def _flat(form: Form, answer: Any) -> Any:
    """The tensors of an answer, and behind them what stands in place of its constants and may be none."""
    tensors, numbers = form.leaves(answer, lambda value: isinstance(value, _STAND_INS))
    return tensors[0] if form.spec == 0 else (*tensors, *numbers)


_SYMBOLS = (torch.SymInt, torch.SymFloat, torch.SymBool)
_STAND_INS = (fx.Proxy, *_SYMBOLS)
_ONE_AT_A_TIME = threading.RLock()
"""While torch captures a network it changes nn.Module itself, and undoes that: two at once would undo each other's."""


class _Flat(nn.Module):
    """A network from tensors to tensors, for torch.export, which knows only some of the structures around them."""

    def __init__(self, model: nn.Module, example: Example, form: Form) -> None:
        super().__init__()
        self.model, self._example, self._form = model, example, form
        self.training = False

    def forward(self, *given: torch.Tensor) -> Any:
        args, kwargs = self._example.call.arguments(given)
        return _flat(self._form, self.model(*args, **kwargs))


def capture_fx(model: nn.Module, example: Example, form: Form, kept: Sequence[str] = ()) -> fx.GraphModule:
    """Follow the network's code with stand-ins that note what is done to them; modules called `kept` are called."""
    with _ONE_AT_A_TIME:
        graph = _Tracer(example, form, kept).trace(model)
    module = fx.GraphModule(model, graph, type(model).__name__)
    for node in list(module.graph.nodes):
        if node.target in (torch._assert, torch._check):
            module.graph.erase_node(node)
        elif node.op == "call_module" and node.target in kept:
            node.meta[KEPT] = True
    return module


def capture_export(model: nn.Module, example: Example, form: Form, kept: Sequence[str] = ()) -> fx.GraphModule:
    """Follow it with tensors that have shapes and no values; what modules called `kept` do is not looked into."""
    named = {name: module for name, module in model.named_modules() if name in kept or (name and _is_one_layer(module))}
    calls = _calls_of(model, named, kept, example)
    blocks = {name: module for name, module in named.items() if calls[name]}
    is_plain = example.call.is_one and form.is_flat
    whole = model if is_plain else _Flat(model, example, form)
    log = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = log.level
    with warnings.catch_warnings(), silent_stderr():  # a graph that it gives up is printed
        warnings.simplefilter("ignore")  # torch's own deprecations, of no use to our users
        log.setLevel(logging.ERROR)
        try:
            stand_ins = {name: _StandIn(block, calls[name]) for name, block in blocks.items()}
            with _ONE_AT_A_TIME, _in_place_of(model, stand_ins):
                program = torch.export.export(whole, example.tensors).run_decompositions({})
        finally:
            log.setLevel(level)
        module: fx.GraphModule = program.module(check_guards=False)
    module.graph.set_codegen(fx.graph.CodeGen())  # plain tensors in and out
    for node in module.graph.find_nodes(op="call_function", target=torch.ops.aten.copy_.default):
        module.graph.erase_node(node)  # the network worked in place on its input, which nobody looks at afterwards
    if blocks:
        _put_back(module, blocks, kept)
    return module


# --- modules that are not looked into


@dataclass(frozen=True)
class _Call:
    """One call of a module: what is known of its arguments and of its answer."""

    name: str
    arguments: pytree.TreeSpec
    plain: tuple[Any, ...]
    """The arguments in the order of `arguments`; `_TENSOR` for a tensor."""
    answer: Form
    like: tuple[torch.Tensor, ...]
    """For every tensor of the answer one of its shape and type without memory."""


_TENSOR = object()
_PLAIN = (bool, int, float, str, torch.dtype, torch.device, torch.memory_format)
_KNOWN: dict[str, _Call] = {}
"""The calls of the network that is being captured."""


class _InPlace(nn.Module):
    """Stands in the place of a module."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.held = [block]  # no child of this one, so that its parameters are not seen
        self.training = block.training

    def __getattr__(self, name: str) -> Any:
        """Others may read what a module holds, such as its number of classes."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.held[0], name)


class _Noting(_InPlace):
    """Runs a module and notes what goes in and out of every call."""

    def __init__(self, block: nn.Module, name: str, calls: list[_Call]) -> None:
        super().__init__(block)
        self.name, self.calls, self.odd = name, calls, ""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        inside, arguments = pytree.tree_flatten((args, kwargs))
        plain = tuple(_TENSOR if isinstance(one, torch.Tensor) else one for one in inside)
        answer = self.held[0](*args, **kwargs)
        try:
            form, tensors = take_apart(answer)
        except FormError as error:
            self.odd = f"returns what is no tensor: {error}"
            return answer
        if any(one is not _TENSOR and not (one is None or isinstance(one, _PLAIN)) for one in plain):
            self.odd = "takes more than tensors and plain values"
        if any(one is not None and not isinstance(one, str) for one in form.constants):
            self.odd = "returns more than tensors"
        like = tuple(one.detach().to("meta") for one in tensors)
        self.calls.append(_Call(f"{self.name}#{len(self.calls)}", arguments, plain, form, like))
        return answer


class _StandIn(_InPlace):
    """What torch.export sees in place of a module."""

    def __init__(self, block: nn.Module, calls: list[_Call]) -> None:
        super().__init__(block)
        self.calls, self.count = calls, 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        call = self.calls[self.count % len(self.calls)]
        self.count += 1
        inside, _ = pytree.tree_flatten((args, kwargs))
        if any(isinstance(one, _SYMBOLS) for one in inside):
            raise NotCuttableError(f"{call.name} is given a number that depends on the values of the input")
        tensors = [one for one in inside if isinstance(one, torch.Tensor)]
        return call.answer.build(_operation()(tensors, call.name))


@cache
def _operation() -> Any:
    """The operation that stands for a call in the graph of torch.export, by the call's name."""

    def call_kept(tensors: list[torch.Tensor], call: str) -> list[torch.Tensor]:
        raise RuntimeError(f"{call} is not in the graph any more")

    operation = torch.library.custom_op("edgecloud::kept", call_kept, mutates_args=())
    operation.register_fake(
        lambda tensors, call: [
            torch.empty_strided(one.shape, one.stride(), dtype=one.dtype, device="cpu") for one in _KNOWN[call].like
        ]
    )
    return operation


def _calls_of(
    model: nn.Module, blocks: Mapping[str, nn.Module], kept: Sequence[str], example: Example
) -> dict[str, list[_Call]]:
    """How each of the modules is called; not at all where no stand-in can take its place.

    Raises NotCuttableError where that is one that has to be kept.
    """
    calls: dict[str, list[_Call]] = {name: [] for name in blocks}
    noting = {name: _Noting(block, name, calls[name]) for name, block in blocks.items()}
    if noting:
        with _in_place_of(model, noting), torch.no_grad():
            example.answer(model)
    for name, each in noting.items():
        if each.odd and name in kept:
            raise NotCuttableError(f"{name} {each.odd}, and so it cannot be one layer")
        if each.odd:
            calls[name].clear()
    _KNOWN.clear()
    _KNOWN.update({call.name: call for each in calls.values() for call in each})
    return calls


@contextmanager
def _in_place_of(model: nn.Module, others: Mapping[str, nn.Module]) -> Iterator[None]:
    """Put other modules in the places of some, wherever those are, and put those back."""
    replaced = {id(model.get_submodule(name)): other for name, other in others.items()}
    places = [
        (parent, key, child)
        for parent in model.modules()
        if not isinstance(parent, torch.jit.ScriptModule)
        for key, child in parent._modules.items()
        if id(child) in replaced
    ]
    for parent, key, child in places:
        parent._modules[key] = replaced[id(child)]
    try:
        yield
    finally:
        for parent, key, child in places:
            parent._modules[key] = child


def _put_back(module: fx.GraphModule, blocks: Mapping[str, nn.Module], kept: Sequence[str]) -> None:
    """Call the modules themselves in a graph where stand-ins were called."""
    graph = module.graph
    for node in graph.find_nodes(op="call_function", target=torch.ops.edgecloud.kept.default):
        call = _KNOWN[str(node.args[1])]
        name = call.name.rpartition("#")[0]
        module.add_submodule(name, blocks[name])
        tensors = iter(node.args[0])
        inside = [next(tensors) if one is _TENSOR else one for one in call.plain]
        args, kwargs = pytree.tree_unflatten(inside, call.arguments)
        with graph.inserting_before(node):
            made = graph.call_module(name, args, kwargs)
            if name in kept:
                made.meta[KEPT] = True
            each = made if call.answer.spec == 0 else graph.call_function(tensors_in, (made,))
        if each is made:
            for selection in list(node.users):
                selection.replace_all_uses_with(made)
                graph.erase_node(selection)
        else:
            node.replace_all_uses_with(each)
        graph.erase_node(node)


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors in what a module returned, in order."""
    return list(take_apart(value)[1])


def to_keep(model: nn.Module, error: BaseException, kept: Sequence[str]) -> str:
    """The name of the smallest module that has to be one layer after such an error; "" where that is the network.

    Where one that is kept already does not do, because what it returns cannot be followed, it is the one around it.
    """
    path = _culprit(model, error)
    if path is None and kept and isinstance(error, NotCuttableError):
        path = kept[-1]
    path = path or ""
    while path and (path in kept or isinstance(model.get_submodule(path), nn.ModuleList | nn.ModuleDict)):
        path = path.rpartition(".")[0]
    return path


def _culprit(model: nn.Module, error: BaseException) -> str | None:
    """The name of the innermost module, but for the network itself, whose code ran where capturing failed."""
    names = {id(module): name for name, module in model.named_modules() if name}
    seen: set[int] = set()
    chain: list[BaseException] = []
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        chain.append(error)
        error = error.__cause__ or error.__context__  # type: ignore[assignment]  # ends with None
    for one in reversed(chain):
        found: list[str] = [names[owner] for owner in _owners(one) if owner in names]
        if found:
            return found[-1]
    return None


def _owners(error: BaseException) -> Iterator[int]:
    """Identities of what the functions of a traceback belong to, the innermost last."""
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        first = frame.f_code.co_varnames[:1] if frame.f_code.co_argcount else ()
        for name in first:
            owner = frame.f_locals.get(name)
            if isinstance(owner, _InPlace):
                owner = owner.held[0]
            yield id(owner)
        trace = trace.tb_next


# --- why not


def why(reasons: Mapping[str, Exception]) -> str:
    """One line. What fx cannot follow export may: where fx stumbled over a stand-in, the last reason is the true."""
    first_lines = {capture: first_line(error) for capture, error in reasons.items()}
    last = next(reversed(first_lines))
    if _DEPENDS.search(first_lines[last]):
        spots = [spot for spot in _SPOT.findall(str(reasons[last])) if "site-packages" not in spot[0]]
        where = f" ({spots[-1][0]}, line {spots[-1][1]})" if spots else ""
        return f"its control flow depends on the values of its input{where}, which a graph cannot express{_CURE}"
    is_told_twice = all(isinstance(error, NotCuttableError) for error in reasons.values())
    if is_told_twice or re.search("[Pp]rox|symbolically traced|torch_function", first_lines["fx"]):
        first_lines.pop("fx")
    cure = "" if isinstance(reasons[last], NotCuttableError) else _CURE
    if len(first_lines) == 1:
        return next(iter(first_lines.values()))[:_REASON_CHARS] + cure
    return "; ".join(f"{capture}: {reason[:_REASON_CHARS]}" for capture, reason in first_lines.items()) + cure


def why_kept(error: Exception) -> str:
    """Why a module is one layer, for people."""
    line = first_line(error)
    return next((text for pattern, text in _KEPT_FOR if re.search(pattern, line)), line[:_REASON_CHARS])


_CURE = ": move that code into a torch.nn.Module of its own, which is then kept as one layer"
_DEPENDS = re.compile("data-dependent|Dynamic control flow")
_KEPT_FOR = (
    (_DEPENDS, "its control flow depends on its values"),
    (r"\.numpy\(\)|__array__|numpy", "it computes outside of torch, in numpy"),
    (r"fake impl|no .*[Mm]eta|register_fake", "it uses an operation whose shapes torch.export does not know"),
)
_SPOT = re.compile(r'File "([^"]+\.py)", line (\d+)')
_REASON_CHARS = 160


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
