"""Preprocessing as data: equal to torchvision's own, whatever the picture is."""

import io
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from edgecloud.models import audio, inputs, pictures, registry, text
from edgecloud.models.preprocessing import Digit, Photo, Speech, Square, Words, from_document, to_document
from edgecloud.models.vision import torchvision
from edgecloud.utils.errors import UsageError
from tests.conftest import many

CLOSE = 1e-6
MODES = ("RGB", "L", "RGBA", "P", "1", "CMYK", "LA")
ORIENTATION = 0x112
ALL = [Photo(256, 224), Photo(96, 80, (0.5, 0.4, 0.3), (0.2, 0.3, 1.0), "bicubic"), Square(32), Digit(), Speech()]
EVERY = [*ALL, *(Words(task) for task in ("pos", "ner", "chk"))]


def noise(width: int, height: int, mode: str, seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def transform(photo: Photo) -> Any:
    """torchvision's own, with the same settings."""
    module = torchvision().transforms
    return module._presets.ImageClassification(
        crop_size=photo.crop,
        resize_size=photo.resize,
        mean=photo.mean,
        std=photo.std,
        interpolation=module.InterpolationMode(photo.resampling),
        antialias=True,
    )


sizes = st.one_of(st.integers(1, 40), st.integers(41, 300))
photos = st.builds(
    Photo,
    st.integers(1, 70),
    st.integers(1, 64),
    st.sampled_from([(0.485, 0.456, 0.406), (0.5, 0.5, 0.5)]),
    st.sampled_from([(0.229, 0.224, 0.225), (128 / 255,) * 3]),
    st.sampled_from(["bilinear", "bicubic"]),
)


@settings(max_examples=many(60, 600))
@given(photos, sizes, sizes, st.sampled_from(MODES), st.integers(0, 9))
def test_a_photo_is_what_torchvision_makes_of_it(photo: Photo, width: int, height: int, mode: str, seed: int) -> None:
    picture = noise(width, height, mode, seed)
    expected = transform(photo)(picture.convert("RGB"))[None].numpy()
    found = photo(picture)
    assert found.shape == expected.shape == (1, 3, photo.crop, photo.crop)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=CLOSE, rtol=0)


@pytest.mark.parametrize("side", [(1, 1), (1, 97), (1200, 9), (2049, 1537)])
@pytest.mark.parametrize("name", ["alex_net", "efficientnet_lite0"])
def test_tiny_and_huge_pictures_too(name: str, side: tuple[int, int]) -> None:
    photo, picture = registry.lookup(name).preprocess, noise(*side, "RGB", 1)
    assert isinstance(photo, Photo)
    np.testing.assert_allclose(photo(picture), transform(photo)(picture)[None].numpy(), atol=CLOSE, rtol=0)


@settings(max_examples=many(16, 80))
@given(st.integers(1, 8), st.sampled_from(("RGB", "L")), st.integers(2, 60), st.integers(2, 60))
def test_a_file_is_turned_before(orientation: int, mode: str, width: int, height: int) -> None:
    """As its EXIF data says; the oracle is torchvision on the picture that Pillow has turned."""
    picture, file = noise(width, height, mode, 3), io.BytesIO()
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    picture.save(file, "PNG", exif=exif)
    photo = Photo(40, 32)
    with Image.open(file) as opened:
        turned = ImageOps.exif_transpose(opened)
        found = photo(pictures.prepared(turned).image)
        expected = transform(photo)(turned.convert("RGB"))[None].numpy()
    np.testing.assert_allclose(found, expected, atol=CLOSE, rtol=0)


def test_a_picture_that_would_grow_beyond_all_memory_is_refused() -> None:
    with pytest.raises(UsageError, match="too long and thin"):
        Photo(256, 224)(noise(1, 400_000, "L", 0))


def test_the_entries_of_torchvisions_networks_are_theirs() -> None:
    """Their sizes and preprocessing are written down, so that nobody waits for torchvision to know them."""
    models = torchvision().models
    for name, theirs in (("alex_net", "alexnet"), ("vgg_net", "vgg16_bn"), ("mobile_net", "mobilenet_v2")):
        entry, weights = registry.lookup(name), models.get_model_weights(theirs).DEFAULT
        assert entry.labels == tuple(weights.meta["categories"])
        assert entry.parameter_bytes == 4 * weights.meta["num_params"]
        assert entry.preprocess == registry.lookup(f"torchvision:{theirs}").preprocess
        assert entry.imagenet is not None


def test_every_network_of_torchvision_has_its_preprocessing_as_data() -> None:
    models = torchvision().models
    for name in registry.torchvision_names():
        photo, own = (
            registry.lookup(f"torchvision:{name}").preprocess,
            models.get_model_weights(name).DEFAULT.transforms(),
        )
        assert isinstance(photo, Photo)
        ours = ([photo.resize], [photo.crop], list(photo.mean), list(photo.std), photo.resampling)
        theirs = (own.resize_size, own.crop_size, list(own.mean), list(own.std), own.interpolation.value)
        assert ours == theirs


@pytest.mark.parametrize("preprocess", EVERY, ids=str)
def test_as_a_document_it_comes_back(preprocess: Any) -> None:
    document = to_document(preprocess)
    assert document is not None
    again = from_document(json.loads(json.dumps(document)))
    assert again == preprocess
    what: dict[type, Any] = {Speech: audio.synthesised(), Words: text.SAMPLE}
    given_to_it = what.get(type(preprocess), noise(50, 40, "RGB", 2))
    np.testing.assert_array_equal(again(given_to_it), preprocess(given_to_it))


def test_every_network_of_the_registry_has_one() -> None:
    for name in registry.NAMES:
        entry = registry.lookup(name)
        assert to_document(entry.preprocess) is not None, name
        assert inputs.sample(entry.sample, entry.preprocess).array.shape == (1, *entry.input_shape)


def test_a_function_of_somebodys_own_is_none() -> None:
    assert to_document(lambda _: np.zeros((1, 3), np.float32)) is None


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"kind": "shell"},
        {"kind": ["photo"]},
        {"kind": "photo"},
        {"kind": "photo", "resize": 0, "crop": 224},
        {"kind": "photo", "resize": 256, "crop": 1 << 40},
        {"kind": "photo", "resize": "256", "crop": 224},
        {"kind": "photo", "resize": 256.5, "crop": 224},
        {"kind": "photo", "resize": True, "crop": 224},
        {"kind": "photo", "resize": 256, "crop": 224, "mean": [0.5, 0.5]},
        {"kind": "photo", "resize": 256, "crop": 224, "mean": [0.5, "x", 0.5]},
        {"kind": "photo", "resize": 256, "crop": 224, "std": [0.0, 1.0, 1.0]},
        {"kind": "photo", "resize": 256, "crop": 224, "std": [float("inf"), 1.0, 1.0]},
        {"kind": "photo", "resize": 256, "crop": 224, "mean": [float("nan"), 1.0, 1.0]},
        {"kind": "photo", "resize": 256, "crop": 224, "resampling": "nearest"},
        {"kind": "photo", "resize": 256, "crop": 224, "resampling": ["bilinear"]},
        {"kind": "photo", "resize": 256, "crop": 224, "more": 1},
        {"kind": "square", "side": -1},
        {"kind": "square", "side": None},
        {"kind": "words", "task": "xxx"},
        {"kind": "words", "task": ["pos"]},
        {"kind": "digit", "side": 28},
    ],
)
def test_a_document_that_describes_none_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"photograph|square|task|preprocessing"):
        from_document(document)
