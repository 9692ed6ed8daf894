"""What goes into a network: a picture, a recording or a sentence through its own preprocessing, or a saved tensor."""

import importlib.util
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from models import audio, text
from utils.errors import UsageError
from utils.files import require_file

Preprocess = Callable[[Any], torch.Tensor]
"""From a PIL picture, an `audio.Waveform` or a sentence, as the network takes it, to a (1, ...) float32 tensor."""
MAX_ITEM_BYTES, MAX_NPY_HEADER_BYTES = 16, 65_536
PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
MAX_PIXELS = 64_000_000  # a picture that is larger is refused before it is decoded


@dataclass(frozen=True)
class Input:
    """A tensor for a network, shape (1, *input_shape), and where it came from."""

    tensor: torch.Tensor
    source: str
    rows: tuple[str, ...] = ()
    """What the rows of the answer stand for, where it has several: the words of a sentence, the moments of a sound."""


def rgb_tensor(side: int, picture: Image.Image) -> torch.Tensor:
    """The middle square of a picture as (1, 3, side, side) float32, 0 to 1."""
    square = ImageOps.fit(picture.convert("RGB"), (side, side), Image.Resampling.BILINEAR)
    pixels = np.asarray(square, dtype=np.float32) / 255
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]


def speech_tensor(sound: audio.Waveform) -> torch.Tensor:
    """A recording as spliced log-mel frames, (1, 100, 440)."""
    return torch.from_numpy(audio.features(sound))


def words_tensor(task: text.Task, sentence: str) -> torch.Tensor:
    """A sentence as windows of word vectors, (1, 28, text.width_of(task)). Raises UsageError as `words_of` does."""
    return torch.from_numpy(text.windows(task, sentence))


def digit_tensor(picture: Image.Image) -> torch.Tensor:
    """A picture of one digit as (1, 1, 28, 28), white ink on black, 0 to 1. Dark ink on light paper is inverted."""
    grey = picture.convert("L")
    if np.asarray(grey).mean() > 127:
        grey = ImageOps.invert(grey)
    grey = grey.resize((28, 28), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(grey, dtype=np.float32) / 255)[None, None]


def from_image(path: Path, preprocess: Preprocess, source: str | None = None) -> Input:
    """Read a picture file. Raises UsageError where it is missing or not a picture."""
    require_file(path)
    try:
        with (
            warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
            Image.open(path) as picture,
        ):
            if picture.width * picture.height > MAX_PIXELS:
                raise UsageError(f"{path}: {picture.width}x{picture.height} is more than {MAX_PIXELS} pixels")
            tensor = preprocess(_eight_bit(ImageOps.exif_transpose(picture)))
    except UsageError:
        raise
    except UnidentifiedImageError:
        raise UsageError(f"{path} is not a picture that Pillow can read") from None
    except Exception as error:  # noqa: BLE001  Pillow's decoders raise a dozen kinds on damaged files
        raise UsageError(f"cannot read the picture {path}: {_reason(error)}") from None
    return Input(tensor, source or f"image:{path}")


def _eight_bit(picture: Image.Image) -> Image.Image:
    """A picture without transparency, eight bits a channel: what is transparent shows white, as on paper."""
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise UsageError(f"pictures with {picture.mode!r} pixels have no agreed brightness: save it with 8 or 16 bits")
    if picture.has_transparency_data:
        paper = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(paper, picture.convert("RGBA")).convert("RGB")
    return picture


def from_array(path: Path, shape: tuple[int, ...]) -> Input:
    """Read a .npy file with one input of `shape`, with or without the batch axis, as float32.

    Raises UsageError where it is not such an array, or holds NaN or infinity.
    """
    require_file(path)
    limit = MAX_ITEM_BYTES * math.prod(shape) + MAX_NPY_HEADER_BYTES
    if path.stat().st_size > limit:
        raise UsageError(f"{path} is larger than any array of shape {(1, *shape)}")
    try:
        with path.open("rb") as file:
            array = np.load(file, allow_pickle=False)
    except Exception as error:  # noqa: BLE001  a damaged header raises a dozen kinds
        raise UsageError(f"cannot read the array {path}: {_reason(error)}") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise UsageError(f"{path}: an array of numbers in .npy format is needed")
    if array.shape not in (shape, (1, *shape)):
        raise UsageError(f"{path}: shape {array.shape} does not fit the network, which takes {(1, *shape)}")
    with np.errstate(over="ignore"):  # becomes infinite, which is refused below
        tensor = torch.from_numpy(np.array(array, dtype=np.float32)).reshape(1, *shape)
    if not torch.isfinite(tensor).all():
        raise UsageError(f"{path}: holds NaN or infinity")
    return Input(tensor, f"array:{path}")


def from_audio(path: Path, preprocess: Preprocess) -> Input:
    """Read the first second of a .wav file. Raises UsageError where it is not one that serves."""
    sound = audio.read_wav(path)
    used_s = len(sound.samples) / audio.RATE
    part = f", the first {used_s:.3f} s of {sound.whole_s:.4g} s" if used_s < sound.whole_s else ""
    return Input(preprocess(sound), f"audio:{path}{part}", sound.times)


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
    PICTURE: Kind("a picture", "--image FILE", from_image),
    SPEECH: Kind("a recording", "--audio FILE.wav", from_audio),
    SENTENCE: Kind("a sentence", "--text '...'", from_text),
}
"""Every network also takes a ready tensor (--input FILE.npy); those of the kind `tensor` take nothing else."""


def read(network: str, takes: str, given: str, what: Any, preprocess: Preprocess) -> Input:
    """Read what a user gave, of the kind `given`. Raises UsageError where the network takes another kind."""
    if given != takes:
        wanted = f"{KINDS[takes].name} ({KINDS[takes].flag}) or a tensor" if takes in KINDS else "a tensor"
        raise UsageError(f"{network} does not take {KINDS[given].name}: it takes {wanted} (--input FILE.npy)")
    return KINDS[given].read(what, preprocess)


# --- what is taken where a user gives nothing


def sample(name: str, preprocess: Preprocess) -> Input:
    """The default input: it is on every machine that has the requirements installed, or is made.

    Raises UsageError where what it comes with is not installed.
    """
    if name in MADE:
        return MADE[name](preprocess)
    path = SAMPLES[name]()[0]
    return from_image(path, preprocess, source=f"sample:{path.name}")


def samples(name: str) -> tuple[Path, ...]:
    """The files of all the pictures of a sample; none where it is no picture. Raises UsageError as `sample` does."""
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
"""Default inputs that are no files: `preprocess` of a network of one's own makes its example out of nothing."""


def crops(path: Path, count: int) -> list[Image.Image]:
    """Squares cut out of a picture, a third of its shorter side and more, some mirrored; the same at every call."""
    rng = np.random.default_rng(0)
    with Image.open(path) as file:
        picture = file.convert("RGB")
    found = []
    for _ in range(count):
        side = int(min(picture.size) * rng.uniform(1 / 3, 1))
        left, top = (int(rng.uniform(0, length - side)) for length in picture.size)
        crop = picture.crop((left, top, left + side, top + side))
        found.append(ImageOps.mirror(crop) if rng.uniform() < 0.5 else crop)
    return found


def _photos() -> tuple[Path, ...]:
    """The photographs that come with scikit-learn: a palace, a flower."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError("the sample photograph comes with scikit-learn, which is not installed: give --image FILE")
    folder = Path(spec.submodule_search_locations[0], "datasets", "images")
    return folder / "china.jpg", folder / "flower.jpg"


def _shipped(name: str) -> tuple[Path, ...]:
    return (Path(__file__).parent / "zoo" / name,)


SAMPLES: dict[str, Callable[[], tuple[Path, ...]]] = {
    "photo": _photos,
    "digit": partial(_shipped, "digit.png"),
    "face": partial(_shipped, "face.jpg"),  # the face of Eileen Collins in NASA's portrait, in the public domain
}
"""Default inputs that are pictures: the first of each is taken, the others serve where several are wanted."""


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
