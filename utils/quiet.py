"""Libraries in C that print to stdout, where programs expect an answer and nothing else."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator

STDOUT = 1


@contextlib.contextmanager
def silent_stdout() -> Iterator[None]:
    """Whatever anything in this process writes to stdout meanwhile goes nowhere: keep it short."""
    try:
        kept = os.dup(STDOUT)
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
        os.dup2(kept, STDOUT)
        os.close(kept)
        os.close(nowhere)
