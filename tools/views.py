"""The pictures that a learned codec is trained on, chosen with, and measured on: three sets that share no picture."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageOps
from scipy import ndimage

from edgecloud.models import inputs, pictures
from edgecloud.models.inputs import Numbers
from edgecloud.models.registry import Entry
from edgecloud.utils.errors import UsageError

MAX_PICTURES = 5000
MIN_PICTURES = 2
VIEWS = {"train": 400, "choose": 150, "measure": 200}
"""How many views of photographs are wanted, where there are fewer pictures."""
FEW = 10
"""Photographs of which some would be too few to measure on."""
SHARES = {"measure": 0.2, "choose": 0.15}
SHIFT, TURN, STRETCH = 1 / 14, 0.15, 0.1
"""How a drawing is moved: so much of its side, turned by so many radians, made larger or smaller by such a share."""
MOVED = 5
"""Views of each drawing."""


@dataclass(frozen=True)
class Views:
    """Inputs of a network, shape (1, ...) each."""

    source: str
    train: Sequence[Numbers]
    choose: Sequence[Numbers]
    measure: Sequence[Numbers]
    labels: Sequence[int] | None = None
    """Classes of those to measure on, where they are known."""

    @property
    def digest(self) -> str:
        """Of all of them, to know whether a checkpoint is of the same ones."""
        made = hashlib.sha256()
        for each in (*self.train, *self.choose, *self.measure):
            made.update(each.data)
        return made.hexdigest()


Progress = Callable[[float], None]


def read(entry: Entry, folder: Path | None, seed: int, progress: Progress) -> Views:
    """The user's pictures, else held-out digits and those that their network was trained on, or photographs that come
    along. Raises UsageError where there are none, or too few."""
    if folder is None and entry.sample == "digit":
        return _digits(entry, seed)
    paths = list(inputs.samples(entry.sample)) if folder is None else _files(folder)
    if folder is not None and len(paths) < MIN_PICTURES:
        raise UsageError(f"{folder} has {len(paths)} images: learning needs hundreds, and at least {MIN_PICTURES}")
    source = "sample images" if folder is None else str(folder)
    return (
        _of_drawings(entry, paths, source, seed)
        if entry.sample == "digit"
        else _of_photos(entry, paths, source, seed, progress)
    )


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(f"no directory {folder}")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in inputs.PICTURES)[:MAX_PICTURES]
    return list({hashlib.sha256(path.read_bytes()).digest(): path for path in reversed(paths)}.values())[::-1]


def _split(count: int, seed: int) -> dict[str, list[int]]:
    """Numbers of pictures for each use, at least one for each."""
    order = np.random.default_rng(seed).permutation(count).tolist()
    parts, begin = {}, 0
    for name, share in SHARES.items():
        end = begin + max(1, round(share * count))
        parts[name] = sorted(order[begin:end])
        begin = end
    return parts | {"train": sorted(order[begin:])}


def _digits(entry: Entry, seed: int) -> Views:
    from edgecloud.models.zoo.digits import (  # and with it scikit-learn, which takes a second
        digit_pictures,
        split_digits,
    )

    (digits, classes), (known, held_out) = digit_pictures(), split_digits()
    parts = np.random.default_rng(seed).permutation(known).tolist()
    few = round(SHARES["choose"] * len(parts))
    train = _moved([entry.preprocess(digits[number]) for number in parts[few:]], seed)
    choose = _moved([entry.preprocess(digits[number]) for number in parts[:few]], seed)
    measure = [entry.preprocess(digits[number]) for number in held_out]
    return Views("held-out digits", train, choose, measure, [classes[number] for number in held_out])


def _of_drawings(entry: Entry, paths: Sequence[Path], source: str, seed: int) -> Views:
    made = (inputs.from_image(path, entry.preprocess).array for path in paths)
    tensors = list({each.tobytes(): each for each in made}.values())  # what is there twice would be in two sets
    parts = {name: [tensors[n] for n in numbers] for name, numbers in _split(len(tensors), seed).items()}
    _check(parts["train"], source)
    return Views(source, _moved(parts["train"], seed), _moved(parts["choose"], seed), parts["measure"])


def _moved(tensors: Sequence[Numbers], seed: int) -> list[Numbers]:
    """Each as it is, and moved a little: the network says itself what these are."""
    rng = np.random.default_rng(seed)
    return [*tensors, *(_one_moved(tensor, rng) for tensor in tensors for _ in range(MOVED - 1))]


def _one_moved(tensor: Numbers, rng: Generator) -> Numbers:
    turn, stretch = rng.uniform(-TURN, TURN), 1 + rng.uniform(-STRETCH, STRETCH, 2)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * stretch
    sides = np.array(tensor.shape[2:])
    center = (sides - 1) / 2
    shift = center - matrix @ center + rng.uniform(-SHIFT, SHIFT, 2) * sides
    moved = [ndimage.affine_transform(each, matrix, shift, order=1, mode="nearest") for each in tensor[0]]
    return np.stack(moved)[None].astype(np.float32)


def _of_photos(entry: Entry, paths: Sequence[Path], source: str, seed: int, progress: Progress) -> Views:
    """Whole ones and squares of them; of few ones strips that share no pixel, and squares of those."""
    if len(paths) <= FEW:
        return _of_halves(entry, paths, source, seed)
    parts, done = dict[str, list[Numbers]](), 0
    for name, numbers in _split(len(paths), seed).items():
        parts[name] = []
        each = -(-VIEWS[name] // max(1, len(numbers)))
        for number in numbers:
            picture = pictures.read(paths[number]).image.convert("RGB")
            parts[name] += [entry.preprocess(square) for square in _squares(picture, each, seed + number)]
            done += 1
            progress(done / len(paths))
    _check(parts["train"], source)
    return Views(source, parts["train"], parts["choose"], parts["measure"])


def _of_halves(entry: Entry, paths: Sequence[Path], source: str, seed: int) -> Views:
    """Of the few pictures that there are, strips that share no pixel."""
    parts: dict[str, list[Numbers]] = {name: [] for name in VIEWS}
    strips = {"train": (0.0, 0.6), "choose": (0.6, 0.8), "measure": (0.8, 1.0)}
    for number, path in enumerate(paths):
        picture = pictures.read(path).image.convert("RGB")
        for name, (left, right) in strips.items():
            strip = picture.crop((round(left * picture.width), 0, round(right * picture.width), picture.height))
            views = _squares(strip, -(-VIEWS[name] // len(paths)), seed + number)
            parts[name] += [entry.preprocess(view) for view in views]
    return Views(f"strips of {source}", parts["train"], parts["choose"], parts["measure"])


def _squares(picture: Image.Image, count: int, seed: int) -> list[Image.Image]:
    """The picture itself, and squares of half its shorter side and more, some mirrored."""
    rng, views = np.random.default_rng(seed), [picture]
    for _ in range(count - 1):
        side = int(min(picture.size) * rng.uniform(1 / 2, 1))
        left, top = (int(rng.uniform(0, length - side)) for length in picture.size)
        square = picture.crop((left, top, left + side, top + side))
        views.append(ImageOps.mirror(square) if rng.uniform() < 0.5 else square)
    return views


def _check(train: Sequence[Numbers], source: str) -> None:
    if not train:
        raise UsageError(f"{source} has too few images: some are set aside, and none is left to learn from")
