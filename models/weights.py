"""The parameters of a network, the same on both sides, and the digest that proves it.

Without a file, the parameters are drawn from a seed. They have to be the same on every machine, or an edge with an ARM
processor and a cloud with an x86 one would refuse each other; torch's own initialisation differs in the last bits
between processors. So every tensor is drawn by numpy's PCG64, whose raw stream is specified, and scaled by one
multiplication and one subtraction, which IEEE 754 fixes exactly.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from models import checkpoints
from models.registry import Entry
from utils.errors import UsageError

DEFAULT = "default"
IMAGENET = "imagenet"


@dataclass(frozen=True)
class Loaded:
    """A network in eval mode with its parameters."""

    model: nn.Module
    digest: str
    origin: str
    """`file NAME`, in brackets what was taken off it; `imagenet`, `shipped`, `seed 0 (untrained)`, or of a network of
    one's own `as built`."""
    trained: bool


def load(entry: Entry, weights: str = DEFAULT) -> Loaded:
    """Build a network with `default` weights, torchvision's `imagenet` ones, or those of a file.

    The default is the trained weights that the project ships where it has them, else a seeded initialisation.
    Raises UsageError for a file that cannot be read and MismatchError for one that belongs to another network.
    """
    by_name = _SOURCES.get(weights)
    return by_name(entry) if by_name is not None else _from_file(entry, Path(weights), f"file {Path(weights)}")


def _default(entry: Entry) -> Loaded:
    if entry.shipped is not None:
        return _from_file(entry, Path(__file__).parent / "zoo" / entry.shipped, "shipped")
    model, drawn = _seeded(entry)
    is_built = bool(entry.code) and not drawn
    return _finish(model, entry, "as built" if is_built else "seed 0 (untrained)", trained=is_built)


def _from_file(entry: Entry, path: Path, origin: str) -> Loaded:
    model = seeded(entry)
    found = checkpoints.fill(model, path, entry.name)
    return _finish(model, entry, f"{origin} ({found})" if found else origin, trained=True)


def digest(model: nn.Module) -> str:
    """SHA-256 over name, dtype, shape and bytes of every parameter and buffer, in the order of their names."""
    sha = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return "sha256:" + sha.hexdigest()


def _finish(model: nn.Module, entry: Entry, origin: str, *, trained: bool) -> Loaded:
    """Of a network of one's own, the digest is that of its parameters and its file: its code may hold numbers too."""
    model.eval().requires_grad_(False)
    found = digest(model)
    if entry.code:
        found = "sha256:" + hashlib.sha256(f"{found} {entry.code}".encode()).hexdigest()
    return Loaded(model, found, origin, trained)


def _imagenet(entry: Entry) -> Loaded:
    if entry.imagenet is None:
        raise UsageError(f"{entry.name} has no ImageNet weights")
    try:
        model = entry.imagenet()
    except (OSError, RuntimeError) as error:  # no network, or a download with a wrong hash
        raise UsageError(f"cannot download the ImageNet weights of {entry.name}: {error}") from None
    return _finish(model, entry, IMAGENET, trained=True)


_SOURCES: dict[str, Callable[[Entry], Loaded]] = {DEFAULT: _default, IMAGENET: _imagenet}
"""Where parameters come from, by name; any other name is a file's."""


# --- from a seed


class _NoteRandomFills(TorchFunctionMode):
    """Skips the random draws of a network's constructor and remembers the tensors that they would have filled."""

    _DRAWS = frozenset(
        {"uniform_", "normal_", "trunc_normal_", "erfinv_"}
        | {f"{scheme}_{kind}_" for scheme in ("kaiming", "xavier") for kind in ("uniform", "normal")}
    )

    def __init__(self) -> None:
        super().__init__()
        self._filled: dict[int, tuple[torch.Tensor, bool]] = {}
        """By storage, the tensor, so that no other gets its address, and whether the last fill was a random one."""

    def is_random(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor still waits for its random numbers: what was loaded into it since would stay."""
        _, is_random = self._filled.get(tensor.untyped_storage().data_ptr(), (tensor, False))
        return is_random

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name not in self._DRAWS and name != "copy_":  # which is how a state_dict is loaded
            return func(*args, **(kwargs or {}))
        tensor: torch.Tensor = args[0] if args else (kwargs or {})["tensor"]
        self._filled[tensor.untyped_storage().data_ptr()] = (tensor, name != "copy_")
        if name in ("uniform_", "normal_"):  # what draws again until all numbers lie within bounds comes to an end
            with torch.no_grad():
                tensor.fill_(args[1] if len(args) > 1 else 0.0)
        return func(*args, **(kwargs or {})) if name == "copy_" else tensor


def seeded(entry: Entry, seed: int = 0) -> nn.Module:
    """Build a network in eval mode, parameters drawn alike on every machine; constants stay the constructor's."""
    return _seeded(entry, seed)[0]


def _seeded(entry: Entry, seed: int = 0) -> tuple[nn.Module, bool]:
    """The same, and whether any parameter was drawn."""
    with _NoteRandomFills() as fills:
        model = entry.build()
    drawn = False
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if fills.is_random(parameter):
                parameter.copy_(_draw(f"{seed} {name}", tuple(parameter.shape)))
                drawn = True
    return model.eval(), drawn


def _draw(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Uniform in [-bound, bound), bound = sqrt(6 / fan_in) as in He et al. (ICCV 2015), which keeps the variance."""
    words = np.frombuffer(hashlib.sha256(key.encode()).digest(), dtype="<u4")
    generator = np.random.Generator(np.random.PCG64(words.tolist()))
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 100 * shape[0]
    bound = np.float32((6 / fan_in) ** 0.5)
    values = generator.random(shape, dtype=np.float32)
    values *= np.float32(2) * bound
    values -= bound
    return torch.from_numpy(values)
