"""Progress on stderr: a bar with the time left where that is a terminal, nothing where it is not."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

Show = Callable[[str, float], None]
"""Is told what is being done, and the share of it that is done, 0 to 1; 0 where that is not known."""
DETAIL = "  |  "
"""What follows it in the text may change without starting the bar anew."""


@contextlib.contextmanager
def on_terminal() -> Iterator[Show]:
    """Gives a function that takes what is being done and the share of it that is done, 0 to 1."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=1.0)

        def show(what: str, done: float) -> None:
            before, now = bar.tasks[0].description, what
            if before.partition(DETAIL)[0] != now.partition(DETAIL)[0]:
                bar.reset(task, description=what, total=1.0)
            bar.update(task, description=what, completed=done, total=1.0 if done else None)  # without a share it pulses

        yield show
