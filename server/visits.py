"""Terminal output of a cloud: edges that connect, and what each was served."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable

from edgecloud.utils.flood_log import FloodLog
from edgecloud.utils.units import format_seconds, printable

log = logging.getLogger(__name__)

MOST_SHOWN = 80


class Visits:
    """One line for each change, from any thread. Nobody who only connects or asks how the cloud is makes one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._since: dict[str, float] = {}
        self._answers: dict[str, Counter[str]] = {}
        self._log = FloodLog(log, logging.INFO, "%d further events not shown", clock)

    def connected(self, peer: str, model: str) -> None:
        """A network was agreed on."""
        with self._lock:
            self._since.setdefault(peer, self._clock())
            is_new = model not in self._answers.setdefault(peer, Counter())
            self._answers[peer].setdefault(model, 0)
        if is_new:
            self._log.tell("+ %s connected for %s", _shown(peer), _shown(model))

    def answered(self, peer: str, model: str) -> None:
        """An answer has left."""
        with self._lock:
            if peer in self._answers:
                self._answers[peer][model] += 1

    def left(self, peer: str) -> None:
        """A conversation is over, also one that never agreed on anything."""
        with self._lock:
            answers, since = self._answers.pop(peer, None), self._since.pop(peer, 0.0)
        if answers is not None:
            served = ", ".join(f"{count} x {_shown(model)}" for model, count in answers.items())
            duration = format_seconds(self._clock() - since)
            self._log.tell("- %s disconnected after %s: served %s", _shown(peer), duration, served)


def _shown(text: str) -> str:
    return printable(text, MOST_SHOWN)


def show(level: int) -> None:
    """Let these lines, and those about networks that are loaded, through to where logs of `level` go."""
    if level <= logging.WARNING:
        for name in (__name__, "edgecloud.server.model_cache"):
            logging.getLogger(name).setLevel(min(level, logging.INFO))
