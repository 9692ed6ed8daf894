"""What depends on the values of an input never becomes a constant, and never crosses a cut."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from edgecloud.engine.torch_executor import TorchExecutor
from edgecloud.models import split
from edgecloud.models.inputs import Input
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.models.trace import Traced, trace
from edgecloud.models.weights import Loaded
from edgecloud.utils.errors import UsageError

X = torch.rand(1, 6, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two layers around something that is given."""

    def __init__(self, middle: Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.limit = nn.Linear(4, 4), nn.Linear(4, 3), nn.Parameter(torch.tensor(0.5))
        self.middle = middle

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.b(self.middle(self, x, self.a(x).relu()))
        return result


KEPT = {
    "item": lambda _, x, y: y + (x > 50).sum().item(),
    "item twice": lambda _, x, y: (y + x.max().item()) * x.min().item(),
    "arithmetic": lambda _, x, y: y * (x.sum().item() / x.shape[1] + 2),
    "list": lambda _, x, y: y + x.amax((0, 2)).tolist()[2],
    "shape of what is found": lambda _, x, y: y / (1 + (x > 0.5).nonzero().shape[0]),
    "rows of a mask": lambda _, x, y: y[0][x[0, :, 0] > 0.2].sum(0) + y,
    "all of a mask": lambda _, x, y: y + x[x > 0.4].sum(),
    "experts": lambda _, x, y: y.index_add(1, torch.where(x[0, :, 0] > 0.3)[0], y[:, torch.where(x[0, :, 0] > 0.3)[0]]),
}
FIXED = {
    "shapes": lambda _, x, y: y * x.shape[1] / x.size(-1) + x.dim(),
    "a made shape": lambda _, x, y: y + torch.ones(x.shape[0], x.size(1), 1),
    "kinds": lambda _, x, y: y.to(x.dtype) + torch.zeros(4, dtype=y.dtype, device=x.device),
    "of a parameter": lambda net, x, y: y * net.limit.item(),
    "of the rank": lambda _, x, y: y.sum(x.ndim - 1, keepdim=True) + y,
}
REFUSED = {
    "whole number": lambda _, x, y: y - int(x.abs().max()),
    "float": lambda _, x, y: y / (1 + float(x.var())),
    "rows": lambda _, x, y: y[y.sum(-1) > 1],
    "as many as": lambda _, x, y: y[:, : 1 + int((x[0, :, 0] > 0.5).sum())],
    "branch": lambda _, x, y: y.tanh() if x.mean() > 0.5 else y,
    "truth": lambda _, x, y: y.tanh() if bool((x > 2).any()) else y,
}


def executor(middle: Callable[..., torch.Tensor]) -> tuple[Net, TorchExecutor]:
    torch.manual_seed(0)
    model = Net(middle).eval().requires_grad_(False)
    traced = trace(model, X, "net", is_own=True)
    return model, executor_of(model, traced)


def executor_of(model: nn.Module, traced: Traced) -> TorchExecutor:
    loaded = Loaded("", "", trained=True, model=model)
    return TorchExecutor(TorchNetwork(loaded, traced, Input(X.numpy(), "x")), "cpu")


def inputs() -> list[torch.Tensor]:
    return [X, X * 100, -X, X.flip(1), torch.zeros_like(X), X + 60]


@pytest.mark.filterwarnings("ignore")  # torch.export's own
@pytest.mark.parametrize("name", [*KEPT, *FIXED])
def test_every_cut_gives_the_networks_answer_to_inputs_of_other_values(name: str) -> None:
    model, found = executor((KEPT | FIXED)[name])
    graph = found.traced.graph
    assert bool(found.traced.bound) == (name in KEPT)
    for x in inputs():
        expected, given = model(x), x.clone()
        for point in range(len(graph.points)):
            head = found.load(graph.head_at(point))
            values = {0: x.numpy()} | dict(zip(head.outputs, found.run(head, [x.numpy()]).arrays, strict=True))
            if tail := graph.everything - graph.head_at(point):
                rest = found.load(tail)
                made = found.run(rest, [values[number] for number in rest.inputs]).arrays
                values |= zip(rest.outputs, made, strict=True)
            torch.testing.assert_close(torch.from_numpy(np.asarray(values[graph.outputs[0]])), expected)
        assert torch.equal(x, given)


@pytest.mark.filterwarnings("ignore")  # torch.export's own
@pytest.mark.parametrize("name", REFUSED)
def test_a_way_or_an_answer_that_depends_on_values_is_refused_in_one_line(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=r"^net cannot be captured .*depends on the values of its input") as caught:
        executor(REFUSED[name])
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_network_that_keeps_what_it_was_given_is_left_as_it_was() -> None:
    """Capturing calls it with stand-ins for tensors."""

    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)
            self.kept: int | None = None
            self.all: list[torch.Tensor] = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.kept is None:
                self.kept = x.shape[1]
            self.last = self.a(x)
            self.all.append(self.last)
            result: torch.Tensor = self.last * self.kept
            return result

    model = Keeps().eval().requires_grad_(False)
    trace(model, X, "net", is_own=True)
    assert type(model.last) is torch.Tensor
    assert all(type(each) is torch.Tensor for each in model.all)


def test_random_numbers_in_forward_are_named() -> None:
    with pytest.raises(UsageError, match=r"net gives a different answer each time: forward\(\) uses random numbers"):
        executor(lambda _, x, y: y + torch.randn_like(x))


class Norm(nn.Module):
    """Works in place behind a view."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.b(self.a(x).reshape(1, 6, 4).mul_(3).sub_(0.5))
        return result


def test_what_a_caller_still_holds_is_not_written_into() -> None:
    """The boundary, which is needed again where the cloud does not answer; nothing else is copied."""
    model = Norm().eval().requires_grad_(False)
    traced = trace(model, X, "net", is_own=True)
    found = executor_of(model, traced)
    graph = traced.graph
    assert traced.overwritten
    expected = model(X).numpy()
    for point in range(1, len(graph.points) - 1):
        head, tail = (found.load(cut) for cut in (graph.head_at(point), graph.everything - graph.head_at(point)))
        boundary = found.run(head, [X.numpy()]).arrays
        kept = [array.copy() for array in boundary]
        for _ in range(3):
            np.testing.assert_array_equal(found.run(tail, boundary).arrays[0], expected)
        assert all(map(np.array_equal, boundary, kept))
    assert not split.segment(traced, graph.everything).overwritten
