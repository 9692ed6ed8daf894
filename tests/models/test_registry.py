"""Networks, graphs, weights and inputs."""

import operator
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from edgecloud.models import inputs, registry, weights
from edgecloud.models.split import split
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.models.trace import trace
from edgecloud.models.zoo.le_net import LeNet
from edgecloud.utils.errors import MismatchError, UsageError
from tests.halves import run_split
from tests.models.test_graph import all_cuts

X = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def assert_every_cut_is_right(model: nn.Module, x: torch.Tensor = X, captures: tuple[str, ...] = ("fx",)) -> None:
    """Split at every cut there is, and compare with the whole network."""
    model.eval()
    with torch.no_grad():
        whole = model(x.clone())
    expected = whole if isinstance(whole, tuple) else (whole,)
    traced = trace(model, x, "toy")
    assert traced.capture in captures
    cuts = all_cuts(traced.graph)
    assert len(cuts) > 1
    for head in cuts:
        got = run_split(*split(traced, head), x.clone(), traced.graph.outputs)
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


class Branches(nn.Module):
    """Two branches, a shared tensor, a shape computed on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(4, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 4, 1)
        self.scale = nn.Parameter(torch.rand(1, 4, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels = x.shape[0], x.size(1)
        one, two = self.a(x), self.b(x).relu()
        joined = torch.cat([one * (self.scale + 1), two], 1).view(batch, 2, channels, -1)
        answer: torch.Tensor = joined.flatten(1) + one.flatten(1).repeat(1, 2)
        return answer


class Chunks(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, dim=1)
        return left.sigmoid() * right + right.tanh()


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(0, 1)
        torch._assert(tokens.dim() == 3, "three dimensions")  # type: ignore[no-untyped-call]
        mixed, _ = self.attend(tokens, tokens, tokens, need_weights=False)
        answer: torch.Tensor = mixed + tokens
        return answer


class SharedInPlace(nn.Module):
    """The trap: `d` has to see what relu_ made of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.d = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.c(x)
        b = torch.relu_(a)
        answer: torch.Tensor = self.d(a) + b
        return answer


class InPlaceThroughAView(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = x * 2
        early = a + 1
        a.flatten(1).mul_(3)
        return early + a


class InPlaceOnTheInput(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu_(x) + 1


class Loop(nn.Module):
    """fx cannot follow a loop over a shape; export can."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(x[:, 0])
        for channel in range(x.shape[1]):
            total = total + x[:, channel].sin() * channel
        return total


class CopyThatBecomesAView(nn.Module):
    """`contiguous` copies in the whole network, but not where its input came over the wire."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.one(x).transpose(2, 3)
        b = self.act(a.contiguous())
        answer: torch.Tensor = self.two(b) + a
        return answer


class NumberOfValues(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x.mean().item()


class ScalarOnTheWay(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.relu() * x.mean()


class HalfBrain(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(torch.bfloat16).relu().float()


class TwoOutputs(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = x.relu()
        return hidden, hidden.mean((2, 3))


class CalledTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.c = nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.act(self.c(self.act(x)))
        return result


CUT_BY_FX = [Branches, Chunks, Attention, TwoOutputs, CalledTwice, ScalarOnTheWay, NumberOfValues, HalfBrain]
CUT_BY_EXPORT = [SharedInPlace, InPlaceThroughAView, InPlaceOnTheInput, Loop, CopyThatBecomesAView]


@pytest.mark.parametrize("kind", CUT_BY_FX)
def test_every_cut_of_a_graph_gives_the_whole_networks_answer(kind: type[nn.Module]) -> None:
    assert_every_cut_is_right(kind())


@pytest.mark.filterwarnings("ignore")  # torch.export's own
@pytest.mark.parametrize("kind", CUT_BY_EXPORT)
def test_what_fx_cannot_cut_is_captured_by_export(kind: type[nn.Module]) -> None:
    assert_every_cut_is_right(kind(), captures=("export",))


def test_a_module_called_twice_has_two_names() -> None:
    graph = trace(CalledTwice(), X, "toy").graph
    assert [layer.id for layer in graph.layers] == ["input", "act", "c", "act:2"]
    assert [layer.kind for layer in graph.layers] == ["input", "ReLU", "Conv2d", "ReLU"]


def test_a_segment_holds_its_own_parameters_only(network: Callable[[str], TorchNetwork]) -> None:
    traced = network("alex_net").traced
    head, tail = split(traced, traced.graph.head_at(13))
    names = {name for name, _ in traced.module.named_parameters()}
    halves = [{name for name in names if name.rpartition(".")[0] in part.module.held} for part in (head, tail)]
    assert halves[0] & halves[1] == set()
    assert halves[0] | halves[1] == names
    assert all("classifier" in name for name in halves[1])


class Unsuitable(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, int]:
        return {"count": x.shape[0]}


class DataDependent(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.relu() if x.sum() > 0 else x.tanh()


@pytest.mark.filterwarnings("ignore")  # torch.export's own
@pytest.mark.parametrize("kind", [Unsuitable, DataDependent])
def test_a_network_that_cannot_be_cut_says_why(kind: type[nn.Module]) -> None:
    with pytest.raises(UsageError, match=r"cannot be captured|no tensor in it"):
        trace(kind(), X, "toy")


def test_alex_net_has_the_published_points(network: Callable[[str], TorchNetwork]) -> None:
    graph = network("alex_net").traced.graph
    assert len(graph.points) == 23
    assert graph.layers[13].id == "features.12"
    assert graph.layers[13].out_bytes == 36_864
    assert graph.result_bytes == 4000
    assert operator.itemgetter(0)(graph.layers).out_bytes == 602_112


# --- the registry


@pytest.mark.parametrize(
    "name", ["nope", "torchvision:nope", "torchvision:", "../alex_net", "", "fasterrcnn_resnet50_fpn"]
)
def test_an_unknown_network_lists_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError, match="alex_net, vgg_net, mobile_net, efficientnet_lite0"):
        registry.lookup(name)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a/b.pt2", r"compiled program.*FILE\.py"),
        ("b.ts", "compiled program"),
        ("b.pth", "contains weights, not a network: use --weights FILE"),
        ("b.pt", "--weights FILE"),
        ("b.safetensors", "--weights FILE"),
        ("b.h5", "TensorFlow"),
    ],
)
def test_a_file_that_is_no_network_is_named_for_what_it_is(name: str, told: str) -> None:
    for find in (registry.lookup, registry.resolve_trusted):
        with pytest.raises(UsageError, match=told) as caught:
            find(name)
        assert "alex_net" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_names_are_what_they_say() -> None:
    assert registry.lookup("mobilenet").name == "mobile_net"
    assert registry.lookup("vgg_net").parameter_bytes == 4 * 138_365_992  # VGG16-BN, the published one
    assert registry.lookup("le_net").parameter_bytes == 4 * sum(p.numel() for p in LeNet().parameters())
    assert len(registry.torchvision_names()) >= 80


# --- weights


def test_seeded_weights_are_the_same_everywhere() -> None:
    """Pinned: another digest means that an older edge and a newer cloud would refuse each other."""
    entry = registry.lookup("mobile_net")
    first, again = weights.load(entry), weights.load(entry)
    assert first.digest == again.digest
    assert first.digest.startswith("sha256:44ec7060")
    assert (first.trained, first.origin) == (False, "seed 0 (untrained)")
    assert weights.digest(weights.seeded(entry, seed=1)) != first.digest


def test_every_random_parameter_of_a_network_is_drawn_by_us() -> None:
    for name in ("torchvision:vit_b_16", "torchvision:googlenet", "torchvision:swin_t", "torchvision:convnext_tiny"):
        entry = registry.lookup(name)
        torch.manual_seed(1)
        first = weights.digest(weights.seeded(entry))
        torch.manual_seed(2)
        assert weights.digest(weights.seeded(entry)) == first, name


def test_the_shipped_le_net_reads_digits(network: Callable[[str], TorchNetwork]) -> None:
    from edgecloud.models.zoo.digits import digit_pictures, split_digits
    from edgecloud.models.zoo.train_le_net import WEIGHTS

    pictures, classes = digit_pictures()
    _, held_out = split_digits()
    loaded = network("le_net").loaded
    batch = torch.from_numpy(np.concatenate([inputs.digit_array(pictures[n]) for n in held_out]))
    with torch.inference_mode():
        accuracy = (loaded.model(batch).argmax(1) == torch.tensor(classes)[held_out]).float().mean().item()
    assert accuracy >= 0.98
    assert loaded.trained
    assert WEIGHTS.stat().st_size < 300_000


def test_a_model_is_always_in_eval_mode() -> None:
    assert not any(module.training for module in weights.load(registry.lookup("mobile_net")).model.modules())


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_come_from_a_file(suffix: str, tmp_path: Path) -> None:
    state = LeNet().state_dict()
    path = tmp_path / f"w{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    loaded = weights.load(registry.lookup("le_net"), str(path))
    torch.testing.assert_close(dict(loaded.model.state_dict()), dict(state))
    assert loaded.origin == f"file {path}"


def bad_weights(folder: Path) -> dict[str, tuple[Path, type[Exception]]]:
    state = LeNet().state_dict()
    files: dict[str, tuple[Path, type[Exception]]] = {"missing": (folder / "none.safetensors", UsageError)}

    def add(name: str, content: bytes, error: type[Exception] = UsageError) -> None:
        path = folder / name
        path.write_bytes(content)
        files[name] = (path, error)

    save_file(state, folder / "good.safetensors")
    torch.save(state, folder / "good.pt")
    good = (folder / "good.safetensors").read_bytes()
    add("empty.safetensors", b"")
    add("empty.pt", b"")
    add("noise.safetensors", bytes(range(256)) * 10)
    add("noise.pt", bytes(range(256)) * 10)
    add("long-header.safetensors", (1 << 60).to_bytes(8, "little") + good[8:])
    add("truncated.safetensors", good[: len(good) // 2])
    add("truncated.pt", (folder / "good.pt").read_bytes()[:1000])
    add("weights.h5", good)
    torch.save(LeNet(), folder / "module.pt")
    files["module.pt"] = (folder / "module.pt", UsageError)
    torch.save({"w": torch.eye(2).to_sparse()}, folder / "sparse.pt")
    files["sparse.pt"] = (folder / "sparse.pt", UsageError)
    torch.save([1, 2], folder / "list.pt")
    files["list.pt"] = (folder / "list.pt", UsageError)
    for name, change in (
        ("fewer", {key: state[key] for key in list(state)[1:]}),
        ("more", state | {"extra": torch.zeros(1)}),
        ("other shape", state | {"features.0.weight": torch.zeros(1)}),
    ):
        save_file(change, folder / f"{name}.safetensors")
        files[name] = (folder / f"{name}.safetensors", MismatchError)
    return files


def test_weights_that_are_none_name_the_file_and_run_nothing(tmp_path: Path) -> None:
    for name, (path, error) in bad_weights(tmp_path).items():
        with pytest.raises(error) as caught:
            weights.load(registry.lookup("le_net"), str(path))
        message = str(caught.value)
        assert str(path) in message, name
        assert "\n" not in message, name


# --- inputs


def test_the_samples_are_real_pictures(network: Callable[[str], TorchNetwork]) -> None:
    photo, digit = network("alex_net").example, network("le_net").example
    assert (photo.source, digit.source) == ("sample:china.jpg", "sample:digit.png")
    assert (photo.tensor.shape, digit.tensor.shape) == ((1, 3, 224, 224), (1, 1, 28, 28))
    assert photo.tensor.std() > 0.5


def test_dark_ink_on_light_paper_is_inverted() -> None:
    white_on_black = Image.new("L", (20, 20), 0)
    white_on_black.paste(255, (8, 2, 12, 18))
    black_on_white = Image.eval(white_on_black, lambda value: 255 - value)
    torch.testing.assert_close(inputs.digit_array(white_on_black), inputs.digit_array(black_on_white))


def test_a_picture_goes_through_the_networks_own_preprocessing(tmp_path: Path) -> None:
    entry = registry.lookup("alex_net")
    for mode in ("RGB", "L", "RGBA", "P", "CMYK"):
        path = tmp_path / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}"
        Image.new(mode, (300, 250)).save(path)
        assert inputs.from_image(path, entry.preprocess).tensor.shape == (1, 3, 224, 224)


def test_transparent_shows_white_and_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    ink = Image.new("RGBA", (28, 28), (0, 0, 0, 0))
    ink.paste((0, 0, 0, 255), (10, 4, 18, 24))
    ink.save(tmp_path / "ink.png")
    grey = np.zeros((28, 28), np.uint16)
    grey[4:24, 10:18] = 65535
    Image.fromarray(grey).save(tmp_path / "grey.png")
    one, two = (inputs.from_image(tmp_path / name, inputs.digit_array).tensor for name in ("ink.png", "grey.png"))
    torch.testing.assert_close(one, two)
    assert one.max() == 1
    Image.new("F", (28, 28)).save(tmp_path / "float.tiff")
    with pytest.raises(UsageError, match="not supported: save it with 8 or 16 bits"):
        inputs.from_image(tmp_path / "float.tiff", inputs.digit_array)


def test_what_would_be_read_for_ever_is_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    entry = registry.lookup("le_net")
    for read in (
        lambda: inputs.from_image(pipe, entry.preprocess),
        lambda: inputs.from_array(pipe, entry.input_sources),
        lambda: weights.load(entry, str(pipe)),
    ):
        with pytest.raises(UsageError, match="is not a file"):
            read()


def test_what_is_not_a_picture_is_refused(tmp_path: Path) -> None:
    preprocess = registry.lookup("alex_net").preprocess
    Image.new("RGB", (64, 64)).save(tmp_path / "good.png")
    contents = {
        "text.jpg": b"hello",
        "empty.png": b"",
        "truncated.png": (tmp_path / "good.png").read_bytes()[:60],
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=name):
            inputs.from_image(tmp_path / name, preprocess)
    for path in (tmp_path / "missing.jpg", tmp_path):
        with pytest.raises(UsageError, match="file"):
            inputs.from_image(path, preprocess)


def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    Image.new("1", (12_000, 12_000)).save(path)
    with pytest.raises(UsageError, match=r"pixels|bomb"):
        inputs.from_image(path, registry.lookup("alex_net").preprocess)
