"""What surrounds Ray, without it: which Ray is meant, the process that talks to it, and the actor's worker."""

import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgecloud.server import ray_driver, ray_placement
from edgecloud.server.placement import Setup
from edgecloud.server.ray_actor import WorkerActor, environment_of
from edgecloud.server.ray_driver import OWN, find, set_environment
from edgecloud.server.ray_placement import RayPlacement
from edgecloud.utils.environment import SECRET
from edgecloud.utils.errors import AppError, ConnectError, UsageError
from tests.conftest import until

DRIVER = """
import json, os, sys
orders = json.loads(sys.stdin.readline())
print(json.dumps({"log": "orders: " + json.dumps(orders)}), flush=True)
name = "ray-0-%d-1" % orders["generation"]
tell = lambda *workers: print(json.dumps({"wanted": 1, "workers": workers}), flush=True)
tell((name, "127.0.0.1", os.getpid(), "a secret"))
for line in sys.stdin:
    print(json.dumps({"log": "told: " + line.strip()}), flush=True)
    tell()
print(json.dumps({"log": "the end"}), flush=True)
"""
"""It speaks as server.ray_driver does; the port of its worker is its own number."""


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of whoever runs this: none is found, and no home is written to."""
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(ray_placement, "require", lambda _: None)


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


# --- which Ray


def test_without_an_address_it_is_that_of_this_machine_or_else_our_own(tmp_path: Path, port: int) -> None:
    assert find("") == find(OWN) == OWN
    (tmp_path / "ray").mkdir()
    current = tmp_path / "ray" / "ray_current_cluster"
    current.write_text("127.0.0.1:1")  # of one that has ended
    assert find("") == OWN
    with pytest.raises(ConnectError, match=r"no Ray at 127\.0\.0\.1:1: start it there with ray start --head"):
        find("auto")
    current.write_text(f"127.0.0.1:{port}")
    assert find("") == find("auto") == f"127.0.0.1:{port}"
    assert find(OWN) == OWN


def test_the_one_that_the_environment_names(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    assert find("") == f"127.0.0.1:{port}"
    with pytest.raises(ConnectError, match="no Ray at"):
        find("127.0.0.1:1")


def test_our_own_has_a_secret_that_no_file_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ray_driver.MODE, "")  # what is set here is undone by pytest
    monkeypatch.setenv(ray_driver.SECRET, "")
    monkeypatch.setenv(ray_driver.USAGE, "1")
    set_environment("127.0.0.1:6379")
    assert (os.environ[ray_driver.USAGE], os.environ[ray_driver.SECRET]) == ("0", "")
    set_environment(OWN)
    assert (os.environ[ray_driver.MODE], len(os.environ[ray_driver.SECRET])) == ("token", 64)
    assert not list(tmp_path.iterdir())


def test_a_secret_that_the_user_has_is_used(tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("x" * 64)
    set_environment(OWN)
    assert ray_driver.SECRET not in os.environ


# --- the process that talks to it


def test_it_is_started_again_and_told_what_is_lost(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ray_placement, "DRIVER", ("-c", DRIVER))
    placement = RayPlacement("3", Setup(("--models", "le_net"), "cuda:1", 2, options={"ray-address": "head:6379"}))
    assert placement.wanted == 3
    placement.start()
    try:
        until(placement.addresses)
        [worker] = placement.addresses()
        assert (worker.name, worker.host, worker.token) == ("ray-0-1-1", "127.0.0.1", "a secret")
        orders = json.loads(next(text for text in caplog.messages if text.startswith("orders: ")).partition(" ")[2])
        assert orders == {
            "generation": 1,
            "count": 3,
            "cpus": 2.0,
            "gpus": 1.0,
            "address": "head:6379",
            "arguments": ["-d", "cuda", "--threads", "2", "--models", "le_net"],
        }
        os.kill(worker.port, signal.SIGKILL)
        until(lambda: [each.name for each in placement.addresses()] == ["ray-0-2-1"])
        assert "has ended: by signal 9" in caplog.text
        placement.lost("ray-0-2-1")
        assert placement.addresses() == ()
        until(lambda: 'told: {"lost": "ray-0-2-1"}' in caplog.messages)
    finally:
        placement.close(7.0)
    assert 'told: {"drain_s": 7.0}' in caplog.messages
    assert "the end" in caplog.messages
    assert "a secret" not in caplog.text


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        ('print(\'{"error": "no Ray at x", "exit_code": 3}\')', ConnectError, "no Ray at x"),
        ("import sys; sys.exit('it is broken')", AppError, "has ended: it is broken"),
        ("import os; os.abort()", AppError, "has ended: by signal 6"),
    ],
)
def test_what_does_not_come_to_anything_is_told(
    code: str, kind: type[AppError], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_placement, "DRIVER", ("-c", code))
    with pytest.raises(AppError, match=text) as found:
        RayPlacement("", Setup()).start()
    assert type(found.value) is kind


def test_flags_that_do_not_serve_are_refused_before_anything_starts() -> None:
    for text, options in (("x", {}), ("", {"ray-cpus": "1.5"}), ("", {"ray-address": "ray://head:10001"})):
        with pytest.raises(UsageError):
            RayPlacement(text, Setup(options=options))


# --- the actor's worker


def test_a_worker_that_does_not_start_says_why() -> None:
    actor = WorkerActor(["--nonsense"], "a secret of it", "127.0.0.1")
    started = actor.start()
    assert started.port == 0
    assert "--nonsense" in started.reason
    assert started.reason.endswith("(exit code 2)")
    assert actor.ended() == started.reason
    actor.stop(0.0)


def test_a_worker_has_its_own_secret_and_none_of_the_others() -> None:
    given = {SECRET: "of clients", "EDGE_CLOUD_PORT": "9999", "RAY_AUTH_TOKEN": "of the cluster", "PATH": sys.prefix}
    assert environment_of(given, "its own") == {SECRET: "its own", "PATH": sys.prefix}
