"""An input as a small picture, as its network sees it: its numbers from the least to the largest."""

import io

import numpy as np

from edgecloud.models.inputs import Numbers
from edgecloud.utils.later import later

Image = later("PIL.Image")

SIDE = 320
"""Pixels of the longer side at most."""
CHANNELS = (1, 3)


def png_of(array: Numbers) -> bytes | None:
    """A PNG of a (1, channels, height, width) array; None for one that does not look like a picture."""
    if array.ndim != 4 or array.shape[1] not in CHANNELS or min(array.shape[2:]) < 2:
        return None
    numbers = np.nan_to_num(array[0].astype(np.float32))
    least, most = float(numbers.min()), float(numbers.max())
    pixels = ((numbers - least) * (255.0 / max(most - least, 1e-9))).astype(np.uint8)
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    picture.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
