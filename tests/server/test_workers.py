"""Workers that are processes: killed, stopped, replaced, scaled to nothing and back, and never left behind."""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import edgecloud as ec
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.server import health
from edgecloud.server.gateway import Gateway
from edgecloud.server.local_placement import LocalPlacement, device_of
from edgecloud.server.placement import Setup
from edgecloud.server.worker_flags import arguments_of
from edgecloud.utils.errors import AppError
from tests.conftest import children_of, is_running, run_script, running_cloud, until
from tests.fleets import LOCAL, Fleetlet, caller, fleetlet


@pytest.fixture
def le_net(network: Callable[[str], TorchNetwork]) -> TorchNetwork:
    return network("le_net")


@pytest.fixture(scope="module")
def pair(cache: Path) -> Iterator[tuple[Fleetlet, LocalPlacement]]:
    """A gateway in this process, and two workers that are processes."""
    with fleetlet(cache) as made:
        config = made.config(models=("le_net",))
        placement = LocalPlacement(2, Setup(arguments_of(config), threads=1))
        made.placement = placement  # type: ignore[assignment]
        made.open(models=("le_net",))
        yield made, placement


def pids(placement: LocalPlacement) -> list[int]:
    return [slot.process.pid for slot in placement._slots if slot.process is not None]


def gateway_of(pair: tuple[Fleetlet, LocalPlacement]) -> Gateway:
    assert pair[0].gateway is not None
    return pair[0].gateway


class Edges:
    """Edges that ask without pause, and look at every answer."""

    def __init__(self, port: int, subject: TorchNetwork, count: int) -> None:
        self.right, self.wrong = 0, 0
        self.lost: list[str] = []
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(port, subject, n)) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def _run(self, port: int, subject: TorchNetwork, number: int) -> None:
        try:
            with caller(port, subject) as edge:
                x = edge.x * (1 + number)
                expected = edge.expected(x)
                while not self._is_over.is_set():
                    edge.ask(x)
                    _, got = edge.hear()
                    is_right = np.allclose(got, expected, rtol=1e-4, atol=1e-4)
                    with self._lock:
                        self.right += is_right
                        self.wrong += not is_right
        except AppError as error:
            self.lost.append(str(error))

    def finish(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_worker_that_is_lost_under_load_costs_no_answer(
    number: signal.Signals, pair: tuple[Fleetlet, LocalPlacement], le_net: TorchNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecloud.server.fleet.HANG_S", 4.0)
    fleet, placement = gateway_of(pair).fleet, pair[1]
    until(lambda: fleet.well == 2)
    with caller(pair[0].port, le_net) as edge:  # both hold it
        hello = edge.network
        for member in list(fleet._members.values()):
            fleet.load(member, next(found for found, _ in fleet._in_use.values() if found.model == hello.graph.name))
        until(lambda: all(row["networks"] for row in fleet.rows()))
    edges = Edges(pair[0].port, le_net, 3)
    try:
        until(lambda: edges.right > 20 or edges.lost)
        before, lost = pids(placement), fleet.load_now().lost
        os.kill(before[0], number)
        until(lambda: before[0] not in pids(placement) or edges.lost)
        until(lambda: fleet.well == 2 or edges.lost)
        right = edges.right
        until(lambda: edges.right > right + 20 or edges.lost)
    finally:
        edges.finish()
    assert (edges.wrong, edges.lost) == (0, [])
    assert fleet.load_now().lost == lost + 1
    assert not is_running(before[0])
    assert before[1] in pids(placement)


def test_scaled_to_nothing_and_back(pair: tuple[Fleetlet, LocalPlacement], le_net: TorchNetwork) -> None:
    """The workers finish what they have, and go; edges are told to come back, and a new worker answers them."""
    fleet, placement = gateway_of(pair).fleet, pair[1]
    until(lambda: fleet.well == 2)
    before = pids(placement)
    lost = fleet.load_now().lost
    placement.wanted = 0
    until(lambda: fleet.well == 0)
    with caller(pair[0].port, le_net, greets=False) as edge, pytest.raises(AppError, match="try again later"):
        edge.greet()
    until(lambda: not any(map(is_running, before)))
    assert fleet.load_now().queued_s >= 1.0
    placement.wanted = 1
    until(lambda: fleet.well == 1)
    with caller(pair[0].port, le_net) as edge:
        edge.answered()
    assert fleet.load_now().lost == lost
    placement.wanted = 2


def test_a_gateway_that_is_killed_leaves_no_worker_behind(cache: Path, le_net: TorchNetwork) -> None:
    with running_cloud(cache, "--workers", "1", "--models", "le_net") as cloud:
        until(lambda: (state := health.ask(LOCAL, cloud.port, "", None).state) is not None and state.workers == 1)
        with caller(cloud.port, le_net) as edge:
            edge.answered()
        done = run_script("cloud_api.py", "--health", f"{LOCAL}:{cloud.port}", "--json")
        found = json.loads(done.stdout)
        assert (found["gateway"], found["workers"], found["wanted"]) == (True, 1, 1)
        workers = children_of(cloud.process.pid)
        assert workers
        cloud.kill()
        until(lambda: not any(map(is_running, workers)))


def test_what_a_worker_may_not_be(tmp_path: Path) -> None:
    """One line each, before anything heavy is loaded."""
    open_folder = tmp_path / "open"
    open_folder.mkdir(mode=0o755)
    for arguments, said in (
        (("--worker",), "--worker requires a token"),
        (("--worker", "--workers", "2"), "a worker has no workers of its own"),
        (("-i", f"unix:{tmp_path}/s"), "only a worker listens on a file"),
        (("--worker", "-i", "unix:relative"), "absolute path"),
        (("--workers", "many"), "many"),
        (("--workers", "1", "--models", "le_nett"), "did you mean le_net"),
    ):
        done = run_script("cloud_api.py", *arguments)
        assert (done.code, said in done.stderr) == (2, True), done.stderr


def test_workers_that_cannot_do_what_they_are_told_end_the_gateway_with_their_own_line(tmp_path: Path) -> None:
    done = run_script("cloud_api.py", "-p", "0", "--workers", "2", "--weights", f"le_net={tmp_path}/none.pt")
    assert (done.code, done.stdout) == (2, "")
    assert "none.pt" in done.stderr
    assert "the workers cannot be started" in done.stderr.splitlines()[-1]


def test_a_socket_in_a_folder_of_others_is_refused(tmp_path: Path) -> None:
    from edgecloud.net.endpoints import dial, listen
    from edgecloud.utils.errors import UsageError

    tmp_path.chmod(0o755)
    with pytest.raises(UsageError, match="may be entered by others"):
        listen(f"unix:{tmp_path}/s", 0, 1)
    tmp_path.chmod(0o700)
    (listener,) = listen(f"unix:{tmp_path}/s", 0, 1)
    with closing(listener), pytest.raises(AppError, match="in use"):
        listen(f"unix:{tmp_path}/s", 0, 1)
    with pytest.raises(AppError, match="no worker"):
        dial(f"unix:{tmp_path}/s", 0, 1.0)
    with closing(listen(f"unix:{tmp_path}/s", 0, 1)[0]):  # what a killed process left behind
        dial(f"unix:{tmp_path}/s", 0, 1.0).close()


@pytest.mark.parametrize(
    ("device", "number", "count", "found"),
    [
        ("cuda", 0, 4, "cuda:0"),
        ("cuda", 5, 4, "cuda:1"),
        ("cuda", 3, 1, "cuda"),
        ("cuda:2", 0, 4, "cuda:2"),
        ("cpu", 1, 4, "cpu"),
    ],
)
def test_each_worker_has_a_gpu_of_its_own_where_there_are_several(
    device: str, number: int, count: int, found: str
) -> None:
    assert device_of(device, number, count) == found


def test_a_cloud_of_the_library_may_have_workers_too(cache: Path) -> None:
    net = ec.load("le_net")
    with (
        ec.Cloud(networks=["le_net"], workers=1, threads=1, cache_dir=cache) as cloud,
        ec.Edge(net, cloud.address, point=0, fallback="off", cache_dir=cache) as edge,
    ):
        answer = edge(net.sample)
        assert answer.completed_by == "cloud"
        np.testing.assert_allclose(answer.outputs[0], net(net.sample)[0], rtol=1e-4, atol=1e-4)
    with pytest.raises(ec.UsageError, match="names and files"):
        ec.Cloud(networks=[net], workers=1)
