"""Reads weights files: wrappers are removed and reported; nothing in a file is executed.

A file is told by what is in it, not by its name: safetensors, torch.save with only plain data in it, or the index.json
of tensors that lie in several files. Training frameworks put a network's tensors under a key (`state_dict`, `model`,
`ema`) and names behind a prefix (`module.`, `_orig_mod.`, `model.`): what fits the network, name by name and shape by
shape, is taken.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from edgecloud.utils.errors import MismatchError, UsageError
from edgecloud.utils.files import require_file
from edgecloud.utils.sniffing import what_is
from edgecloud.utils.units import printable

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".json")
MAX_INDEX_BYTES = 64 << 20
MAX_DEPTH = 3
"""How many dictionaries deep tensors are looked for."""
_SAVE = "in the program that made it: torch.save(model.state_dict(), 'weights.pt')"
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Parts of a name that DataParallel, torch.compile and their like put there."""
_UNUSED = "num_batches_tracked"
"""A counter of training, which old files lack: it changes no answer in eval mode."""
Tensors = dict[str, torch.Tensor]
Rename = Callable[[str], str]


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds: nested dictionaries with tensors in them, and names that stand for another one's tensor."""

    content: Any
    aliases: Mapping[str, str]


@dataclass(frozen=True)
class Filled:
    """What a network got from a file."""

    told: str
    """What had to be taken off, or ""."""
    names: frozenset[str]
    """Of the tensors."""


def fill(model: nn.Module, path: Path, name: str, own_name: Rename | None = None) -> Filled:
    """Load the weights of a file into a network, called `name` in messages, unsaved buffers too.

    `own_name` says what a tensor of published weights is called in this network. Raises UsageError for a file that
    cannot be read, and MismatchError for one that belongs to another network.
    """
    state: dict[str, Any] = dict(model.state_dict())
    if odd := [key for key, value in state.items() if not isinstance(value, torch.Tensor)]:
        raise UsageError(f"{name} has state that is not a tensor ({odd[0][:60]}): set it in build(), not in a file")
    checkpoint = _read(path)
    if own_name is not None:
        checkpoint = replace(checkpoint, content=_renamed(checkpoint.content, own_name, 0))
    unsaved = _unsaved(model, state, checkpoint)
    expected: Tensors = state | unsaved
    fit, others = _choose(checkpoint, expected, path, name)
    _check_kinds(fit, expected, path, name)
    with torch.no_grad():
        for key in unsaved.keys() & fit.tensors.keys():
            unsaved[key].copy_(fit.tensors[key])
        saved = {key: value for key, value in fit.tensors.items() if key not in unsaved}
        model.load_state_dict(state | saved)
    return Filled("; ".join(filter(None, (fit.told(), others))), frozenset(fit.tensors))


def _unsaved(model: nn.Module, state: dict[str, Any], checkpoint: Checkpoint) -> Tensors:
    """The buffers that are in no state_dict, and in this file all the same, behind whatever prefix."""
    there = {key for _, entries in _places("", checkpoint.content, 0) for key in entries}
    return {
        key: buffer
        for key, buffer in model.named_buffers()
        if key not in state and any(name == key or name.endswith(f".{key}") for name in there)
    }


def _renamed(content: Any, own_name: Rename, depth: int) -> Any:
    if not isinstance(content, dict) or depth > MAX_DEPTH:
        return content
    return {own_name(str(key)): _renamed(value, own_name, depth + 1) for key, value in content.items()}


# --- reading


def _read(path: Path) -> Checkpoint:
    require_file(path)
    if path.suffix.lower() not in SUFFIXES:
        known = what_is(path) or ""
        raise UsageError(
            f"{path}: weights must be a .safetensors, .pt, .pth, .bin or .ckpt file, or an .index.json of several"
            + (f"; this is {known}" if known else "")
        )
    try:
        return _read_index(path) if path.suffix.lower() == ".json" else _read_one(path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or _first_line(error)
        raise UsageError(f"cannot read the weights {path}: {reason}") from None


def _read_one(path: Path) -> Checkpoint:
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise UsageError(f"{path} is empty")
    if head.startswith(b"PK") or head[:1] == b"\x80":
        return Checkpoint(_read_torch(path), {})
    known = what_is(path)
    if known is not None:
        raise UsageError(f"{path} is {known}")
    if path.suffix.lower() == ".safetensors" or head[8:9] == b"{":
        with safe_open(path, "pt") as opened:
            notes: Mapping[str, str] = opened.metadata() or {}
        return Checkpoint(load_file(path), notes)
    return Checkpoint(_read_torch(path), {})


def _read_torch(path: Path) -> Any:
    """What torch.save wrote, where it holds only plain data: the unpickler that runs code is never used."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001  torch.load has no error type of its own
        raise UsageError(f"{path} {_why_not(path, str(error))}") from None


_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


def _why_not(path: Path, message: str) -> str:
    """Why a file cannot be read, in our own words: torch's own advise to run what is in it."""
    file_type = what_is(path)
    if file_type is not None and "torch.save" not in file_type.name:
        return f"is {file_type}"
    match = _GLOBAL.search(message)
    if match is None:
        return f"is not a plain weights file: it is damaged, truncated or of another kind. Save it again, {_SAVE}"
    what = match[1]
    is_plain = what.split(".")[0] in ("numpy", "argparse", "pathlib", "collections", "builtins", "datetime")
    kind = (
        "contains Python objects besides its weights" if is_plain else "is a pickled module or contains Python objects"
    )
    return f"{kind} ({what[:80]}), which is never loaded because loading runs code. Save only the weights, {_SAVE}"


def _read_index(path: Path) -> Checkpoint:
    """Weights in several files beside an index that says which tensor lies where."""
    if path.stat().st_size > MAX_INDEX_BYTES:
        raise UsageError(f"{path} is larger than {MAX_INDEX_BYTES >> 20} MiB, the limit for a weights index")
    try:
        places = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted({str(shard) for shard in places.values()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UsageError(f"{path} is not a weights index: it has no `weight_map`") from None
    tensors: dict[str, Any] = {}
    for shard in shards:
        if Path(shard).name != shard or shard in ("", ".", "..") or "\\" in shard:
            raise UsageError(f"{path} names {printable(shard, 80)!r}: its files must be in the same directory")
        if not path.with_name(shard).is_file():
            raise UsageError(f"{path} names {printable(shard, 80)}, which does not exist: copy all of its files")
        content = _read_one(path.with_name(shard)).content
        if not isinstance(content, dict):
            raise UsageError(f"{path.with_name(shard)} contains no named tensors")
        tensors |= {key: value for key, value in content.items() if places.get(key) == shard}
    missing = sorted(set(places) - set(tensors))
    if missing:
        raise UsageError(f"{path} lists {printable(missing[0], 100)} in {places[missing[0]]}, but it is not there")
    return Checkpoint(tensors, {})


# --- what of it is meant


@dataclass(frozen=True)
class _Fit:
    """Tensors of a file under a network's own names, and what was taken off their names."""

    place: str
    prefix: str
    tensors: Tensors
    left: tuple[str, ...]
    """Names in the same dictionary that are not the network's."""
    is_rewrapped: bool = False

    @property
    def is_average(self) -> bool:
        """Whether it is the running mean of the weights of a training."""
        return "ema" in re.split(r"[._]", f"{self.place}.{self.prefix}".lower())

    def told(self) -> str:
        """What a user should know: where the weights were, and what is not theirs."""
        parts = [f"taken from {self.place!r}"] if self.place else []
        if self.prefix:
            parts.append(f"without the prefix {self.prefix!r}")
        if self.is_rewrapped:
            parts.append("without `module` and `_orig_mod` in its names")
        if self.left:
            parts.append(f"{len(self.left)} others ignored, such as {printable(self.left[0], 60)}")
        return ", ".join(parts)


def _choose(checkpoint: Checkpoint, expected: Tensors, path: Path, name: str) -> tuple[_Fit, str]:
    """The tensors that fit, and a word about others that would.

    Raises MismatchError where none do, or UsageError where two are as likely.
    """
    places = dict(_places("", checkpoint.content, 0))
    if not places:
        raise UsageError(f"{path} does not contain a state_dict (names and dense tensors)")
    fits = [fit for place, entries in places.items() for fit in _fits(place, entries, expected, checkpoint.aliases)]
    if not fits:
        _refuse_nearest(places, expected, path, name)
    best = min(fit.is_average for fit in fits)
    likely = [fit for fit in fits if fit.is_average == best]
    if any(not _same(fit.tensors, likely[0].tensors) for fit in likely[1:]):
        named = " and ".join(repr(f"{fit.place} {fit.prefix}".strip()) for fit in likely[:2])
        raise UsageError(f"{path} contains weights for {name} twice, in {named}: save only one of them")
    others = [fit for fit in fits if fit.is_average != best]
    return likely[0], f"not the average in {f'{others[0].place} {others[0].prefix}'.strip()!r}" if others else ""


def _places(place: str, content: Any, depth: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """All dictionaries with tensors in them, by where they are: "", `state_dict`, `ema.model`."""
    if not isinstance(content, dict) or depth > MAX_DEPTH:
        return
    entries = {str(key): value for key, value in content.items() if not isinstance(value, dict)}
    if any(isinstance(value, torch.Tensor) for value in entries.values()):
        yield place, entries
    for key, value in content.items():
        yield from _places(f"{place}.{key}" if place else str(key), value, depth + 1)


def _fits(place: str, entries: dict[str, Any], expected: Tensors, aliases: Mapping[str, str]) -> Iterator[_Fit]:
    tensors = {key: value for key, value in entries.items() if isinstance(value, torch.Tensor)}
    tensors |= {
        key: tensors[original] for key, original in aliases.items() if original in tensors and key not in tensors
    }
    fits = [_fit(place, prefix, tensors, expected) for prefix in _prefixes(tensors, expected)]
    if not any(fits):
        plain, own = _unwrapped(tensors), _unwrapped({key: key for key in expected})
        if plain is not None and own is not None:
            fit = _fit(place, "", plain, {short: expected[key] for short, key in own.items()})
            if fit is not None:
                renamed = {own[short]: tensor for short, tensor in fit.tensors.items()}
                fits = [_Fit(place, "", renamed, fit.left, is_rewrapped=True)]
    yield from (fit for fit in fits if fit is not None)


def _prefixes(tensors: Tensors, expected: Tensors) -> list[str]:
    """What may stand before a network's own names; "" first."""
    anchor = next((key for key in expected if not key.endswith(_UNUSED)), "")
    ends = [key for key in tensors if key == anchor or key.endswith(f".{anchor}")] if anchor else []
    return sorted({"", *(key.removesuffix(anchor) for key in ends)}, key=lambda prefix: (len(prefix), prefix))


def _fit(place: str, prefix: str, tensors: Tensors, expected: Tensors) -> _Fit | None:
    """The tensors behind a prefix where they are the network's, all of them; without one there may be no others."""
    named = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    named |= _tied(named, expected)
    if any(key not in named and not key.endswith(_UNUSED) for key in expected):
        return None
    if any(key in named and named[key].shape != tensor.shape for key, tensor in expected.items()):
        return None
    inside = tuple(key for key in named if key not in expected and not key.lower().startswith("aux"))
    if inside:
        return None
    outside = tuple(sorted(key for key in tensors if not key.startswith(prefix)))
    return _Fit(place, prefix, {key: named[key] for key in expected if key in named}, outside)


def _tied(named: Tensors, expected: Tensors) -> Tensors:
    """Tensors that a file holds once and the network uses under several names."""
    by_memory = {
        _memory(expected[key]): value for key, value in named.items() if key in expected and expected[key].numel()
    }
    return {
        key: by_memory[_memory(tensor)]
        for key, tensor in expected.items()
        if key not in named and tensor.numel() and _memory(tensor) in by_memory
    }


def _memory(tensor: torch.Tensor) -> tuple[int, torch.Size, tuple[int, ...]]:
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def _unwrapped(values: dict[str, Any]) -> dict[str, Any] | None:
    """By their names without the parts that wrappers add; None where two would get one name."""
    short = {".".join(part for part in key.split(".") if part not in _WRAPPERS): key for key in values}
    return {name: values[key] for name, key in short.items()} if len(short) == len(values) else None


def _same(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def _check_kinds(fit: _Fit, expected: Tensors, path: Path, name: str) -> None:
    """Refuse what would have to be rounded or guessed: sparse, quantised, integer and complex weights."""
    twins: dict[Any, tuple[str, torch.Tensor]] = {}
    for key, tensor in fit.tensors.items():
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested or tensor.is_meta:
            raise UsageError(f"{path}: {key} is not a dense tensor: save it dense, as float32")
        if _kind(tensor) != _kind(expected[key]):
            there, here = (str(one.dtype).removeprefix("torch.") for one in (tensor, expected[key]))
            raise UsageError(f"{path}: {key} is {there} in the file and {here} in {name}: save it as {here}")
        twin_key, twin = twins.setdefault(_memory(expected[key]), (key, tensor))
        if twin is not tensor and expected[key].numel() and not torch.equal(twin, tensor):
            raise UsageError(f"{path}: {twin_key} and {key} differ in the file, but are one tensor in {name}")


def _kind(tensor: torch.Tensor) -> str:
    """Numbers of one kind become each other without a guess."""
    dtype = tensor.dtype
    if dtype.is_complex:
        return "complex"
    if dtype.is_floating_point:
        return "float" if dtype.itemsize > 1 else str(dtype)  # of 8 bits they need scales
    return "bool" if dtype == torch.bool else "whole"


def _refuse_nearest(places: dict[str, dict[str, Any]], expected: Tensors, path: Path, name: str) -> None:
    """Say what is wrong with the dictionary that has the most of the network's names."""
    nearest: Tensors = {}
    score = -1
    for entries in places.values():
        tensors = {key: value for key, value in entries.items() if isinstance(value, torch.Tensor)}
        for prefix in _prefixes(tensors, expected):
            named = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            if len(named.keys() & expected.keys()) > score:
                nearest, score = named, len(named.keys() & expected.keys())
    if any(value.layout is not torch.strided or value.is_quantized for value in nearest.values()):
        raise UsageError(f"{path} does not contain a state_dict (names and dense tensors)")
    _refuse_first_difference(nearest, expected, path, name)


def _refuse_first_difference(state: Tensors, expected: Tensors, path: Path, name: str) -> None:
    state = {key: value for key, value in state.items() if key in expected or not key.lower().startswith("aux")}
    for key in sorted(expected.keys() | state.keys()):
        if key not in state and not key.endswith(_UNUSED):
            hint = f"; {path.name} is one of several files: use their index.json" if "-of-" in path.name else ""
            _refuse(path, name, f"it has no {key}{hint}")
        if key in state and key not in expected:
            _refuse(path, name, f"the network has no {printable(key, 100)}")
        if key in state and expected[key].shape != state[key].shape:
            there, here = tuple(state[key].shape), tuple(expected[key].shape)
            _refuse(path, name, f"{key} is {there} in the file and {here} in the network")
    _refuse(path, name, "its names belong to another network")


def _refuse(path: Path, name: str, reason: str) -> None:
    raise MismatchError(f"{path} does not contain the weights of {name}: {reason}")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
