"""The library with networks of several inputs and structured answers, between an edge and a cloud."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import edgecloud as ec
from edgecloud.models import registry
from edgecloud.tools import export
from edgecloud.utils.errors import UsageError


@dataclass
class Tagged:
    logits: Any
    hidden: Any = None


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.inner, self.tags = nn.Embedding(40, 8), nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        hidden = self.inner(self.words(input_ids)).relu() * attention_mask[..., None]
        return Tagged(self.tags(hidden), (hidden.sum(1), None))


IDS, MASK = torch.tensor([[3, 9, 27, 1, 0, 39]]), torch.tensor([[1, 1, 1, 1, 0, 0]])
LINK = ec.Link("1gbit", rtt="1ms")


@pytest.mark.parametrize("point", [0, 1, None])
def test_an_answer_has_the_structure_of_the_module(point: int | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Tagger().eval()
    net = ec.load((module, {"input_ids": IDS, "attention_mask": MASK}))
    assert [(each.name, each.shape, each.dtype) for each in net.inputs] == [
        ("input_ids", (1, 6), "int64"),
        ("attention_mask", (1, 6), "int64"),
    ]
    assert net.output_names == ("logits", "hidden.0")
    with pytest.raises(ec.UsageError, match="2 inputs"):
        _ = net.input_shape
    last = len(net.graph.points) - 1
    cut = last if point is None else point
    given: Any = (IDS.flip(1), MASK)
    expected = module(*given)
    settings: Any = {"point": cut, "link": LINK, "cache_dir": tmp_path}
    with ec.Cloud(networks=[net]) as cloud, ec.Edge(net, cloud=cloud.address, **settings) as edge:
        answers = [edge(*given), edge(input_ids=given[0], attention_mask=MASK), edge.submit(*given).result(60)]
        answers += edge.map([given, {"attention_mask": MASK, "input_ids": given[0]}])
        arrays = edge(given[0].numpy(), MASK.numpy())
        sample = edge(**net.sample)
    for answer in answers:
        assert type(answer.value) is Tagged
        assert answer.completed_by == ("edge" if cut == last else "split" if cut else "cloud")
        assert torch.allclose(answer.value.logits, expected.logits, 1e-5, 1e-6)
        assert torch.allclose(answer.value.hidden[0], expected.hidden[0], 1e-5, 1e-6)
        assert answer.value.hidden[1] is None
        assert answer.outputs[0] is answer.value.logits
    assert isinstance(arrays.value.logits, np.ndarray)
    assert np.allclose(arrays.value.logits, expected.logits.detach().numpy(), 1e-5, 1e-6)
    assert sample.value.logits.shape == (1, 6, 5)


def test_a_whole_that_is_bfloat16_is_answered(tmp_path: Path) -> None:
    module, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).bfloat16(), torch.rand(1, 8).bfloat16()
    net = ec.load((module, x), name="half")
    with (
        ec.Cloud(networks=[net]) as cloud,
        ec.Edge(net, cloud=cloud.address, point=1, link=LINK, cache_dir=tmp_path) as edge,
    ):
        answer, widened = edge(x), edge(x.float().numpy())
    assert answer.completed_by == "split"
    assert answer.outputs[0].dtype is torch.bfloat16
    assert torch.equal(answer.value, module(x))
    assert widened.value.dtype == np.float32
    assert np.array_equal(widened.value, module(x).float().detach().numpy())


def test_a_module_and_an_example_are_enough(tmp_path: Path) -> None:
    module = Tagger().eval()
    with ec.Edge(module, (IDS, MASK), cloud=None, cache_dir=tmp_path) as edge:
        answer = edge(IDS, MASK)
        assert torch.equal(answer.value.logits, module(IDS, MASK).logits)
        with pytest.raises(ec.UsageError, match="module:Tagger does not take this input: index out of range"):
            edge(IDS + 1000, MASK)
    edge_of: Any = ec.Edge
    with pytest.raises(ec.UsageError, match="needs an example of its inputs"):
        edge_of(module, cloud=None)
    with pytest.raises(ec.UsageError, match="told one cloud"):
        edge_of(module, IDS)
    with pytest.raises(ec.UsageError, match="told one cloud"):
        edge_of("le_net", "127.0.0.1:1", cloud="127.0.0.1:1")


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((), {}, "input_ids is missing: it takes input_ids, attention_mask"),
        ((IDS,), {}, "attention_mask is missing"),
        ((IDS, MASK, MASK), {}, "3 were given by position"),
        ((IDS,), {"mask": MASK}, "captured without 'mask'"),
        ((IDS.float(), MASK), {}, "input_ids for module:Tagger is float32, not int64"),
        ((IDS[:, :5], MASK), {}, "module:Tagger does not take inputs of (1, 5), (1, 6): "),
        ((IDS[0, :5], MASK), {}, "has shape (5,), not (1, 6): the network was captured for that size"),
        ((IDS, [[1]]), {}, "attention_mask is a numpy array or a torch tensor, not list"),
    ],
)
def test_a_wrong_input_is_told_in_one_line(args: Any, kwargs: Any, words: str) -> None:
    net = ec.load((Tagger(), (IDS, MASK)))
    with pytest.raises(ec.UsageError) as raised:
        net(*args, **kwargs)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


FILE = """
import torch
from torch import nn


def example():
    return {"ids": torch.arange(6)[None], "mask": torch.ones(1, 6, dtype=torch.bool)}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.last = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, ids, mask):
        return {"scores": self.last(self.words(ids)).sum(1), "mask": mask}


build = Net
"""


def test_a_file_and_its_inputs_by_name(tmp_path: Path) -> None:
    path, arrays = tmp_path / "several.py", tmp_path / "x.npz"
    path.write_text(FILE, encoding="utf-8")
    net = ec.load(path)
    given: Any = {"ids": np.array([[5, 4, 3, 2, 1, 0]], np.int32), "mask": np.array([[True] * 5 + [False]])}
    np.savez(arrays, **given)
    read = net.read(arrays)
    assert read["ids"].dtype == np.int64
    value = net.value(net(**read))
    assert list(value) == ["scores", "mask"]
    assert np.array_equal(value["mask"], given["mask"])
    entry = registry.resolve_trusted(str(path))
    wrong: dict[str, tuple[Any, str]] = {
        "missing.npz": ({"ids": given["ids"]}, "has no array 'mask'"),
        "more.npz": (given | {"more": given["ids"]}, "has an array 'more'"),
        "size.npz": (given | {"ids": given["ids"][:, 1:]}, "the network was captured for that size"),
        "kind.npz": (given | {"mask": given["ids"]}, "mask is int32, not bool"),
        "large.npz": (given | {"ids": np.zeros((1, 10_000), np.int64)}, "is too large"),
    }
    for name, (content, words) in wrong.items():
        np.savez(tmp_path / name, **content)
        with pytest.raises(UsageError, match=words):
            net.read(tmp_path / name)
    (tmp_path / "text.npz").write_text("no archive", encoding="utf-8")
    with pytest.raises(UsageError, match="damaged, or no"):
        net.read(tmp_path / "text.npz")
    np.save(tmp_path / "x.npy", given["ids"])
    with pytest.raises(UsageError, match=r"has 2 inputs \(ids, mask\): give FILE.npz"):
        net.read(tmp_path / "x.npy")
    assert [each.name for each in entry.input_specs] == ["ids", "mask"]


def test_a_bundle_holds_how_it_is_called_and_what_it_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(registry, "_OWN", {})
    path, into = tmp_path / "several.py", tmp_path / "several.bundle"
    path.write_text(FILE, encoding="utf-8")
    written = export.export(str(path), "default", into, lambda _what, _done: None)
    assert written.content.is_batched
    plain = ec.load(path)
    monkeypatch.setattr(registry, "_OWN", {})
    net = ec.load(into)
    assert (net.inputs, net.output_names, net.graph) == (plain.inputs, plain.output_names, plain.graph)
    given: Any = {"ids": np.array([[5, 4, 3, 2, 1, 0]]), "mask": np.array([[True] * 5 + [False]])}
    expected = plain.value(plain(**given))
    settings: Any = {"point": 1, "link": LINK, "cache_dir": tmp_path, "backend": "onnxruntime"}
    with ec.Cloud(networks=[net]) as cloud, ec.Edge(net, cloud=cloud.address, **settings) as edge:
        answer = edge(**given)
    assert answer.completed_by == "split"
    assert list(answer.value) == ["scores", "mask"]
    assert np.allclose(answer.value["scores"], expected["scores"], 1e-5, 1e-6)
    assert np.array_equal(answer.value["mask"], expected["mask"])
