"""How a network's input is made, as data: run by Pillow and numpy alone, equal to torchvision's own for its networks.

Each class is one kind of preprocessing, and calling it makes an input. `to_document` writes it down, `from_document`
reads it, so that a device without torch can feed the network too.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, get_args

import numpy as np

from edgecloud.models import audio, text
from edgecloud.models.inputs import (
    PICTURE,
    SENTENCE,
    SPEECH,
    Numbers,
    Preprocess,
    digit_array,
    rgb_array,
    speech_array,
    words_array,
)
from edgecloud.models.pictures import MAX_PIXELS
from edgecloud.utils.errors import UsageError
from edgecloud.utils.later import later

if TYPE_CHECKING:
    from PIL import Image
else:
    Image = later("PIL.Image")

Colour: TypeAlias = tuple[float, float, float]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pixels: what torchvision's networks take off, and divide by."""
RESAMPLING = ("bilinear", "bicubic")
MAX_SIDE = 4096


class Recipe(Protocol):
    """A preprocessing that can be written down."""

    takes: ClassVar[str]
    """One of models.inputs.KINDS."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what it makes, without the batch axis."""

    def __call__(self, what: Any, /) -> Numbers:
        """From what it takes to an input."""


@dataclass(frozen=True)
class Photo:
    """A photograph: its shorter side brought to `resize` pixels, the middle cut out, every colour normalised."""

    takes: ClassVar[str] = PICTURE
    resize: int
    crop: int
    mean: Colour = MEAN
    std: Colour = STD
    resampling: str = "bilinear"

    def __post_init__(self) -> None:
        if not _is_side(self.resize) or not _is_side(self.crop):
            raise ValueError(f"a photograph has sides from 1 to {MAX_SIDE} pixels")
        if not isinstance(self.resampling, str) or self.resampling not in RESAMPLING:
            raise ValueError(f"a photograph is resized by {' or '.join(RESAMPLING)}")
        if not _is_colour(self.mean) or not _is_colour(self.std) or not all(value > 0 for value in self.std):
            raise ValueError("a photograph has three colours, and each a mean and a width")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what it makes."""
        return (3, self.crop, self.crop)

    def __call__(self, picture: "Image.Image") -> Numbers:
        """From a picture to (1, 3, crop, crop). Raises UsageError for one that is too long and thin to be resized."""
        square = self._middle(self._resized(picture.convert("RGB")))
        pixels = np.asarray(square, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)
        mean, std = (np.asarray(each, np.float32)[:, None, None] for each in (self.mean, self.std))
        return np.ascontiguousarray((pixels - mean) / std)[None]

    def _resized(self, picture: "Image.Image") -> "Image.Image":
        short = min(picture.size)
        size = tuple(int(self.resize * side / short) if side > short else self.resize for side in picture.size)
        if size[0] * size[1] > MAX_PIXELS:
            raise UsageError(f"an image of {picture.width}x{picture.height} is too long and thin: cut out a part of it")
        resampling = Image.Resampling[self.resampling.upper()]
        return picture if size == picture.size else picture.resize((size[0], size[1]), resampling)

    def _middle(self, picture: "Image.Image") -> "Image.Image":
        """Black where the picture ends."""
        left, top = (_offset(side, self.crop) for side in picture.size)
        return picture.crop((left, top, left + self.crop, top + self.crop))


def _is_side(value: Any) -> bool:
    return type(value) is int and 0 < value <= MAX_SIDE


def _is_colour(value: Any) -> bool:
    numbers = value if isinstance(value, tuple) else ()
    return len(numbers) == 3 and all(type(each) in (int, float) and math.isfinite(each) for each in numbers)


def _offset(side: int, crop: int) -> int:
    """Where the middle begins; before the picture where that is smaller."""
    return round((side - crop) / 2) if side >= crop else -((crop - side) // 2)


@dataclass(frozen=True)
class Square:
    """The middle square of a picture, its colours from 0 to 1."""

    takes: ClassVar[str] = PICTURE
    side: int

    def __post_init__(self) -> None:
        if not _is_side(self.side):
            raise ValueError(f"a square has sides from 1 to {MAX_SIDE} pixels")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what it makes."""
        return (3, self.side, self.side)

    def __call__(self, picture: "Image.Image") -> Numbers:
        """From a picture to (1, 3, side, side)."""
        return rgb_array(self.side, picture)


@dataclass(frozen=True)
class Digit:
    """A picture of one digit."""

    takes: ClassVar[str] = PICTURE

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what it makes."""
        return (1, 28, 28)

    def __call__(self, picture: "Image.Image") -> Numbers:
        """From a picture to (1, 1, 28, 28), white ink on black."""
        return digit_array(picture)


@dataclass(frozen=True)
class Speech:
    """Log-mel energies of a recording, each frame with its neighbours."""

    takes: ClassVar[str] = SPEECH

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what it makes."""
        return (audio.FRAMES, audio.WIDTH)

    def __call__(self, sound: audio.Waveform) -> Numbers:
        """From a recording to (1, 100, 440)."""
        return speech_array(sound)


@dataclass(frozen=True)
class Words:
    """Windows of word vectors for one of SENNA's tasks."""

    takes: ClassVar[str] = SENTENCE
    task: text.Task

    def __post_init__(self) -> None:
        if not isinstance(self.task, str) or self.task not in get_args(text.Task):
            raise ValueError("there is no such task")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what it makes."""
        return (text.WORDS, text.width_of(self.task))

    def __call__(self, sentence: str) -> Numbers:
        """From a sentence to (1, 28, text.width_of(task)). Raises UsageError as `text.words_of` does."""
        return words_array(self.task, sentence)


_KINDS: dict[str, Callable[..., Any]] = {
    "photo": Photo,
    "square": Square,
    "digit": Digit,
    "speech": Speech,
    "words": Words,
}
"""By their names in documents."""


def to_document(preprocess: Preprocess) -> dict[str, Any] | None:
    """A preprocessing as data for JSON; None for one that is a function of somebody's own."""
    kind = next((name for name, one in _KINDS.items() if type(preprocess) is one), None)
    return None if kind is None else {"kind": kind} | asdict(preprocess)  # type: ignore[call-overload]


def from_document(document: Mapping[str, Any]) -> Recipe:
    """The other way round. Raises ValueError for a document that describes none."""
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in document.items()}
    make = _KINDS.get(str(settings.pop("kind", "")))
    if make is None:
        raise ValueError("there is no such preprocessing")
    try:
        recipe: Recipe = make(**settings)
    except TypeError:
        raise ValueError("a preprocessing has other settings") from None
    return recipe
