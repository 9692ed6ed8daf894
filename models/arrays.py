"""Arrays in .npy and .npz files: the header is checked before the body is read, and no Python object is created."""

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecloud.utils.errors import UsageError
from edgecloud.utils.files import require_file
from edgecloud.utils.sniffing import what_is
from edgecloud.utils.units import printable

MAGIC = b"\x93NUMPY"
_HEADS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_SAVE = "save numbers: numpy.save(FILE.npy, numpy.asarray(x, dtype='float32'))"


def read(path: Path, most_floats: int, most_whole_bytes: int, kinds: str = "fiu") -> NDArray[Any]:
    """An array of at most so many floats, or so many bytes of other numbers; `kinds` are numpy's of those taken.

    Raises UsageError where the file is missing, no .npy file, cut off, or holds anything else.
    """
    require_file(path)
    try:
        with path.open("rb") as file:
            shape, dtype = _head(path, file)
            _check(str(path), shape, dtype, most_floats, most_whole_bytes, kinds)
            file.seek(0)
            array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
            return array
    except UsageError:
        raise
    except OSError as error:
        raise UsageError(f"cannot read the array {path}: {error.strerror or error}") from None
    except Exception:  # noqa: BLE001  a damaged head or body raises a dozen kinds
        raise UsageError(f"cannot read the array {path}: the file is damaged or truncated") from None


def read_several(path: Path, most: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    """The arrays of a .npz file, which must hold just those that are named, each of at most so many bytes.

    Raises UsageError as `read` does, and for a file without one of them, or with another one.
    """
    require_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist()}
            names = ", ".join(most)
            if missing := [name for name in most if name not in members]:
                raise UsageError(f"{path} has no array {missing[0][:80]!r}: the network takes {names}")
            if unknown := [name for name in members if name not in most]:
                raise UsageError(f"{path} has an array {printable(unknown[0], 80)!r}: the network takes {names}")
            return {name: _member(f"{path}: {name}", archive, members[name], size) for name, size in most.items()}
    except UsageError:
        raise
    except OSError as error:
        raise UsageError(f"cannot read the arrays {path}: {error.strerror or error}") from None
    except Exception:  # noqa: BLE001  a damaged archive raises a dozen kinds
        raise UsageError(f"cannot read the arrays {path}: the file is damaged, or no .npz file") from None


def _member(what: str, archive: zipfile.ZipFile, name: str, most_bytes: int) -> NDArray[Any]:
    with archive.open(name) as file:
        read_head = _HEADS.get(np.lib.format.read_magic(file))
        if read_head is None:
            raise UsageError(f"{what}: its .npy version only stores field names: {_SAVE}")
        shape, is_fortran, dtype = read_head(file)
        _check(what, tuple(shape), dtype, most_bytes // max(1, dtype.itemsize), most_bytes, "fiubc")
        size = math.prod(shape) * dtype.itemsize
        raw = file.read(size + 1)
    if len(raw) != size:
        raise UsageError(f"{what} is damaged or truncated")
    return np.frombuffer(bytearray(raw), dtype).reshape(shape, order="F" if is_fortran else "C")


def _head(path: Path, file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    start = file.read(len(MAGIC))
    if start != MAGIC:
        raise UsageError(f"cannot read the array {path}: it is {_other(path)}, not a .npy array: {_SAVE}")
    file.seek(0)
    read_head = _HEADS.get(np.lib.format.read_magic(file))
    if read_head is None:
        raise UsageError(f"cannot read the array {path}: its .npy version only stores field names: {_SAVE}")
    shape, _, dtype = read_head(file)
    return tuple(shape), dtype


def _other(path: Path) -> str:
    """What a file is that is no .npy."""
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        return "empty"
    if start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return "a pickled Python object, which is never loaded because that would run code"
    known = what_is(path)
    if known is not None:
        return known.name
    is_text = not set(start) & {*range(9), 11, *range(14, 27), *range(28, 32)}
    return "text" if is_text else "something else"


def _check(
    path: str, shape: tuple[int, ...], dtype: np.dtype[Any], most_floats: int, most_whole_bytes: int, kinds: str
) -> None:
    if dtype.hasobject:
        raise UsageError(f"cannot read the array {path}: it contains Python objects, which are never loaded: {_SAVE}")
    if dtype.kind not in kinds or dtype.names is not None or dtype.subdtype is not None:
        raise UsageError(f"{path}: expected an array of numbers, not {dtype}: {_SAVE}")
    most = most_floats * dtype.itemsize if dtype.kind == "f" else most_whole_bytes
    if math.prod(shape) * dtype.itemsize > most:
        raise UsageError(f"{path}: shape {shape} is too large")
