"""Pixels under zstandard: differences from what neighbours foretell, and every bit comes back."""

import numpy as np
import pytest

from edgecloud.models import inputs, registry
from edgecloud.net import codec
from edgecloud.net.codec import CODECS
from edgecloud.net.pixels import NORMALISATIONS, Pixels
from edgecloud.utils.errors import ProtocolError


@pytest.mark.parametrize(
    "shape", [(1, 3, 5, 7), (1, 1, 8, 8), (1, 3, 1, 1), (1, 2, 4, 1), (1, 4, 3, 9), (1, 3, 224, 224)]
)
@pytest.mark.parametrize("form", [Pixels(), Pixels(is_foretold=True)])
def test_every_bit_of_any_pixels_comes_back(shape: tuple[int, ...], form: Pixels) -> None:
    pixels = np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)
    for means, stds in NORMALISATIONS:
        if len(means) not in (1, shape[1]):
            continue
        mean, std = (np.resize(np.array(each, np.float32), shape[1])[:, None, None] for each in (means, stds))
        picture = (pixels.astype(np.float32) / np.float32(255) - mean) / std
        parameters, codes = form.encode(picture)
        assert (parameters.nbytes, codes.nbytes) == (form.parameter_bytes(shape), form.code_bytes("float32", shape))
        assert form.decode(parameters.data, codes.data, "float32", shape).tobytes() == picture.tobytes()


def test_an_even_colour_ramp_leaves_next_to_nothing() -> None:
    rows, columns = np.mgrid[0:64, 0:64].astype(np.uint8)
    ramp = np.stack([2 * rows + columns, rows + columns, columns])[None]
    _, codes = Pixels(is_foretold=True).encode(ramp.astype(np.float32) / np.float32(255))
    assert np.count_nonzero(codes) < 3 * (64 + 64)  # only the first row and column say anything


def test_a_photograph_becomes_a_sixth_of_its_floats() -> None:
    entry = registry.lookup("alex_net")
    picture = np.asarray(inputs.sample(entry.sample, entry.preprocess).tensor)
    packed = codec.encode(picture, "pixels+zstd")
    assert picture.nbytes > 6 * packed.nbytes
    assert codec.decode(packed).tobytes() == picture.tobytes()


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        (0.5, 0.25, ""),
        (-1e30, 1e-5, ""),
        (float("nan"), 1.0, "parameters"),
        (0.0, float("inf"), "parameters"),
        (0.0, 0.0, "parameters"),
        (0.0, -1.0, "parameters"),
        (0.0, 1e-45, "must be finite"),
        (-3e38, 0.5, "must be finite"),
    ],
)
@pytest.mark.parametrize("name", ["pixels", "pixels+zstd"])
def test_parameters_of_a_stranger_make_finite_numbers_or_are_refused(
    name: str, mean: float, std: float, words: str
) -> None:
    shape = (1, 3, 2, 4)
    sent = b"".join(codec.encode(np.zeros(shape, np.float32), name).parts)
    numbers = np.array([0.0, 0.0, mean, 1.0, 1.0, std], "<f4").tobytes()
    buffer = memoryview(numbers + sent[len(numbers) :])
    CODECS[name].check("float32", shape, buffer)
    if not words:
        assert np.isfinite(CODECS[name].decode("float32", shape, buffer)).all()
        return
    with pytest.raises(ProtocolError, match=words):
        CODECS[name].decode("float32", shape, buffer)
