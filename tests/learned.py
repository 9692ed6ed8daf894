"""Learned codecs that tests make: of any weights, for a tensor of any shape."""

import math
from collections.abc import Sequence

import numpy as np

from edgecloud.net import learned_file
from edgecloud.net.ans import TOTAL
from edgecloud.net.convolutions import Geometry
from edgecloud.net.learned import as_map
from edgecloud.net.learned_file import FREQUENCIES, About, Tensors

Steps = Sequence[tuple[Geometry, int]]
FLAT: tuple[Steps, Steps] = (((Geometry(1), 4),), ((Geometry(1), 24),))
MAP: tuple[Steps, Steps] = (
    ((Geometry(3, 2, is_relu=True), 8), (Geometry(1), 3)),
    ((Geometry(3, grows=2, is_relu=True), 16), (Geometry(3), 2)),
)


def about_of(shape: tuple[int, ...], steps: tuple[Steps, Steps], *, is_flat: bool) -> About:
    """What the file says; the network that it is for is none."""
    encoder, decoder = (tuple(geometry for geometry, _ in each) for each in steps)
    names = {"name": "tiny", "model": "none", "graph": "g", "weights": "w", "layer": "l", "source": "here"}
    numbers = {"point": 1, "limit": 7, "pictures": 200, "changed": 1, "bytes": 9, "trained_on": 5}
    return About(**names, **numbers, shape=shape, is_flat=is_flat, encoder=encoder, decoder=decoder)  # type: ignore[arg-type]


def weights_of(about: About, steps: tuple[Steps, Steps]) -> Tensors:
    """Drawn, about as large as they have to be."""
    rng = np.random.default_rng(0)
    channels = as_map(about.shape, is_flat=about.is_flat)[0]
    made = {"mean": rng.normal(size=channels), "scale": rng.uniform(0.5, 2, channels)}
    for name, each in zip(("encoder", "decoder"), steps, strict=True):
        for number, (geometry, filters) in enumerate(each):
            size = (filters, channels, geometry.kernel, geometry.kernel)
            made[f"{name}.{number}.weight"] = 3 * rng.normal(size=size) / math.sqrt(math.prod(size[1:]))
            made[f"{name}.{number}.bias"] = rng.normal(size=filters)
            channels = filters // geometry.grows**2
    frequencies = np.full((steps[0][-1][1], 2 * about.limit + 1), 100, np.uint16)
    frequencies[:, about.limit] = TOTAL - 100 * 2 * about.limit
    return {FREQUENCIES: frequencies, **{name: each.astype(np.float32) for name, each in made.items()}}


def flat_file() -> bytes:
    """Of a codec for a tensor of shape (1, 6, 2, 2)."""
    about = about_of((1, 6, 2, 2), FLAT, is_flat=True)
    return learned_file.write(about, weights_of(about, FLAT))


def map_file() -> bytes:
    """Of a codec for a tensor of shape (1, 2, 5, 7)."""
    about = about_of((1, 2, 5, 7), MAP, is_flat=False)
    return learned_file.write(about, weights_of(about, MAP))
