"""A tail that runs by rows for one request, in the worker's thread."""

from collections.abc import Sequence

from edgecloud.engine.by_rows import TailStream
from edgecloud.engine.segment import Ran
from edgecloud.models.rows import Piece, RowPlan
from edgecloud.net.messages import Infer
from edgecloud.net.tensors import Array
from edgecloud.server.model_cache import Served, busy_without_memory


class RowTail:
    """Made ready with the first chunk. Raises BusyError where there is no memory for it."""

    def __init__(self, served: Served, plan: RowPlan) -> None:
        self._served, self._plan = served, plan
        self._stream: TailStream | None = None

    @property
    def _ready(self) -> TailStream:
        if self._stream is None:
            self._stream = self._served.executor.tail_by_rows(self._plan)
        return self._stream

    def feed(self, array: Array) -> None:
        """Compute what the next chunk makes possible."""
        with busy_without_memory():
            self._ready.feed(array)

    def finish(self) -> Ran:
        """Compute the rest."""
        with busy_without_memory():
            ran = self._ready.finish()
        self._served.ran_by_rows(self._plan.layers, ran)
        return ran


def pieces_of(request: Infer, inputs: Sequence[int]) -> tuple[Piece, ...]:
    """The chunks of a request whose layers read the outputs of `inputs`, in the order in which they come."""
    taken, pieces = [0] * len(inputs), []
    for tensor in request.rows:
        axis, *ends = request.cuts[tensor]
        index = taken[tensor]
        pieces.append(Piece(inputs[tensor], ends[index - 1] if index else 0, ends[index], axis))
        taken[tensor] += 1
    return tuple(pieces)
