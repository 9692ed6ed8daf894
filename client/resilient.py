"""An edge that always answers: if the cloud fails, the edge completes the inference.

`client.fallback` has the rules, this module the connection. One thread computes and asks; while the cloud is away
another one greets it again, because a cloud that has just started may need many seconds for that, and no inference
should wait for it.
"""

import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgecloud.client.edge import Answered, Edge, Fallback, GreetedCloud, Inference, ran_by
from edgecloud.client.fallback import (
    RETRIES,
    Breaker,
    RetryBudget,
    busy_pause_s,
    fits,
    is_worth_asking,
    patience_s,
    retry_pause_s,
)
from edgecloud.client.handshake import RefusedError
from edgecloud.engine.answers import NOT_FINITE, is_finite, is_finite_alike
from edgecloud.models.graph import INPUT
from edgecloud.net.connection import Connection
from edgecloud.net.link import LinkEstimate
from edgecloud.net.messages import State
from edgecloud.net.tensors import Array
from edgecloud.partition.cost import Part
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError, DeadlineError, PeerClosedError
from edgecloud.utils.units import format_seconds, printable

log = logging.getLogger(__name__)

ROUND_TRIPS = 4  # of the link, on top of what follows
AGAIN_S = 0.5  # for a new connection that an inference waits for ...
GREET_S = 30.0  # ... and for one that none waits for: the cloud may have to load the network
IDLE_S = 10.0  # after so long a connection may have been forgotten by something on its way: ask before sending
IDLE_ANSWER_S = 0.25
END_S = 0.5
AWAY = "cloud unreachable: "
NEAR = "not enough time left to ask the cloud"


@dataclass(frozen=True)
class Address:
    """Where the cloud is, and what it wants to hear."""

    host: str
    port: int
    token: str = ""


@dataclass(frozen=True)
class Expected:
    """What a part on the cloud is predicted to take, and the rest if it has to be computed here, in seconds."""

    there_s: float
    here_s: float


@dataclass(frozen=True)
class Met:
    """A cloud that was greeted, and what its link and its load were like, where that was asked for."""

    cloud: GreetedCloud
    link: LinkEstimate | None = None
    state: State | None = None


Survey = Callable[[GreetedCloud], Met]
"""Finds out what a plan needs to know of a cloud. Raises AppError where the cloud is lost."""


class Reconnector:
    """Greets a cloud in a thread of its own, and surveys it; whoever wants to know what came of it looks later."""

    def __init__(self, edge: Edge, address: Address, wait_s: float = GREET_S, survey: Survey = Met) -> None:
        self._edge, self._address, self._wait_s, self._survey = edge, address, wait_s, survey
        self._thread: threading.Thread | None = None
        self._found: Met | AppError | None = None
        self.has_greeted = False
        """Whether a cloud has said that it runs the network, though more may be asked of it yet."""
        self._opening: Connection | None = None
        self._is_leaving = False

    @property
    def is_busy(self) -> bool:
        """Whether it is at it."""
        return self._thread is not None

    def start(self) -> None:
        """Begin."""
        self._found, self.has_greeted = None, False
        self._thread = threading.Thread(target=self._greet, name="reconnects", daemon=True)
        self._thread.start()

    def _greet(self) -> None:
        try:
            self._found = self._meet()
        except AppError as error:
            self._found = error
        except Exception as error:  # nobody would hear of it
            log.exception("internal error while reconnecting")
            self._found = AppError(f"handshake failed: {type(error).__name__}")

    def _meet(self) -> Met:
        place = self._address
        cloud = self._edge.greeted(
            place.host, place.port, place.token, self._wait_s, self._opened, lambda: self._is_leaving
        )
        self.has_greeted = True
        try:
            return self._survey(cloud)
        except BaseException:
            cloud.connection.close()
            raise

    def _opened(self, connection: Connection) -> None:
        self._opening = connection
        if self._is_leaving:
            connection.close()

    def wait(self, seconds: float) -> None:
        """Give it a moment to end."""
        if self._thread is not None:
            self._thread.join(seconds)

    def take(self) -> Met | AppError | None:
        """What came of it, once; None where nothing has yet."""
        if self._thread is None or self._thread.is_alive():
            return None
        self._thread = self._opening = None
        return self._found

    def close(self) -> None:
        """Do not wait for a cloud any more."""
        self._is_leaving = True
        if self._opening is not None:
            self._opening.close()
        self.wait(END_S)
        if self.is_busy and isinstance(self._found, Met):  # nobody has taken it
            self._found.cloud.connection.close()


class Lookout:
    """Greets a cloud that is away again and again, a little later each time, and knows why it is away."""

    def __init__(self, greeter: Reconnector, why: str = "") -> None:
        self.greeter, self.breaker, self.why = greeter, Breaker(), why
        self._lost_at = time.monotonic()
        if why:
            self.lost()

    def lost(self) -> None:
        """The cloud is gone."""
        self.breaker.failed(time.monotonic())
        self.left()

    def left(self) -> None:
        """The cloud is left alone from now on."""
        self._lost_at = time.monotonic()

    def look(self) -> Met | None:
        """A cloud that has been met meanwhile; begins to greet it where it is time for that."""
        found = self.greeter.take()
        if isinstance(found, Met):
            self.breaker.greeted()
            log.warning("cloud reachable again after %s", format_seconds(time.monotonic() - self._lost_at))
            return found
        if found is not None:
            self.breaker.failed(time.monotonic())
            self.why = printable(str(found), 200)
            log.info("%s%s", AWAY, self.why)
        if self.breaker.may_probe(time.monotonic()) and not self.greeter.is_busy:
            self.greeter.start()
        return None


def rest_of(parts: Sequence[Part], number: int) -> frozenset[int]:
    """The layers of a part and of all that follow."""
    return frozenset().union(*(left.layers for left in parts[number:]))


class ResilientClient:
    """Runs inferences with an edge that has greeted its cloud, each within `timeout_s` seconds if at all possible.

    `edge_s` are predicted seconds of every layer here; `waiting_s`, by parts, those that an inference waits for the
    cloud, all of its requests together, and `rtt_s` is the link's round trip.
    """

    def __init__(
        self,
        edge: Edge,
        address: Address,
        timeout_s: float,
        edge_s: Sequence[float],
        waiting_s: Mapping[tuple[Part, ...], float],
        rtt_s: float = 0.0,
    ) -> None:
        self._edge, self._timeout_s, self._address = edge, timeout_s, address
        self._peer = None if edge.cloud is None else edge.cloud.connection.peer
        self._edge_s, self._waiting_s, self._rtt_s = edge_s, waiting_s, rtt_s
        self._lookout, self._budget = Lookout(Reconnector(edge, address)), RetryBudget()
        self._breaker = self._lookout.breaker
        self._told = ""
        self.reconnects = 0
        """Connections after the first one."""

    def infer(self, x: Array, parts: tuple[Part, ...]) -> Answered:
        """Run the network on `x`, shape (1, ...). Raises nothing for what a cloud or a link can do."""
        if all(part.place == "edge" for part in parts):
            return self._edge.infer_parts(x, parts, self._timeout_s)
        self._look_for_the_cloud()
        self._edge.load(parts)
        inference = Inference(self._edge, {INPUT: x})
        if self._breaker.is_open:
            inference.run_here(self._edge.graph.everything)  # in one piece: no cut is less work
            return inference.answered("fallback", Fallback(f"{AWAY}{self._lookout.why}", 0.0))
        at = time.monotonic() + self._timeout_s
        for number, part in enumerate(parts):
            if part.place == "edge":
                inference.run_here(part.layers)
                continue
            rest = rest_of(parts, number)
            here_s = sum(self._edge_s[layer] for layer in rest)
            failure = self._ask(inference, part.layers, Expected(self._waiting_s.get(parts, 0.0), here_s), at)
            if failure is not None:
                return self._finish(inference, rest, failure, at)
        if not self._is_good(inference, parts):
            return self._blamed(inference)
        self._breaker.succeeded()
        self._budget.succeeded()
        self._told = ""
        return inference.answered(ran_by(parts))

    def close(self) -> None:
        """Do not wait for a cloud any more. The edge keeps the connection that it has."""
        self._lookout.greeter.close()

    # --- an answer that is no number

    def _is_good(self, inference: Inference, parts: tuple[Part, ...]) -> bool:
        """Whether an answer with NaN or infinity is this network's own; where it is not, that from here replaces it."""
        outputs = self._edge.graph.outputs
        theirs = [inference.values[number] for number in outputs]
        if is_finite(theirs):
            return True
        first = next(number for number, part in enumerate(parts) if part.place == "cloud")
        inference.run_here(rest_of(parts, first))
        return is_finite_alike(theirs, [inference.values[number] for number in outputs])

    def _blamed(self, inference: Inference) -> Answered:
        """Leave a cloud alone that answers so; the answer is there by now."""
        self._edge.close()
        self._give_up([NOT_FINITE])
        log.warning("completed on the edge: %s", NOT_FINITE)
        return inference.answered("fallback", Fallback(NOT_FINITE, inference.elapsed_s))

    # --- the cloud is away

    def _look_for_the_cloud(self) -> None:
        """Take a connection that has been made meanwhile; begin with another one where it is time for that."""
        found = self._lookout.look()
        if found is not None:
            self._take(found.cloud)

    def _take(self, cloud: GreetedCloud) -> None:
        self._edge.take(cloud)
        self.reconnects += 1

    def _finish(self, inference: Inference, rest: frozenset[int], reason: str, at: float) -> Answered:
        """Run the rest here, from the tensors that are held."""
        fallback = Fallback(reason, inference.elapsed_s)
        inference.run_here(rest)
        late_s = time.monotonic() - at
        late = f", {format_seconds(late_s)} after its deadline" if late_s > 0 else ""
        level = logging.WARNING if reason != self._told else logging.INFO  # the same again need not be said again
        log.log(level, "completed on the edge after %s%s: %s", format_seconds(fallback.after_s), late, reason)
        self._told = reason
        return inference.answered("fallback", fallback)

    # --- asking

    def _ask(self, inference: Inference, layers: frozenset[int], expected: Expected, at: float) -> str | None:
        """Let the cloud run layers, again where that may help. Returns why it did not, or None."""
        here_s, there_s = expected.here_s, expected.there_s
        if not is_worth_asking(at - time.monotonic(), here_s, there_s):
            return NEAR
        failures: list[str] = []
        for tries in itertools.count(1):
            wait_s = patience_s(at - time.monotonic(), here_s)
            deadline = Deadline.after(wait_s, f"no answer for {wait_s:.3g} s of {self._timeout_s:g} s (--timeout)")
            try:
                self._connect(deadline)
                inference.run_there(layers, deadline)
            except AppError as error:
                failures.append(printable(str(error), 200))
                pause_s = self._pause_s(error, tries)
                reconnect_s = 0.0 if self._edge.cloud else ROUND_TRIPS * self._rtt_s
                left_s = at - time.monotonic()
                if pause_s is None or not fits(left_s, here_s, pause_s + reconnect_s + there_s):
                    return self._give_up(failures)
                log.info("retrying in %s: %s", format_seconds(pause_s), failures[-1])
                time.sleep(pause_s)
            else:
                return None
        raise AssertionError  # the loop has no other end

    def _connect(self, deadline: Deadline) -> None:
        """See to it that there is a connection, and that one which was idle for long is still one."""
        cloud, slack_s = self._edge.cloud, ROUND_TRIPS * self._rtt_s
        if cloud is not None and time.monotonic() - cloud.used_at > IDLE_S:
            try:
                self._edge.status(min(IDLE_ANSWER_S + slack_s, deadline.remaining()))
            except AppError as error:
                log.info("the idle connection was lost: %s", error)
                self._edge.close()
        if self._edge.cloud is None:
            host, port = self._peer or (self._address.host, self._address.port)
            wait_s = min(AGAIN_S + slack_s, deadline.remaining())
            try:
                self._take(self._edge.greeted(host, port, self._address.token, wait_s))
            except DeadlineError:  # its text speaks of the first greeting
                raise DeadlineError(f"a new connection was not ready within {wait_s:.3g} s") from None

    def _pause_s(self, error: AppError, tries: int) -> float | None:
        """Take note of a failure. Returns when to ask again, or None where that is of no use."""
        self._budget.failed()
        refusal = error.error if isinstance(error, RefusedError) and error.error.id else None
        if refusal is None:
            self._edge.close()  # what is still on its way would be taken for the next answer
        else:
            self._breaker.refused(time.monotonic())
        if tries > RETRIES or not self._budget.allows or self._breaker.is_open:
            return None
        if refusal is not None:
            return busy_pause_s(refusal.retry_after_s) if refusal.code == "BUSY" else None
        return retry_pause_s(tries) if isinstance(error, PeerClosedError) else None

    def _give_up(self, failures: Sequence[str]) -> str:
        """Leave a cloud alone that is gone, or that only refuses. Returns what went wrong, each thing once."""
        self._lookout.why = "; then ".join(dict.fromkeys(failures))
        if self._edge.cloud is None:
            self._lookout.lost()
        if self._breaker.is_open:
            self._lookout.left()
            self._edge.close()
        return self._lookout.why
