"""Inferences that are answered whatever becomes of the cloud: what the cloud does not do is done here.

`client.fallback` has the rules, `client.connection_manager` the connection: it is made anew in the background, because
a cloud that has just started may need many seconds for that, and no inference should wait for it.
"""

import itertools
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgecloud.client.connection_manager import ConnectionManager
from edgecloud.client.edge import AS_THEY_ARE, Answered, Edge, Fallback, Inference, ran_by
from edgecloud.client.fallback import fits, is_worth_asking, patience_s
from edgecloud.engine.answers import NOT_FINITE, is_finite, is_finite_alike
from edgecloud.models.network import Fed, fed_layers
from edgecloud.partition.cost import Part
from edgecloud.partition.overlap import Overlap
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError, ProtocolError, UsageError
from edgecloud.utils.units import format_seconds, printable

log = logging.getLogger(__name__)

NEAR = "not enough time left to ask the cloud"


@dataclass(frozen=True)
class Expected:
    """What a part on the cloud is predicted to take, and the rest if it has to be computed here, in seconds."""

    there_s: float
    here_s: float


def rest_of(parts: Sequence[Part], number: int) -> frozenset[int]:
    """The layers of a part and of all that follow."""
    return frozenset().union(*(left.layers for left in parts[number:]))


class ResilientClient:
    """Runs inferences with an edge that has a cloud, each within `timeout_s` seconds if at all possible.

    `edge_s` are predicted seconds of every layer here; `waiting_s`, by parts, those that an inference waits for the
    cloud, all of its requests together; `codecs` say how the output of each layer is packed. Several threads may call
    it; they take turns in computing.
    """

    def __init__(
        self,
        edge: Edge,
        cloud: ConnectionManager,
        timeout_s: float,
        edge_s: Sequence[float],
        waiting_s: Mapping[tuple[Part, ...], float],
        codecs: Mapping[int, str] = AS_THEY_ARE,
    ) -> None:
        self._edge, self._cloud, self._timeout_s, self._codecs = edge, cloud, timeout_s, codecs
        self._edge_s, self._waiting_s = edge_s, waiting_s
        self._reason = ""

    def infer(
        self,
        x: Fed,
        parts: tuple[Part, ...],
        codecs: Mapping[int, str] | None = None,
        waiting_s: float | None = None,
        overlap: Overlap | None = None,
    ) -> Answered:
        """Run the network on `x`, shape (1, ...). Raises nothing for what a cloud or a link can do.

        `codecs` and `waiting_s` are those of these parts, where they are others than were told first; `overlap` says in
        which chunks a boundary leaves.
        """
        if all(part.place == "edge" for part in parts):
            return self._edge.infer_parts(x, parts, self._timeout_s)
        self._cloud.look()
        self._edge.load(parts, overlap)
        codecs = self._codecs if codecs is None else codecs
        inference = Inference(self._edge, fed_layers(self._edge.graph, x), codecs, overlap)
        there_s = self._waiting_s.get(parts, 0.0) if waiting_s is None else waiting_s
        if self._cloud.is_left_alone:
            return all_here(inference, self._cloud.absence)
        at = time.monotonic() + self._timeout_s
        for number, part in enumerate(parts):
            if part.place == "edge":
                inference.begin_here(part.layers)
                continue
            rest = rest_of(parts, number)
            here_s = sum(self._edge_s[layer] for layer in rest | inference.later)
            failure = self._ask(inference, part.layers, Expected(there_s, here_s), at)
            if failure is not None:
                return self._finish(inference, rest, failure, at)
        if not self._is_good(inference, parts):
            return self._blamed(inference)
        self._cloud.on_success()
        self._reason = ""
        return inference.answered(ran_by(self._edge.graph, parts))

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
        self._cloud.blame(ProtocolError(NOT_FINITE))
        log.warning("completed on the edge: %s", NOT_FINITE)
        return inference.answered("fallback", Fallback(NOT_FINITE, inference.elapsed_s))

    # --- asking

    def _finish(self, inference: Inference, rest: frozenset[int], reason: str, at: float) -> Answered:
        """Run the rest here, from the tensors that are held."""
        fallback = Fallback(reason, inference.elapsed_s)
        inference.complete()
        inference.run_here(rest)
        late_s = time.monotonic() - at
        late = f", {format_seconds(late_s)} after its deadline" if late_s > 0 else ""
        level = logging.WARNING if reason != self._reason else logging.INFO  # the same again need not be said again
        log.log(level, "completed on the edge after %s%s: %s", format_seconds(fallback.after_s), late, reason)
        self._reason = reason
        return inference.answered("fallback", fallback)

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
                inference.run_there(layers, self._cloud.ready_client(deadline), deadline)
            except AppError as error:
                if isinstance(error, UsageError) and not error.refusal:
                    raise  # it is the input's fault: what leaves in chunks is made meanwhile
                failures.append(printable(str(error), 200))
                pause_s = self._cloud.on_failure(error, tries)
                left_s = at - time.monotonic()
                if pause_s is None or not fits(left_s, here_s, pause_s + self._cloud.reconnect_s + there_s):
                    why = "; then ".join(dict.fromkeys(failures))
                    self._cloud.give_up(why)
                    return why
                log.info("retrying in %s: %s", format_seconds(pause_s), failures[-1])
                time.sleep(pause_s)
            else:
                return None
        raise AssertionError  # the loop has no other end


def all_here(inference: Inference, why: str) -> Answered:
    """All of the network here, in one piece: no cut is less work."""
    inference.run_here(inference.edge.graph.everything)
    return inference.answered("fallback", Fallback(why, 0.0))
