"""The networks by name. To add one, add an entry to `_ENTRIES`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from edgecloud.models import audio, custom_model, inputs
from edgecloud.models.inputs import Preprocess, digit_tensor, rgb_tensor, speech_tensor, words_tensor
from edgecloud.models.text import WORDS, Task, width_of
from edgecloud.models.vision import torchvision
from edgecloud.models.zoo import cifar, deep_face, kaldi, mnist, senna
from edgecloud.models.zoo.le_net import LeNet
from edgecloud.utils.errors import UsageError
from edgecloud.utils.suggest import nearest

TORCHVISION = "torchvision:"


@dataclass(frozen=True)
class Entry:
    """How to build one network and feed it."""

    name: str
    build: Callable[[], nn.Module]
    """A network with any parameters; `models.weights` fills them."""
    input_shape: tuple[int, ...]
    preprocess: Preprocess
    """Turns what it takes, a PIL picture or another of `models.inputs.KINDS`, into a (1, *input_shape) tensor."""
    labels: tuple[str, ...]
    parameter_bytes: int
    """Bytes of the parameters, to know before they are there."""
    sample: str
    """Name of the default input in `models.inputs.SAMPLES` or `MADE`."""
    takes: str = inputs.PICTURE
    shipped: str | None = None
    """File name of trained weights in models/zoo."""
    imagenet: Callable[[], nn.Module] | None = None
    """Builds the network with torchvision's published weights, which it downloads on first use."""
    code: str = ""
    """Of a custom model, the digest of its file: both sides need the same one."""
    built: custom_model.Built | None = None
    """Of a custom model, what it was built as first."""

    @property
    def wanted(self) -> inputs.InputSources:
        """What an array for it has to be."""
        return inputs.InputSources(self.name, self.takes, self.input_shape, self.preprocess, bool(self.code))


def lookup(name: str) -> Entry:
    """Look a network up by an untrusted name: no file is opened. Raises UsageError that lists the names."""
    name = _ALIASES.get(name, name)
    if name in _OWN:
        return _OWN[name]
    if name in _ENTRIES:
        return _ENTRIES[name]()
    short = name.removeprefix(TORCHVISION)
    if short in torchvision_names():
        return _torchvision(TORCHVISION + short, short)
    if custom_model.where(name) is not None:
        raise UsageError(
            f"{name[:64]!r} is a file that this cloud was not started with: use cloud_api.py --network FILE.py"
        )
    known = ", ".join(_ENTRIES)
    ending = name[name.rfind(".") :].lower() if "." in name else ""
    if ending in _FILES:
        raise UsageError(
            f"{name[:64]!r} {_FILES[ending]}: use a custom model FILE.py (docs/networks.md), or one of {known}"
        )
    choices = f"choose {known}, or torchvision:NAME such as torchvision:resnet18"
    raise UsageError(f"unknown network {name[:64]!r}: {choices}{_meant(name[:64])}")


def _meant(name: str) -> str:
    """`; did you mean X?` where a name looks like one of ours, or like one of torchvision's without its prefix."""
    theirs = torchvision_names()
    if name in theirs:
        return f"; did you mean {TORCHVISION}{name}?"
    return nearest(name, _ENTRIES) or nearest(name, [TORCHVISION + short for short in theirs])


_WEIGHTS = "contains weights, not a network: use --weights FILE, and -t for the network"
_PROGRAM = "is a compiled program, which is not supported"
_FILES = {
    **dict.fromkeys((".pth", ".ckpt", ".bin", ".safetensors"), _WEIGHTS),
    ".pt": f"is not supported by -t. If it {_WEIGHTS}",
    **dict.fromkeys((".pt2", ".ts", ".torchscript", ".jit"), _PROGRAM),
    ".onnx": "is ONNX, which is not supported yet",
    **dict.fromkeys((".h5", ".keras", ".tflite", ".pb"), "is a TensorFlow network, which is not supported"),
    **dict.fromkeys((".engine", ".plan", ".trt", ".mlmodel", ".gguf", ".caffemodel"), "is a file of another program"),
}
"""What people give in place of a network, by its ending. The name may be untrusted: nothing is opened."""


def resolve_trusted(name: str) -> Entry:
    """Look up a name from our own command line, which may also be FILE.py[:FUNCTION]: the code in it is run.

    Never for a name that came over the network. From then on `find` knows the network by the name of its file. Raises
    UsageError where the file does not make a network.
    """
    where = custom_model.where(name)
    if where is None or (name in _OWN and not where.path.is_file()):
        return lookup(name)
    network = custom_model.load(where)
    known = _OWN.get(where.name)
    is_another = known is not None and known.built is not None and known.built.path.resolve() != where.path.resolve()
    if known is not None and known.code != network.code and is_another:  # one that was edited since is read again
        raise UsageError(f"two files are named {where.name}: rename one of them")
    _OWN[where.name] = _own(network)
    return _OWN[where.name]


def torchvision_names() -> list[str]:
    """torchvision's classification networks for single pictures."""
    names: list[str] = torchvision().models.list_models(module=torchvision().models)
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
    weights = torchvision().models.get_model_weights(torchvision_name).DEFAULT
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
    model: nn.Module = torchvision().models.get_model(torchvision_name, weights=weights, **options)
    for training_only in ("aux1", "aux2", "AuxLogits"):  # never run in eval mode
        if getattr(model, training_only, None) is not None:
            setattr(model, training_only, None)
    return model.eval()


def _own(network: custom_model.Own) -> Entry:
    takes_pictures = network.preprocess is not None
    return Entry(
        name=network.place.name,
        build=network.build,
        input_shape=tuple(network.example.shape[1:]),
        preprocess=network.tensor,
        labels=network.labels,
        parameter_bytes=network.parameter_bytes,
        sample="example",
        takes=inputs.PICTURE if takes_pictures else inputs.TENSOR,
        code=network.code,
        built=network.built,
    )


_OWN: dict[str, Entry] = {}
"""Networks whose files were named on our command line."""


def _deep_face() -> Entry:
    return Entry(
        name="deepface",
        build=deep_face.DeepFace,
        input_shape=(3, 152, 152),
        preprocess=partial(rgb_tensor, 152),
        labels=(),
        parameter_bytes=4 * deep_face.PARAMETERS,
        sample="face",
    )


def _mnist() -> Entry:
    return Entry(
        name="mnist",
        build=mnist.Mnist,
        input_shape=(1, 28, 28),
        preprocess=digit_tensor,
        labels=tuple("0123456789"),
        parameter_bytes=4 * mnist.PARAMETERS,
        sample="digit",
        shipped="mnist.safetensors",
    )


def _kaldi() -> Entry:
    return Entry(
        name="kaldi",
        build=kaldi.Kaldi,
        input_shape=(audio.FRAMES, kaldi.WIDTHS[0]),
        preprocess=speech_tensor,
        labels=(),
        parameter_bytes=4 * kaldi.PARAMETERS,
        sample="speech",
        takes=inputs.SPEECH,
    )


def _senna(task: Task, labels: tuple[str, ...]) -> Entry:
    return Entry(
        name=f"senna_{task}",
        build=partial(senna.Senna, task),
        input_shape=(WORDS, width_of(task)),
        preprocess=partial(words_tensor, task),
        labels=labels,
        parameter_bytes=4 * senna.parameters_of(task),
        sample="sentence",
        takes=inputs.SENTENCE,
    )


def _cifar(name: str, build: Callable[[], nn.Module], parameters: int) -> Entry:
    return Entry(
        name=name,
        build=build,
        input_shape=(3, 32, 32),
        preprocess=partial(rgb_tensor, 32),
        labels=cifar.CLASSES,
        parameter_bytes=4 * parameters,
        sample="photo",
    )


_ENTRIES: dict[str, Callable[[], Entry]] = {
    "alex_net": partial(_torchvision, "alex_net", "alexnet"),
    "vgg_net": partial(_torchvision, "vgg_net", "vgg16_bn"),
    "mobile_net": partial(_torchvision, "mobile_net", "mobilenet_v2"),
    "le_net": _le_net,
    "deepface": _deep_face,
    "mnist": _mnist,
    "kaldi": _kaldi,
    "senna_pos": partial(_senna, "pos", senna.POS_TAGS),
    "senna_ner": partial(_senna, "ner", senna.NER_TAGS),
    "senna_chk": partial(_senna, "chk", ()),
    "cifar_alexnet": partial(_cifar, "cifar_alexnet", cifar.CifarAlexNet, cifar.ALEXNET_PARAMETERS),
    "cifar_vgg16": partial(_cifar, "cifar_vgg16", cifar.CifarVgg16, cifar.VGG16_PARAMETERS),
}
_ALIASES = {"mobilenet": "mobile_net"}
NAMES = tuple(_ENTRIES)
