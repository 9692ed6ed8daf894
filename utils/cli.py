"""What every script shares when it runs: its parser, logs to stderr, answers to stdout, signals, and exit codes."""

import argparse
import contextlib
import io
import json
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from utils import completion, settings
from utils.errors import EXIT_INTERRUPTED, EXIT_OK, AppError, DeadlineError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

VERSION = "0.1.0"
STDIN = 0
IMPORTING = "<frozen importlib"
"""How the files begin that Python gives for the frames of an import."""
AGAIN_S = 0.02


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        is_told = action.default in (None, False, [], ()) or "default" in (action.help or "")
        return action.help if is_told else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and exit code 2, and that never takes a prefix for a flag."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            allow_abbrev=False,
            formatter_class=_HelpFormatter,
        )
        self._as_json = False
        self.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
        self.add_argument(
            "--log-level", default="warning", choices=("debug", "info", "warning", "error"), help="logs go to stderr"
        )
        self.add_argument("--config", metavar="FILE", help="flags in a .toml or .yaml file: docs/deploy.md")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse, with the environment and a configuration file; remembers whether a machine reads the answer."""
        given = list(sys.argv[1:] if args is None else args)
        if completion.VARIABLE in os.environ:  # a shell asks what may follow
            completion.answer(self, given)
            sys.exit(EXIT_OK)
        chosen = settings.leaf(self, given)
        self._as_json = "--json" in given
        if isinstance(chosen, Parser):  # that of a command complains itself
            chosen._as_json = self._as_json
        if not {"-h", "--help", "--version"} & set(given):
            self._take_settings(chosen, given)
        return super().parse_args(given, namespace)

    def _take_settings(self, chosen: argparse.ArgumentParser, given: Sequence[str]) -> None:
        """Those of the flags that are called with; a wrong one ends the program as a wrong flag does."""
        try:
            warnings = settings.apply(chosen, given, os.environ)
        except UsageError as error:
            chosen.error(str(error))
        if isinstance(chosen, Parser):
            chosen._as_json |= bool(chosen.get_default("json"))
        for line in warnings:
            complain(f"{chosen.prog}: {line}")

    def error(self, message: str) -> NoReturn:
        """One line, and with --json a document."""
        complain(f"{self.prog}: {message} (--help lists the flags)")
        if self._as_json:
            print_error(UsageError.code, message)
        sys.exit(UsageError.exit_code)


def complain(line: str) -> None:
    """One line to stderr, if there is one that takes it."""
    if sys.stderr is not None:
        try:
            print(line, file=sys.stderr, flush=True)
        except OSError:
            _drop(sys.stderr)


def say(line: str) -> None:
    """One line to stdout, at once."""
    print(line, flush=True)


def print_error(code: str, message: str) -> None:
    """The document of a call with --json that failed."""
    try:
        print(json.dumps({"error": {"code": code, "message": message}}), flush=True)
    except OSError:
        _drop(sys.stdout)


def _drop(stream: TextIO) -> None:
    """Nobody takes what we write: what is still in the buffer goes nowhere, or Python would end with code 120."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def run(prog: str, main: Callable[[], int], options: argparse.Namespace) -> int:
    """Run a script's work: set up logs, and turn what goes wrong into one line and an exit code, which it returns.

    What is neither an AppError nor about the output is a bug, and keeps its traceback.
    """
    as_json = getattr(options, "json", False)
    logging.basicConfig(
        level=options.log_level.upper(), stream=sys.stderr, format=f"%(asctime)s {prog} %(levelname)s %(message)s"
    )
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an odd file name must not cost the answer
    try:
        with _interrupts_between_imports():
            code = main()
        sys.stdout.flush()
    except AppError as error:
        complain(f"{prog}: {error}")
        if as_json:
            print_error(error.code, str(error))
        return error.exit_code
    except KeyboardInterrupt:
        if as_json:
            print_error("INTERRUPTED", "interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        _drop(sys.stdout)
        return EXIT_OK
    except OSError as error:  # what files and sockets raise is an AppError by now: this is the output
        complain(f"{prog}: cannot write the output: {error.strerror or error}")
        _drop(sys.stdout)
        return AppError.exit_code
    return code


@contextlib.contextmanager
def _interrupts_between_imports() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, but in the middle of an import only once that is over: the C++ of torch would
    abort the process there, and numpy take it for a missing file of its own."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored in the background
        yield
        return

    def handle(_number: int, frame: FrameType | None) -> None:
        while frame is not None:
            if frame.f_code.co_filename.startswith(IMPORTING):
                again = threading.Timer(AGAIN_S, os.kill, (os.getpid(), signal.SIGINT))
                again.daemon = True
                again.start()
                return
            frame = frame.f_back
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is handle:  # else a server has its own by now
            signal.signal(signal.SIGINT, signal.default_int_handler)


def on_stop_signals(stop: Callable[[], None]) -> None:
    """Call `stop` at the first SIGTERM or SIGINT; a second one ends the process at once."""

    def handle(_number: int, _frame: object) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)
        stop()

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, handle)


@contextlib.contextmanager
def interrupt_stops(stop: Callable[[], bool], text: str) -> Iterator[None]:
    """Ctrl-C calls `stop`, and says `text`; where `stop` returns False it is what it was before: an end, at once."""
    before = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: FrameType | None) -> None:
        if stop():
            complain(text)
        elif callable(before):
            before(number, frame)
        else:  # ignored in the background
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def exit_at_end_of_stdin() -> None:
    """End this process when its standard input ends, at once and whatever it is doing: nobody needs it any more."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(STDIN, 4096):
                pass
        os._exit(EXIT_OK)

    threading.Thread(target=watch, name="stdin", daemon=True).start()


def lines_of_stdin(wait_s: float) -> Iterator[str]:
    """Lines of standard input that are not empty, as they come. Raises DeadlineError where none comes for so long."""
    found: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in sys.stdin:
                found.put(line)
        found.put(None)

    threading.Thread(target=read, name="stdin", daemon=True).start()
    while True:
        try:
            line = found.get(timeout=wait_s)
        except queue.Empty:
            raise DeadlineError(f"nothing came on standard input for {wait_s:g} s") from None
        if line is None:
            return
        if line.strip():
            yield line.strip()


def show(draw: Callable[["Console"], None], width: int = 120) -> None:
    """Print tables to stdout; where that is no terminal, wide enough for them."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = width
    with console.capture() as captured:
        draw(console)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))
