"""Several cuts of one network in one call (edge_api.py --points): prepared once, measured one by one.

points   all | auto | K | K-L | head=LAYER+LAYER..., each perhaps with :CODEC, several with commas between them
auto     the edge's own choice, with the link probed anew just before
head     the layers here by their names, for a cut that several tensors cross
"""

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

from edgecloud.client.edge import EdgeConfig
from edgecloud.client.fallback import Breaker
from edgecloud.client.inference import (
    Entered,
    Prepared,
    alone,
    carry_out,
    enter,
    fitting,
    plan_of,
    prepared_with,
    probe,
    problem_of,
)
from edgecloud.client.outcome import Outcome
from edgecloud.engine.packing import AUTO
from edgecloud.models.graph import INPUT, LayerGraph
from edgecloud.net.codec import CODECS
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
    found = [wanted for part in text.split(",") if part.strip() for wanted in _one(part.strip(), graph)]
    if not found:
        raise UsageError(f"{text!r} contains no point: use all, auto, 0,8,13 or 0-22")
    return tuple(found)


def _one(part: str, graph: LayerGraph) -> Iterator[PointRequest]:
    name, _, codec = part.partition(":") if not part.startswith(HEAD) else part.rpartition(":")
    if part.startswith(HEAD) and codec not in (AUTO, *CODECS):
        name, codec = part, ""  # names of layers may hold colons, those of codecs do not
    if codec and codec not in (AUTO, *CODECS):
        raise UsageError(f"no codec {codec[:40]!r} in {part!r}: choose {AUTO}, {', '.join(CODECS)}")
    ending, chosen = f":{codec}" if codec else "", codec or None
    if name == "auto":
        yield PointRequest(part, codec=chosen)
    elif name.startswith(HEAD):
        yield PointRequest(part, head=_head(name.removeprefix(HEAD), graph), codec=chosen)
    else:
        for number in _numbers(name, graph):
            graph.head_at(number)  # raises for a point that there is not
            yield PointRequest(f"{number}{ending}", number, codec=chosen)


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
        return graph.check_cut({INPUT, *(numbers[name] for name in names)})
    except ValueError as error:
        raise UsageError(str(error)) from None


@dataclass
class PointsSession:
    """An edge that has its network ready and its cloud greeted."""

    entered: Entered
    config: EdgeConfig
    progress: Show
    _prepared: Prepared | None = None
    _link: LinkEstimate | None = field(default=None, init=False)
    _breaker: Breaker = field(default_factory=Breaker, init=False)
    """Whether a cloud that was lost is left alone."""
    _why: str = field(default="", init=False)

    @property
    def graph(self) -> LayerGraph:
        """The network's layers."""
        return self.entered.edge.graph

    def measure(self, wanted: PointRequest) -> Outcome:
        """Warm up, run, and say what came of it. What a call measures first is found now: the device, the link."""
        config = replace(self.config, point=wanted.point, codec=wanted.codec or self.config.codec)
        edge = self.entered.edge
        if self._prepared is None:
            edge.executor.look_for_limit()  # it may have been set since the network was built
            self._prepared = prepared_with(self.entered, config, self.progress)
        edge_s = self._prepared.found.times.seconds
        try:
            link, state = self._meet(config, is_anew=wanted.point is None and wanted.head is None)
        except AppError as error:  # the first greeting, which may be an error, is over
            if config.fallback == "off":
                raise
            self._lost(error)
            plan = replace(alone(edge, edge_s), failure=self._why)
        else:
            plan = plan_of(edge, problem_of(edge, edge_s, link, state), config, self._prepared.power, wanted.head)
            plan = fitting(edge, plan, edge_s, config)
        return carry_out(self._prepared, None if plan.failure else self._link, plan, config, self.progress)

    def begin_alone(self, why: str) -> None:
        """The cloud was not there at the first greeting."""
        self._why = why
        self._breaker.failed(time.monotonic())

    def _meet(self, config: EdgeConfig, *, is_anew: bool) -> tuple[LinkEstimate, State]:
        """See to it that there is a cloud whose link is measured, and ask how busy it is. Raises AppError."""
        edge, address = self.entered.edge, self.entered.address
        if edge.cloud is None:
            if address is None or (self._breaker.is_open and not self._breaker.may_probe(time.monotonic())):
                raise AppError(self._why or self.entered.failure)
            edge.greet(*address, config.token, config.ready_s)
            self._breaker.greeted()
        assert edge.cloud is not None  # it was just greeted
        if self._link is None or is_anew:
            self._link = probe(edge.cloud, config, self.progress)
            self.entered.record.probed(self._link)
        state = edge.status(config.timeout_s)
        self._breaker.succeeded()
        return self._link, state

    def _lost(self, error: AppError) -> None:
        """This point is for the edge alone, and the next ones, until it is time to look for the cloud again."""
        why = printable(str(error), 200)
        if why != self._why:
            log.warning("running everything on the edge: %s", why)
        self._why = why
        if not self._breaker.is_open:
            self.entered.edge.close()
        if not self._breaker.is_open or self._breaker.may_probe(time.monotonic()):
            self._breaker.failed(time.monotonic())


@contextmanager
def session(config: EdgeConfig, progress: Show) -> Iterator[PointsSession]:
    """Build the network and greet the cloud. Raises AppError for everything that can go wrong outside."""
    with ExitStack() as stack:
        entered = enter(stack, config, progress, ready_s=config.ready_s)
        found = PointsSession(entered, config, progress)
        if entered.failure:
            found.begin_alone(entered.failure)
        yield found
