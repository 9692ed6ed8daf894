"""From a torch network to a graph of layers that can be cut anywhere.

torch.fx captures the network first, because its node names are the network's own layer names; torch.export captures
what fx cannot, and what fx captures but cannot be cut safely (`models.capture`). The captured graph is then put in
order (`models.ordering`), and compared with the network itself (`models.comparing`).

In-place operations are the trap: cut between such an operation and another reader of its input, the two halves would
compute something else than the whole network. Where that could happen the functional graph of torch.export is used.
"""

import hashlib
import operator
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import fx, nn
from torch.nn.parameter import is_lazy

from edgecloud.models.building import in_eval_mode
from edgecloud.models.capture import (
    KEPT_S,
    MAX_KEPT,
    Capture,
    NotCuttableError,
    capture_export,
    capture_fx,
    left_as_it_is,
    to_keep,
    why,
    why_kept,
)
from edgecloud.models.comparing import Cases, check_equal
from edgecloud.models.example import Example
from edgecloud.models.fingerprint import address, update_tensor
from edgecloud.models.form import ALONE, Form
from edgecloud.models.ordering import Traced, kind_of, put_in_order
from edgecloud.utils.errors import UsageError

__all__ = ["Traced", "trace"]


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
    cases = Cases(model, example, name, is_own) if is_checked else None
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
        traced = traced or _with_kept_blocks(model, attempt, capture, reasons)
    if traced is not None:
        return replace(traced, numbers=_numbers(traced, model)) if is_own else traced
    raise UsageError(f"{name} cannot be captured as a graph of layers ({why(reasons)})")


def _attempt(
    model: nn.Module, example: Example, form: Form, name: str, cases: Cases | None, capture: str, take: Capture
) -> Traced:
    """Capture in one way, and compare. Raises whatever the network's own code raises, or NotCuttableError."""
    with left_as_it_is(model):
        captured = take(model, example, form)
    traced = put_in_order(captured, example, form, name, capture)
    if cases is not None:
        check_equal(traced, cases)
    return traced


def _with_kept_blocks(
    model: nn.Module, attempt: Callable[[str, Capture], Traced], capture: str, reasons: dict[str, Exception]
) -> Traced | None:
    """Keep the smallest module in which capturing failed as one layer, and try again; None where it is the network.

    What could then not be cut is the reason in the end.
    """
    kept: dict[str, str] = {}
    error = reasons[capture]
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
            if isinstance(error, NotCuttableError):
                reasons[capture] = error
    return None


_CAPTURES: dict[str, Capture] = {"fx": capture_fx, "export": capture_export}


# --- the numbers in a graph


def _numbers(traced: Traced, model: nn.Module) -> str:
    """A digest of what every operation of the graph is given but tensors that are parameters or buffers."""
    addresses = {address(tensor) for tensor in (*model.parameters(), *model.buffers()) if not is_lazy(tensor)}
    sha = hashlib.sha256()
    number_of = {node: f"%{number}" for number, node in enumerate(traced.module.graph.nodes)}
    for node in traced.module.graph.nodes:
        arguments = (node.args, node.kwargs)
        sha.update(f"{node.op} {kind_of(traced.module, node)} {_text(arguments, number_of)}\n".encode())
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
