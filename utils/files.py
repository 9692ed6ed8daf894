"""Atomic file writes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgecloud.utils.errors import UsageError


def require_file(path: Path) -> None:
    """Raise UsageError unless there is a regular file: a pipe or a device could be read for ever."""
    if not path.exists():
        raise UsageError(f"no file {path}")
    if not path.is_file():
        raise UsageError(f"{path} is not a file")


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a temporary file beside `path` to write to; rename it when that went well, remove it when it did not.

    Raises OSError.
    """
    import tempfile  # many a call writes nothing

    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make of what the system has against writing a file a UsageError that names it."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from None


def write_atomically(path: Path, text: str) -> None:
    """Write a text file, in UTF-8. Raises OSError."""
    with replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _umask() -> int:
    """The process's mask; it can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
