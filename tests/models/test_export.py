from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgecloud.models import bundle, export
from edgecloud.models.bundle import Bundle
from edgecloud.models.split import segment
from edgecloud.models.trace import Traced
from edgecloud.utils.errors import UsageError
from tests import bundles

Made = tuple[Traced, torch.Tensor, Bundle]
NETWORKS = {
    "chain": (bundles.Chain, (1, 3, 8, 8)),
    "branches": (bundles.Branches, (1, 3, 8, 8)),
    "counted": (bundles.Counted, (1, 3, 8, 8)),
    "states": (bundles.States, (1, 3, 4)),
    "fixed": (bundles.FixedShape, (1, 3, 4)),
}


@pytest.fixture(scope="module", params=NETWORKS)
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Traced, torch.Tensor, Bundle]:
    build, shape = NETWORKS[request.param]
    traced, x = bundles.traced_of(build(), shape)
    path = tmp_path_factory.mktemp("exported") / "x.bundle"
    bundles.write(path, traced, x)
    return traced, x, bundle.read(path)


def run(opened: Bundle, layers: frozenset[int], arrays: dict[int, Any]) -> dict[int, Any]:
    """A segment in ONNX Runtime, by the numbers of the layers whose tensors it takes and gives."""
    inputs, outputs = opened.io_of(layers)
    names = opened.content.tensors
    part = opened.part(layers)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    weights = [opened.weight(name) for name in part.weights]
    options.add_external_initializers(
        list(part.weights), [onnxruntime.OrtValue.ortvalue_from_numpy(weight) for weight in weights]
    )
    feeds = {names[number]: arrays[number] for number in inputs}
    made = [name for name in dict.fromkeys(names[number] for number in outputs) if name not in feeds]
    results = dict(feeds)
    if made:
        session = onnxruntime.InferenceSession(part.model, options, providers=["CPUExecutionProvider"])
        results |= dict(zip(made, session.run(made, feeds), strict=True))
    return {number: results[names[number]] for number in outputs}


def torch_run(traced: Traced, layers: frozenset[int], arrays: dict[int, Any]) -> dict[int, Any]:
    part = segment(traced, layers)
    with torch.no_grad():
        results = part.module(*[torch.from_numpy(np.array(arrays[number])) for number in part.inputs])
    return dict(zip(part.outputs, [result.numpy() for result in results], strict=True))


def _same(ours: dict[int, Any], theirs: dict[int, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for number, array in theirs.items():
        np.testing.assert_allclose(ours[number], array, rtol=1e-4, atol=1e-5 * max(1.0, float(np.abs(array).max())))


def test_every_cut_equals_the_whole(exported: Made) -> None:
    traced, x, opened = exported
    graph = traced.graph
    with torch.no_grad():
        answers = traced.module(x.clone())
    answers = answers if isinstance(answers, tuple) else (answers,)
    for point in graph.points:
        head = graph.head_at(point.number)
        crossing = run(opened, head, {0: x.numpy()})
        tail = graph.everything - head
        results = crossing | (run(opened, tail, crossing) if tail else {})
        _same(
            {number: results[number] for number in graph.outputs},
            dict(zip(graph.outputs, [one.numpy() for one in answers], strict=True)),
        )


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_segment_equals_torch(exported: Made, data: st.DataObject) -> None:
    traced, x, opened = exported
    graph = traced.graph
    chosen = data.draw(st.sets(st.sampled_from(range(len(graph.layers))), min_size=1))
    values: dict[int, Any] = {0: x.numpy()}
    for number in range(1, len(graph.layers)):
        values |= torch_run(traced, frozenset({number}), values)
    layers = frozenset(chosen)
    _same(run(opened, layers, values), torch_run(traced, layers, values))


def test_inputs_may_come_together_where_the_network_allows_it(exported: Made) -> None:
    traced, x, opened = exported
    fixed = ("FixedShape", "States")  # the states of an LSTM have the batch in another axis
    assert opened.content.is_batched == (traced.graph.name not in fixed)
    if not opened.content.is_batched:
        return
    whole = traced.graph.everything
    alone = run(opened, whole, {0: x.numpy()})
    for count in (2, 3, 16):
        together = run(opened, whole, {0: np.concatenate([x.numpy() * (n + 1) for n in range(count)])})
        _same(
            {number: array[:1] for number, array in together.items() if number}, {n: a for n, a in alone.items() if n}
        )


def test_weights_of_the_same_numbers_are_stored_once(tmp_path: Path) -> None:
    traced, x = bundles.traced_of(nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40)), (1, 40))
    with torch.no_grad():
        traced.module.get_parameter("1.weight").copy_(traced.module.get_parameter("0.weight"))
    path = tmp_path / "x.bundle"
    bundles.write(path, traced, x)
    opened = bundle.read(path)
    assert opened.parameter_bytes < 2 * 40 * 40 * 4


def test_a_network_for_one_input_is_exported_without_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    traced, x = bundles.traced_of(bundles.FixedShape(), (1, 3, 4))
    assert not export.export(traced, (x,)).is_batched
    assert capfd.readouterr() == ("", "")


def test_half_precision_is_refused_with_its_cure() -> None:
    traced, x = bundles.traced_of(Half(), (1, 4))
    with pytest.raises(UsageError, match="float16 numbers: convert it to float32"):
        export.export(traced, (x,))


class Half(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(4, 4).to(torch.float16)

    def forward(self, x: torch.Tensor) -> Any:
        return self.score(x.to(torch.float16)).to(torch.float32)
