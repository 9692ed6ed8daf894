"""What all scripts share: the parser, logs to stderr, answers to stdout, signals, and exit codes."""

import argparse
import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn

import edgecloud
from edgecloud.cli import completion, settings, start
from edgecloud.utils import extras, names
from edgecloud.utils.errors import EXIT_INTERRUPTED, EXIT_OK, AppError, DeadlineError, UsageError
from edgecloud.utils.output import OutputError, one_line, only_answers, print_error
from edgecloud.utils.output import announce as announce  # also for the scripts
from edgecloud.utils.output import columns as columns
from edgecloud.utils.output import complain as complain
from edgecloud.utils.output import say as say
from edgecloud.utils.output import show as show
from edgecloud.utils.suggest import nearest

VERSION = edgecloud.__version__
STDIN = 0
USUAL_WIDTH = 80
DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2212"
"""What a word may begin with that is meant to be a flag: also those that a document makes of two dashes."""
IMPORTING = "<frozen importlib"
"""How the files begin that Python gives for the frames of an import."""
OURS = frozenset(("__main__", "benchmarks", "edgecloud", "tests"))
DOCTOR = "`python -m lab doctor` checks the installation"


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults that say something, and our programs by the names that are typed here."""

    def __init__(self, prog: str) -> None:
        super().__init__(names.typed(prog), width=_terminal_width() - 2)

    def _expand_help(self, action: argparse.Action) -> str:
        return names.typed(super()._expand_help(action))

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return super()._fill_text(names.typed(text), width, indent)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        is_told = action.default in (None, False, [], ()) or "default" in (action.help or "")
        return action.help if is_told else super()._get_help_string(action)


def _terminal_width() -> int:
    """As argparse finds it, but by a module that loads compressors."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return int(columns)
    try:
        return (sys.__stdout__ is not None and os.get_terminal_size(sys.__stdout__.fileno()).columns) or USUAL_WIDTH
    except (OSError, ValueError):  # a pipe, or a stream that is closed
        return USUAL_WIDTH


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
        self.worded: Callable[[str], str] = _as_it_is
        self.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
        self.add_argument(
            "--log-level",
            default="warning",
            choices=("debug", "info", "warning", "error"),
            help="log level; logs go to stderr",
        )
        self.add_argument("--config", metavar="FILE", help="read flags from a .toml or .yaml file (docs/deploy.md)")

    def add_subparsers(self, **kwargs: Any) -> Any:
        """Their names begin with this one's as it is, which the sections of a configuration have too."""
        return super().add_subparsers(**{"prog": self.prog, **kwargs})

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse, with the environment and a configuration file; remembers whether a machine reads the answer."""
        arguments = list(sys.argv[1:] if args is None else args)
        if completion.VARIABLE in os.environ:  # a shell asks what may follow
            completion.answer(self, arguments)
            sys.exit(EXIT_OK)
        command = settings.leaf(self, arguments)
        self._as_json = "--json" in arguments
        if isinstance(command, Parser):  # that of a command complains itself
            command._as_json = self._as_json
        if not {"-h", "--help", "--version"} & set(arguments):
            self._take_settings(command, arguments)
            self._check_flags(command, arguments)
        return super().parse_args(arguments, namespace)

    def _check_flags(self, command: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
        """End with a line where a flag looks like another. argparse would first miss what is required, and it takes
        -timeout for -t with a value."""
        flags = {**self._option_string_actions, **command._option_string_actions}
        for word in arguments:
            flag = word.partition("=")[0]
            is_close = word[:1] in DASHES and f"--{flag.lstrip(DASHES)}" in flags
            if flag == "--":
                return
            if flag not in flags and (is_close or flag.startswith("--")):
                command.error(f"unrecognized arguments: {word}{_suggestion(word, flags)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As argparse does, and where it looks like one of the choices it is named."""
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            near = nearest(str(value), map(str, action.choices or ()))
            raise argparse.ArgumentError(action, f"{error.message}{near}") from None

    def _take_settings(self, command: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
        """Those of the flags that are called with; a wrong one ends the program as a wrong flag does."""
        try:
            warnings = settings.apply(command, arguments, os.environ)
        except UsageError as error:
            command.error(str(error))
        if isinstance(command, Parser):
            command._as_json |= bool(command.get_default("json"))
        for line in warnings:
            complain(f"{command.prog}: {line}")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Help and version, also where nobody takes them."""
        try:
            if message and file is sys.stdout:
                say(message.rstrip("\n"))
                return
        except OutputError as error:
            if not error.has_gone:
                complain(f"{self.prog}: {error}")
                sys.exit(AppError.exit_code)
            return
        super()._print_message(message, file)

    def error(self, message: str) -> NoReturn:
        """One line, and with --json a document."""
        message = one_line(message)
        complain(f"{self.prog}: {self.worded(f'{message} (--help lists the flags)')}")
        if self._as_json:
            print_error(UsageError.code, message)
        sys.exit(UsageError.exit_code)


def _suggestion(word: str, flags: Iterable[str]) -> str:
    """`; did you mean --X?` for a word that looks like one of the flags: -X and a dash of a document count too."""
    long = {flag[2:]: flag for flag in flags if flag.startswith("--")}
    name = word.lstrip(DASHES).partition("=")[0]
    return nearest(name, long).replace("mean ", "mean --") if word[:1] in DASHES else ""


def _as_it_is(text: str) -> str:
    return text


def run(
    prog: str, main: Callable[[], int], options: argparse.Namespace, worded: Callable[[str], str] = _as_it_is
) -> int:
    """Run a script's work: set up logs, and turn what goes wrong into one line and an exit code, which it returns.

    What is printed meanwhile by anything but `say` and `show` goes to stderr. What is neither an AppError nor the
    system's doing is a bug, and keeps its traceback. `worded` puts the line into another language; JSON stays English.
    """
    as_json = getattr(options, "json", False)
    _begin_logs(prog, options.log_level)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an odd file name must not cost the answer
    with only_answers(), _interrupts():
        return _guarded(prog, main, worded, as_json=as_json)


def _begin_logs(prog: str, level: str) -> None:
    """To stderr, with our programs by the names that are typed here."""
    import logging

    class Formatter(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return names.typed(super().format(record))

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter(f"%(asctime)s {prog} %(levelname)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])


def _guarded(prog: str, main: Callable[[], int], worded: Callable[[str], str], *, as_json: bool) -> int:
    """The exit code of `main`, or of what it raises."""
    try:
        return main()
    except AppError as error:
        return _failed(prog, error.exit_code, error.code, str(error), worded, as_json=as_json)
    except KeyboardInterrupt:
        if as_json:
            print_error("INTERRUPTED", "interrupted")
        return EXIT_INTERRUPTED
    except OutputError as error:
        if error.has_gone:  # as with `| head`
            return EXIT_OK
        complain(f"{prog}: {error}")
        return AppError.exit_code
    except Exception as error:
        reason = explained(error)
        if reason is None:
            raise
        import logging

        logging.getLogger(__name__).debug("what the system raised", exc_info=True)
        return _failed(prog, AppError.exit_code, AppError.code, reason, worded, as_json=as_json)


def _failed(prog: str, exit_code: int, code: str, text: str, worded: Callable[[str], str], *, as_json: bool) -> int:
    """Say why in one line, and with --json in a document; returns the exit code."""
    text = one_line(text)
    complain(f"{prog}: {worded(text)}")
    if as_json:
        print_error(code, text)
    return exit_code


def explained(error: Exception) -> str | None:
    """What the system or an installation is to blame for, in a line: the thing, and what to do. None for a bug."""
    broken = _not_imported(error)
    if broken is not None:
        if isinstance(error, ModuleNotFoundError) and broken in extras.EXTRAS:
            return str(extras.MissingLibraryError(broken))
        text = (str(error).strip().splitlines() or [""])[0]
        return f"cannot import {broken} ({type(error).__name__}: {text}): {extras.installs(broken)}; {DOCTOR}"
    if isinstance(error, MemoryError):
        return "not enough free memory: close other programs, or use a smaller network"
    if isinstance(error, OSError):
        reason = error.strerror or str(error) or type(error).__name__
        return reason if error.filename is None else f"{os.fsdecode(str(error.filename))}: {reason}"
    return None


def _not_imported(error: Exception) -> str | None:
    """The library that could not be imported, where that is what happened; none of ours."""
    import traceback

    for frame, _ in traceback.walk_tb(error.__traceback__):
        name = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if frame.f_code.co_name == "<module>" and name not in OURS:
            return name
    missing = (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
    return missing if missing and missing not in OURS else None


@contextlib.contextmanager
def _interrupts() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, but in the middle of an import it ends the process at once: what is raised there
    makes the C++ of torch abort, numpy takes it for a missing file of its own, and the end of all of them is far."""
    before = signal.getsignal(signal.SIGINT)
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or before not in (signal.default_int_handler, start.leave):  # ignored in the background
        yield
        return

    def handle(_number: int, frame: FrameType | None) -> None:
        while frame is not None:
            if frame.f_code.co_filename.startswith(IMPORTING):
                start.leave()
            frame = frame.f_back
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is handle:  # else a server has its own by now
            signal.signal(signal.SIGINT, before)


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
    """Lines of standard input that are not empty, as they come. Raises DeadlineError if none arrives for so long."""
    import queue

    incoming: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    if sys.stdin is None:
        raise UsageError("standard input is closed")
    lines = sys.stdin

    def read() -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in lines:
                incoming.put(line)
        incoming.put(None)

    threading.Thread(target=read, name="stdin", daemon=True).start()
    while True:
        try:
            line = incoming.get(timeout=wait_s)
        except queue.Empty:
            raise DeadlineError(f"no input on standard input for {wait_s:g} s") from None
        if line is None:
            return
        if line.strip():
            yield line.strip()
