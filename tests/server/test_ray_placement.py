"""Workers on the nodes of a Ray cluster: two nodes on this machine, one of which is lost under load."""

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecloud.models.torch_network import TorchNetwork
from edgecloud.server.gateway import Gateway
from edgecloud.utils.extras import is_there
from tests.conftest import processes_with, until
from tests.fleets import Fleetlet, caller, fleetlet, serving

EDGES = 3
MARK = 3737
"""A setting of these workers, by which they are found among all processes."""
PAUSE_S = 0.05
"""Between two requests of an edge, or starting a worker would take long."""
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
"""It has room for one worker, so two workers are on two nodes."""
HEAD = {"no_monitor": True, "include_log_monitor": False}
"""Without what nothing here is for, to be there sooner."""


@contextmanager
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Of one node. What Ray writes lies in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:  # short: sockets are in it
        (Path(folder) / "ray").mkdir()  # where it notes which cluster there is
        own = {"USAGE_STATS_ENABLED": "0", "AUTH_MODE": "token", "AUTH_TOKEN": "of this test " * 4, "TMPDIR": folder}
        for name, text in own.items():
            monkeypatch.setenv(f"RAY_{name}", text)  # read when it is imported
        from ray.cluster_utils import Cluster

        made = Cluster(initialize_head=True, head_node_args=NODE | HEAD | {"temp_dir": folder})
        try:
            yield made
        finally:
            made.shutdown()


class Load:
    """Edges that ask for one answer after another, each different, and compare it with the user's own module."""

    def __init__(self, port: int, network: TorchNetwork) -> None:
        self.port, self.network = port, network
        self.faults: list[str] = []
        self.answers, self._ends = 0, threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(EDGES)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        try:
            with caller(self.port, self.network) as edge:
                while not self._ends.is_set():
                    x = edge.x * (1 + number + self.answers % 7 / 10)
                    asked = edge.ask(x)
                    result, got = edge.hear()
                    assert result.id == asked
                    np.testing.assert_allclose(got, edge.expected(x), rtol=1e-4, atol=1e-4)
                    self.answers += 1
                    self._ends.wait(PAUSE_S)
        except Exception as error:  # noqa: BLE001  whatever it is, it is a fault
            self.faults.append(f"edge {number}: {error!r}")

    def goes_on(self) -> None:
        """Wait for more answers."""
        before = self.answers
        until(lambda: self.answers >= before + 20 * EDGES or self.faults)


@pytest.fixture
def fleet(cache: Path) -> Iterator[Fleetlet]:
    with fleetlet(cache) as made:
        yield made


@pytest.mark.skipif(not is_there("ray"), reason="ray is not installed: pip install '.[ray]'")
def test_a_node_that_is_lost_costs_no_answer_and_its_worker_is_replaced(
    fleet: Fleetlet, network: Callable[[str], TorchNetwork], monkeypatch: pytest.MonkeyPatch
) -> None:
    le_net = network("le_net")
    with cluster(monkeypatch) as nodes:
        second = nodes.add_node(**NODE)
        about = {"models": ("le_net",), "workers": ("ray", ""), "worker_options": {"ray-address": nodes.address}}
        config = fleet.config(**about, max_queue=MARK)
        gateway = Gateway(config)
        with serving(gateway):
            workers = gateway.fleet
            until(lambda: workers.well == 2)  # as many as there is room for
            assert len(processes_with(f"--max-queue\0{MARK}")) >= 2, "and what loads their networks"
            before = {str(row["name"]) for row in workers.rows()}
            with Load(gateway.server.addresses[0][1], le_net) as load:
                load.goes_on()
                nodes.remove_node(second, allow_graceful=False)
                until(lambda: workers.well == 1 or load.faults)
                load.goes_on()
                nodes.add_node(**NODE)
                until(lambda: workers.well == 2 or load.faults)
                load.goes_on()
            assert load.faults == []
            after = {str(row["name"]) for row in workers.rows()}
            assert len(before & after) == len(after - before) == 1, (before, after)
        until(lambda: not processes_with(f"--max-queue\0{MARK}"))
