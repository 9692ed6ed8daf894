"""An edge in this process: `Edge`, and the `Answer` that it gives. The client is that of edge_api.py."""

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, get_args

from edgecloud.client import edge as client
from edgecloud.client.config import (
    CloudConfig,
    CodecConfig,
    DeviceConfig,
    EdgeConfig,
    LinkConfig,
    Overlapping,
    Ship,
    TransportName,
)
from edgecloud.client.edge import Answered
from edgecloud.client.edge_client import WINDOW, EdgeClient, silent
from edgecloud.client.fallback import Mode
from edgecloud.client.power import PowerChoice
from edgecloud.engine.executor import AUTO, BACKENDS
from edgecloud.engine.packing import check_codec
from edgecloud.engine.times import POLICIES
from edgecloud.library.frames import Frame, Frames
from edgecloud.library.network import Loadable, Network, load
from edgecloud.library.planning import Goal, Link, Plan, StageTimes, duration_s, goal_of
from edgecloud.library.settings import cache_of, path_of, token_of
from edgecloud.library.tensors import Given, Tensors, as_given
from edgecloud.library.wording import worded, wording, words
from edgecloud.models.inputs import InputSpec
from edgecloud.utils import addresses, defaults
from edgecloud.utils.errors import ConnectError, DeadlineError, EdgeCloudError, MismatchError, UsageError
from edgecloud.utils.progress import Show
from edgecloud.utils.units import parse_link

if TYPE_CHECKING:
    from torch import nn

    from edgecloud.net.tls import ClientTls


log = logging.getLogger(__name__)

SIZES_KEPT = 4
"""Of inputs of other sizes than the example's, each with a graph and a connection of its own."""
NOT_SAID = "not said"
"""In place of a cloud that may be given by position."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one inference gave.

    `value` is the answer in the structure that the network gives: its tuples, dicts and dataclasses. `outputs` are the
    tensors in it, in order: numpy arrays, or torch tensors where an input was one, of the shapes that the whole network
    gives. `times` are measured seconds of every stage. `plan` is what was to run
    where. `completed_by` says who did: `edge`, `cloud`, `split`, or `fallback` where the edge finished what the cloud
    did not answer; `fallback` then says why.

    >>> import edgecloud as ec
    >>> net = ec.load("le_net")
    >>> with ec.Edge(net, cloud=None) as edge:
    ...     answer = edge(net.sample)
    >>> answer.outputs[0].shape, answer.completed_by, answer.times.payload_bytes, answer.fallback
    ((1, 10), 'edge', 0, '')
    """

    outputs: Tensors
    times: StageTimes
    plan: Plan
    completed_by: str
    fallback: str = ""
    value: Any = None
    """The outputs in the structure that the network itself answers."""
    frame: Frame | None = None
    """Of `Frames`: which picture this answers, and how old it was by then."""


class Edge:
    """A network on this device, and a cloud that runs the rest of it: split where that takes least.

    `net` is what `load` takes, or a module and behind it an example of its inputs: `Edge(module, x, cloud=...)`.
    `cloud` is `"HOST:PORT"`, or None to run everything on the edge; of several, `"HOST:PORT,HOST:PORT"`, or a name with
    several addresses, the edge takes the one with the least queued seconds. The edge connects,
    measures its layers (once; they are kept in `cache_dir`), probes the link unless one is given (`Link`), and plans
    for `objective`: a name (`latency`, `energy`, `throughput`) or a `Goal`. `point` forces a cut: 0 is everything on
    the cloud.

    `edge(x)` answers one input, `submit(x)` returns a future, `map(xs)` answers many, up to `window` of them under way
    at once, so that the edge computes while the link and the cloud are busy. An input is a numpy array or a torch
    tensor, of the shape and the dtype in `net.inputs`; a first axis of 1 may be left out. A network of several takes
    them by position or by name: `edge(ids, mask)`, `edge(input_ids=ids, attention_mask=mask)`. For inputs of other
    sizes it captures the network once more, where that takes them, and plans for them; a cloud needs to take networks
    for that (`cloud_api.py --accept-networks`), else they are answered on the edge.

    Whatever the cloud does, an answer comes: what it does not answer within `timeout` (seconds, or a text such as
    `"2s"`) is completed on the edge, and the answer says so. With `fallback="off"` that is an error; with `"always"`
    the edge also begins without a cloud, and uses it once it is there. `ready_timeout` is for the cloud to load the
    network. A network that the cloud does not have is sent to one that takes networks (docs/operating.md): in the
    `background`, while the edge answers; `ship="wait"` waits until it is there, and `"off"` sends nothing.

    `codec` is `auto` (lossless, what takes least), `raw`, or one by name, such as `int8+zstd` (docs/codecs.md);
    `accuracy_budget` is the share of answers that lossy ones may change, where `deployment.py calibrate` has tried.
    `codec_files` are learned codecs (`deployment.py bottleneck`), which the cloud needs too. With `overlap="auto"` a
    tensor leaves in chunks where that is faster (docs/overlap.md); `"off"` lets one stage wait for the other.
    `token` is the cloud's secret (None takes $EDGE_CLOUD_TOKEN where it is set); `tls_ca`, `tls_cert` and `tls_key` are
    PEM files. `transport="grpc"` sends the same frames in a stream of gRPC (docs/wire.md). `threads` compute one layer
    (None: as torch is set; else it is set for this whole process). `backend` is
    `torch`, `onnxruntime`, which runs bundles, or `auto`, the one that was measured to be faster. `emulate_cpu`
    emulates a device that has this share of one core, `emulate_link` a link written UP[,RTT[,DOWN]], such as
    `"5mbit,20ms"` (docs/emulation.md). `record` writes a trace of the link to a new file. `power` and
    `radio` are what energy is modelled with.

    It is connected once it is made. Use it in a `with` statement, or call `close`. All methods may be called from any
    thread; layers are computed by one at a time.

    Raises UsageError for settings and inputs that do not serve; ConnectError, MismatchError and DeadlineError where the
    cloud cannot be used from the start; after that, with `fallback="off"`, what the cloud failed with.

    >>> import edgecloud as ec
    >>> net = ec.load("le_net")
    >>> with ec.Cloud(networks=[net]) as cloud, ec.Edge(net, cloud=cloud.address) as edge:
    ...     one, future = edge(net.sample), edge.submit(net.sample)
    ...     shapes = [answer.outputs[0].shape for answer in edge.map([net.sample] * 3)]
    >>> one.outputs[0].argmax() == future.result().outputs[0].argmax() == net(net.sample)[0].argmax()
    np.True_
    >>> shapes
    [(1, 10), (1, 10), (1, 10)]
    """

    def __init__(
        self,
        net: "Loadable | nn.Module",
        *more: Any,
        cloud: str | None = NOT_SAID,
        token: str | None = None,
        link: Link | None = None,
        objective: str | Goal = "latency",
        point: int | None = None,
        codec: str = CodecConfig.name,
        accuracy_budget: float = CodecConfig.accuracy_budget,
        codec_files: Sequence[str | Path] = (),
        overlap: Overlapping = EdgeConfig.overlap,
        fallback: Mode = CloudConfig.fallback,
        ship: Ship = CloudConfig.ship,
        timeout: str | float = CloudConfig.timeout_s,
        ready_timeout: str | float = CloudConfig.ready_s,
        window: int = WINDOW,
        device: str = DeviceConfig.name,
        threads: int | None = None,
        backend: str = defaults.Device.BACKEND,
        emulate_cpu: float | None = None,
        emulate_link: str | None = None,
        times: str = DeviceConfig.times,
        power: str = EdgeConfig.power,
        radio: str = EdgeConfig.radio,
        record: str | Path | None = None,
        tls_ca: str | Path | None = None,
        tls_cert: str | Path | None = None,
        tls_key: str | Path | None = None,
        transport: TransportName = CloudConfig.transport,
        cache_dir: str | Path | None = None,
    ) -> None:
        what, cloud = _network_and_cloud(net, more, cloud)
        self.net = load(what)
        """The network."""
        place, *others = _places(cloud)
        if cloud is None:
            point = _all_here(self.net.graph.points, point)
        goal = goal_of(objective)
        _check_choices(
            fallback=fallback,
            ship=ship,
            overlap=overlap,
            transport=transport,
            times=times,
            window=window,
            backend=backend,
        )
        if point is not None and goal != Goal():
            raise UsageError("point says where to cut, and objective what to search for: give one of them")
        if link is not None and not isinstance(link, Link):
            raise UsageError(f"link is an ec.Link('5mbit', rtt='20ms'), say, not {type(link).__name__}")
        with wording(is_module=self.net.is_module):
            check_codec(codec)
            PowerChoice.of(power, radio)
            config = EdgeConfig(
                model=self.net.name,
                point=point,
                goal=goal,
                power=power,
                radio=radio,
                overlap=overlap,
                cpu_share=emulate_cpu,
                device=DeviceConfig(
                    name=device, threads=threads, backend=backend, cache_dir=cache_of(cache_dir), times=times
                ),
                cloud=CloudConfig(
                    host=place.host,
                    port=place.port or 0,
                    more=tuple((other.host, other.port or 0) for other in others),
                    token=token_of(token),
                    tls=_tls(tls_ca, tls_cert, tls_key, place.host),
                    transport=transport,
                    fallback=fallback,
                    ship=ship,
                    timeout_s=duration_s(timeout),
                    ready_s=duration_s(ready_timeout),
                ),
                link=LinkConfig(
                    given=None if link is None else link.plain,
                    shape=_shape(emulate_link, cloud),
                    record=path_of(record),
                ),
                codec=CodecConfig(name=codec, accuracy_budget=accuracy_budget, files=tuple(map(Path, codec_files))),
            )
            self._begin(config, window)

    def _begin(self, config: EdgeConfig, window: int) -> None:
        """Connect and plan. Raises AppError."""
        edge = client.Edge.around(config, self.net.entry, self.net.made_for(config.device.name))
        self.client = EdgeClient(config, edge, window)
        self.client.open()
        self._prepare(window)

    @classmethod
    def of(cls, config: EdgeConfig, progress: Show = silent, *, ready_s: float | None = None) -> Self:
        """For the programs of this project: the edge of a configuration, its network built and its cloud connected.

        With `ready_s`, seconds for the cloud to be ready, nothing is planned: a caller that runs several cuts does
        that. Errors name flags instead of keyword arguments. Raises what `Edge(...)` raises.
        """
        edge = cls.__new__(cls)
        edge.client = EdgeClient(config)
        if ready_s is None:
            edge.client.open(progress)
        else:
            edge.client.connect(progress, ready_s=ready_s)
        built = edge.client.entered.edge
        edge.net = Network(built.entry, built.network, built.entry.name)
        edge._prepare(WINDOW)
        return edge

    def _prepare(self, window: int) -> None:
        self._window = window
        self._planned: tuple[Any, Plan] | None = None
        self._last: tuple[Plan, Link | None] | None = None
        self._is_closed = False
        self._closing = threading.Lock()
        self._resizing, self._counting = threading.Lock(), threading.Lock()
        self._users = 0
        self._resized: OrderedDict[tuple[InputSpec, ...], Edge] = OrderedDict()

    @property
    def plan(self) -> Plan:
        """What runs where, as it is planned now, or was when it was closed."""
        if self._last is not None:
            return self._last[0]
        plan, cached = self.client.plan, self._planned
        if cached is None or cached[0] is not plan:
            cached = self._planned = (plan, Plan.of(self.net.graph, plan.decision, failure=words(plan.failure)))
        return cached[1]

    @property
    def link(self) -> Link | None:
        """What the link is like, as it was given or measured; None where there is no cloud."""
        if self._last is not None:
            return self._last[1]
        link = self.client.link
        if link is None:
            return None
        return Link(link.up_bytes_per_s, rtt=link.rtt_s, down=link.down_bytes_per_s)

    def __call__(self, *args: Any, **kwargs: Any) -> Answer:
        """Answer one input, and wait for that; a network of several takes them by position or by name. Raises
        UsageError for an input that does not fit."""
        edge, given = self._for(args, kwargs)
        try:
            with wording(is_module=self.net.is_module), edge._open():
                return edge._answer(edge.client.infer(given.fed), given)
        finally:
            self._leave(edge)

    def submit(self, *args: Any, **kwargs: Any) -> "Future[Answer]":
        """Begin to answer one input. At most `window` are under way; more wait. What is given is not to be changed
        until then. Raises UsageError for an input that does not fit; the future raises what `edge(x)` would.
        """
        edge, given = self._for(args, kwargs)
        try:
            with edge._open():
                inner = edge.client.submit(given.fed)
        except BaseException:
            self._leave(edge)
            raise
        inner.add_done_callback(lambda _: self._leave(edge))
        outer: Future[Answer] = Future()
        outer.add_done_callback(lambda ended: inner.cancel() if ended.cancelled() else None)

        def on_answer(answered: "Future[Answered]") -> None:
            if answered.cancelled():
                outer.cancel()
            if not outer.set_running_or_notify_cancel():
                return
            try:
                answer = edge._answer(answered.result(), given)
            except BaseException as error:  # noqa: BLE001  who waits is told, whatever it is
                outer.set_exception(worded(error) if isinstance(error, EdgeCloudError) else error)
            else:
                outer.set_result(answer)

        inner.add_done_callback(on_answer)
        return outer

    def map(self, xs: "Iterable[Any] | Frames") -> Iterator[Answer]:
        """Answer many inputs, pipelined; the answers come in the order of `xs`, which is read as it is needed.

        For a network of several inputs each of `xs` is a tuple of what is given by position, or a dict by name. Of
        `Frames` the newest picture is answered, one at a time, and `answer.frame` says which.
        """
        if isinstance(xs, Frames):
            yield from self._of_frames(xs)
            return
        pending: deque[Future[Answer]] = deque()
        try:
            for x in xs:
                args, kwargs = (x, {}) if isinstance(x, tuple) else ((), x) if isinstance(x, dict) else ((x,), {})
                pending.append(self.submit(*args, **kwargs))
                if len(pending) > self._window:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

    def _of_frames(self, frames: Frames) -> Iterator[Answer]:
        for shown in frames.of(self.net.entry):
            answer = self(shown.what.array)
            age_s = time.perf_counter() - shown.frame.at
            yield replace(answer, frame=Frame(shown.frame.number, shown.frame.name, age_s))

    def close(self) -> None:
        """Close: running inferences are completed first, waiting ones are cancelled. A second call does nothing."""
        with self._closing:
            if not self._is_closed:
                if self.client.is_open:
                    self._last = (self.plan, self.link)
                self._is_closed = True
                self.client.close()
                with self._counting:
                    others = list(self._resized.values())
                for other in others:  # not with the lock: what is under way there comes back through it
                    other.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Edge {self.net.name}, {self.plan}{', closed' if self._is_closed else ''}>"

    @contextmanager
    def _open(self) -> Iterator[None]:
        """Raises UsageError once it is closed, also where another thread does that now."""
        try:
            if not self._is_closed:
                yield
                return
        except (ValueError, RuntimeError):  # so say a client and its threads that have ended
            if not self._is_closed:
                raise
        raise UsageError("this edge is closed")

    def _for(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> "tuple[Edge, Given]":
        """Who answers these inputs: this edge, or one for inputs of their sizes, which is made the first time."""
        specs = self.net.resized_specs(args, kwargs)
        given = self.net.given(args, kwargs, specs)
        if specs is None:
            return self, given
        with self._open(), wording(is_module=self.net.is_module):
            known = self._entered(specs)
            if known is None:
                with self._resizing:  # one size after the other, while known ones are answered
                    known = self._entered(specs) or self._keep(specs, self._made_for(specs, given))
            return known, given

    def _entered(self, specs: tuple[InputSpec, ...]) -> "Edge | None":
        """The edge for inputs of such sizes, where there is one; its caller calls `_leave` in the end."""
        with self._counting:
            if self._is_closed:
                raise UsageError("this edge is closed")
            edge = self._resized.get(specs)
            if edge is not None:
                self._resized.move_to_end(specs)
                edge._users += 1
            return edge

    def _keep(self, specs: tuple[InputSpec, ...], edge: "Edge") -> "Edge":
        """Keep one that was made, for its first caller; those that were not used for longest go."""
        with self._counting:
            is_late, edge._users = self._is_closed, 1
            if not is_late:
                self._resized[specs] = edge
            idle = [each for each, other in self._resized.items() if not other._users]
            gone = [self._resized.pop(each) for each in idle[: max(0, len(self._resized) - SIZES_KEPT)]]
        for other in gone:
            other.close()
        if is_late:
            edge.close()
            raise UsageError("this edge is closed")
        return edge

    def _leave(self, edge: "Edge") -> None:
        """What one caller of `_for` wanted is done."""
        if edge is not self:
            with self._counting:
                edge._users -= 1

    def _made_for(self, specs: tuple[InputSpec, ...], given: Given) -> "Edge":
        """An edge for inputs of other sizes. It has no cloud where ours has no graph for them and takes none.

        Raises UsageError where the network does not take them."""
        edge, config = Edge.__new__(Edge), self.client.config
        edge.net = self.net.resized(given)
        last = len(edge.net.graph.points) - 1
        config = replace(config, link=replace(config.link, record=None))  # a file belongs to one connection
        if config.point == len(self.net.graph.points) - 1:
            config = replace(config, point=last)
        try:
            edge._begin(config, self._window)
        except (MismatchError, ConnectError, DeadlineError) as error:
            if config.cloud.fallback == "off" and not isinstance(error, MismatchError):
                raise
            sizes = ", ".join(str(spec.shape) for spec in specs)
            log.warning("inputs of %s are answered on the edge: %s", sizes, error)
            edge._begin(replace(config, point=last, goal=Goal()), self._window)
        return edge

    def _answer(self, answered: Answered, given: Given) -> Answer:
        why = "" if answered.fallback is None else words(answered.fallback.reason)
        outputs = as_given(answered.outputs, given)
        value = self.net.value(outputs)
        return Answer(outputs, answered.measured, self.plan, answered.completed_by, why, value)


def _network_and_cloud(net: Any, more: Sequence[Any], cloud: str | None) -> tuple[Loadable, str | None]:
    """What was given by position: a network, or a module with an example; and behind it perhaps the cloud."""
    is_module = not isinstance(net, str | Path | tuple | Network)
    if is_module and not more:
        raise UsageError(f"{type(net).__name__} needs an example of its inputs: Edge(module, example, cloud=...)")
    what: Loadable = (net, more[0]) if is_module else net
    rest = [*more[1 if is_module else 0 :], *([] if cloud is NOT_SAID else [cloud])]
    if len(rest) != 1:
        raise UsageError("an edge is told one cloud: cloud='HOST:PORT', or cloud=None to use the edge only")
    return what, rest[0]


def _places(cloud: str | None) -> tuple[addresses.Place, ...]:
    """Host and port of every cloud. Raises UsageError where one is missing."""
    if cloud is None:
        return (addresses.Place("127.0.0.1"),)
    if not isinstance(cloud, str):
        raise UsageError(f"cloud must be 'HOST:PORT', or None to use the edge only, not {type(cloud).__name__}")
    places = addresses.parse_several(cloud)
    if not all(place.port for place in places):
        raise UsageError(f"{cloud!r} names no port: give HOST:PORT")
    return places


def _all_here(points: Sequence[object], point: int | None) -> int:
    last = len(points) - 1
    if point not in (None, last):
        raise UsageError(f"point {point} requires a cloud: without one only point {last} is possible, all on the edge")
    return last


def _check_choices(
    *, fallback: str, ship: str, overlap: str, transport: str, times: str, window: int, backend: str
) -> None:
    given = (
        ("fallback", fallback, get_args(Mode)),
        ("ship", ship, get_args(Ship)),
        ("overlap", overlap, get_args(Overlapping)),
        ("transport", transport, get_args(TransportName)),
        ("times", times, POLICIES),
        ("backend", backend, (AUTO, *BACKENDS)),
    )
    for name, choice, choices in given:
        if choice not in choices:
            raise UsageError(f"{name} is one of {', '.join(choices)}, not {choice!r}")
    if not isinstance(window, int) or window < 1:
        raise UsageError(f"window is how many inferences are under way at once, at least 1, not {window!r}")


def _tls(ca: str | Path | None, cert: str | Path | None, key: str | Path | None, host: str) -> "ClientTls | None":
    """Whom the edge trusts; None, and nothing is imported, without TLS. Raises UsageError."""
    if ca is None and cert is None and key is None:
        return None
    from edgecloud.net.tls import client_tls

    return client_tls(path_of(ca), path_of(cert), path_of(key), host)


def _shape(link: str | None, cloud: str | None) -> str | None:
    """Raises UsageError for an emulated link that is none, or that leads nowhere."""
    if link is None:
        return None
    parse_link(link)
    if cloud is None:
        raise UsageError("emulate_link is a link to a cloud, and without one there is none")
    return link
