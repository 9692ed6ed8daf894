"""The answer itself, in a file: `--output FILE.npz`, `FILE.npy` or `FILE.json`.

`.npy` holds the one output of a network as numpy saves it; `.npz` holds outputs by name, in a file of several tasks
after the number of the task (`7/output`); `.json` holds names, shapes, element types and numbers. JSON has neither NaN
nor infinity: those are the words "NaN", "Infinity" and "-Infinity"; a complex number is a pair. numpy has no bfloat16:
those numbers are written as float32, which holds each of them.
"""

import json
import math
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias

import numpy as np

from edgecloud.net.tensors import Array
from edgecloud.utils.dtypes import name_of, widened
from edgecloud.utils.errors import UsageError
from edgecloud.utils.files import replaced, writing

SEVERAL = (".npz", ".json")
"""Suffixes of files that hold several arrays."""
SUFFIXES = (".npz", ".npy", ".json")
OUTPUT, MAX_NAME = "output", 200


def check_name(path: Path, suffixes: Sequence[str] = SUFFIXES) -> None:
    """Raises UsageError for a name that would only fail when all is done."""
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"--output {path}: the suffix must be {', '.join(suffixes[:-1])} or {suffixes[-1]}")
    if path.is_dir():
        raise UsageError(f"--output {path} is a directory")
    if not path.parent.is_dir():
        raise UsageError(f"--output {path}: there is no directory {path.parent}")


def check_count(path: Path, count: int) -> None:
    """Raises UsageError for a file that cannot hold so many outputs."""
    if path.suffix.lower() == ".npy" and count != 1:
        raise UsageError(f"--output {path}: .npy holds one array, and this network has {count} outputs: use .npz")


def names_of(count: int, names: Sequence[str] = ()) -> tuple[str, ...]:
    """What the outputs of a network are called, of which `names` are in its answer (`models.form`): a key or a field,
    with dots between those that lead to it. What has no name is `output`, or `output_0`, `output_1`, ... where there
    are several."""
    if not names:
        return (OUTPUT,) if count == 1 else tuple(f"{OUTPUT}_{number}" for number in range(count))
    taken: dict[str, None] = {}
    for name in names:
        whole = "_".join(part for part in (OUTPUT if name[:1].isdecimal() or not name else "", name) if part)
        safe, again = re.sub(r"[^\w.:+ -]", "_", whole)[:MAX_NAME] or OUTPUT, 1
        while (safe if again == 1 else f"{safe}:{again}") in taken:
            again += 1
        taken[safe if again == 1 else f"{safe}:{again}"] = None
    return tuple(taken)


def describe(outputs: Sequence[Array], names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Name, shape and element type of every output, for JSON."""
    named = zip(names_of(len(outputs), names), outputs, strict=True)
    return [_described(name, array) for name, array in named]


def _described(name: str, array: Array) -> dict[str, Any]:
    return {"name": name, "shape": list(array.shape), "dtype": name_of(array.dtype)}


def write(path: Path, about: Mapping[str, Any], outputs: Sequence[Array], names: Sequence[str] = ()) -> None:
    """Write one answer; `about` goes before it where the file is JSON. Raises UsageError where it cannot be written."""
    check_name(path)
    named = dict(zip(names_of(len(outputs), names), outputs, strict=True))
    check_count(path, len(outputs))
    with writing(path), replaced(path) as temporary, temporary.open("wb") as file:
        _WRITERS[path.suffix.lower()](file, about, named)


def _write_npy(file: IO[bytes], about: Mapping[str, Any], named: Mapping[str, Array]) -> None:
    for array in named.values():
        _save(file, array)


def _write_npz(file: IO[bytes], about: Mapping[str, Any], named: Mapping[str, Array]) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        _append(archive, named)


def _write_json(file: IO[bytes], about: Mapping[str, Any], named: Mapping[str, Array]) -> None:
    file.write(json.dumps({**about, "outputs": _values_of(named)}, allow_nan=False).encode())


_WRITERS: dict[str, Callable[[IO[bytes], Mapping[str, Any], Mapping[str, Array]], None]] = {
    ".npy": _write_npy,
    ".npz": _write_npz,
    ".json": _write_json,
}


def _append(archive: zipfile.ZipFile, named: Mapping[str, Array]) -> None:
    for name, array in named.items():
        with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
            _save(member, array)


def _save(file: IO[bytes], array: Array) -> None:
    np.lib.format.write_array(file, np.asanyarray(widened(array)), allow_pickle=False)


def _values_of(named: Mapping[str, Array]) -> list[dict[str, Any]]:
    return [_described(name, array) | {"values": _plain(widened(array).tolist())} for name, array in named.items()]


def _plain(value: Any) -> Any:
    """The same without what JSON has no word for."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, complex):
        return [_plain(value.real), _plain(value.imag)]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


# --- the answers of many tasks, each written as it comes


class _Format(Protocol):
    """One way to lay out the answers of tasks in an open file."""

    def add(self, number: int, about: Mapping[str, Any], named: Mapping[str, Array]) -> None:
        """One more answer."""

    def end(self) -> None:
        """There are no more. Raises OSError."""


class _Npz:
    def __init__(self, file: IO[bytes]) -> None:
        self._archive = zipfile.ZipFile(file, "w")

    def add(self, number: int, about: Mapping[str, Any], named: Mapping[str, Array]) -> None:
        _append(self._archive, {f"{number}/{name}": array for name, array in named.items()})

    def end(self) -> None:
        self._archive.close()


class _Json:
    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._separator = file, b"\n"
        file.write(b'{"tasks": [')

    def add(self, number: int, about: Mapping[str, Any], named: Mapping[str, Array]) -> None:
        document = {"id": number, **about, "outputs": _values_of(named)}
        self._file.write(self._separator + json.dumps(document, allow_nan=False).encode())
        self._separator = b",\n"

    def end(self) -> None:
        self._file.write(b"\n]}\n")


_FORMATS: dict[str, Callable[[IO[bytes]], _Format]] = {".npz": _Npz, ".json": _Json}


class TaskAnswers:
    """A file that grows while tasks end. Tasks go on where it cannot be written any more; `error` says so then."""

    def __init__(self, layout: _Format) -> None:
        self._layout = layout
        self.error: OSError | None = None
        self.count = 0

    def add(self, number: int, about: Mapping[str, Any], outputs: Sequence[Array], names: Sequence[str] = ()) -> None:
        """Write the answer of task `number`."""
        if self.error is not None:
            return
        try:
            self._layout.add(number, about, dict(zip(names_of(len(outputs), names), outputs, strict=True)))
            self.count += 1
        except OSError as error:
            self.error = error


@contextmanager
def _answers_to(path: Path) -> Iterator[TaskAnswers]:
    with writing(path), replaced(path) as temporary, temporary.open("wb") as file:
        layout = _FORMATS[path.suffix.lower()](file)
        answers = TaskAnswers(layout)
        try:
            yield answers
            if answers.error is not None:
                raise answers.error
        except BaseException:
            with suppress(OSError):
                layout.end()  # what it has open is closed; the file is not kept
            raise
        layout.end()


AnswersTo: TypeAlias = AbstractContextManager[TaskAnswers]


def answers_to(path: Path) -> AnswersTo:
    """A file for the answers of tasks, there under its name once the context ends. Raises UsageError."""
    check_name(path, SEVERAL)
    return _answers_to(path)
