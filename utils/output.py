"""Output of a script: only answers to stdout, everything else to stderr, one line each."""

import contextlib
import errno
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TextIO

from edgecloud.utils.names import typed

if TYPE_CHECKING:
    from rich.console import Console

STDOUT, STDERR = 1, 2
LONGEST_WORD, LONGEST_LINE = 200, 1000
COLUMNS, LEAST_COLUMNS = 120, 60


class OutputError(Exception):
    """Nobody takes what we print; `has_gone` where the reader has left, as with `| head`."""

    def __init__(self, reason: str, *, has_gone: bool = False) -> None:
        super().__init__(f"cannot write to standard output: {reason}")
        self.has_gone = has_gone


class _Answers:
    """Where answers go: to sys.stdout, unless that is kept for them."""

    def __init__(self) -> None:
        self.own_stream: TextIO | None = None
        self.above: Callable[[str], None] | None = None
        """Prints on the terminal that a bar stands on, without breaking that."""

    @property
    def stream(self) -> TextIO | None:
        return sys.stdout if self.own_stream is None else self.own_stream


_answers = _Answers()


@contextlib.contextmanager
def only_answers() -> Iterator[None]:
    """What anything but `say` and `show` prints meanwhile goes to stderr: a custom model may print what it likes, and
    stdout still has the answer and nothing else."""
    before = sys.stdout
    if before is None or _answers.own_stream is not None:
        yield
        return
    with contextlib.ExitStack() as stack:
        _answers.own_stream = _kept_apart(stack) if _is_number(before, STDOUT) else before
        sys.stdout = sys.stderr
        try:
            yield
        finally:
            _answers.own_stream, sys.stdout = None, before


def _is_number(stream: TextIO, number: int) -> bool:
    """Whether a stream writes to this file descriptor; those of tests do not."""
    try:
        return stream.fileno() == number
    except (OSError, ValueError, AttributeError):
        return False


def _kept_apart(stack: contextlib.ExitStack) -> TextIO:
    """A stream to what is stdout now; file descriptor 1 goes where stderr goes, for libraries in C and for programs
    that are started."""
    sys.stdout.flush()
    number = os.dup(STDOUT)
    stream = os.fdopen(os.dup(number), "w", encoding=sys.stdout.encoding, errors="backslashreplace")
    os.dup2(STDERR, STDOUT)

    def back() -> None:
        os.dup2(number, STDOUT)
        os.close(number)
        with contextlib.suppress(OSError):  # `say` has told of it
            stream.close()

    stack.callback(back)
    return stream


@contextlib.contextmanager
def above(tell: Callable[[str], None]) -> Iterator[None]:
    """While a bar stands on the terminal, answers that go to a terminal are printed with `tell`, above it."""
    before, _answers.above = _answers.above, tell
    try:
        yield
    finally:
        _answers.above = before


def say(line: str) -> None:
    """One answer to stdout, at once. Raises OutputError."""
    stream = _answers.stream
    if stream is None:
        raise OutputError("it is closed")
    if _answers.above is not None and stream.isatty():
        _answers.above(line)
        return
    try:
        print(line, file=stream, flush=True)
    except (OSError, ValueError) as error:
        _drop(stream)
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputError(reason, has_gone=getattr(error, "errno", None) == errno.EPIPE) from None


def columns() -> int:
    """The width of the terminal that answers are shown on; enough for all of a line where it is none."""
    stream = _answers.stream
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if stream is not None and stream.isatty():
            return max(LEAST_COLUMNS, os.get_terminal_size(stream.fileno()).columns)
    return COLUMNS


def announce(line: str) -> None:
    """One line to stdout for a program that may wait for it; work continues if there is none."""
    with contextlib.suppress(OutputError):
        say(line)


def complain(line: str) -> None:
    """One line to stderr, if there is one that takes it."""
    if sys.stderr is not None:
        try:
            print(typed(line), file=sys.stderr, flush=True)
        except OSError:
            _drop(sys.stderr)


def print_error(code: str, message: str) -> None:
    """The document of a call with --json that failed."""
    announce(json.dumps({"error": {"code": code, "message": typed(message)}}))


def _drop(stream: TextIO) -> None:
    """Nobody takes what we write: what is still in the buffer goes nowhere, or Python would end with code 120."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def one_line(text: str) -> str:
    """An error as one line of bounded length that a terminal can show: long words and texts lose their middle."""
    words = [_cut("".join(map(_shown, word)), LONGEST_WORD) for word in text.split()]
    return _cut(" ".join(words), LONGEST_LINE)


def _shown(letter: str) -> str:
    """A letter, or how Python writes what cannot be printed."""
    return letter if letter.isprintable() else ascii(letter)[1:-1]


def _cut(text: str, length: int) -> str:
    left_out = len(text) - length
    half = length // 2
    return text if left_out <= 0 else f"{text[:half]}[... {left_out} characters ...]{text[-half:]}"


def show(draw: Callable[["Console"], None], width: int = COLUMNS) -> None:
    """Print tables to stdout; where that is no terminal, wide enough for them. Raises OutputError."""
    from rich.console import Console

    console = Console(file=_answers.stream or io.StringIO())
    if not console.is_terminal:
        console.width = width
    with console.capture() as capture:
        draw(console)
    say("\n".join(line.rstrip() for line in capture.get().splitlines()))
