"""ec.load: names, files and modules of the caller's own, which stay as they are."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import edgecloud as ec
from tests.conftest import ROOT


class Branches(nn.Module):
    """Two branches, a buffer that is not saved, and what behaves differently in training."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.norm, self.drop = nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.register_buffer("scale", torch.tensor(0.5), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        joined = self.norm(self.left(x).relu() + self.right(x))
        scaled: torch.Tensor = self.drop(joined).mean((2, 3)) * self.scale
        return scaled


def branches() -> tuple[Branches, torch.Tensor]:
    """In training mode, as a caller may have it, with an input."""
    torch.manual_seed(3)
    return Branches().train(), torch.rand(1, 3, 8, 8)


def test_a_module_of_the_callers_stays_as_it_is() -> None:
    module, x = branches()
    hooks = []
    module.left.register_forward_hook(lambda *_: hooks.append(1))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    states = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())  # type: ignore[index]
    threads = torch.get_num_threads()

    net = ec.load((module, x))
    answer = net(x)[0]

    assert module.training
    assert all(each.requires_grad for each in module.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (np.random.get_state()[1].tolist(), random.getstate())  # type: ignore[index]
    assert torch.get_num_threads() == threads
    with torch.no_grad():
        assert torch.allclose(answer, module.eval()(x), atol=1e-6)
        next(module.parameters()).zero_()
    assert torch.equal(net(x)[0], answer)  # what the caller does with it later does not reach the copy
    assert (net.name, net.is_module, net.input_shape) == ("module:Branches", True, (1, 3, 8, 8))


def test_the_two_ways_of_giving_a_module_are_one() -> None:
    module, x = branches()
    for net in (ec.load(module, x), ec.load((module, (x,))), ec.load((module, x.numpy()), name="Branches")):
        assert net.name == "module:Branches"
        assert net.made.weights.digest == ec.load((module, x)).made.weights.digest


def test_answers_are_of_the_kind_of_the_input() -> None:
    net = ec.load("le_net")
    expected = net(net.sample)[0]
    assert isinstance(expected, np.ndarray)
    for x in (net.sample[0], net.sample.astype(np.float64), net.sample[:, :, ::-1][:, :, ::-1]):
        assert np.allclose(net(x)[0], expected)
    for x in (torch.from_numpy(net.sample), torch.from_numpy(net.sample[0]).requires_grad_()):
        found = net(x)[0]
        assert isinstance(found, torch.Tensor)
        assert np.allclose(found.numpy(), expected)
    given = net.sample
    kept = given.copy()
    net(given)
    assert np.array_equal(given, kept)


def test_the_layers_and_the_sample_are_there() -> None:
    net = ec.load("le_net")
    assert [layer.out_shape for layer in net.layers][-1] == (1, 10)
    assert net.labels == tuple("0123456789")
    assert net.is_trained
    assert net.sample is not net.sample
    assert ec.load(net) is net


def test_files_are_read_as_the_programs_read_them(tmp_path: Path) -> None:
    net = ec.load("le_net")
    assert net.read(ROOT / "models/zoo/digit.png").shape == (1, 1, 28, 28)
    np.save(tmp_path / "x.npy", net.sample)
    assert np.array_equal(net.read(tmp_path / "x.npy"), net.sample)
    with pytest.raises(ec.UsageError, match="does not take a recording"):
        net.read(tmp_path / "sound.wav")
    assert ec.load("senna_pos").read("Ada left .").shape == (1, 28, 300)


def test_a_file_of_ones_own_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("from torch import nn\nINPUT_SHAPE = (8,)\ndef build():\n    return nn.Linear(8, 2)\n")
    net = ec.load(path)
    assert (net.name, net.input_shape, net.is_module) == ("mine.py", (1, 8), False)
    path.write_text(path.read_text().replace("(8, 2)", "(8, 3)"))  # and edited, as in a notebook
    assert ec.load(path).layers[-1].out_shape == (1, 3)
    assert net.layers[-1].out_shape == (1, 2)
    other = tmp_path / "other" / "mine.py"
    other.parent.mkdir()
    other.write_text(path.read_text().replace("(8, 3)", "(8, 4)"))
    with pytest.raises(ec.UsageError, match=r"two files are named mine\.py"):
        ec.load(other)


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.file = (ROOT / "README.md").open()  # cannot be copied

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


class Picky(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


LOAD: Any = ec.load  # also for what its type forbids
TRACE: Any = torch.jit.trace
LINEAR = nn.Linear(8, 2)
X = torch.zeros(1, 8)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LOAD("le_nett"), "did you mean le_net?"),
        (lambda: LOAD("net.onnx"), "no file net.onnx"),
        (lambda: LOAD(Path("a/net.bundle")), "no file a/net.bundle"),
        (lambda: LOAD("none.py"), "none.py"),
        (lambda: LOAD(3), "a network is a name, FILE.py or (module, example_input), not int"),
        (lambda: LOAD(LINEAR), "not Linear"),
        (lambda: LOAD((LINEAR,)), "two things, not 1"),
        (lambda: LOAD((X, LINEAR)), "a torch.nn.Module, not Tensor"),
        (
            lambda: LOAD((LINEAR, 3)),
            "a dict of what is given by name, not int",
        ),
        (lambda: LOAD((LINEAR, (X, X))), "fails on its inputs input (1, 8), input_1 (1, 8)"),
        (lambda: LOAD((LINEAR, X.double())), "fails on its input of shape (1, 8)"),
        (lambda: LOAD((LINEAR, {"x": 3})), "no tensor in it"),
        (lambda: LOAD((LINEAR, torch.zeros(0, 8))), "has no elements"),
        (lambda: LOAD((LINEAR, X.to(torch.float8_e5m2))), "which does not travel"),
        (lambda: LOAD((LINEAR, X / 0)), "NaN or infinity"),
        (lambda: LOAD((LINEAR, torch.zeros(1, 9))), "fails on its input of shape (1, 9)"),
        (lambda: LOAD((Counts(), X)), "Counts cannot be copied"),
        (lambda: LOAD((Picky(), X)), "depends on the values of its input"),
        (lambda: LOAD((TRACE(LINEAR, X), X)), "TorchScript cannot be cut"),
        (lambda: LOAD((LINEAR, X), name="a b"), "is no name for a network"),
        (lambda: LOAD((LINEAR, X), weights="w.pt"), "the module holds its weights"),
        (lambda: LOAD("le_net", name="mine"), "others have one"),
        (lambda: LOAD("le_net", weights="none.pt"), "none.pt"),
        (
            lambda: LOAD("le_net")(np.zeros((1, 3, 28, 28), np.float32)),
            "le_net does not take inputs of (1, 3, 28, 28): ",
        ),
        (lambda: LOAD("le_net")(np.zeros((1, 1, 28, 28), np.uint8)), "takes float32, not uint8"),
        (lambda: LOAD("le_net")(np.full((1, 28, 28), np.nan)), "NaN or infinity"),
        (lambda: LOAD("le_net")([[0.0]]), "a numpy array or a torch tensor, not list"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(make: Any, words: str) -> None:
    with pytest.raises(ec.UsageError) as raised:
        make()
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
