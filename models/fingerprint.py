"""Digests of a network's numbers, and the first that differ."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from edgecloud.models import marks
from edgecloud.utils.errors import UsageError


@dataclass(frozen=True)
class Fingerprint:
    """A digest of tensors in the order of their names."""

    digest: str
    names: tuple[str, ...]
    marks: str
    """From which the first tensor that differs can be told (`models.marks`)."""


@dataclass(frozen=True)
class Held:
    """One thing that a network holds."""

    name: str
    digest: bytes
    bytes: int
    """0 where another name for the same memory came before."""
    is_saved: bool
    """Whether it is in a file of the network's weights."""
    has_nan: bool


def of_state(model: nn.Module) -> Fingerprint:
    """SHA-256 over name, dtype, shape and bytes of every parameter and saved buffer, in the order of their names."""
    sha = hashlib.sha256()
    names, digests = [], []
    for name, tensor in sorted(model.state_dict().items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        names.append(name)
        digests.append(sha.hexdigest())
    return Fingerprint("sha256:" + sha.hexdigest(), tuple(names), marks.spread(digests))


def of_held(held: Iterable[Held], code: str) -> Fingerprint:
    """Of everything that a custom model holds, and of its file: its code may hold numbers too."""
    sha = hashlib.sha256()
    names, digests = [], []
    for each in held:
        sha.update(each.name.encode() + b"\n" + each.digest)
        names.append(each.name)
        digests.append(sha.hexdigest())
    digest = hashlib.sha256(f"{sha.hexdigest()} {code}".encode()).hexdigest()
    return Fingerprint("sha256:" + digest, tuple(names), marks.spread(digests))


def held_by(model: nn.Module) -> Iterator[Held]:
    """What a network holds: its parameters and buffers, those too that are not saved, and tensors in attributes.

    Raises UsageError where something has no memory that could be read.
    """
    state = model.state_dict()
    seen: set[int] = set()
    for name, value in sorted(state.items()):
        places = {address(tensor) for tensor in _tensors([value])}
        held = _held(name, value, is_saved=True)
        yield replace(held, bytes=0) if places and places <= seen else held  # one parameter under two names
        seen |= places
    for name, value in sorted((*model.named_parameters(), *model.named_buffers())):
        if name not in state and address(value) not in seen:
            seen.add(address(value))
            yield _held(name, value, is_saved=False)
    for prefix, module in model.named_modules():
        for key, value in sorted(vars(module).items()):
            others = [t for t in _tensors(value) if address(t) not in seen] if key not in _OF_TORCH else []
            if others:
                yield _held(f"{prefix}.{key}".lstrip("."), others, is_saved=False)


_OF_TORCH = frozenset(vars(nn.Module()))
"""Attributes that every module has: parameters and buffers are looked at by themselves, hooks are code."""


def address(tensor: torch.Tensor) -> int:
    """Where its numbers lie, which tells one tensor from another."""
    try:
        return tensor.data_ptr()
    except RuntimeError:  # made of other tensors, or of none yet
        return id(tensor)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


def _held(name: str, value: Any, *, is_saved: bool) -> Held:
    sha, tensors = hashlib.sha256(), list(_tensors(value))
    try:
        _update(sha, value)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{name} cannot be compared: {reason[:120]}") from None
    has_nan = any(map(_has_nan, tensors))
    return Held(name, sha.digest(), sum(t.numel() * t.element_size() for t in tensors), is_saved, has_nan)


def _has_nan(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.is_quantized:
        return False
    try:
        return bool(torch.isnan(tensor).any())
    except (RuntimeError, NotImplementedError):  # made of other tensors, of whole numbers and their scales
        return False


def _update(sha: Any, value: Any) -> None:
    """Quantised layers keep tuples, types and None beside their tensors."""
    if isinstance(value, torch.Tensor):
        update_tensor(sha, value.detach())
    elif isinstance(value, list | tuple):
        sha.update(f"{len(value)} of them\n".encode())
        for each in value:
            _update(sha, each)
    elif isinstance(value, dict):
        _update(sha, sorted(value.items()))
    elif value is None or isinstance(value, str | bytes | int | float | complex | torch.dtype):
        sha.update(f"{value!r}\n".encode())
    else:
        raise TypeError(f"a {type(value).__name__}")


def update_tensor(sha: Any, tensor: torch.Tensor) -> None:
    """Add the numbers of a tensor, whatever it is made of. Raises TypeError for one that has none yet."""
    if is_lazy(tensor):
        raise TypeError("its size is unknown: call the network once in build()")
    if tensor.is_meta:
        raise TypeError("it is on the meta device")
    sha.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
    if hasattr(tensor, "__tensor_flatten__"):  # made of other tensors, as quantised ones of packages are
        names, about = tensor.__tensor_flatten__()
        sha.update(f"{names} {about!r}\n".encode())
        _update(sha, [getattr(tensor, name) for name in names])
    elif tensor.is_quantized:
        per_channel = tensor.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric)
        scales = (tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()) if per_channel else ()
        _update(sha, scales or (tensor.q_scale(), tensor.q_zero_point()))
        update_tensor(sha, tensor.int_repr())
    elif tensor.layout is not torch.strided:
        update_tensor(sha, tensor.to_dense())
    else:
        plain = tensor.resolve_conj().resolve_neg().cpu().contiguous()
        sha.update(plain.reshape(-1).view(torch.uint8).numpy())
