"""An edge whose cloud is unreachable at first: it answers alone, and uses the cloud once it is reachable."""

import logging
from collections.abc import Callable

from edgecloud.client.connection_manager import ConnectionManager
from edgecloud.client.edge import Answered, Edge, Inference
from edgecloud.client.resilient import ResilientClient, all_here
from edgecloud.models.network import Fed, fed_layers
from edgecloud.partition.cost import Part
from edgecloud.utils.errors import AppError

log = logging.getLogger(__name__)


class LateEdge:
    """Runs inferences, all of each here until a cloud is connected and `begin` has made a plan with it.

    `begin` returns the parts of that plan and what carries them out; it raises AppError for a cloud that is of no use.
    """

    def __init__(
        self, edge: Edge, cloud: ConnectionManager, begin: Callable[[], tuple[tuple[Part, ...], ResilientClient]]
    ) -> None:
        self._edge, self._cloud, self._begin = edge, cloud, begin
        self._begun: tuple[tuple[Part, ...], ResilientClient] | None = None

    def infer(self, x: Fed, parts: tuple[Part, ...]) -> Answered:
        """Run the network on `x`, shape (1, ...). `parts` are those of a plan without a cloud."""
        del parts
        if self._begun is None:
            self._cloud.look()
            if self._cloud.client is not None:
                self._try()
        if self._begun is not None:
            planned, resilient = self._begun
            return resilient.infer(x, planned)
        return all_here(Inference(self._edge, fed_layers(self._edge.graph, x)), self._cloud.absence)

    def _try(self) -> None:
        try:
            self._begun = self._begin()
        except AppError as error:
            self._cloud.blame(error)
            log.warning("%s", self._cloud.absence)
