"""The two small networks of a learned codec while they are trained, in torch: net.convolutions runs them afterwards."""

import math
from collections.abc import Sequence
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
"""Numbers of a tensor up to which its networks see one column, and are linear; larger ones are seen as maps."""
EXTENT = 7
"""About the side of the map of whole numbers."""
WIDTHS = (16, 48)
"""The least and the most channels inside."""
FLAT_LATENTS, MAP_LATENTS = 48, 24
"""Channels of the whole numbers."""
FINEST = 6.0
"""Spread of the first whole number of a column at the beginning."""
MIXED = 0.02
"""Of the distribution that is fitted, in the frequencies that are counted."""
TRIED_AT_ONCE = 64
LIMIT = 31
"""Whole numbers are from -31 to 31."""


@dataclass(frozen=True)
class Design:
    """Geometry and filters of every step."""

    shape: Shape
    is_flat: bool
    encoder: tuple[tuple[Geometry, int], ...]
    decoder: tuple[tuple[Geometry, int], ...]
    limit: int = LIMIT

    @classmethod
    def of(cls, shape: Shape) -> Self:
        """For a tensor of shape (1, ...). Raises ValueError for one that learned codecs cannot carry."""
        is_flat = math.prod(shape) <= SMALL
        channels, height, width = as_map(shape, is_flat=is_flat)
        if is_flat:
            step = Geometry(1)
            return cls(shape, is_flat, ((step, min(FLAT_LATENTS, channels)),), ((step, channels),))
        inside = min(max(2 * channels, WIDTHS[0]), WIDTHS[1])
        strides = _strides(max(height, width))
        down = [Geometry(*_kernel(stride), is_relu=True) for stride in strides]
        encoder = [*((each, inside) for each in down), (Geometry(1), MAP_LATENTS)]
        up = [(Geometry(3 if n == 2 else 1, grows=n, is_relu=True), inside * n**2) for n in reversed(strides)]
        if not up:
            up = [(Geometry(3, is_relu=True), inside)]
        return cls(shape, is_flat, tuple(encoder), (*up, (Geometry(3), channels)))


def _strides(extent: int) -> list[int]:
    strides = []
    while extent > EXTENT:
        strides.append(4 if extent > 8 * EXTENT else 2)
        extent = -(-extent // strides[-1])
    return strides


def _kernel(stride: int) -> tuple[int, int]:
    """And the stride, of a step that makes a map smaller."""
    return (3, 2) if stride == 2 else (4, 4)


_FAST = ("gain", "prior.")


class Autoencoder:
    """Parameters, drawn from a generator, and what they make of a batch of tensors."""

    def __init__(self, design: Design, tensors: torch.Tensor, generator: torch.Generator) -> None:
        """For tensors such as these, shape (n, ...)."""
        self.design = design
        maps = tensors.reshape(len(tensors), *as_map(design.shape, is_flat=design.is_flat))
        mean, scale = maps.mean((0, 2, 3)), maps.std((0, 2, 3))
        if design.is_flat:  # a number that is the same in all pictures must not become important
            scale = scale.square().mean().sqrt().expand(len(scale))
        scale = torch.maximum(scale, 1e-3 * scale.max()).clamp_min(1e-6)
        self.mean, self.scale = mean.reshape(-1, 1, 1), scale.reshape(-1, 1, 1).clone()
        self.parameters: dict[str, torch.Tensor] = {}
        channels = len(mean)
        for name, steps in (("encoder", design.encoder), ("decoder", design.decoder)):
            for number, (geometry, filters) in enumerate(steps):
                size = (filters, channels, geometry.kernel, geometry.kernel)
                bound = math.sqrt((6 if geometry.is_relu else 3) / math.prod(size[1:]))
                weight = (torch.rand(size, generator=generator) * 2 - 1) * bound
                self.parameters[f"{name}.{number}.weight"] = weight
                self.parameters[f"{name}.{number}.bias"] = torch.zeros(filters)
                channels = filters // geometry.grows**2
        latents = design.encoder[-1][1]
        self.parameters["gain"] = torch.zeros(latents, 1, 1)
        self.parameters["prior.mean"] = torch.zeros(latents, 1, 1)
        self.parameters["prior.scale"] = torch.zeros(latents, 1, 1)
        if not design.is_flat:  # so that at first whole numbers differ at all
            self.parameters[f"encoder.{len(design.encoder) - 1}.weight"] *= 4
        else:
            self._take_components((maps - self.mean) / self.scale, latents)
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)

    def _take_components(self, maps: torch.Tensor, count: int) -> None:
        """Begin with the principal components: what a linear codec of this size keeps best."""
        rows = maps.reshape(len(maps), -1)
        _, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
        components = vectors.T.flip(0)[:count]
        step = (rows @ components[0]).std() / FINEST
        self.parameters["encoder.0.weight"] = (components / step).reshape(count, -1, 1, 1).contiguous()
        self.parameters["decoder.0.weight"] = (components.T * step).reshape(-1, count, 1, 1).contiguous()
        spread = (rows @ components.T / step).std(0).clamp_min(0.05)
        self.parameters["prior.scale"] = torch.log(spread * math.sqrt(3) / math.pi).reshape(-1, 1, 1)

    def whole(self, x: torch.Tensor) -> torch.Tensor:
        """What the encoder makes of tensors of shape (n, ...), before it is rounded."""
        x = (x.reshape(len(x), *as_map(self.design.shape, is_flat=self.design.is_flat)) - self.mean) / self.scale
        return self._run("encoder", self.design.encoder, x) * torch.exp(self.parameters["gain"])

    def rounded(self, latent: torch.Tensor) -> torch.Tensor:
        """As it travels; the gradient goes through."""
        limit = self.design.limit
        return latent + (torch.clamp(torch.round(latent), -limit, limit) - latent).detach()

    def tensor(self, latent: torch.Tensor) -> torch.Tensor:
        """What the decoder makes of them, shape (n, ...)."""
        _, height, width = as_map(self.design.shape, is_flat=self.design.is_flat)
        given = latent * torch.exp(-self.parameters["gain"])
        made = self._run("decoder", self.design.decoder, given)[:, :, :height, :width]
        return (made * self.scale + self.mean).reshape(len(latent), *self.design.shape[1:])

    def bits(self, latent: torch.Tensor) -> torch.Tensor:
        """About what each of them takes to tell, one logistic distribution for each channel."""
        scale = torch.exp(self.parameters["prior.scale"]).clamp(1e-3, 1e3)
        centred = latent - self.parameters["prior.mean"]
        share = torch.sigmoid((centred + 0.5) / scale) - torch.sigmoid((centred - 0.5) / scale)
        return -torch.log2(share.clamp_min(1e-6))

    def _run(self, name: str, steps: Sequence[tuple[Geometry, int]], x: torch.Tensor) -> torch.Tensor:
        for number, (geometry, _) in enumerate(steps):
            (top, bottom), (left, right) = (geometry.padding(size) for size in x.shape[2:])
            if top or bottom or left or right:
                x = functional.pad(x, (left, right, top, bottom))
            weight, bias = (self.parameters[f"{name}.{number}.{what}"] for what in ("weight", "bias"))
            x = functional.conv2d(x, weight, bias, geometry.stride)
            if geometry.is_relu:
                x = functional.relu(x)
            if geometry.grows > 1:
                x = functional.pixel_shuffle(x, geometry.grows)
        return x

    def frequencies(self, tensors: torch.Tensor) -> npt.NDArray[np.uint16]:
        """How often each whole number comes in such tensors, as net.ans wants it: a row for each channel. A little of
        the logistic distribution is mixed in, for those that never came."""
        limit = self.design.limit
        every = torch.arange(-limit, limit + 1.0)
        with torch.inference_mode():
            latent = torch.cat([self.rounded(self.whole(part)) for part in tensors.split(TRIED_AT_ONCE)])
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
        gain, last = torch.exp(self.parameters["gain"]), f"encoder.{len(self.design.encoder) - 1}"
        made[f"{last}.weight"] = made[f"{last}.weight"] * gain[..., None]
        made[f"{last}.bias"] = made[f"{last}.bias"] * gain[:, 0, 0]
        made["decoder.0.weight"] = made["decoder.0.weight"] / gain
        weights = {name: each.detach().numpy() for name, each in made.items()}
        return {FREQUENCIES: self.frequencies(tensors), **weights}
