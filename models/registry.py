"""The networks by name. To add one, add an entry to `_ENTRIES`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from models.inputs import Preprocess, digit_tensor
from models.vision import torchvision
from models.zoo.le_net import LeNet
from utils.errors import UsageError

TORCHVISION = "torchvision:"


@dataclass(frozen=True)
class Entry:
    """How to build one network and feed it."""

    name: str
    build: Callable[[], nn.Module]
    """A network with any parameters; `models.weights` fills them."""
    input_shape: tuple[int, int, int]
    preprocess: Preprocess
    """Turns a PIL picture into a (1, *input_shape) float32 tensor."""
    labels: tuple[str, ...]
    parameter_bytes: int
    """Bytes of the parameters, to know before they are there."""
    sample: str
    """Name of the default input in `models.inputs.SAMPLES`."""
    shipped: str | None = None
    """File name of trained weights in models/zoo."""
    imagenet: Callable[[], nn.Module] | None = None
    """Builds the network with torchvision's published weights, which it downloads on first use."""


def find(name: str) -> Entry:
    """Look a network up. Raises UsageError that lists the names there are."""
    if name in _ALIASES:
        name = _ALIASES[name]
    if name in _ENTRIES:
        return _ENTRIES[name]()
    short = name.removeprefix(TORCHVISION)
    if short in torchvision_names():
        return _torchvision(TORCHVISION + short, short)
    known = ", ".join(_ENTRIES)
    raise UsageError(f"unknown network {name[:64]!r}: choose {known}, or torchvision:NAME such as torchvision:resnet18")


def torchvision_names() -> list[str]:
    """torchvision's classification networks for single pictures."""
    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


def _le_net() -> Entry:
    return Entry(
        name="le_net",
        build=LeNet,
        input_shape=(1, 28, 28),
        preprocess=digit_tensor,
        labels=tuple("0123456789"),
        parameter_bytes=4 * 61_706,
        sample="digit",
        shipped="le_net.safetensors",
    )


def _torchvision(name: str, torchvision_name: str) -> Entry:
    weights = torchvision.models.get_model_weights(torchvision_name).DEFAULT
    transform = weights.transforms()
    side = transform.crop_size[0]
    return Entry(
        name=name,
        build=partial(_build, torchvision_name),
        input_shape=(3, side, side),
        preprocess=partial(_transform, transform),
        labels=tuple(weights.meta["categories"]),
        parameter_bytes=4 * weights.meta["num_params"],
        sample="photo",
        imagenet=partial(_build, torchvision_name, weights=weights),
    )


def _transform(transform: Any, picture: Any) -> torch.Tensor:
    tensor: torch.Tensor = transform(picture.convert("RGB"))[None]
    return tensor


# googlenet and inception_v3 would draw their parameters slowly only to have them overwritten, and their published
# weights expect the input transformation.
_BUILD_OPTIONS = {name: {"init_weights": False, "transform_input": True} for name in ("googlenet", "inception_v3")}


def _build(torchvision_name: str, weights: Any = None) -> nn.Module:
    options = _BUILD_OPTIONS.get(torchvision_name, {})
    model: nn.Module = torchvision.models.get_model(torchvision_name, weights=weights, **options)
    for training_only in ("aux1", "aux2", "AuxLogits"):  # never run in eval mode
        if getattr(model, training_only, None) is not None:
            setattr(model, training_only, None)
    return model.eval()


_ENTRIES: dict[str, Callable[[], Entry]] = {
    "alex_net": partial(_torchvision, "alex_net", "alexnet"),
    "vgg_net": partial(_torchvision, "vgg_net", "vgg16_bn"),
    "mobile_net": partial(_torchvision, "mobile_net", "mobilenet_v2"),
    "le_net": _le_net,
}
_ALIASES = {"mobilenet": "mobile_net"}
NAMES = tuple(_ENTRIES)
