"""One network of an edge with its cloud, for programs that run it again and again, also many inferences at once."""

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from edgecloud.client.edge import Answered, Edge, EdgeConfig
from edgecloud.client.inference import first_plan, prepared_with, reach
from edgecloud.client.outcome import Plan
from edgecloud.client.runner import Runner
from edgecloud.client.subprocesses import CloudAccess
from edgecloud.net.link import LinkEstimate
from edgecloud.net.recorder import Recorder
from edgecloud.net.tensors import Array
from edgecloud.utils.progress import Show

WINDOW = 6
"""Inferences under way at once: a cloud takes up to eight requests of a connection before they are answered."""


def _silent(_what: str, _share: float) -> None:
    """Nobody looks at the progress."""


class EdgeClient:
    """Runs one network, as planned with its cloud, whatever becomes of that.

    `edge` has the network loaded; `config` has the cloud's address and the objective, as for edge_api.py. At most
    `window` inferences are under way at once. `infer` and `submit` may be called from any thread.
    """

    def __init__(self, edge: Edge, config: EdgeConfig, window: int = WINDOW) -> None:
        self._edge, self._config, self._window = edge, config, window
        self._stack = ExitStack()
        self._runner: Runner | None = None
        self._pool: ThreadPoolExecutor | None = None

    def open(self, progress: Show = _silent) -> None:
        """Connect to the cloud, measure the layers and the link, and plan. Raises AppError."""
        config = self._config
        try:
            recorder = None if config.record is None else self._stack.enter_context(Recorder(config.record))
            place = (config.host, config.port)
            cloud = CloudAccess(self._stack, place, config.own_cloud, "cloud_api.py", config.link_shape)
            if config.point is None:
                cloud.start()  # it loads while we do
            self._stack.callback(self._edge.close)
            is_awaited = config.fallback != "always"
            entered = reach(self._edge, cloud, config, progress, recorder, is_awaited=is_awaited)
            prepared = prepared_with(entered, config, progress)
            link, plan, is_late = first_plan(entered, prepared, config, progress)
            self._runner = Runner(prepared, plan, link, config, is_late=is_late)
            self._pool = ThreadPoolExecutor(self._window, thread_name_prefix="inference")
            self._stack.callback(self._pool.shutdown, cancel_futures=True)
        except BaseException:
            self.close()
            raise

    @property
    def plan(self) -> Plan:
        """What runs where; another one once a cloud has come that was not there at first."""
        return self._opened.plan

    @property
    def link(self) -> LinkEstimate | None:
        """What the link was like when that was planned; None without a cloud."""
        return self._opened.link

    @property
    def _opened(self) -> Runner:
        if self._runner is None:
            raise ValueError("the client is not open")
        return self._runner

    def infer(self, x: Array) -> Answered:
        """Run the network on `x`, shape (1, ...), and wait for the answer.

        Raises AppError for what a cloud or a link can do where the fallback is off, ValueError where it is not open.
        """
        return self._opened.infer(x)

    def submit(self, x: Array) -> "Future[Answered]":
        """Run the network on `x` meanwhile. The heads are computed one after the other, in about this order, while what
        others have sent travels or is on the cloud. Raises ValueError where it is not open."""
        runner = self._opened
        assert self._pool is not None  # it is open
        return self._pool.submit(runner.infer, x)

    def close(self) -> None:
        """Close: running inferences are completed first, waiting ones are cancelled."""
        self._runner = None
        self._stack.close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
