"""An edge whose cloud is unreachable at first: it answers alone, and uses the cloud once it is reachable."""

import logging
from collections.abc import Callable

from edgecloud.client.edge import Answered, Edge, Fallback, Inference
from edgecloud.client.resilient import AWAY, Lookout, Met, ResilientClient
from edgecloud.models.graph import INPUT
from edgecloud.net.tensors import Array
from edgecloud.partition.cost import Part
from edgecloud.utils.errors import AppError
from edgecloud.utils.units import printable

log = logging.getLogger(__name__)


class LateEdge:
    """Runs inferences, all of each here until a cloud has been met and `begin` has made a plan with it.

    `begin` returns the parts of that plan and what carries them out; it raises AppError for a cloud that is of no use.
    """

    def __init__(
        self, edge: Edge, lookout: Lookout, begin: Callable[[Met], tuple[tuple[Part, ...], ResilientClient]]
    ) -> None:
        self._edge, self._lookout, self._begin = edge, lookout, begin
        self._begun: tuple[tuple[Part, ...], ResilientClient] | None = None

    @property
    def reconnects(self) -> int:
        """Connections after the first one."""
        return 0 if self._begun is None else self._begun[1].reconnects

    def infer(self, x: Array, parts: tuple[Part, ...]) -> Answered:
        """Run the network on `x`, shape (1, ...). `parts` are those of a plan without a cloud."""
        del parts
        if self._begun is None and (met := self._lookout.look()) is not None:
            self._try(met)
        if self._begun is not None:
            planned, steady = self._begun
            return steady.infer(x, planned)
        inference = Inference(self._edge, {INPUT: x})
        inference.run_here(self._edge.graph.everything)
        return inference.answered("fallback", Fallback(f"{AWAY}{self._lookout.why}", 0.0))

    def _try(self, met: Met) -> None:
        self._edge.take(met.cloud)
        try:
            self._begun = self._begin(met)
        except AppError as error:
            self._edge.close()
            self._lookout.why = printable(str(error), 200)
            self._lookout.lost()
            log.warning("%s%s", AWAY, self._lookout.why)

    def close(self) -> None:
        """Do not wait for a cloud any more."""
        self._lookout.greeter.close()
        if self._begun is not None:
            self._begun[1].close()
