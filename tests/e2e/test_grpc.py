"""gRPC as users meet it: edges of the library and of the scripts, a proxy in between, and streams that are cut."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import edgecloud as ec
from edgecloud import cloud_api, edge_api
from edgecloud.library.edge import Edge
from tests import certificates
from tests.certificates import Identity
from tests.conftest import LONG_S, THREADS, call, until
from tests.nginx import Nginx
from tests.wide import WIDE, X


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return certificates.make(tmp_path_factory.mktemp("certificates"), "cloud")


@pytest.fixture(scope="module")
def le_net() -> ec.Network:
    return ec.load("le_net")


@pytest.fixture(scope="module")
def served(le_net: ec.Network) -> Iterator[ec.Cloud]:
    with ec.Cloud(networks=[le_net, (WIDE, X)], grpc_port=0, token="a good secret") as cloud:
        yield cloud


def edge_of(net: Any, cloud: str, **more: Any) -> Edge:
    """Its link is given: to probe it takes a second."""
    given: dict[str, Any] = {
        "transport": "grpc",
        "token": "a good secret",
        "ready_timeout": LONG_S,
        "timeout": LONG_S,
    } | more
    return ec.Edge(net, cloud=cloud, link=ec.Link("100mbit", rtt="1ms"), **given)


def assert_same(answer: ec.Answer) -> None:
    """The oracle is the module itself, in plain torch."""
    with torch.no_grad():
        expected = WIDE(X)
    for found, right in zip(answer.outputs, expected, strict=True):
        assert torch.allclose(torch.as_tensor(found), right, rtol=1e-5, atol=1e-6)


def test_answers_are_those_of_the_whole_network_one_by_one_and_pipelined(served: ec.Cloud, le_net: ec.Network) -> None:
    with edge_of((WIDE, X), served.grpc_address, point=1) as edge:
        assert_same(edge(X))
        for answer in edge.map([X] * 20):
            assert answer.completed_by == "split"
            assert_same(answer)
    with edge_of(le_net, served.grpc_address, point=0) as edge:
        answer = edge(le_net.sample)
        assert answer.completed_by == "cloud"
        np.testing.assert_allclose(answer.outputs[0], le_net(le_net.sample)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.slow  # it is exported
def test_a_network_that_the_cloud_does_not_have_is_sent_in_a_stream_too(tmp_path: Path) -> None:
    with (
        ec.Cloud(accept_networks=True, network_store=tmp_path, grpc_port=0) as cloud,
        edge_of((WIDE, X), cloud.grpc_address, token=None, point=0, ship="wait") as edge,
    ):
        answer = edge(X)
        assert_same(answer)
        assert answer.completed_by == "cloud"


def test_tls_and_the_token_are_as_on_tcp(own: Identity, tmp_path: Path) -> None:
    files = {"tls_cert": own.cert, "tls_key": own.key}
    other = certificates.make(tmp_path, "other")
    with ec.Cloud(networks=[(WIDE, X)], grpc_port=0, token="a good secret", **files) as cloud:  # type: ignore[arg-type]
        with edge_of((WIDE, X), cloud.grpc_address, tls_ca=own.cert, point=0) as edge:
            assert_same(edge(X))
        for more, words in (
            ({"tls_ca": own.cert, "token": "another secret"}, "TOKEN"),
            ({"tls_ca": other.cert}, "certificate is not trusted"),
            ({}, "this cloud requires TLS: use tls_ca=FILE"),
            ({"tls_ca": own.cert, "transport": "tcp"}, "use transport grpc"),
        ):
            with pytest.raises(ec.ConnectError, match=words):
                edge_of((WIDE, X), cloud.grpc_address, point=0, **more)
    with pytest.raises(ec.ConnectError, match="no cloud at"):
        edge_of((WIDE, X), cloud.grpc_address, point=0)


@pytest.mark.parametrize("has_tls", [False, True], ids=["plain", "tls"])
def test_a_proxy_in_between_changes_nothing_and_when_it_dies_the_edge_completes_what_was_asked(
    has_tls: bool, served: ec.Cloud, own: Identity, tmp_path: Path
) -> None:
    proxy = Nginx(tmp_path, int(served.grpc_address.rpartition(":")[2]), own if has_tls else None)
    trust = {"tls_ca": own.cert} if has_tls else {}
    proxy.start()
    try:
        with edge_of((WIDE, X), f"127.0.0.1:{proxy.port}", point=0, **trust) as edge:
            for answer in (edge(X), *edge.map([X] * 5)):
                assert_same(answer)
                assert answer.completed_by == "cloud"
            proxy.kill()
            answer = edge(X)
            assert_same(answer)
            assert answer.completed_by == "fallback"
            proxy.start()
            until(lambda: edge(X).completed_by == "cloud")
    finally:
        proxy.kill()


def test_a_proxy_without_a_cloud_behind_it_is_named(served: ec.Cloud, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = listener.getsockname()[1]
    proxy = Nginx(tmp_path, nobody)
    proxy.start()
    try:
        with pytest.raises(ec.ConnectError, match=r"the proxy there reaches no cloud \(HTTP 502\)"):
            edge_of((WIDE, X), f"127.0.0.1:{proxy.port}", point=0)
    finally:
        proxy.kill()


def test_the_scripts_take_it_and_say_what_is_wrong(
    served: ec.Cloud, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("a good secret")
    common = ["--cache-dir", str(cache), "--threads", THREADS, "--token-file", str(secret), "-t", "le_net", "--json"]
    good = ["-i", served.grpc_address, "--transport", "grpc", "--point", "0", "--verify"]
    done = call(edge_api.main, [*common, *good], capsys)
    assert done.code == 0, done.stderr
    assert done.document["completed_by"] == "cloud"
    for place, transport, words in (
        (served.address, "grpc", "use --transport tcp, or the port of --grpc-port"),
        (served.grpc_address, "tcp", "use --transport grpc, or the port of -p"),
    ):
        done = call(edge_api.main, [*common, "-i", place, "--transport", transport, "--point", "0"], capsys)
        assert (done.code, words in done.document["error"]["message"]) == (3, True), done.stderr
    health = ["--health", served.grpc_address, "--token-file", str(secret), "--json"]
    assert json.loads(call(cloud_api.main, [*health, "--transport", "grpc"], capsys).stdout)["healthy"]
    refused = call(cloud_api.main, ["--transport", "grpc"], capsys)
    assert (refused.code, "--transport require --health" in refused.stderr) == (2, True)
