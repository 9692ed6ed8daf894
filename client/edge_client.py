"""One network of an edge with its cloud, from the beginning to the end: for the scripts, and for `ec.Edge`."""

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from edgecloud.client.config import EdgeConfig
from edgecloud.client.edge import Answered, Edge
from edgecloud.client.inference import Entered, compared_ways, enter, first_plan, prepared_with
from edgecloud.client.outcome import Plan
from edgecloud.client.planning import Prepared
from edgecloud.client.runner import Runner
from edgecloud.models.network import Fed
from edgecloud.net.link import LinkEstimate
from edgecloud.utils.progress import Show

WINDOW = 6
"""Inferences under way at once: a cloud takes up to eight requests of a connection before they are answered."""


def silent(_what: str, _share: float) -> None:
    """Nobody looks at the progress."""


class EdgeClient:
    """Runs one network, as planned with its cloud, whatever becomes of that.

    `config` has the address of the cloud and the objective; `edge` has the network loaded, or `config` names the one to
    build. At most `window` inferences are under way at once. `infer` and `submit` may be called from any thread.
    """

    def __init__(self, config: EdgeConfig, edge: Edge | None = None, window: int = WINDOW) -> None:
        self.config = config
        self._edge, self._window = edge, window
        self._stack = ExitStack()
        self._entered: Entered | None = None
        self._prepared: Prepared | None = None
        self._runner: Runner | None = None
        self._pool: ThreadPoolExecutor | None = None

    def connect(self, progress: Show = silent, *, is_awaited: bool = True, ready_s: float | None = None) -> Entered:
        """Build the network and connect to the cloud; nothing is measured and planned yet. Raises AppError.

        The cloud may take `ready_s` seconds, else as long as the configuration says.
        """
        try:
            self._entered = enter(
                self._stack, self.config, progress, self._edge, is_awaited=is_awaited, ready_s=ready_s
            )
        except BaseException:
            self.close()
            raise
        return self._entered

    def open(self, progress: Show = silent) -> None:
        """Connect to the cloud, measure the layers and the link, and plan. Raises AppError."""
        config = self.config
        entered = self.connect(progress, is_awaited=config.cloud.fallback != "always")
        try:
            self._prepared = prepared = prepared_with(entered, config, progress)
            link, plan, is_late = first_plan(entered, prepared, config, progress)
            both = compared_ways(entered.edge, plan, config)
            self._runner = Runner(prepared, plan, link, config, both, is_late=is_late, is_adaptive=not both)
            self._pool = ThreadPoolExecutor(self._window, thread_name_prefix="inference")
            self._stack.callback(self._pool.shutdown, cancel_futures=True)
        except BaseException:
            self.close()
            raise

    @property
    def is_open(self) -> bool:
        """Whether there is a plan that is carried out."""
        return self._runner is not None

    @property
    def entered(self) -> Entered:
        """The edge with its network, and whether there is a cloud. Raises ValueError where it is not connected."""
        if self._entered is None:
            raise ValueError("the client is not connected")
        return self._entered

    @property
    def prepared(self) -> Prepared:
        """What every inference starts from. Raises ValueError where it is not open."""
        if self._prepared is None:
            raise ValueError("the client is not open")
        return self._prepared

    @property
    def runner(self) -> Runner:
        """What carries the plan out. Raises ValueError where it is not open."""
        if self._runner is None:
            raise ValueError("the client is not open")
        return self._runner

    @property
    def plan(self) -> Plan:
        """What runs where; another one once a cloud has come that was not there at first."""
        return self.runner.plan

    @property
    def link(self) -> LinkEstimate | None:
        """What the link was like when that was planned; None without a cloud."""
        return self.runner.link

    def infer(self, x: Fed) -> Answered:
        """Run the network on `x`, shape (1, ...), and wait for the answer.

        Raises AppError for what a cloud or a link can do where the fallback is off, ValueError where it is not open.
        """
        return self.runner.infer(x)

    def submit(self, x: Fed) -> "Future[Answered]":
        """Run the network on `x` meanwhile. The heads are computed one after the other, in about this order, while what
        others have sent travels or is on the cloud. Raises ValueError where it is not open."""
        runner = self.runner
        assert self._pool is not None  # it is open
        return self._pool.submit(runner.infer, x)

    def close(self) -> None:
        """Close: running inferences are completed first, waiting ones are cancelled."""
        self._runner = self._prepared = self._entered = None
        self._stack.close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
