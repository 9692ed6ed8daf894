"""Several cuts of one network in one call (edge_api.py --points): prepared once, measured one by one.

points   all | auto | K | K-L | head=LAYER+LAYER..., each perhaps with :CODEC, several with commas between them
auto     the edge's own choice, with the link probed anew just before
head     the layers on the edge by their names, for a cut with several boundary tensors
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from edgecloud.client.config import EdgeConfig
from edgecloud.client.inference import Entered, compared_ways, measure, prepared_with
from edgecloud.client.outcome import Outcome
from edgecloud.client.planning import Prepared, alone, fitting, plan_of, problem_of
from edgecloud.client.runner import Runner
from edgecloud.engine.packing import AUTO
from edgecloud.models.graph import LayerGraph
from edgecloud.net.codec import LEARNED, NAMES, is_name
from edgecloud.net.link import LinkEstimate
from edgecloud.net.messages import State
from edgecloud.utils.errors import AppError, UsageError
from edgecloud.utils.progress import Show
from edgecloud.utils.units import printable

log = logging.getLogger(__name__)

HEAD = "head="


@dataclass(frozen=True)
class PointRequest:
    """One cut that is to be measured."""

    text: str
    """As it was asked for, with what it stood for written out."""
    point: int | None = None
    head: frozenset[int] | None = None
    codec: str | None = None
    """None: that of the call."""


def parse(text: str, graph: LayerGraph) -> tuple[PointRequest, ...]:
    """Read a list of points. Raises UsageError for what there is not."""
    requests = [request for part in text.split(",") if part.strip() for request in _one(part.strip(), graph)]
    if not requests:
        raise UsageError(f"{text!r} contains no point: use all, auto, 0,8,13 or 0-22")
    return tuple(requests)


def _one(part: str, graph: LayerGraph) -> Iterator[PointRequest]:
    name, codec = _of_head(part) if part.startswith(HEAD) else part.partition(":")[::2]
    if codec and codec != AUTO and not is_name(codec):
        raise UsageError(f"no codec {codec[:40]!r} in {part!r}: choose {AUTO}, {', '.join(NAMES)}")
    ending, override = f":{codec}" if codec else "", codec or None
    if name == "auto":
        yield PointRequest(part, codec=override)
    elif name.startswith(HEAD):
        yield PointRequest(part, head=_head(name.removeprefix(HEAD), graph), codec=override)
    else:
        for number in _numbers(name, graph):
            graph.head_at(number)  # raises for a point that there is not
            yield PointRequest(f"{number}{ending}", number, codec=override)


def _of_head(part: str) -> tuple[str, str]:
    """Names of layers may hold colons, those of codecs only behind their kind."""
    for colon in (f":{LEARNED}:", ":"):
        name, found, codec = part.rpartition(colon)
        codec = found.removeprefix(":") + codec
        if found and (codec == AUTO or is_name(codec)):
            return name, codec
    return part, ""


def _numbers(text: str, graph: LayerGraph) -> range:
    if text == "all":
        return range(len(graph.points))
    first, dash, last = text.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
        raise UsageError(f"{text[:40]!r} is not a point: use all, auto, a number such as 8, or a range such as 0-22")
    graph.head_at(int(last or first))
    return range(int(first), int(last or first) + 1)


def _head(text: str, graph: LayerGraph) -> frozenset[int]:
    """The layers of these names, and the input."""
    numbers = {layer.id: number for number, layer in enumerate(graph.layers)}
    names = [name for name in text.split("+") if name]
    unknown = next((name for name in names if name not in numbers), None)
    if unknown is not None:
        raise UsageError(f"{graph.name} has no layer {unknown[:60]!r}")
    try:
        return graph.check_cut({*graph.inputs, *(numbers[name] for name in names)})
    except ValueError as error:
        raise UsageError(str(error)) from None


@dataclass
class PointsSession:
    """An edge that has its network ready and its cloud connected."""

    entered: Entered
    config: EdgeConfig
    progress: Show
    _prepared: Prepared | None = None
    _why: str = field(init=False)
    """Why the cloud had no part in the last point, where it was lost."""

    def __post_init__(self) -> None:
        self._why = self.entered.failure
        if self._why and self.entered.edge.cloud is not None:  # it was not there at the first handshake
            self.entered.edge.cloud.give_up(self._why)

    @property
    def graph(self) -> LayerGraph:
        """The network's layers."""
        return self.entered.edge.graph

    def measure(self, request: PointRequest) -> Outcome:
        """Warm up, run, and say what came of it. What a call measures first is found now: the device, the link."""
        codec = replace(self.config.codec, name=request.codec or self.config.codec.name)
        config = replace(self.config, point=request.point, codec=codec)
        edge = self.entered.edge
        if self._prepared is None:
            edge.executor.look_for_limit()  # it may have been set since the network was built
            self._prepared = prepared_with(self.entered, config, self.progress)
        edge_s = self._prepared.timing.look().seconds
        try:
            link, state = self._meet(config, is_anew=request.point is None and request.head is None)
        except AppError as error:  # the first handshake, which may be an error, is over
            if config.cloud.fallback == "off":
                raise
            self._lost(error)
            plan = replace(alone(edge, edge_s), failure=self._why)
        else:
            plan = plan_of(edge, problem_of(edge, edge_s, link, state), config, self._prepared.power, request.head)
            plan = fitting(edge, plan, edge_s, config)
        measured_link = None if plan.failure or edge.cloud is None else edge.cloud.link
        runner = Runner(
            self._prepared, plan, measured_link, config, compared_ways(edge, plan, config), is_adaptive=False
        )
        return measure(self._prepared, runner, config, self.progress)

    def _meet(self, config: EdgeConfig, *, is_anew: bool) -> tuple[LinkEstimate, State]:
        """See to it that there is a cloud whose link is measured, and ask how busy it is. Raises AppError."""
        manager = self.entered.edge.cloud
        if manager is None:
            raise AppError(self._why)
        manager.connect_if_due(config.cloud.ready_s)
        if manager.link is None or is_anew:
            self.progress("probing the link", 0.0)
            manager.measure()
        state = manager.ask_state(config.cloud.timeout_s)
        manager.on_success()
        assert manager.link is not None  # it was measured
        return manager.link, state

    def _lost(self, error: AppError) -> None:
        """This point is for the edge alone, and the next ones, until it is time to look for the cloud again."""
        why = printable(str(error), 200)
        if why != self._why:
            log.warning("running everything on the edge: %s", why)
        self._why = why
        manager = self.entered.edge.cloud
        if manager is not None and not manager.is_left_alone:
            manager.hang_up(error)
            manager.give_up(why)
