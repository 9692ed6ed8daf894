"""Process setup that has to happen before a script's slow imports.

Imports nothing that is slow.
"""

import os
import signal
import sys
from types import FrameType

from edgecloud.utils.errors import EXIT_INTERRUPTED

STANDARD = (0, 1, 2)
ASCII = ("ascii", "us-ascii", "ansi_x3.4-1968", "646")
DOCUMENT = b'{"error": {"code": "INTERRUPTED", "message": "interrupted"}}\n'
SHOW_CURSOR = b"\r\x1b[K\x1b[?25h"
"""For a terminal: what a bar has written and hidden is taken back."""


def begin() -> None:
    """Prepare this process. To be called once, by a script that is run and not imported."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # ignored in the background
        signal.signal(signal.SIGINT, leave)
    _take_utf8()
    _keep_standard_numbers()


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
