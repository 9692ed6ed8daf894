"""Of whatever modules a network is made, every cut of it gives what the user's own module gives."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgecloud.models.building import unwrapped
from edgecloud.models.split import split
from edgecloud.models.trace import Traced, trace
from edgecloud.utils.errors import UsageError
from tests.conftest import LONG_S

X = torch.rand(1, 6, 4, generator=torch.Generator().manual_seed(0))


def inputs() -> list[torch.Tensor]:
    return [X, X * 100, -X, X.flip(1), torch.zeros_like(X)]


def answers(value: Any) -> list[torch.Tensor]:
    return [value] if isinstance(value, torch.Tensor) else [each for one in value for each in answers(one)]


def check_every_cut(model: nn.Module, traced: Traced) -> None:
    """Cut after every layer: many of those cuts are crossed by several tensors."""
    for x in inputs():
        with torch.no_grad():
            expected = answers(model(x.clone()))
        for last in range(len(traced.graph.layers)):
            given = x.clone()
            for actual, wanted in zip(halves(traced, range(last + 1), given), expected, strict=True):
                torch.testing.assert_close(actual, wanted)
            assert torch.equal(given, x)


def halves(traced: Traced, head_layers: range, x: torch.Tensor) -> Iterator[torch.Tensor]:
    """Both halves one after the other; what crosses is copied, as a message would."""
    head, tail = split(traced, head_layers)
    with torch.no_grad():
        values = dict(zip(head.outputs, head.module(x), strict=True))
        crossing = [values[number].clone(memory_format=torch.contiguous_format) for number in tail.inputs]
        values |= zip(tail.outputs, tail.module(*crossing), strict=True)
    return (values[number] for number in traced.graph.outputs)


class Net(nn.Module):
    """Two layers around something that is given."""

    def __init__(self, middle: Callable[["Net", torch.Tensor], Any], inner: nn.Module | None = None) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)
        self.inner, self.middle = inner, middle

    def forward(self, x: torch.Tensor) -> Any:
        made = self.middle(self, self.a(x).relu())
        return (self.b(made[0]), *made[1:]) if isinstance(made, tuple) else self.b(made)


def lstm(net: Net, y: torch.Tensor) -> Any:
    o, (h, c) = net.inner(y)  # type: ignore[misc]  # it has one
    return o[..., :4] + h[-1].unsqueeze(1) * c[0].unsqueeze(1)


def two_lstms(net: Net, y: torch.Tensor) -> Any:
    o, state = net.inner(y)  # type: ignore[misc]  # as above
    o, (h, _) = net.inner(o, state)  # type: ignore[misc]  # as above
    return o, h


def moments(_: Net, y: torch.Tensor) -> Any:
    deviation, mean = torch.std_mean(y, 2, keepdim=True)
    return (y - mean) / (deviation + 1)


def largest(_: Net, y: torch.Tensor) -> Any:
    values, places = y.topk(2, dim=1)
    return y + values.sum(1, keepdim=True), places


def by_name(_: Net, y: torch.Tensor) -> Any:
    found = y.max(dim=1)
    return y + found.values.unsqueeze(1), found.indices


def sorted_rows(_: Net, y: torch.Tensor) -> Any:
    ordered, order = torch.sort(y, dim=1)
    return y.gather(1, order) - ordered + y


def halved(_: Net, y: torch.Tensor) -> Any:
    first, second = y.chunk(2, dim=1)
    return torch.cat([second.tanh(), first], 1)


def list_of_parts(_: Net, y: torch.Tensor) -> Any:
    parts = torch.split(y, 2, dim=1)
    return torch.cat(parts[1:] + parts[:1], 1)


def rows(_: Net, y: torch.Tensor) -> Any:
    return torch.stack([row * (n + 1) for n, row in enumerate(y.unbind(1))], 1)


def grid(_: Net, y: torch.Tensor) -> Any:
    up, across = torch.meshgrid(torch.arange(6.0), torch.arange(4.0), indexing="ij")
    return y + up * 0.1 - across


def spectrum(_: Net, y: torch.Tensor) -> Any:
    return torch.fft.fft(y, dim=1).real


def spectrum_twice(_: Net, y: torch.Tensor) -> Any:
    waves = torch.fft.rfft(y, dim=1) * torch.exp(torch.arange(4) * 1j).unsqueeze(-1)
    return torch.fft.irfft(waves, n=6, dim=1) + waves.abs().mean(1, keepdim=True)


def attention(net: Net, y: torch.Tensor) -> Any:
    made, weights = net.inner(y, y, y)  # type: ignore[misc]  # it has one
    return made, weights


def in_the_low(_: Net, y: torch.Tensor) -> Any:
    with torch.autocast("cpu", torch.bfloat16):
        return (y @ y.transpose(1, 2) @ y).float()


def one_way(_: Net, y: torch.Tensor) -> Any:
    return torch.cond(y.sum() > 3, lambda z: z * 2, lambda z: z - 1, (y,))


SEVERAL: dict[str, tuple[Callable[[Net, torch.Tensor], Any], nn.Module | None]] = {
    "states": (lstm, nn.LSTM(4, 4, 2, batch_first=True)),
    "states of one in another": (two_lstms, nn.LSTM(4, 4, batch_first=True)),
    "moments": (moments, None),
    "largest": (largest, None),
    "by name": (by_name, None),
    "sorted": (sorted_rows, None),
    "halved": (halved, None),
    "a list of parts": (list_of_parts, None),
    "rows": (rows, None),
    "grid of constants": (grid, None),
    "complex": (spectrum, None),
    "complex, read twice": (spectrum_twice, None),
    "attention and its weights": (attention, nn.MultiheadAttention(4, 2, batch_first=True)),
    "autocast": (in_the_low, None),
    "one way of two": (one_way, None),
}


@pytest.mark.filterwarnings("ignore")  # torch.export's own
@pytest.mark.parametrize("name", SEVERAL)
def test_what_makes_several_tensors_or_what_cannot_be_sent_is_cut_around(name: str) -> None:
    torch.manual_seed(0)
    model = Net(*SEVERAL[name]).eval().requires_grad_(False)
    traced = trace(model, X, "net", is_own=True)
    assert not traced.kept
    assert len(traced.graph.layers) > 3
    check_every_cut(model, traced)


def first(of: Callable[[Net, torch.Tensor], Any]) -> Callable[[Net, torch.Tensor], torch.Tensor]:
    """What is made of the tensor alone, of a middle that answers more."""

    def one(net: Net, y: torch.Tensor) -> torch.Tensor:
        made = of(net, y)
        result: torch.Tensor = made[0] if isinstance(made, tuple) else made
        return result

    return one


STEPS = [first(of) for of in (moments, largest, by_name, sorted_rows, halved, list_of_parts, rows, grid, spectrum)]


@settings(max_examples=12, deadline=None)
@given(steps=st.lists(st.sampled_from(STEPS), min_size=2, max_size=4))
def test_they_may_follow_each_other(steps: list[Callable[[Net, torch.Tensor], torch.Tensor]]) -> None:
    def middle(net: Net, y: torch.Tensor) -> torch.Tensor:
        for step in steps:
            y = step(net, y)
        return y

    torch.manual_seed(0)
    model = Net(middle).eval().requires_grad_(False)
    check_every_cut(model, trace(model, X, "net", is_own=True))


def test_the_states_of_a_layer_are_layers_and_it_runs_once() -> None:
    model = Net(*SEVERAL["states"]).eval().requires_grad_(False)
    traced = trace(model, X, "net")
    ids = [layer.id for layer in traced.graph.layers]
    assert [name for name in ids if name.startswith("inner")] == ["inner", "inner:2", "inner:3"]
    ran: list[str] = []
    for module in traced.module.modules():
        if isinstance(module, nn.LSTM):
            module.register_forward_hook(lambda *_: ran.append("once"))
    head, _ = split(traced, range(len(ids)))
    head.module(X.clone())
    assert ran == ["once"]
    assert traced.views >= {ids.index("inner:2"), ids.index("inner:3")}


def test_a_module_that_returns_a_tuple_may_be_the_network() -> None:
    model = nn.LSTM(4, 3, batch_first=True).eval().requires_grad_(False)
    traced = trace(model, X, "net", is_own=True)
    assert len(traced.graph.outputs) == 3
    check_every_cut(model, traced)


CHECKED = """
def checked(net, y):
    assert y.shape[2] == 4, f"not of shape {y.shape}"
    assert (y >= 0).all() and not y.isnan().any()
    assert y.dim() == 2 or y.dim() == 3
    if y.dim() != 3 or y.shape[1] > 100:
        raise ValueError(f"not {y.shape}")
    if not torch.isfinite(y).all():
        raise ValueError("not finite")
    return y * 2
"""


def test_checks_of_its_own_are_no_branches() -> None:
    names: dict[str, Any] = {"torch": torch}
    exec(compile(CHECKED, "user.py", "exec"), names)  # pytest makes something else of the assertions in its own files
    model = Net(names["checked"]).eval().requires_grad_(False)
    traced = trace(model, X, "net", is_own=True)
    assert traced.capture == "fx"
    assert "mul" in [layer.id for layer in traced.graph.layers]
    check_every_cut(model, traced)


# --- blocks that are kept


class OfValues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Linear(4, 4)

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        while y.abs().max() > 1:
            y = y / 2
        made: torch.Tensor = self.c(y)
        return made


class InNumpy(nn.Module):
    def forward(self, y: torch.Tensor, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        made = torch.from_numpy(np.tanh(y.detach().numpy()) * np.float32(scale))
        return made, made.sum(-1)


class Named(nn.Module):
    """A block whose answer has names."""

    def forward(self, y: torch.Tensor) -> dict[str, torch.Tensor]:
        is_large = int(bool(y.sum() > 30))
        return {"plus": y + is_large, "minus": y - is_large}


class Around(nn.Module):
    """Loops over a shape, which torch.fx cannot follow, around a block that neither can."""

    def __init__(self, block: nn.Module, use: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.block, self.use = nn.Linear(4, 4), nn.Linear(4, 3), block, use

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        for number in range(y.shape[1]):
            y = y + number
        made: torch.Tensor = self.b(self.use(self.block, y).relu())
        return made


def both(block: nn.Module, y: torch.Tensor) -> torch.Tensor:
    made, total = block(y, scale=2.0)
    result: torch.Tensor = made + total.unsqueeze(-1)
    return result


KEPT: dict[str, tuple[nn.Module, Callable[[nn.Module, torch.Tensor], torch.Tensor], str]] = {
    "control flow": (OfValues(), lambda block, y: block(y), "its control flow depends on its values"),
    "numpy": (InNumpy(), both, "it computes outside of torch, in numpy"),
    "names": (Named(), lambda block, y: block(y)["plus"] * block(y)["minus"], "its control flow depends"),
    "deep": (nn.Sequential(nn.ReLU(), OfValues()), lambda block, y: block(y), "its control flow depends"),
}


@pytest.mark.filterwarnings("ignore")  # torch.export's own
@pytest.mark.parametrize("name", KEPT)
def test_a_block_that_cannot_be_captured_is_one_layer_and_the_rest_is_cut(name: str) -> None:
    torch.manual_seed(0)
    block, use, reason = KEPT[name]
    model = Around(block, use).eval().requires_grad_(False)
    traced = trace(model, X, "net", is_own=True)
    (kept,) = traced.kept
    assert kept == ("block.1" if name == "deep" else "block")
    assert traced.kept[kept].startswith(reason)
    assert len(traced.graph.points) > 5
    check_every_cut(model, traced)
    held = [number for number, layer in enumerate(traced.graph.layers) if layer.id.startswith(kept)]
    assert held
    assert traced.bound.issuperset(held), "requests for it must not be run together"
    assert isinstance(model.block, type(block))


class One(nn.Module):
    """Says itself that it is one layer."""

    is_one_layer = True

    def forward(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return y * 2, y.sum()


class Counted(One):
    """Returns what torch.export cannot be given by anybody else."""

    def forward(self, y: torch.Tensor) -> Any:
        return y * 2, y.shape[1]


@pytest.mark.filterwarnings("ignore")  # torch's own
@pytest.mark.parametrize(
    ("make", "layers"),
    [(One, ["block", "block:2"]), (Counted, []), (lambda: torch.jit.script(nn.Sequential(nn.ReLU())), ["block"])],
)
def test_what_says_that_it_is_one_layer_is_one_where_it_can_be(
    make: Callable[[], nn.Module], layers: list[str]
) -> None:
    def use(block: nn.Module, y: torch.Tensor) -> torch.Tensor:
        made = block(y)
        result: torch.Tensor = made[0] + made[1] if isinstance(made, tuple) else made
        return result

    torch.manual_seed(0)
    model = Around(make(), use).eval().requires_grad_(False)
    traced = trace(model, X, "net", is_own=True)
    assert (traced.capture, traced.kept) == ("export", {})
    assert [layer.id for layer in traced.graph.layers if layer.id.startswith("block")] == layers
    check_every_cut(model, traced)


class Varies(nn.Module):
    """Its answer has as many rows as the values say."""

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return y[:, : 1 + int(y.sum()) % 5]


@pytest.mark.filterwarnings("ignore")  # torch.export's own
def test_a_block_whose_shapes_depend_on_values_is_refused() -> None:
    model = Around(Varies(), lambda block, y: block(y).sum(1, keepdim=True) + y)
    with pytest.raises(UsageError, match="depends on the values") as caught:
        trace(model, X, "net", is_own=True)
    assert "\n" not in str(caught.value)


# --- wrappers


def test_wrappers_of_torch_are_taken_off_at_any_depth() -> None:
    plain = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    assert unwrapped(nn.DataParallel(plain)) == (plain, "DataParallel")
    assert unwrapped(torch.compile(nn.DataParallel(plain))) == (plain, "torch.compile and DataParallel")
    inside = nn.Sequential(nn.Linear(4, 4), torch.compile(plain))  # type: ignore[call-overload]  # a module of a module
    assert unwrapped(inside) == (inside, "torch.compile")
    assert inside[1] is plain
    plain.compile()
    assert unwrapped(plain) == (plain, "torch.compile")
    assert unwrapped(plain) == (plain, "")
    check_every_cut(plain, trace(plain, X, "net"))


def test_two_captures_at_once_wait_for_each_other() -> None:
    """torch puts back what it has changed in nn.Module, and would put back what the other one had changed."""
    before, found = nn.Module.__call__, []
    second = threading.Thread(target=lambda: found.append(trace(nn.Sequential(nn.Linear(4, 2)).eval(), X, "second")))

    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if second.ident is None:
                second.start()
                second.join(0.3)  # it cannot be done yet, and has begun
            return torch.relu(self.inner(x))

    traced = trace(First().eval(), X, "first")
    second.join(LONG_S)
    assert [layer.kind for layer in traced.graph.layers] == ["input", "Linear", "relu"]
    assert [layer.kind for layer in found[0].graph.layers] == ["input", "Linear"]
    assert nn.Module.__call__ is before


def test_modules_that_other_threads_call_meanwhile_are_called_and_not_captured() -> None:
    """torch changes nn.Module itself while it follows one."""
    torch.manual_seed(1)
    inner, other = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 2), nn.ReLU())
    with torch.no_grad():
        expected = inner(X), other(X)
    seen: list[tuple[Any, Any]] = []

    def elsewhere() -> None:
        with torch.no_grad():
            seen.append((inner(X), other(X)))

    class Meeting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
            return torch.relu(self.inner(x))

    model = Meeting().eval()
    traced = trace(model, X, "meeting")
    assert [layer.kind for layer in traced.graph.layers] == ["input", "Linear", "relu"]
    assert len(seen) > 1
    for answer in seen:
        assert all(
            type(mine) is torch.Tensor and torch.equal(mine, wanted)
            for mine, wanted in zip(answer, expected, strict=True)
        )
    check_every_cut(model, traced)
