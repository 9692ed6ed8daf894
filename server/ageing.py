"""Asking edges to connect anew: each after an age, so that a new cloud gets its share, and all once this one stops."""

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Protocol

from edgecloud.net.messages import Move
from edgecloud.net.server import Peer
from edgecloud.utils.errors import AppError

log = logging.getLogger(__name__)

JITTER = 0.2
"""So much an age is off, so that edges that came together do not leave together."""
LOOK_S = 0.2
AGED, STOPPING = Move("", "the connection has reached its age"), Move("", "the cloud is stopping")

WaitForStop = Callable[[float], bool]
"""Waits for a stop, so many seconds at most; returns whether it was asked for."""


class Conversation(Protocol):
    """What can be asked to connect anew: a session."""

    @property
    def peer(self) -> Peer:
        """Whose it is."""

    def move(self, move: Move) -> None:
        """Ask it to. Raises AppError."""


class Ageing:
    """Knows when each conversation has to choose again; one thread, from the first one on that understands that."""

    def __init__(self, age_s: float, wait_for_stop: WaitForStop) -> None:
        """`age_s` is 0 for no age."""
        self._age_s, self._wait_for_stop = age_s, wait_for_stop
        self._lock = threading.Lock()
        self._due_at: dict[Conversation, float] = {}
        self._thread: threading.Thread | None = None
        self._is_stopping = False

    def agreed(self, session: Conversation) -> None:
        """A HELLO was answered."""
        if not session.peer.moves:
            return
        with self._lock:
            is_new = session not in self._due_at
            self._due_at.setdefault(session, self._next())
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name="ages", daemon=True)
                self._thread.start()
            is_late = is_new and self._is_stopping
        if is_late:
            self._ask(session, STOPPING)

    def left(self, session: Conversation) -> None:
        """It has ended."""
        with self._lock:
            self._due_at.pop(session, None)

    def _next(self) -> float:
        if not self._age_s:
            return float("inf")
        return time.monotonic() + self._age_s * random.uniform(1 - JITTER, 1 + JITTER)

    def _look(self) -> None:
        while not self._wait_for_stop(LOOK_S):
            now = time.monotonic()
            with self._lock:
                due = [session for session, at in self._due_at.items() if at <= now]
                self._due_at |= {session: self._next() for session in due}  # it may well stay
            for session in due:
                self._ask(session, AGED)
        with self._lock:
            self._is_stopping, everybody = True, list(self._due_at)
        for session in everybody:
            self._ask(session, STOPPING)

    def _ask(self, session: Conversation, move: Move) -> None:
        try:
            session.move(move)
        except AppError as error:
            log.info("! %s: %s", session.peer.name, error)
