"""The file of a learned codec: safetensors with its description in the metadata. Pure.

Everything in it is untrusted until it was checked: sizes before anything is made of them, names, dtypes, shapes, and
that all numbers are finite. The codec's name has the digest of the whole file in it, so a name stands for one content.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgecloud.net import ans
from edgecloud.net.ans import Model
from edgecloud.net.codec import LEARNED
from edgecloud.net.convolutions import Convolution, Geometry
from edgecloud.net.encodings import Array, Shape
from edgecloud.net.learned import Learned, as_map
from edgecloud.net.sides import Side
from edgecloud.utils.errors import ProtocolError

FORMAT = "edgecloud learned codec 1"
MAX_FILE_BYTES = 16 << 20
MAX_HEADER_BYTES = 64 << 10
MAX_NUMBERS = 1 << 22  # of the tensor
MAX_LATENTS = 1 << 18
MAX_STEPS, MAX_CHANNELS = 8, 4096
MAX_COLUMNS = 1 << 24
MAX_WORK = 1 << 31  # multiplications of the encoder, and of the decoder: some seconds on a small board
MAX_LIMIT = 127
MAX_TEXT = 200
KERNELS, STRIDES, GROWTHS = range(1, 8), (1, 2, 4), (1, 2, 4)
FREQUENCIES = "frequencies"
LARGEST = 1e30
"""Of a weight."""
_STATE_BYTES = 8  # more than the codes, at most


class _Dtype(NamedTuple):
    name: str
    """In a safetensors file."""
    numpy: np.dtype[Any]


_DTYPES = {False: _Dtype("F32", np.dtype("<f4")), True: _Dtype("U16", np.dtype("<u2"))}
"""By whether a tensor holds frequencies."""
NAME = re.compile(r"[A-Za-z0-9_.-]{1,40}", re.ASCII)


class BadFileError(ValueError):
    """What is wrong with a file."""


@dataclass(frozen=True)
class About:
    """What a file says of itself, checked."""

    name: str
    """Letters, digits, `_`, `.` and `-`, at most 40."""
    model: str
    graph: str
    """Digest of the network's graph ..."""
    weights: str
    """... and of its parameters: it serves no other one."""
    layer: str
    """After which it was trained."""
    point: int
    shape: Shape
    is_flat: bool
    """Whether its networks see all numbers as one column, and not as a map."""
    limit: int
    encoder: tuple[Geometry, ...]
    decoder: tuple[Geometry, ...]
    pictures: int
    """On how many pictures it was tried that its training never saw ..."""
    changed: int
    """... and how many answers had another top-1 than the whole network's."""
    bytes: int
    """What it took on them, in the mean."""
    trained_on: int
    source: str
    """Where the pictures came from."""
    seed: int = 0

    @property
    def loss(self) -> float:
        """Share of answers that it changes."""
        return self.changed / self.pictures


@dataclass(frozen=True, eq=False)
class LearnedCodec:
    """A file that was read: one `net.sides.SidedCodec`, whose side both have from files."""

    about: About
    side: Side = field(repr=False)
    form: Learned = field(repr=False)
    models: tuple[Model, ...] = field(repr=False)
    """How often each code comes, for every channel of them."""

    @property
    def name(self) -> str:
        """In plans, and for `--codec`."""
        return f"{LEARNED}:{self.about.name}"

    def splits(self, shape: Shape, part: Shape) -> bool:
        """Never: it was trained for tensors of one shape."""
        return False

    def encode(self, array: Array) -> bytes:
        """The bytes of an array. Raises CodecError for one that it cannot carry."""
        return ans.encode(list(zip(self.models, self.form.encode(array), strict=True)))

    def check(self, dtype: str, shape: Shape, buffer: memoryview) -> None:
        """Raises ProtocolError for another tensor, and for more bytes than its codes can take."""
        if dtype != "float32" or shape != self.form.shape:
            raise ProtocolError(f"{LEARNED} carries float32 {self.form.shape}, not {dtype} {shape}"[:MAX_TEXT])
        if not 0 < buffer.nbytes <= 2 * math.prod(self.form.latent) + _STATE_BYTES:
            raise ProtocolError("a learned codec with data of a size that its codes cannot have")

    def decode(self, dtype: str, shape: Shape, buffer: memoryview) -> Array:
        """A new float32 array of `shape`, of what was checked. Raises ProtocolError."""
        width = math.prod(self.form.latent[1:])
        return self.form.decode(np.stack(ans.decode(buffer, [(model, width) for model in self.models])))


Tensors = Mapping[str, npt.NDArray[Any]]
"""By name; `frequencies` are whole numbers, of which each row sums to `ans.TOTAL`."""


def names_of(about: About) -> list[str]:
    """The tensors that such a file has, in their order."""
    steps = [*(f"encoder.{n}" for n in range(len(about.encoder))), *(f"decoder.{n}" for n in range(len(about.decoder)))]
    return [FREQUENCIES, "mean", "scale", *(f"{step}.{what}" for step in steps for what in ("weight", "bias"))]


def write(about: About, tensors: Tensors) -> bytes:
    """The content of a file."""
    header: dict[str, Any] = {"__metadata__": {"format": FORMAT, "about": json.dumps(asdict(about))}}
    parts, end = [], 0
    for name in names_of(about):
        dtype = _DTYPES[name == FREQUENCIES]
        array = np.ascontiguousarray(tensors[name], dtype.numpy)
        header[name] = {"dtype": dtype.name, "shape": list(array.shape), "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
        parts.append(array.tobytes())
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def read(content: bytes) -> LearnedCodec:
    """The codec of a file. Raises BadFileError, with what is wrong, for anything that `write` does not make."""
    if len(content) > MAX_FILE_BYTES:
        raise BadFileError(f"it has more than {MAX_FILE_BYTES >> 20} MiB")
    header, data = _parts(content)
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT or set(metadata) != {"format", "about"}:
        raise BadFileError("it is no learned codec (deployment.py bottleneck makes them)")
    about = _about(_document(metadata["about"], "its description"))
    tensors = _tensors(header, data, names_of(about))
    form = _form(about, tensors)
    return LearnedCodec(about, Side(LEARNED, content, is_file=True), form, _models(tensors[FREQUENCIES], form))


def _models(frequencies: npt.NDArray[Any], form: Learned) -> tuple[Model, ...]:
    if frequencies.shape != (form.latent[0], 2 * form.limit + 1):
        raise BadFileError(f"{FREQUENCIES} has another shape than one row for each channel of codes")
    try:
        return tuple(Model(row.astype(np.int64)) for row in frequencies)
    except ValueError as error:
        raise BadFileError(f"{FREQUENCIES}: {error}") from None


def _parts(content: bytes) -> tuple[dict[str, Any], memoryview]:
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 or not 2 <= size <= min(MAX_HEADER_BYTES, len(content) - 8):
        raise BadFileError("it is no safetensors file, or truncated")
    document = _document(content[8 : 8 + size], "its header")
    return document, memoryview(content)[8 + size :]


def _document(text: Any, what: str) -> dict[str, Any]:
    if not isinstance(text, str | bytes):
        raise BadFileError(f"{what} is not a text")
    try:
        document = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except BadFileError:
        raise
    except (ValueError, RecursionError):
        raise BadFileError(f"{what} is not JSON") from None
    if not isinstance(document, dict):
        raise BadFileError(f"{what} is not an object")
    return document


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise BadFileError("a name is there twice")
    return document


def _no_constant(text: str) -> float:
    raise BadFileError(f"{text} is not a number")


# --- the description


def _about(document: dict[str, Any]) -> About:
    expected = {each.name for each in fields(About)}
    if set(document) != expected:
        raise BadFileError("its description lacks something, or has more than it should")
    texts = {name: _text(document[name], name) for name in ("name", "model", "graph", "weights", "layer", "source")}
    if not NAME.fullmatch(texts["name"]):
        raise BadFileError("its name is not made of letters, digits, _ . and -")
    limits = {"point": 1 << 16, "limit": MAX_LIMIT, "bytes": 1 << 30, "seed": 1 << 62}
    limits |= dict.fromkeys(("pictures", "changed", "trained_on"), 1 << 30)
    numbers = {name: _number(document[name], name, most) for name, most in limits.items()}
    if not numbers["limit"] or not numbers["changed"] <= numbers["pictures"] or not numbers["pictures"]:
        raise BadFileError("its counts contradict each other")
    is_flat = document["is_flat"]
    if type(is_flat) is not bool:
        raise BadFileError("is_flat is neither true nor false")
    shape = _shape(document["shape"], is_flat=is_flat)
    steps = {name: _steps(document[name], name) for name in ("encoder", "decoder")}
    checked: dict[str, Any] = {**texts, **numbers, **steps, "shape": shape, "is_flat": is_flat}
    return About(**checked)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.isprintable() or len(value) > MAX_TEXT:
        raise BadFileError(f"{name} is not a text of at most {MAX_TEXT} characters")
    return value


def _number(value: Any, name: str, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise BadFileError(f"{name} is not a whole number from 0 to {most}")
    return value


def _shape(value: Any, *, is_flat: bool) -> Shape:
    if not isinstance(value, list) or not all(type(size) is int and 1 <= size <= MAX_NUMBERS for size in value):
        raise BadFileError("shape is not a list of sizes")
    try:
        channels, height, width = as_map(tuple(value), is_flat=is_flat)
    except ValueError as error:
        raise BadFileError(str(error)[:MAX_TEXT]) from None
    if channels > MAX_CHANNELS or channels * height * width > MAX_NUMBERS:
        raise BadFileError(f"shape has more than {MAX_CHANNELS} channels or {MAX_NUMBERS} numbers")
    return tuple(value)


def _steps(value: Any, name: str) -> tuple[Geometry, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_STEPS:
        raise BadFileError(f"{name} has no steps, or more than {MAX_STEPS}")
    return tuple(_geometry(each, name) for each in value)


def _geometry(value: Any, name: str) -> Geometry:
    if not isinstance(value, dict) or set(value) != {each.name for each in fields(Geometry)}:
        raise BadFileError(f"a step of the {name} is not one")
    numbers = (value["kernel"], value["stride"], value["grows"])
    known = zip(numbers, (KERNELS, STRIDES, GROWTHS), strict=True)
    if not all(type(one) is int and one in those for one, those in known) or type(value["is_relu"]) is not bool:
        raise BadFileError(f"a step of the {name} is not one")
    return Geometry(*numbers, value["is_relu"])


# --- the numbers


def _tensors(header: dict[str, Any], data: memoryview, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    if list(header) != list(names):
        raise BadFileError("its tensors are not those that its description names")
    end, tensors = 0, dict[str, npt.NDArray[Any]]()
    for name in names:
        shape, begin, end = _place(header[name], name, end)
        if end > data.nbytes:
            raise BadFileError("it is truncated")
        numbers = np.frombuffer(data[begin:end], _DTYPES[name == FREQUENCIES].numpy).reshape(shape)
        tensors[name] = numbers.astype(numbers.dtype.newbyteorder("="))
        if not np.isfinite(tensors[name]).all() or np.abs(tensors[name]).max() > LARGEST:
            raise BadFileError(f"{name} has numbers that are not finite, or too large")
    if end != data.nbytes:
        raise BadFileError("there is something behind its tensors")
    return tensors


def _place(value: Any, name: str, begin: int) -> tuple[Shape, int, int]:
    """Its shape, and where it lies."""
    dtype = _DTYPES[name == FREQUENCIES]
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"} or value["dtype"] != dtype.name:
        raise BadFileError(f"{name} is not {dtype.name}")
    shape = value["shape"]
    is_shape = isinstance(shape, list) and 1 <= len(shape) <= 4
    if not is_shape or not all(type(size) is int and 1 <= size <= MAX_NUMBERS for size in shape):
        raise BadFileError(f"{name} has no shape")
    end = begin + dtype.numpy.itemsize * math.prod(shape)
    if value["data_offsets"] != [begin, end] or not all(type(each) is int for each in value["data_offsets"]):
        raise BadFileError(f"{name} does not lie where it should")
    return tuple(shape), begin, end


def _form(about: About, tensors: Tensors) -> Learned:
    whole = as_map(about.shape, is_flat=about.is_flat)
    per_channel = (whole[0],)
    if tensors["mean"].shape != per_channel or tensors["scale"].shape != per_channel:
        raise BadFileError("mean and scale have another shape than one number for each channel")
    if not (tensors["scale"] > 0).all():
        raise BadFileError("a scale is not above zero")
    latent, encoder = _network("encoder", about.encoder, tensors, whole)
    if math.prod(latent) > MAX_LATENTS:
        raise BadFileError(f"it makes more than {MAX_LATENTS} numbers")
    made, decoder = _network("decoder", about.decoder, tensors, latent)
    if made[0] != whole[0] or any(got < size for got, size in zip(made[1:], whole[1:], strict=True)):
        raise BadFileError(f"its decoder makes {made}, not {whole}")
    mean, scale = (tensors[name].reshape(-1, 1, 1) for name in ("mean", "scale"))
    return Learned(about.shape, latent, about.limit, about.is_flat, mean, scale, encoder, decoder)


def _network(
    name: str, steps: Sequence[Geometry], tensors: Tensors, shape: Shape
) -> tuple[Shape, tuple[Convolution, ...]]:
    """What it makes of an input of `shape`, and the network. Sizes are checked before anything runs."""
    made, work = [], 0
    for number, geometry in enumerate(steps):
        weight, bias = tensors[f"{name}.{number}.weight"], tensors[f"{name}.{number}.bias"]
        filters = len(bias)
        expected = (filters, shape[0], geometry.kernel, geometry.kernel)
        if weight.shape != expected or bias.ndim != 1 or filters > 16 * MAX_CHANNELS or filters % geometry.grows**2:
            raise BadFileError(f"{name}.{number} has weights of shape {weight.shape}, not {expected}"[:MAX_TEXT])
        work += geometry.work(shape, filters)
        columns = geometry.columns(shape)
        shape = geometry.shape_after(shape, filters)
        if work > MAX_WORK or columns > MAX_COLUMNS or math.prod(shape) > MAX_NUMBERS:
            raise BadFileError(f"its {name} takes more work or memory than is allowed")
        made.append(Convolution(geometry, weight, bias))
    return shape, tuple(made)
