"""TLS as users meet it: real clouds, real edges, and the exit codes that scripts rely on."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgecloud import edge_api, tasks_edge_api
from tests import certificates
from tests.certificates import Identity
from tests.conftest import THREADS, CloudProcess, Finished, at, call, run_edge, run_script, running_cloud


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    """The cloud's."""
    return certificates.make(tmp_path_factory.mktemp("certificates"), "cloud")


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    """An edge's."""
    return certificates.make(tmp_path_factory.mktemp("certificates"), "edge", "DNS:edge")


@pytest.fixture(scope="module")
def tls_cloud(cache: Path, own: Identity, edge: Identity) -> Iterator[CloudProcess]:
    """One that wants TLS, a client certificate and a token."""
    flags = (*own.flags, "--tls-client-ca", str(edge.cert))
    with running_cloud(cache, *flags, script="tasks_cloud_api.py", EDGE_CLOUD_TOKEN="a good secret") as process:
        yield process


Ask = Callable[..., Finished]


@pytest.fixture
def run_tasks(cache: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    """A few tasks of the smallest network."""

    def ask(cloud: CloudProcess, *flags: str) -> Finished:
        place = [*at(cloud), "--cache-dir", str(cache), "--threads", THREADS]
        return call(tasks_edge_api.main, [*place, "-t", "le_net", "--tasks", "4", "--json", *flags], capsys)

    return ask


def test_tasks_run_over_tls_and_every_answer_is_right(
    run_tasks: Ask, tls_cloud: CloudProcess, own: Identity, edge: Identity, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("a good secret\n")
    flags = ("--tls-ca", str(own.cert), *edge.flags, "--token-file", str(secret), "--verify", "--bandwidth", "100mbit")
    done = run_tasks(tls_cloud, *flags)
    assert done.code == 0, done.stderr


def test_an_edge_without_tls_gets_one_line_and_code_3(run_tasks: Ask, tls_cloud: CloudProcess) -> None:
    done = run_tasks(tls_cloud)
    assert done.code == 3
    assert done.document["error"]["message"].endswith("this cloud requires TLS: use --tls-ca FILE")
    assert len(done.stderr.splitlines()) == 1


def test_an_edge_with_tls_on_a_plain_cloud_gets_one_line_and_code_3(
    run_tasks: Ask, cloud: CloudProcess, own: Identity
) -> None:
    done = run_tasks(cloud, "--tls-ca", str(own.cert))
    assert done.code == 3
    assert done.document["error"]["message"].startswith("the cloud does not use TLS: start it with --tls-cert")
    assert len(done.stderr.splitlines()) == 1


def test_a_cloud_for_other_machines_wants_a_token_or_tls(own: Identity) -> None:
    refused = run_script("cloud_api.py", "-i", "0.0.0.0", "-p", "0")
    assert (refused.code, "--token-file" in refused.stderr) == (2, True)
    refused = run_script("cloud_api.py", "-p", "0", "--tls-cert", str(own.cert))
    assert (refused.code, "must be used together" in refused.stderr) == (2, True)


def test_health_needs_the_token_and_speaks_tls(
    tls_cloud: CloudProcess, own: Identity, edge: Identity, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("a good secret")
    place = ("cloud_api.py", "--health", f"127.0.0.1:{tls_cloud.port}")
    trust, token = ("--tls-ca", str(own.cert), *edge.flags), ("--token-file", str(secret))
    assert run_script(*place, *trust, *token).code == 0
    for flags in (trust, token, ("--tls-ca", str(own.cert), *token)):
        assert run_script(*place, *flags).code == 3


def test_one_network_runs_over_tls_and_an_emulated_link_and_falls_back_on_nothing(
    cache: Path,
    tls_cloud: CloudProcess,
    own: Identity,
    edge: Identity,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("a good secret")
    flags = ("-p", str(tls_cloud.port), "-t", "le_net", "--point", "0", "--verify", "--emulate-link", "20mbit,10ms")
    done = run_edge(
        cache,
        *("-i", "127.0.0.1", *flags, "--json"),
        *("--tls-ca", str(own.cert), *edge.flags, "--token-file", str(secret)),
    )
    assert done.code == 0, done.stderr
    assert done.document["completed_by"] == "cloud"
    refused = call(edge_api.main, ["--cache-dir", str(cache), "--threads", THREADS, "-i", "127.0.0.1", *flags], capsys)
    assert (refused.code, "use --tls-ca FILE" in refused.stderr) == (3, True)
