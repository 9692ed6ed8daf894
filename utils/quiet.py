"""Silences libraries that print."""

import contextlib
import ctypes
import io
import os
import sys
import threading
from collections.abc import Iterator
from typing import TextIO

STDOUT = 1


@contextlib.contextmanager
def silent_stdout() -> Iterator[None]:
    """Whatever anything in this process writes to stdout meanwhile goes nowhere: keep it short."""
    try:
        stdout_copy = os.dup(STDOUT)
    except OSError:  # there is none
        yield
        return
    if sys.stdout is not None:
        sys.stdout.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, STDOUT)
        yield
    finally:
        ctypes.CDLL(None).fflush(None)  # or it would be written later
        os.dup2(stdout_copy, STDOUT)
        os.close(stdout_copy)
        os.close(nowhere)


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """What Python code of this thread prints to stderr meanwhile goes nowhere."""
    with contextlib.redirect_stderr(_OfOthers(sys.stderr)):
        yield


class _OfOthers(io.TextIOBase):
    """Writes what other threads write."""

    def __init__(self, to: TextIO) -> None:
        self._to, self._silent = to, threading.get_ident()

    def write(self, text: str) -> int:
        return len(text) if self._to is None or threading.get_ident() == self._silent else self._to.write(text)

    def flush(self) -> None:
        if self._to is not None:
            self._to.flush()
