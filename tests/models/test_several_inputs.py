"""Networks of several inputs, of any type, and with structured answers: every cut equals the user's own module."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from edgecloud.engine.executor import make_executor
from edgecloud.engine.torch_executor import TorchExecutor
from edgecloud.models import given_module
from edgecloud.models.network import fed_layers
from edgecloud.models.torch_arrays import to_array, to_tensor
from edgecloud.models.torch_network import TorchNetwork, prepare
from edgecloud.utils.dtypes import TRAVELLING, dtype_of, widened
from edgecloud.utils.errors import UsageError


@dataclass
class Scores:
    logits: torch.Tensor
    hidden: Any


class Both(NamedTuple):
    answer: Any
    given: Any


class Tagger(nn.Module):
    """Tokens, a mask, a factor; a keyword-only argument; an answer of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.inner, self.tags = nn.Embedding(40, 8), nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.register_buffer("positions", torch.arange(6.0))

    def forward(self, ids: torch.Tensor, mask: Any = None, scale: float = 1.0, *, bias: Any = None) -> Any:
        hidden = self.words(ids)
        if mask is not None:
            hidden = hidden * mask[..., None].to(hidden.dtype)
        hidden = self.inner(hidden).relu()
        logits = self.tags(hidden) * scale
        if bias is not None:
            logits = logits + bias
        return {"out": Scores(logits, [hidden, None]), "all": Both(hidden.sum(1), ids), 3: self.positions, "n": 7}


class Tied(nn.Module):
    """One parameter at both ends, as in language models."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(40, 8), nn.Linear(8, 40, bias=False)
        self.out.weight = self.words.weight

    def forward(self, ids: torch.Tensor) -> Any:
        return self.out(torch.tanh(self.words(ids)))


class Spectrum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> Any:
        return self.b((torch.fft.fft(self.a(x)) * 2).real.relu())


class Batch(nn.Module):
    """What training code calls a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(8, 3)

    def forward(self, batch: Any) -> Any:
        return self.last(batch["image"]).relu() + batch["more"][0]


class Whole(nn.Module):
    """Where numbers are not whole it is exported, and its own structures are none that torch knows."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        for part in x.unbind(0):
            y = y + self.a(part)
        return Scores(y.relu(), (y, {"x": x}))


class Mixed(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return (x @ x.mT).relu() @ x, (x > 0).any(-1)


def simple(dtype: torch.dtype) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).to(dtype)


IDS, MASK = torch.tensor([[3, 9, 27, 1, 0, 39]]), torch.tensor([[1, 1, 1, 1, 0, 0]])
F = torch.linspace(-1, 1, 16).reshape(1, 2, 8)
CASES: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "by position": (Tagger, (IDS, MASK)),
    "a mask of flags": (Tagger, (IDS, MASK.bool())),
    "by name": (Tagger, {"mask": MASK, "ids": IDS}),
    "a keyword of its own": (Tagger, {"ids": IDS, "bias": torch.ones(8)}),
    "constants between": (Tagger, (IDS, None, 0.5)),
    "tokens alone": (Tagger, IDS),
    "int32": (Tagger, IDS.int()),
    "several at once": (Tagger, (IDS.repeat(4, 1), MASK.repeat(4, 1))),
    "tied": (Tied, IDS),
    "complex inside": (Spectrum, F),
    "complex outside": (lambda: nn.Sequential(nn.Flatten(), nn.Identity()), torch.complex(F, F)),
    "a batch": (Batch, ({"image": F, "more": [F[..., :3]]},)),
    "no batch axis of 1": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten()), torch.rand(3, 3, 6, 6)),
    "export": (Whole, (F, F[0])),
    "autocast": (Mixed, F),
    "float64": (lambda: simple(torch.float64), F.double()),
    "float16": (lambda: simple(torch.float16), F.half()),
    "bfloat16": (lambda: simple(torch.bfloat16), F.bfloat16()),
}


def network_of(module: nn.Module, example: Any) -> TorchNetwork:
    entry, loaded = given_module.read(module, example, "mine")
    return prepare(loaded, entry.default_input(), entry.name, entry.call)


def answer_of(module: nn.Module, example: Any) -> Any:
    given = example if isinstance(example, tuple) else (example,)
    with torch.no_grad():
        return module(**example) if isinstance(example, dict) else module(*given)


def same(ours: Any, theirs: Any) -> bool:
    """Of the same structure and numbers."""
    if isinstance(theirs, torch.Tensor):
        there = to_array(theirs)
        return ours.dtype == there.dtype and np.allclose(widened(ours), widened(there), 1e-5, 1e-6)
    if type(ours) is not type(theirs):
        return False
    if isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(same(ours[key], theirs[key]) for key in theirs)
    if isinstance(theirs, tuple | list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return same(vars(ours), vars(theirs)) if hasattr(theirs, "__dict__") else ours == theirs


@pytest.mark.parametrize("name", CASES)
def test_every_cut_is_the_network(name: str) -> None:
    make, example = CASES[name]
    torch.manual_seed(5)
    module = make().eval()
    expected, network = answer_of(module, example), network_of(module, example)
    graph, executor = network.graph, make_executor(network, "cpu")
    assert graph.head_at(0) == frozenset(range(len(network.example.arrays)))
    assert len(graph.points) >= 2
    assert all(graph.crossing_at(point.number) == graph.boundary(graph.head_at(point.number)) for point in graph.points)
    for end in range(len(graph.inputs), len(graph.layers) + 1):
        values = fed_layers(graph, network.example.fed)
        head = frozenset(range(end))
        for layers in (head, graph.everything - head):
            if layers:
                segment = executor.load(layers)
                ran = executor.run(segment, [values[number] for number in segment.inputs])
                values |= zip(segment.outputs, ran.arrays, strict=True)
        outputs = [values[number] for number in graph.outputs]
        assert same(network.answer.build(outputs), expected), end
    whole = network.whole(network.example.fed)
    assert same(network.answer.build(whole), expected)
    seen: dict[int, Any] = {}
    network.each_output(network.example.fed, seen.__setitem__)
    assert sorted(seen) == list(range(len(graph.layers)))


def test_a_profile_has_every_layer(tmp_path: Any) -> None:
    executor = make_executor(network_of(Tagger().eval(), (IDS, MASK)), "cpu")
    assert isinstance(executor, TorchExecutor)
    profile = executor.profile(tmp_path, tails=True)
    assert len(profile.seconds) == len(executor.network.graph.layers)
    assert profile.seconds[0] == profile.seconds[1] == 0
    assert sum(profile.seconds) > 0


def test_a_shared_parameter_is_counted_once() -> None:
    entry, _ = given_module.read(Tied(), IDS, "mine")
    assert entry.parameter_bytes == 4 * 40 * 8


class Nothing(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return {"n": x.shape[0]}


class Changing(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return (x * 2, x) if x.flatten()[0] < 0 else (x * 2, None)


class Count(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return x * 2, int((x > 0).sum())


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Nothing, "no tensor in it"),
        (Changing, "depends on the values|changes from one"),
        (Count, "depends on the values"),
    ],
)
def test_an_answer_that_is_none_is_refused(module: Callable[[], nn.Module], words: str) -> None:
    with pytest.raises(UsageError, match=words) as raised:
        network_of(module().eval(), F)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", TRAVELLING)
def test_every_type_goes_between_torch_and_numpy(name: str) -> None:
    tensor = torch.tensor([[0.0, 1.0, -2.5], [3.0, 5.0, 7.0]]).to(getattr(torch, name))
    for given in (tensor, tensor.mT, tensor[:, :0], tensor[0, 0]):
        array = to_array(given)
        assert (array.dtype, array.shape) == (dtype_of(name), tuple(given.shape))
        assert torch.equal(to_tensor(array), given)
