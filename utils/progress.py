"""Progress on stderr: a bar with the time left on a terminal, otherwise nothing.

What has no share of its own, such as a wait for a cloud, is shown by how long it took the last time.
"""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgecloud.utils import output
from edgecloud.utils.files import write_atomically

if TYPE_CHECKING:  # else imported where there is a terminal
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

Show = Callable[[str, float], None]
"""Is told what is being done, and the share of it that is done, 0 to 1; 0 where that is not known."""
DETAIL = "  |  "
"""What follows it in the text may change without starting the bar anew."""
LOADING = "loading torch and the other libraries"
MODULES = 2200
"""About as many are imported with torch: what is there of them is the share of a start that is done."""
EVERY_S = 0.2
FILE = "steps.json"
MOST_STEPS, MOST_BYTES = 64, 64 << 10


def _time_left() -> "ProgressColumn":
    """The time left, or how long it has been going on where nobody can tell."""
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class TimeLeft(ProgressColumn):
        def render(self, task: Task) -> Text:
            gone_s = task.elapsed or 0.0
            if task.total is not None and task.completed > 0:
                return Text(f"{_clock(gone_s * (task.total - task.completed) / task.completed)} left", style="cyan")
            return Text(f"{_clock(gone_s)} so far", style="cyan")

    return TimeLeft()


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


class Steps:
    """How long each step took the last time, kept in a file; what cannot be read or written there is not missed."""

    def __init__(self, path: Path) -> None:
        self._path, self._times = path, self._read(path)
        self._changed: dict[str, float] = {}

    @staticmethod
    def _read(path: Path) -> dict[str, float]:
        try:
            with path.open("rb") as file:
                times = json.loads(file.read(MOST_BYTES))
            return {str(name): float(seconds) for name, seconds in times.items() if 0 < float(seconds) < 1e5}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def share(self, step: str, seconds: float) -> float:
        """How much of a step is done after so long; 0 where that is not known, and never all of it."""
        usual_s = self._times.get(step)
        return 0.0 if usual_s is None else min(seconds / usual_s, 0.99)

    def record(self, step: str, seconds: float) -> None:
        """Remember it."""
        self._changed[step] = round(seconds, 3)

    def keep(self) -> None:
        """Write them down for the next call."""
        times = dict(list((self._times | self._changed).items())[-MOST_STEPS:])
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, json.dumps(times))


class _Bar:
    """The one line of a call. A thread moves it where what is done says nothing of itself, and only then."""

    def __init__(self, progress: "Progress", steps: Steps) -> None:
        self._progress, self._steps = progress, steps
        self._task = progress.add_task(LOADING, total=None)  # what a call begins with: its own imports
        self._step, self._began, self._has_share = LOADING, time.monotonic(), False
        self._lock, self._over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._move, name="progress", daemon=True)
        self._thread.start()

    def show(self, what: str, done: float) -> None:
        """Another share of a step, or another step."""
        with self._lock:
            step = what.partition(DETAIL)[0]
            if _kind(step) != _kind(self._step):
                self._end_step()
                self._step, self._began, self._has_share = step, time.monotonic(), False
                self._progress.reset(self._task, description=what, total=1.0)
            self._has_share |= done > 0
            share = done or self._steps.share(_kind(step), time.monotonic() - self._began)
            self._update(what, share)

    def _update(self, what: str, share: float) -> None:
        # without a share it pulses
        self._progress.update(self._task, description=what, completed=share, total=1.0 if share else None)

    def _move(self) -> None:
        while not self._over.wait(EVERY_S):
            with self._lock:
                if self._has_share:
                    continue
                share = self._steps.share(_kind(self._step), time.monotonic() - self._began)
                if self._step == LOADING:
                    share = max(share, min(len(sys.modules) / MODULES, 0.99))
                if share:
                    self._update(self._progress.tasks[0].description, share)

    def _end_step(self) -> None:
        if not self._has_share:
            self._steps.record(_kind(self._step), time.monotonic() - self._began)

    def close(self) -> None:
        """It is over."""
        self._over.set()
        self._thread.join()
        self._end_step()
        self._steps.keep()


def _kind(step: str) -> str:
    """A step without its numbers, such as those of tasks that are done."""
    return "".join(letter for letter in step if not letter.isdigit())


@contextlib.contextmanager
def on_terminal(console: "Console | None" = None, folder: Path | None = None) -> Iterator[Show]:
    """Gives a function that takes what is being done and the share of it that is done, 0 to 1. The bar stands on
    `console`, else on stderr; how long steps take is kept in `folder`, else where times are kept."""
    console = console or _terminal()
    if console is None or not console.is_terminal:
        yield lambda _what, _done: None
        return
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), _time_left())
    with Progress(*columns, console=console, transient=True) as progress, output.above(partial(_above, console)):
        bar = _Bar(progress, Steps((folder or _folder()) / FILE))
        try:
            yield bar.show
        finally:
            bar.close()


def _terminal() -> "Console | None":
    """stderr, where it may be a terminal: what draws bars takes longer to import than an inference."""
    is_one = sys.stderr is not None and sys.stderr.isatty()
    if not is_one and not any(os.environ.get(name) for name in ("FORCE_COLOR", "TTY_COMPATIBLE")):
        return None
    from rich.console import Console

    return Console(stderr=True)


def _above(console: "Console", text: str) -> None:
    """Print lines above the bar."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _folder() -> Path:
    """Where times are kept too (predictor.store), which is not imported: nothing slow may come before a bar."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-cloud-inference"
    except RuntimeError:  # a user without a home: nothing is kept
        return Path(os.devnull)
