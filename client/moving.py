"""Following MOVE: a cloud asks its edge to connect anew, and no inference waits for that."""

import logging
import random
import threading
import time
from collections.abc import Callable

from edgecloud.client.choosing import MoveLimit
from edgecloud.client.fallback import JITTER
from edgecloud.net.messages import Move
from edgecloud.utils.errors import ProtocolError
from edgecloud.utils.units import printable

log = logging.getLogger(__name__)

AGAIN_S = 2.0
"""After so long, a fifth more or less, it is tried again where no other cloud was found."""
TRIES = 3
NAP_S = 0.05

CarryOut = Callable[[Move], bool]
"""Connects anew, or stays on purpose; False where no other cloud was found."""


class Mover:
    """Carries out the last MOVE that has come, in a thread of its own, no more often than clouds may ask for it."""

    def __init__(self, carry_out: CarryOut, stay: Callable[[], None], is_over: Callable[[], bool], tries: int) -> None:
        """`stay` is called where nothing was found; `is_over` says that there is no connection that could be left."""
        self._carry_out, self._stay, self._is_over, self._tries = carry_out, stay, is_over, tries
        self._limit, self._lock = MoveLimit(), threading.Lock()
        self._wanted: Move | None = None
        self._thread: threading.Thread | None = None
        self.is_busy = False
        """Whether it is connecting anew, or about to."""

    def told(self, move: Move) -> None:
        """One has come. Raises ProtocolError where they come as a flood."""
        with self._lock:
            if not self._limit.told(time.monotonic()):
                raise ProtocolError("too many MOVE frames")
            self._wanted = move
            if not self.is_busy:
                self.is_busy = True
                self._thread = threading.Thread(target=self._follow, name="moves", daemon=True)
                self._thread.start()
        log.info("the cloud asks this edge to connect anew: %s", printable(move.reason, 100) or "no reason given")

    def wait(self, seconds: float) -> None:
        """Wait until what is under way has ended, so long at most."""
        if self.is_busy and self._thread is not None:
            self._thread.join(seconds)

    def _follow(self) -> None:
        while (move := self._next()) is not None:
            for number in range(self._tries):
                pause_s = AGAIN_S * random.uniform(1 - JITTER, 1 + JITTER) if number else self._pause_s()
                if self._nap(pause_s) or self._try(move):
                    break
            else:
                self._stay()

    def _next(self) -> Move | None:
        with self._lock:
            move, self._wanted = self._wanted, None
            self.is_busy = move is not None
            return move

    def _pause_s(self) -> float:
        with self._lock:
            return self._limit.pause_s(time.monotonic())

    def _nap(self, seconds: float) -> bool:
        """Whether there is something else to do by then."""
        end = time.monotonic() + seconds
        while (left_s := end - time.monotonic()) > 0 and not self._is_over() and self._wanted is None:
            time.sleep(min(left_s, NAP_S))
        return self._is_over()

    def _try(self, move: Move) -> bool:
        if self._wanted is not None:  # a later one
            return True
        try:
            return self._carry_out(move)
        except Exception:  # nobody would hear of it
            log.exception("internal error while connecting anew")
            return True
