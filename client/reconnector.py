"""The handshake with a cloud that may be busy: retried when the cloud says, as long as there is time."""

import time
from collections.abc import Callable, Mapping, Sequence

from edgecloud.client.fallback import busy_pause_s
from edgecloud.client.handshake import greet
from edgecloud.net.connection import Connection
from edgecloud.net.messages import Hello, Ready
from edgecloud.net.tls import ClientTls
from edgecloud.utils.errors import AppError, ConnectError, DeadlineError, HandshakeLostError

BUSY = "BUSY"
READY_FLAG = "--ready-timeout"
NAP_S = 0.1  # how soon it is noticed that nobody waits any more


def is_nobody(error: AppError) -> bool:
    """Whether nothing took the connection."""
    is_told = bool(error.refusal) or isinstance(error, HandshakeLostError)
    return isinstance(error, ConnectError) and not is_told


def blaming(error: AppError, flag: str) -> AppError:
    """The same error, naming the flag by which that time was really limited where a cloud was not ready in time."""
    return DeadlineError(str(error).replace(READY_FLAG, flag)) if isinstance(error, DeadlineError) else error


def greet_when_free(
    address: tuple[str, int],
    hellos: Sequence[Hello],
    layers: Mapping[str, int],
    ready_s: float,
    opened: Callable[[Connection], None] = lambda _: None,
    tls: ClientTls | None = None,
    is_given_up: Callable[[], bool] = lambda: False,
) -> tuple[Connection, dict[str, Ready]]:
    """What `talk.greet` does, on a new connection each time that the cloud is BUSY, within `ready_s` seconds in all.

    A cloud says so while it loads the network, and while too many others are there. Raises what `greet` does; where
    there is no time left for another try, or `is_given_up`, the last refusal.
    """
    end = time.monotonic() + ready_s
    left_s = ready_s
    busy: AppError | None = None
    while True:
        try:
            return greet(address, hellos, layers, left_s, opened, tls)
        except AppError as error:
            if busy is not None and (is_nobody(error) or isinstance(error, DeadlineError)):  # it was there
                raise busy from None
            busy, again_at = error, time.monotonic() + busy_pause_s(error.retry_after_s)
            if error.refusal != BUSY or again_at >= end or is_given_up():
                raise
        while (pause_s := again_at - time.monotonic()) > 0 and not is_given_up():
            time.sleep(min(pause_s, NAP_S))
        left_s = max(end - time.monotonic(), NAP_S)
