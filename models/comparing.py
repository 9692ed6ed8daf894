"""Compares a captured graph with the network itself, the user's own module, on more inputs than the example."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_aggregate

from edgecloud.models.capture import NotCuttableError, first_line
from edgecloud.models.example import Example, Tensors, take_apart
from edgecloud.models.form import FormError
from edgecloud.models.ordering import Traced
from edgecloud.utils.errors import UsageError


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
                f"the shape of {layer.id} depends on the values of the input, not on its shape alone: return tensors "
                "of a fixed size"
            )
        return map_aggregate(value, _as_sent)


def _as_sent(value: Any) -> Any:
    is_plain = isinstance(value, torch.Tensor) and value.layout is torch.strided
    return value.contiguous() if is_plain else value


@dataclass
class Cases:
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
    ("", ": example() has to return what forward() takes"),
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


def check_equal(traced: Traced, cases: Cases) -> None:
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
