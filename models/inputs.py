"""What goes into a network: a picture through the network's own preprocessing, or a saved tensor."""

import importlib.util
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from utils.errors import UsageError
from utils.files import require_file

Preprocess = Callable[[Image.Image], torch.Tensor]
MAX_ITEM_BYTES, MAX_NPY_HEADER_BYTES = 16, 65_536
PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
MAX_PIXELS = 64_000_000  # a picture that is larger is refused before it is decoded


@dataclass(frozen=True)
class Input:
    """A tensor for a network, shape (1, *input_shape), and where it came from."""

    tensor: torch.Tensor
    source: str


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


def sample(name: str, preprocess: Preprocess) -> Input:
    """The default input: a real picture that is on every machine that has the requirements installed."""
    path = SAMPLES[name]()
    return from_image(path, preprocess, source=f"sample:{path.name}")


def samples(name: str) -> tuple[Path, ...]:
    """All the pictures that there are of a kind."""
    found = SAMPLES[name]()
    return tuple(sorted(found.parent.glob("*.jpg"))) if name == "photo" else (found,)


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


def _photo() -> Path:
    """`china.jpg`, a photograph of a palace that comes with scikit-learn."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError("the sample photograph comes with scikit-learn, which is not installed: give --image FILE")
    return Path(spec.submodule_search_locations[0], "datasets", "images", "china.jpg")


def _digit() -> Path:
    return Path(__file__).parent / "zoo" / "digit.png"


SAMPLES: dict[str, Callable[[], Path]] = {"photo": _photo, "digit": _digit}


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
