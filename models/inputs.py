"""Inputs of a network: an image, a recording or a sentence with its preprocessing, or a saved tensor."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgecloud.models import arrays, audio, pictures, text
from edgecloud.utils.dtypes import as_type, dtype_of, name_of, widened
from edgecloud.utils.errors import UsageError
from edgecloud.utils.later import later
from edgecloud.utils.resources import shipped

if TYPE_CHECKING:
    import torch
    from PIL import Image, ImageOps
else:
    Image, ImageOps = later("PIL.Image"), later("PIL.ImageOps")

Array: TypeAlias = NDArray[Any]
Fed: TypeAlias = "Array | tuple[Array, ...]"
"""What a network is run on: the array of its one input, or of several a tuple with one for each, in order."""
Numbers = NDArray[np.float32]
Preprocess = Callable[[Any], Any]
"""From a PIL picture, an `audio.Waveform` or a sentence to what the network takes: a (1, ...) float32 array, or for a
custom model what it is fed."""
PICTURES = pictures.SUFFIXES
LARGEST_PIXEL = 10.0
"""What no preprocessing of the registry's networks makes of a pixel; plain ones go up to 255."""


def arrays_of(fed: Fed) -> tuple[Array, ...]:
    """One array for each input of a network."""
    return fed if isinstance(fed, tuple) else (fed,)


@dataclass(frozen=True)
class Input:
    """What a network is run on, and where it came from: the array of its one input, or of several inputs a tuple."""

    fed: "Fed"
    source: str
    rows: tuple[str, ...] = ()
    """What the rows of the answer stand for, where it has several: the words of a sentence, the moments of a sound."""
    truth: str = ""
    """The label that a network should answer; "" where nobody knows it."""

    @property
    def arrays(self) -> tuple[Array, ...]:
        """One for each input, in the order of the network's."""
        return arrays_of(self.fed)

    @property
    def array(self) -> Array:
        """The one of a network with one input. Raises ValueError for another one."""
        (only,) = self.arrays
        return only

    @property
    def tensors(self) -> "tuple[torch.Tensor, ...]":
        """The same memory as torch sees it."""
        from edgecloud.models.torch_arrays import to_tensor

        return tuple(map(to_tensor, self.arrays))

    @property
    def tensor(self) -> "torch.Tensor":
        """The one of a network with one input. Raises ValueError for another one."""
        (only,) = self.tensors
        return only


def rgb_array(side: int, picture: "Image.Image") -> Numbers:
    """The middle square of an image as (1, 3, side, side) float32, 0 to 1."""
    square = ImageOps.fit(picture.convert("RGB"), (side, side), Image.Resampling.BILINEAR)
    pixels = np.asarray(square, dtype=np.float32) / np.float32(255)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))[None]


def speech_array(sound: audio.Waveform) -> Numbers:
    """A recording as spliced log-mel frames, (1, 100, 440)."""
    return audio.features(sound)


def words_array(task: text.Task, sentence: str) -> Numbers:
    """A sentence as windows of word vectors, (1, 28, text.width_of(task)). Raises UsageError as `words_of` does."""
    return text.windows(task, sentence)


def digit_array(picture: "Image.Image") -> Numbers:
    """A picture of one digit as (1, 1, 28, 28), white ink on black, 0 to 1, whatever its ink and paper were."""
    ink: Numbers = np.asarray(pictures.digit(picture), dtype=np.float32) / np.float32(255)
    return ink[None, None]


def from_image(path: Path, preprocess: Preprocess, source: str | None = None) -> Input:
    """Read an image file. Raises UsageError as `pictures.read` does."""
    picture = pictures.read(path)
    return Input(preprocess(picture.image), (source or f"image:{path}") + _in_brackets(picture.note))


def _in_brackets(note: str) -> str:
    return f" ({note})" if note else ""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of a network."""

    name: str
    """Of the argument that takes it; with dots for what is inside of an argument."""
    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def bytes(self) -> int:
        """What an array of it has."""
        return math.prod(self.shape) * dtype_of(self.dtype).itemsize


def is_resized(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether an array has as many axes as an input, one of which is longer or shorter."""
    return len(shape) == len(wanted) and tuple(shape) != tuple(wanted) and min(shape, default=1) > 0


_CASTS = {"f": "f", "i": "iu", "u": "iu", "b": "b", "c": "fc", "V": "f"}
"""From which kinds of numbers an input is made, by its own kind."""


def fitted(array: Array, spec: InputSpec, what: str) -> Array:
    """An array as an input takes it: of its shape, whose first axis may be left out where that is 1, and its type.

    Raises UsageError, which calls the array `what`, for one of another size, of numbers of another kind, of whole
    numbers that the type does not hold, and with NaN or infinity.
    """
    given = array[None] if array.shape == spec.shape[1:] and spec.shape[:1] == (1,) else array
    if given.shape != spec.shape:
        raise UsageError(f"{what} has shape {array.shape}, not {spec.shape}: the network was captured for that size")
    dtype = dtype_of(spec.dtype)
    if array.dtype != dtype and array.dtype.kind not in _CASTS[dtype.kind]:
        raise UsageError(f"{what} is {name_of(array.dtype)}, not {spec.dtype}: convert it as the network needs it")
    with np.errstate(over="ignore", invalid="ignore"):  # becomes infinite, which is refused below
        numbers = as_type(given, dtype)
    if dtype.kind in "iu" and not np.array_equal(numbers, given):
        raise UsageError(f"{what} holds whole numbers that {spec.dtype} does not hold")
    if not np.isfinite(widened(numbers)).all():
        raise UsageError(f"{what} holds NaN or infinity")
    return numbers


@dataclass(frozen=True)
class InputSources:
    """What a network takes, for those who read an array for it."""

    name: str
    takes: str
    inputs: tuple[InputSpec, ...]
    preprocess: Preprocess
    is_own: bool
    """Whether only its user knows what its numbers mean."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of its first input, without the batch axis."""
        return self.inputs[0].shape[1:]

    @property
    def is_plain(self) -> bool:
        """Whether it takes one array of float32."""
        return len(self.inputs) == 1 and self.inputs[0].dtype == "float32"


RESIZED_FLOATS = 64 << 20


def from_array(path: Path, source: InputSources, *, may_resize: bool = False) -> Input:
    """Read a .npy file: floats are the tensor itself, whole numbers from 0 to 255 an image where one is taken. Or a
    .npz file, with an array for each input by its name. With `may_resize` a tensor may have other sizes than the
    network's example.

    Raises UsageError where it is not such an array, holds NaN or infinity, or numbers that cannot be what the network
    takes: a network answers anything, and nothing would show that it was asked something else.
    """
    if path.suffix.lower() == ".npz":
        most = {spec.name: _most_bytes(spec, may_resize=may_resize) for spec in source.inputs}
        found = arrays.read_several(path, most)
        specs = [_sized(spec, found[spec.name], may_resize=may_resize) for spec in source.inputs]
        made = tuple(fitted(found[spec.name], spec, f"{path}: {spec.name}") for spec in specs)
        return Input(made if len(made) > 1 else made[0], f"arrays:{path}")
    if len(source.inputs) > 1:
        names = ", ".join(spec.name for spec in source.inputs)
        raise UsageError(f"{path}: {source.name} has {len(source.inputs)} inputs ({names}): give FILE.npz with each")
    if not source.is_plain:
        (spec,) = source.inputs
        most_bytes = _most_bytes(spec, may_resize=may_resize)
        array = arrays.read(path, most_bytes // 8, most_bytes, "fiubc")
        return Input(fitted(array, _sized(spec, array, may_resize=may_resize), str(path)), f"array:{path}")
    takes_pictures = source.takes == PICTURE
    most_floats = RESIZED_FLOATS if may_resize else math.prod(source.inputs[0].shape)
    array = arrays.read(path, most_floats, 4 * pictures.MAX_PIXELS if takes_pictures else 1 << 20)
    if array.dtype.kind in "iu":
        return _from_whole_numbers(path, array, source)
    wanted = _sized(source.inputs[0], array, may_resize=may_resize).shape
    if array.shape != wanted and (1, *array.shape) != wanted:
        raise UsageError(f"{path}: shape {array.shape} does not match the network's input {wanted}")
    with np.errstate(over="ignore"):  # becomes infinite, which is refused below
        numbers = np.array(array, dtype=np.float32, order="C").reshape(wanted)
    if not np.isfinite(numbers).all():
        raise UsageError(f"{path}: contains NaN or infinity")
    largest = float(np.abs(numbers).max(initial=0.0))
    if takes_pictures and not source.is_own and largest > LARGEST_PIXEL:
        raise UsageError(
            f"{path}: holds numbers up to {largest:.4g}, and {source.name} takes normalized pixels from 0 to 1: "
            "divide them by 255, or save them as uint8, which is read as --image is"
        )
    return Input(numbers, f"array:{path}")


def _most_bytes(spec: InputSpec, *, may_resize: bool) -> int:
    """Of an array for an input, of numbers of any size."""
    return 8 * RESIZED_FLOATS if may_resize else max(8 * math.prod(spec.shape), spec.bytes)


def _sized(spec: InputSpec, array: Array, *, may_resize: bool) -> InputSpec:
    """What an input is with the sizes of an array, where it may have those."""
    return replace(spec, shape=array.shape) if may_resize and is_resized(array.shape, spec.shape) else spec


def _from_whole_numbers(path: Path, array: NDArray[Any], source: InputSources) -> Input:
    if source.takes != PICTURE:
        raise UsageError(
            f"{path}: holds whole numbers ({array.dtype}), and {source.name} takes floats: if these are what it should "
            "get, save them so: numpy.save(FILE, x.astype('float32'))"
        )
    pixels = array[0] if array.ndim == 4 and len(array) == 1 else array
    if pixels.shape == source.shape or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4)):
        pixels = pixels.transpose(1, 2, 0) if pixels.ndim == 3 and len(pixels) in (1, 3, 4) else pixels
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))) or not pixels.size:
        raise UsageError(
            f"{path}: whole numbers of shape {array.shape} are not an image: (H, W), (H, W, 3) or (3, H, W) is, and a "
            f"tensor is floats of shape {source.inputs[0].shape}"
        )
    if pixels.min() < 0 or pixels.max() > 255:
        raise UsageError(
            f"{path}: whole numbers from {pixels.min()} to {pixels.max()} are no pixels: 0 to 255 are, and a tensor is "
            "floats: numpy.save(FILE, x.astype('float32'))"
        )
    picture = pictures.prepared(Image.fromarray(np.ascontiguousarray(pixels, dtype=np.uint8)))
    size = f"{pixels.shape[1]}x{pixels.shape[0]}"
    note = f"{array.dtype} read as an image of {size}" + (f", {picture.note}" if picture.note else "")
    return Input(source.preprocess(picture.image), f"array:{path}" + _in_brackets(note))


def from_audio(path: Path, preprocess: Preprocess) -> Input:
    """Read the first second of a .wav file. Raises UsageError where it is not one that serves."""
    sound = audio.read_wav(path)
    used_s = len(sound.samples) / audio.RATE
    part = f", the first {used_s:.3f} s of {sound.whole_s:.4g} s" if used_s < sound.whole_s else ""
    note = f", {sound.note}" if sound.note else ""
    return Input(preprocess(sound), f"audio:{path}{part}{note}", sound.times)


def from_text(sentence: str, preprocess: Preprocess) -> Input:
    """Take a sentence. Raises UsageError for one that is empty or too long."""
    words = text.words_of(sentence)
    return Input(preprocess(sentence), f"text:{' '.join(words)}", words)


@dataclass(frozen=True)
class Kind:
    """One kind of thing that a network may take."""

    name: str
    """As it is called in messages."""
    flag: str
    """How a user gives it."""
    read: Callable[[Any, Preprocess], Input]


PICTURE, SPEECH, SENTENCE, TENSOR = "picture", "speech", "sentence", "tensor"
KINDS: dict[str, Kind] = {
    PICTURE: Kind("an image", "--image FILE", from_image),
    SPEECH: Kind("a recording", "--audio FILE.wav", from_audio),
    SENTENCE: Kind("a sentence", "--text '...'", from_text),
}
"""Every network also takes a ready tensor (--input FILE.npy); those of the kind `tensor` take nothing else."""


def read(network: str, takes: str, given: str, what: Any, preprocess: Preprocess) -> Input:
    """Read what a user gave, of the kind `given`. Raises UsageError where the network takes another kind."""
    if given != takes:
        expected = f"{KINDS[takes].name} ({KINDS[takes].flag}) or a tensor" if takes in KINDS else "a tensor"
        raise UsageError(f"{network} does not take {KINDS[given].name}: it takes {expected} (--input FILE.npy)")
    return KINDS[given].read(what, preprocess)


# --- what is taken where a user gives nothing


def sample(name: str, preprocess: Preprocess) -> Input:
    """The default input: it comes with the program, or is made."""
    if name in MADE:
        return MADE[name](preprocess)
    path = SAMPLES[name]()[0]
    return replace(from_image(path, preprocess, source=f"sample:{path.name}"), truth=TRUTHS.get(path.name, ""))


def samples(name: str) -> tuple[Path, ...]:
    """The files of all the pictures of a sample; none if it is not a picture."""
    return () if name in MADE else SAMPLES[name]()


def _speech(preprocess: Preprocess) -> Input:
    sound = audio.synthesised()
    return Input(preprocess(sound), "synthesised: the vowels a, i, u (no recording)", sound.times)


def _sentence(preprocess: Preprocess) -> Input:
    words = text.words_of(text.SAMPLE)
    return Input(preprocess(text.SAMPLE), f"sample:{text.SAMPLE}", words)


def _example(preprocess: Preprocess) -> Input:
    return Input(preprocess(None), "the example of the network's own file")


MADE: dict[str, Callable[[Preprocess], Input]] = {"speech": _speech, "sentence": _sentence, "example": _example}
"""Default inputs that are not files: `preprocess` of a custom model generates its example."""


def crops(path: Path, count: int, part: tuple[float, float] = (0.0, 1.0)) -> "list[Image.Image]":
    """Squares cut out of an image, a third of its shorter side and more, some mirrored; the same at every call.

    `part` is from where to where in its width.
    """
    rng = np.random.default_rng(0)
    whole = pictures.read(path).image.convert("RGB")
    picture = whole.crop((round(part[0] * whole.width), 0, round(part[1] * whole.width), whole.height))
    images = []
    for _ in range(count):
        side = int(min(picture.size) * rng.uniform(1 / 3, 1))
        left, top = (int(rng.uniform(0, length - side)) for length in picture.size)
        crop = picture.crop((left, top, left + side, top + side))
        images.append(ImageOps.mirror(crop) if rng.uniform() < 0.5 else crop)
    return images


def _shipped(*names: str) -> tuple[Path, ...]:
    return tuple(shipped("models.zoo", name) for name in names)


SAMPLES: dict[str, Callable[[], tuple[Path, ...]]] = {
    "photo": partial(_shipped, "china.jpg", "flower.jpg"),  # whose they are: zoo/PICTURES.md
    "digit": partial(_shipped, "digit.png"),
    "face": partial(_shipped, "face.jpg"),  # the face of Eileen Collins in NASA's portrait, in the public domain
}
"""Default inputs that are pictures: the first of each is taken, the others serve where several are wanted."""
TRUTHS = {"china.jpg": "palace", "digit.png": "2"}
"""What is in the pictures, as a label of ImageNet (the Summer Palace in Beijing), or of digits."""
SAMPLES_OF = {PICTURE: tuple(SAMPLES), SPEECH: ("speech",), SENTENCE: ("sentence",)}
"""The default inputs of each kind, by name."""
