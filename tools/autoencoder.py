"""The two small networks of a learned codec while they are trained, in torch: net.convolutions runs them afterwards."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from edgecloud.net.ans import TOTAL
from edgecloud.net.convolutions import Geometry
from edgecloud.net.encodings import Shape
from edgecloud.net.learned import as_map
from edgecloud.net.learned_file import FREQUENCIES, Tensors

SMALL = 4096
"""Numbers of a tensor up to which it is one column; larger ones are maps of patches."""
EXTENT, MAX_SIDE = 7, 4
"""Patches along a side from which on they become larger, up to 4 x 4."""
IMPORTANCE = (0.1, 10.0)
"""Of a channel, at least and at most."""
FLAT_LATENTS, MAP_LATENTS = 48, 64
"""Whole numbers of a column, and of each patch, at most."""
FINEST = 8.0
"""Spread of the first of them at the beginning."""
MAX_ROWS = 8192
"""Of patches, for their principal components."""
MIXED = 0.02
"""Of the distribution that is fitted, in the frequencies that are counted."""
TRIED_AT_ONCE = 64
LIMIT = 63
"""Whole numbers are from -63 to 63."""


@dataclass(frozen=True)
class Design:
    """Geometry and filters of the encoder and the decoder, which are linear: one step each."""

    shape: Shape
    is_flat: bool
    encoder: tuple[Geometry, int]
    decoder: tuple[Geometry, int]
    limit: int = LIMIT

    @classmethod
    def of(cls, shape: Shape) -> Self:
        """For a tensor of shape (1, ...). Raises ValueError for one that learned codecs cannot carry."""
        is_flat = math.prod(shape) <= SMALL
        channels, height, width = as_map(shape, is_flat=is_flat)
        side = 1
        while side < MAX_SIDE and max(height, width) > EXTENT * side:
            side *= 2
        latents = min(FLAT_LATENTS if is_flat else MAP_LATENTS, channels * side**2)
        return cls(shape, is_flat, (Geometry(side, side), latents), (Geometry(1, grows=side), channels * side**2))

    @property
    def map(self) -> Shape:
        """How the networks see the tensor: (channels, height, width)."""
        return as_map(self.shape, is_flat=self.is_flat)


_FAST = ("gain", "prior.")


class Autoencoder:
    """Parameters, and what they make of a batch of tensors. They begin as principal components, which is what a linear
    codec of this size keeps best, of columns or patches whose channels are weighed by how much they matter."""

    def __init__(self, design: Design, tensors: torch.Tensor, importance: torch.Tensor) -> None:
        """For tensors such as these, shape (n, ...). `importance` says for each number of a tensor, shape (1, ...),
        how much answers depend on it, relative to the mean of all."""
        self.design = design
        maps = tensors.reshape(len(tensors), *design.map)
        of_channel = importance.reshape(design.map).mean((1, 2)).clamp(*IMPORTANCE)
        self.mean = maps.mean((0, 2, 3)).reshape(-1, 1, 1)
        self.scale = (maps.std().clamp_min(1e-6) / of_channel.sqrt()).reshape(-1, 1, 1)
        weights, spread = self._components((maps - self.mean) / self.scale)
        count, side = len(weights), design.encoder[0].kernel
        step = spread[0] / FINEST
        self.parameters: dict[str, torch.Tensor] = {
            "encoder.0.weight": (weights / step).reshape(count, -1, side, side).contiguous(),
            "encoder.0.bias": torch.zeros(count),
            "decoder.0.weight": (weights.T * step).reshape(-1, count, 1, 1).contiguous(),
            "decoder.0.bias": torch.zeros(weights.shape[1]),
            "gain": torch.zeros(count, 1, 1),
            "prior.mean": torch.zeros(count, 1, 1),
            "prior.scale": torch.log((spread / step).clamp_min(0.05) * math.sqrt(3) / math.pi).reshape(-1, 1, 1),
        }
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)

    def _components(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A row for each component, and how far the patches spread along it."""
        geometry, count = self.design.encoder
        patches = functional.unfold(_padded(maps, geometry), geometry.kernel, stride=geometry.stride)
        rows = patches.movedim(1, 2).reshape(-1, patches.shape[1])
        rows = rows[:: -(-len(rows) // MAX_ROWS)]
        _, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
        weights = vectors.T.flip(0)[:count]
        return weights, (rows @ weights.T).std(0, unbiased=False).clamp_min(1e-6)

    def whole(self, x: torch.Tensor) -> torch.Tensor:
        """What the encoder makes of tensors of shape (n, ...), before it is rounded."""
        geometry, _ = self.design.encoder
        x = (x.reshape(len(x), *self.design.map) - self.mean) / self.scale
        weight, bias = self.parameters["encoder.0.weight"], self.parameters["encoder.0.bias"]
        return functional.conv2d(_padded(x, geometry), weight, bias, geometry.stride) * torch.exp(
            self.parameters["gain"]
        )

    def rounded(self, latent: torch.Tensor) -> torch.Tensor:
        """As it travels; the gradient goes through."""
        limit = self.design.limit
        return latent + (torch.clamp(torch.round(latent), -limit, limit) - latent).detach()

    def tensor(self, latent: torch.Tensor) -> torch.Tensor:
        """What the decoder makes of them, shape (n, ...)."""
        _, height, width = self.design.map
        given = latent * torch.exp(-self.parameters["gain"])
        made = functional.conv2d(given, self.parameters["decoder.0.weight"], self.parameters["decoder.0.bias"])
        made = functional.pixel_shuffle(made, self.design.decoder[0].grows)[:, :, :height, :width]
        return (made * self.scale + self.mean).reshape(len(latent), *self.design.shape[1:])

    def difference(self, made: torch.Tensor, tensors: torch.Tensor) -> torch.Tensor:
        """Of what comes out from what went in, each channel weighed by how much it matters."""
        return ((made - tensors).reshape(-1, *self.design.map) / self.scale).square().mean()

    def bits(self, latent: torch.Tensor) -> torch.Tensor:
        """About what each of them takes to tell, one logistic distribution for each channel."""
        scale = torch.exp(self.parameters["prior.scale"]).clamp(1e-3, 1e3)
        centred = latent - self.parameters["prior.mean"]
        share = torch.sigmoid((centred + 0.5) / scale) - torch.sigmoid((centred - 0.5) / scale)
        return -torch.log2(share.clamp_min(1e-6))

    def frequencies(self, tensors: torch.Tensor) -> npt.NDArray[np.uint16]:
        """How often each whole number comes in such tensors, as net.ans wants it: a row for each channel. A little of
        the logistic distribution is mixed in, for those that never came."""
        limit = self.design.limit
        every = torch.arange(-limit, limit + 1.0)
        with torch.inference_mode():
            latent = torch.cat([self.rounded(self.whole(part)) for part in tensors.split(TRIED_AT_ONCE)])  # type: ignore[no-untyped-call]
            counts = (latent.movedim(1, 0).flatten(1)[:, :, None] == every).sum(1).double()
            prior = torch.exp2(-self.bits(every[None, :, None].expand(latent.shape[1], -1, 1))[:, :, 0]).double()
        shares = (1 - MIXED) * counts / counts.sum(1, keepdim=True) + MIXED * prior / prior.sum(1, keepdim=True)
        whole = 1 + torch.floor(shares * (TOTAL - len(every))).long()
        whole[torch.arange(len(whole)), whole.argmax(1)] += TOTAL - whole.sum(1)
        return whole.numpy().astype(np.uint16)

    def learned(self, *, is_fast: bool) -> list[torch.Tensor]:
        """All that is trained: weights, or the few numbers for each channel that say how finely it is told."""
        return [each for name, each in self.parameters.items() if name.startswith(_FAST) == is_fast]

    def arrays(self, tensors: torch.Tensor) -> Tensors:
        """What goes into a file, with frequencies of the codes of such tensors."""
        made = {"mean": self.mean.reshape(-1), "scale": self.scale.reshape(-1)}
        made |= {name: each for name, each in self.parameters.items() if not name.startswith(_FAST)}
        gain = torch.exp(self.parameters["gain"])
        made["encoder.0.weight"] = made["encoder.0.weight"] * gain[..., None]
        made["encoder.0.bias"] = made["encoder.0.bias"] * gain[:, 0, 0]
        made["decoder.0.weight"] = made["decoder.0.weight"] / gain
        weights = {name: each.detach().numpy() for name, each in made.items()}
        return {FREQUENCIES: self.frequencies(tensors), **weights}


def _padded(x: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    (top, bottom), (left, right) = (geometry.padding(size) for size in x.shape[2:])
    return functional.pad(x, (left, right, top, bottom))
