"""Loading networks: off the way of requests, refused in time, paid for by who causes it, and only what was named."""

import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgecloud.client.handshake import handshake
from edgecloud.engine.device_config import DeviceConfig
from edgecloud.engine.load import LoadMeter
from edgecloud.engine.worker import BusyError, Worker
from edgecloud.models import registry
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.net.connection import Connection, connect
from edgecloud.net.messages import Error, Hello, Infer, Ready, Result, from_header
from edgecloud.net.server import Peer, Server
from edgecloud.net.tensors import Array
from edgecloud.server.budget import WINDOW_S, LoadBudget
from edgecloud.server.cloud_config import CloudConfig
from edgecloud.server.digests import Known, KnownDigests
from edgecloud.server.loader import Loader, NoRoomError, Wish, _wait, is_possible
from edgecloud.server.model_cache import MAX_LOADING, Networks
from edgecloud.server.requests import RequestError
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError, ConnectError, DeadlineError, MismatchError, UsageError
from edgecloud.utils.niceness import STEPS_BACK
from tests.conftest import LONG_S, CloudProcess, children_of, is_running, running_cloud, until
from tests.serving import running

pytestmark = pytest.mark.skipif(not is_possible(), reason="this system has no fork, or no files in memory")


def soon(seconds: float = LONG_S) -> Deadline:
    return Deadline.after(seconds, "the test")


def hello_of(network: TorchNetwork) -> Hello:
    return Hello(network.traced.graph.name, network.loaded.digest, network.traced.graph.digest, ["raw"], "")


@contextmanager
def networks(cache: Path, **settings: object) -> Iterator[Networks]:
    worker = Worker(8)
    config = replace(CloudConfig(device=DeviceConfig(cache_dir=cache)), **settings)  # type: ignore[arg-type]
    made = Networks(config, worker, LoadMeter())
    try:
        yield made
    finally:
        made.close()
        worker.close(LONG_S)


def get(found: Networks, hello: Hello, seconds: float = LONG_S, source: str | None = None) -> object:
    return found.get(registry.lookup(hello.model), hello, soon(seconds), lambda: True, source)


def test_who_cannot_wait_is_told_in_time_and_finds_it_later(
    cache: Path, network: Callable[[str], TorchNetwork]
) -> None:
    hello = hello_of(network("le_net"))
    with networks(cache) as found:
        began = time.monotonic()
        with pytest.raises(DeadlineError):
            get(found, hello, 0.01)
        assert time.monotonic() - began < LONG_S / 2
        both: list[object] = []
        askers = [threading.Thread(target=lambda: both.append(get(found, hello))) for _ in range(2)]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join(LONG_S)
        assert len(both) == 2
        assert both[0] is both[1] is get(found, hello)


def test_other_digests_are_refused_without_loading_anything(
    cache: Path, network: Callable[[str], TorchNetwork]
) -> None:
    right = hello_of(network("le_net"))
    with networks(cache) as found:
        get(found, right)
    for wrong in (replace(right, weights="sha256:0"), replace(right, graph="sha256:0")):
        with networks(cache) as found, pytest.raises(MismatchError):
            get(found, wrong, 0.001)
        assert not found._loading


def test_digests_are_forgotten_where_anything_has_changed_that_they_depend_on(tmp_path: Path) -> None:
    entry, path = registry.lookup("le_net"), tmp_path / "weights.pt"
    path.write_bytes(b"one")
    known = Known(Hello("le_net", "sha256:1", "sha256:2", [], ""), ("conv.weight", "conv.bias"))
    KnownDigests(tmp_path).keep(entry, str(path), known)
    again = KnownDigests(tmp_path)
    assert again.find(entry, str(path)) == known
    assert again.find(entry, "default") is None
    assert again.find(replace(entry, code="sha256:3"), str(path)) is None
    path.write_bytes(b"another")
    assert again.find(entry, str(path)) is None
    for file in (tmp_path / "digests").iterdir():
        file.write_text("{}")
    path.write_bytes(b"one")
    assert KnownDigests(tmp_path).find(entry, str(path)) is None


def test_a_source_pays_for_the_loads_that_it_causes(tmp_path: Path, network: Callable[[str], TorchNetwork]) -> None:
    hello = hello_of(network("le_net"))
    with networks(tmp_path, load_budget_s=0.001) as found:
        get(found, hello, source="192.0.2.1")
        with pytest.raises(BusyError, match="--load-budget") as caught:
            get(found, Hello("mnist", "sha256:0", "sha256:0", [], ""), source="192.0.2.1")
        assert caught.value.retry_after_s > 0
        get(found, hello, source="192.0.2.1")  # what is there costs nothing


def test_a_source_has_one_network_in_line_and_all_together_have_a_few(tmp_path: Path) -> None:
    with networks(tmp_path) as found, found._turn:  # somebody else's is being loaded

        def ask(name: str, source: str) -> AppError:
            with pytest.raises(AppError) as caught:
                get(found, Hello(name, "sha256:0", "sha256:0", [], ""), 0.01, source)
            return caught.value

        assert isinstance(ask("mnist", "192.0.2.1"), DeadlineError)
        assert isinstance(ask("kaldi", "192.0.2.1"), BusyError)
        others = [name for name in registry.NAMES if name not in ("mnist", "senna_chk")]
        for number, name in enumerate(others[: MAX_LOADING - 1]):
            assert isinstance(ask(name, f"192.0.2.{number + 2}"), DeadlineError)
        assert isinstance(ask("senna_chk", "192.0.2.200"), BusyError)
    until(lambda: not found._loading)  # nobody waits any more, so nothing is loaded
    assert not found._networks


def test_a_load_that_does_not_fit_at_its_peak_is_refused(tmp_path: Path) -> None:
    entry = registry.lookup("le_net")
    limit = entry.parameter_bytes * 3 // 2
    with networks(tmp_path, max_network_bytes=limit) as found, pytest.raises(RequestError, match="while loading"):
        get(found, Hello("le_net", "", "", [], ""))


def test_seconds_of_loading_come_back_over_time() -> None:
    budget = LoadBudget(60.0)
    assert budget.wait_s("a", 0.0) == 0
    budget.spend("a", 90.0, 0.0)
    assert budget.wait_s("a", 0.0) == pytest.approx(WINDOW_S / 2, rel=0.01)
    assert budget.wait_s("b", 0.0) == 0
    assert budget.wait_s("a", WINDOW_S / 2 + 1) == 0
    assert budget.wait_s(None, 0.0) == 0
    for number in range(5000):
        budget.spend(f"s{number}", 1.0, 1.0)
    assert len(budget._spent) <= 4096
    assert budget.wait_s("a", 1.0) > 0  # who has spent most is not forgotten for the others


def test_by_default_only_networks_with_a_name_of_their_own_are_served(cache: Path) -> None:
    with running_cloud(cache) as cloud, closing(connect("127.0.0.1", cloud.port, 5.0)) as connection:
        connection.send(Hello("torchvision:resnet18", "", "", [], ""), soon())
        error = from_header(Error, connection.receive(soon()).header)
        assert error.code == "UNKNOWN_MODEL"
        assert "serves only alex_net," in error.text
        assert "--models torchvision:resnet18" in error.text
        assert "--models all" in error.text


def test_a_killed_cloud_leaves_nothing_that_loads(cache: Path) -> None:
    with running_cloud(cache) as cloud, closing(connect("127.0.0.1", cloud.port, 5.0)) as connection:
        connection.send(Hello("vgg_net", "", "", [], ""), soon())
        until(lambda: any(children_of(child) for child in children_of(cloud.process.pid)))
        loaders = children_of(cloud.process.pid)
        loaders += [job for loader in loaders for job in children_of(loader)]
        cloud.kill()
        until(lambda: not any(map(is_running, loaders)))


@contextmanager
def limited(cloud: CloudProcess, kind: int, most: int) -> Iterator[None]:
    before = resource.prlimit(cloud.process.pid, kind)
    resource.prlimit(cloud.process.pid, kind, (most, before[1]))
    try:
        yield
    finally:
        resource.prlimit(cloud.process.pid, kind, before)


def test_a_greeting_needs_no_file_and_a_payload_without_memory_is_refused(
    cache: Path, network: Callable[[str], TorchNetwork]
) -> None:
    subject = network("le_net")
    hello, x = hello_of(subject), np.asarray(subject.example.tensor)
    request = Infer(1, [[1, len(subject.traced.graph.layers)]], LONG_S)
    many = running_cloud(cache, "--max-payload", "512MiB")
    with many as cloud, closing(connect("127.0.0.1", cloud.port, 5.0)) as connection:
        connection.send(hello, soon())
        connection.receive(soon()).read(Ready)
        with limited(cloud, resource.RLIMIT_NOFILE, cloud.descriptors):
            connection.send(hello, soon())
            connection.receive(soon()).read(Ready)
        with closing(connect("127.0.0.1", cloud.port, 5.0)) as greedy:
            greedy.send(hello, soon())
            greedy.receive(soon()).read(Ready)
            greedy.limits = replace(greedy.limits, payload_bytes=1 << 30)
            status = Path(f"/proc/{cloud.process.pid}/status").read_text()
            used = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmSize"))
            with (
                limited(cloud, resource.RLIMIT_AS, used + (64 << 20)),
                pytest.raises(ConnectError, match="not enough memory"),  # while it sends, or when it has sent
            ):
                ask(greedy, request, np.zeros(100 << 20, np.float32))
        ask(connection, request, x)


def ask(connection: Connection, request: Infer, x: Array) -> Result:
    connection.send(request, soon(), [x])
    return connection.receive(soon()).read(Result)


def test_an_edge_greets_a_busy_cloud_again_when_it_says(network: Callable[[str], TorchNetwork]) -> None:
    subject = network("le_net")
    layers = len(subject.traced.graph.layers)
    ready = Ready([0.0] * layers, [0.0] * layers, 0.0, "cpu", [], 1 << 20, "measured")
    answers: list[Error | Ready] = [Error("BUSY", "later", retry_after_s=0.05), ready]

    def converse(peer: Peer) -> None:
        peer.connection.receive(soon())
        peer.connection.send(answers.pop(0) if answers else Error("BUSY", "full", retry_after_s=LONG_S), soon())

    with running(Server("127.0.0.1", 0, converse)) as port:
        address = ("127.0.0.1", port)
        connection, found = handshake(address, [hello_of(subject)], {"le_net": layers}, LONG_S)
        connection.close()
        assert isinstance(connection, Connection)
        assert found["le_net"] == ready
        with pytest.raises(AppError, match="full"):  # there is no time left when it says
            handshake(address, [hello_of(subject)], {"le_net": layers}, 1.0)


def test_a_load_steps_back_as_soon_as_somebody_is_served(tmp_path: Path) -> None:
    def work(wish: Wish) -> tuple[bytes, int]:
        until(lambda: (tmp_path / "go").exists())
        raise UsageError(f"{wish.name} is enough")

    loader = Loader(work)
    told: list[Exception] = []

    def load(*, is_behind: bool) -> None:
        with pytest.raises(UsageError, match="this is enough") as caught:
            loader.load(Wish("this", 1), LONG_S, is_behind=is_behind)
        told.append(caught.value)

    try:
        for is_behind in (False, True):
            thread = threading.Thread(target=lambda now=is_behind: load(is_behind=now))
            thread.start()
            until(lambda: loader._running)
            job = loader._running
            assert job is not None
            behind = min(19, os.getpriority(os.PRIO_PROCESS, 0) + STEPS_BACK)
            assert (os.getpriority(os.PRIO_PROCESS, job) == behind) is is_behind
            loader.step_back()
            assert os.getpriority(os.PRIO_PROCESS, job) == behind
            (tmp_path / "go").touch()
            thread.join(LONG_S)
            (tmp_path / "go").unlink()
        assert len(told) == 2
    finally:
        loader.close()


def test_a_load_that_takes_for_ever_is_ended_and_the_next_one_goes_on() -> None:
    def work(wish: Wish) -> tuple[bytes, int]:
        until(lambda: wish.name != "slow")
        raise MemoryError

    loader = Loader(work)
    try:
        with pytest.raises(NoRoomError, match="within"):
            loader.load(Wish("slow", 1), 1.0, is_behind=False)
        with pytest.raises(NoRoomError, match="memory"):
            loader.load(Wish("quick", 1), LONG_S, is_behind=False)
    finally:
        loader.close()


def test_what_is_being_loaded_ends_with_a_cloud_that_was_killed_before_it_had_read_all() -> None:
    """It went on alone: what the kernel says then is a reset and not an end."""
    ours, clouds = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ended, ends = os.pipe()
    child = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({LONG_S})"], pass_fds=[ends])
    os.close(ends)
    with closing(ours):
        ours.send(b"never read")
        clouds.close()
        assert not _wait(ours, child.pid, ended)
    assert not is_running(child.pid)
    child.wait()
