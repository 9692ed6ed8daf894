"""Records the link of edge_api.py as a trace: the probe, and the estimate after every transfer."""

import time
from pathlib import Path
from types import TracebackType
from typing import Self

from edgecloud.net.connection import BURST_BYTES
from edgecloud.net.estimator import Estimator
from edgecloud.net.link import LinkEstimate
from edgecloud.net.messages import Result
from edgecloud.net.recorder import Recorder


class LinkRecord:
    """Writes a trace to a file while it is entered; nothing where there is no file."""

    def __init__(self, path: Path | None) -> None:
        """Make the file. Raises UsageError where that cannot be, or there is one already."""
        self._recorder = None if path is None else Recorder(path)
        self._estimator: Estimator | None = None

    def probed(self, link: LinkEstimate | None) -> None:
        """The link was measured, or given; None where there is none."""
        if self._recorder is not None and link is not None:
            self._estimator = Estimator.of(link, time.perf_counter(), self._recorder.note)

    def heard(self, result: Result) -> None:
        """An answer says how long its request took to arrive."""
        if self._estimator is not None:
            self._estimator.sample_up(result.timed_bytes, result.timed_s, time.perf_counter(), BURST_BYTES)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._recorder is not None:
            self._recorder.close()
