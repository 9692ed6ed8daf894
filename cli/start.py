"""Process setup that has to happen before a script's slow imports.

Imports nothing that is slow.
"""

import atexit
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from edgecloud.utils.environment import Process
from edgecloud.utils.errors import EXIT_INTERRUPTED

STANDARD = (0, 1, 2)
ASCII = ("ascii", "us-ascii", "ansi_x3.4-1968", "646")
DOCUMENT = b'{"error": {"code": "INTERRUPTED", "message": "interrupted"}}\n'
SHOW_CURSOR = b"\r\x1b[K\x1b[?25h"
"""For a terminal: what a bar has written and hidden is taken back."""

_ended_with: list[int] = []


def begin() -> None:
    """Prepare this process. To be called once, by a script that is run and not imported."""
    Process.is_program = True
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # ignored in the background
        signal.signal(signal.SIGINT, leave)
    _take_utf8()
    _keep_standard_numbers()
    atexit.register(_skip_the_rest)  # the first one is called last


def end(code: int) -> NoReturn:
    """End a process that has begun with `begin`, in order but without taking every module apart: that of torch takes
    half a second, and nobody gains by it."""
    _ended_with.append(code)
    sys.exit(code)


def _skip_the_rest() -> None:
    """Threads have ended by now, and whatever else had to happen at the end has happened."""
    if not _ended_with:
        return  # a traceback, or a code of somebody else's
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        if "ctypes" in sys.modules:  # and with it perhaps a library in C that has printed something
            sys.modules["ctypes"].CDLL(None).fflush(None)
    except (OSError, ValueError, AttributeError):
        return  # Python tells of it
    os._exit(_ended_with[0])


def leave(_number: int = 0, _frame: FrameType | None = None) -> None:
    """End at once, as Ctrl-C does: a handler of signals for moments in which nothing is there yet to be put in order.

    No exception: C++ that is being imported would abort, and numpy take it for a missing file of its own.
    """
    try:
        if os.isatty(2):
            os.write(2, SHOW_CURSOR)
        if "--json" in sys.argv:
            os.write(1, DOCUMENT)
    finally:
        os._exit(EXIT_INTERRUPTED)


def _take_utf8() -> None:
    """Where the locale knows ASCII only, start again with UTF-8, as Python does by itself unless it is told not to.

    The same process, with the same arguments; without it no name or text in Chinese could be read or shown.
    """
    if sys.getfilesystemencoding().lower() in ASCII and not sys.flags.utf8_mode and hasattr(os, "execv"):
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _keep_standard_numbers() -> None:
    """Where a standard stream is closed, nothing that is opened later may get its number: a library in C could print
    into it."""
    for number in STANDARD:
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
