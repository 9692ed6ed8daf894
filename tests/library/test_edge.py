"""ec.Edge and ec.Cloud together: real sockets, the whole network as the oracle, and what comes of it when one fails."""

import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import edgecloud as ec
from edgecloud import edge_api
from tests.conftest import LONG_S, THREADS, CloudProcess, call
from tests.wide import WIDE, X


@pytest.fixture(scope="module")
def le_net() -> ec.Network:
    return ec.load("le_net")


@pytest.fixture(scope="module")
def wide() -> ec.Network:
    return ec.load(WIDE, X)


@pytest.fixture(scope="module")
def served(le_net: ec.Network, wide: ec.Network) -> Iterator[ec.Cloud]:
    with ec.Cloud(networks=[le_net, wide]) as cloud:
        yield cloud


def shifted(net: ec.Network, count: int) -> list[Any]:
    """Different inputs."""
    return [np.roll(net.sample, shift, axis=-1) for shift in range(count)]


@pytest.mark.parametrize("point", [0, 3, 7, 12])
def test_every_answer_is_that_of_the_whole_network(served: ec.Cloud, le_net: ec.Network, point: int) -> None:
    with ec.Edge(le_net, served.address, point=point) as edge:
        answer = edge(le_net.sample)
    assert np.allclose(answer.outputs[0], le_net(le_net.sample)[0], rtol=1e-4, atol=1e-5)
    assert answer.completed_by == {0: "cloud", 12: "edge"}.get(point, "split")
    assert answer.fallback == ""
    assert (answer.plan.point, edge.plan.point) == (point, point)
    assert (answer.times.payload_bytes > 0) == (point < 12)
    assert answer.times.total_s > 0


def test_a_module_is_split_and_answers_with_tensors(served: ec.Cloud, wide: ec.Network) -> None:
    """The oracle is the caller's own module, which nothing here has touched."""
    with ec.Edge((WIDE, X), served.address, point=1) as edge:  # loaded apart from the cloud's: the same all the same
        answer = edge(X)
        flat = edge(X[0].numpy())
    with torch.no_grad():
        expected = WIDE(X)
    assert answer.completed_by == "split"
    for found, array, right in zip(answer.outputs, flat.outputs, expected, strict=True):
        assert isinstance(found, torch.Tensor)
        assert isinstance(array, np.ndarray)
        assert torch.allclose(found, right, atol=1e-6)
        assert np.allclose(array, right.numpy(), atol=1e-6)


def test_many_are_answered_in_order_and_pipelined(served: ec.Cloud, le_net: ec.Network) -> None:
    inputs = shifted(le_net, 20)
    expected = [le_net(x)[0] for x in inputs]
    with ec.Edge(le_net, served.address, point=3, window=4) as edge:
        answers = list(edge.map(inputs))
        futures = [edge.submit(x) for x in inputs]
        later = [future.result(LONG_S) for future in futures]
        assert list(edge.map([])) == []
    for answer, other, right in zip(answers, later, expected, strict=True):
        assert np.allclose(answer.outputs[0], right, rtol=1e-4, atol=1e-5)
        assert np.allclose(other.outputs[0], right, rtol=1e-4, atol=1e-5)


def test_inputs_are_read_as_they_are_needed(served: ec.Cloud, le_net: ec.Network) -> None:
    read = []

    def endless() -> Iterator[Any]:
        while True:
            read.append(1)
            yield le_net.sample

    with ec.Edge(le_net, served.address, point=0, window=2) as edge:
        answers = edge.map(endless())
        next(answers)
        assert len(read) <= 4
        answers.close()  # type: ignore[attr-defined]


def test_threads_may_share_one_edge(served: ec.Cloud, le_net: ec.Network) -> None:
    inputs = shifted(le_net, 12)
    with ec.Edge(le_net, served.address, point=3) as edge, ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(edge, inputs))
    for answer, x in zip(answers, inputs, strict=True):
        assert np.allclose(answer.outputs[0], le_net(x)[0], rtol=1e-4, atol=1e-5)


def test_a_program_of_the_project_uses_a_cloud_of_the_library(
    served: ec.Cloud, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host, _, port = served.address.rpartition(":")
    flags = ["-t", "le_net", "--point", "3", "--verify", "--json", "--threads", THREADS, "--cache-dir", str(cache)]
    found = call(edge_api.main, ["-i", host, "-p", port, *flags], capsys)
    assert found.document["verify"]["matches"]
    assert found.document["completed_by"] == "split"


def test_an_edge_of_the_library_uses_a_cloud_of_the_project(
    cloud: CloudProcess, le_net: ec.Network, wide: ec.Network
) -> None:
    """It knows no module of another program, and the error says what to do."""
    address = f"127.0.0.1:{cloud.port}"
    with ec.Edge("le_net", address, point=2) as edge:
        assert edge(le_net.sample).completed_by == "split"
    with pytest.raises(ec.MismatchError, match=r"ec\.Cloud\(networks=.*FILE\.py") as raised:
        ec.Edge(wide, address)
    assert raised.value.refusal == "UNKNOWN_MODEL"


def test_a_cloud_that_goes_away_costs_no_answer(le_net: ec.Network) -> None:
    cloud = ec.Cloud(networks=[le_net])
    expected = le_net(le_net.sample)[0]
    with ec.Edge(le_net, cloud.address, point=3) as edge:
        assert edge(le_net.sample).completed_by == "split"
        cloud.close()
        answer = edge(le_net.sample)
        assert answer.completed_by == "fallback"
        assert "cloud" in answer.fallback or "closed" in answer.fallback
        assert "-i and -p" not in answer.fallback
        assert np.allclose(answer.outputs[0], expected, rtol=1e-4, atol=1e-5)
        assert [each.completed_by for each in edge.map(shifted(le_net, 3))] == ["fallback"] * 3


def test_without_a_fallback_that_is_an_error_of_its_kind(le_net: ec.Network) -> None:
    cloud = ec.Cloud(networks=[le_net])
    with ec.Edge(le_net, cloud.address, point=3, fallback="off") as edge:
        assert edge(le_net.sample).completed_by == "split"
        cloud.close()
        with pytest.raises(ec.EdgeCloudError):
            edge(le_net.sample)
        with pytest.raises(ec.EdgeCloudError):
            edge.submit(le_net.sample).result(LONG_S)


def test_without_a_cloud_everything_runs_here(le_net: ec.Network) -> None:
    with ec.Edge(le_net, None) as edge:
        answer = edge(le_net.sample)
        assert edge.link is None
    assert np.array_equal(answer.outputs[0], le_net(le_net.sample)[0])
    assert (answer.completed_by, answer.plan.cloud, answer.times.payload_bytes) == ("edge", (), 0)


def test_a_link_that_is_given_is_believed(served: ec.Cloud, le_net: ec.Network) -> None:
    link = ec.Link("1kbit", rtt="2s", down="3kbit")
    with ec.Edge(le_net, served.address, link=link) as edge:
        assert edge.link == link
        assert edge.plan.point == 12  # nothing else is worth it on such a link
        assert edge.plan.alternatives[0].total_s > 2


def test_with_always_an_edge_begins_without_a_cloud(le_net: ec.Network) -> None:
    with ec.Edge(le_net, "127.0.0.1:1", fallback="always") as edge:
        answer = edge(le_net.sample)
    assert answer.completed_by == "fallback"
    assert edge.plan.failure


def test_a_secret_is_the_same_on_both_sides(le_net: ec.Network) -> None:
    with ec.Cloud(networks=[le_net], token="correct horse") as cloud:
        with ec.Edge(le_net, cloud.address, token="correct horse", point=0) as edge:
            assert edge(le_net.sample).completed_by == "cloud"
        with pytest.raises(ec.ConnectError, match="wrong token"):
            ec.Edge(le_net, cloud.address, token="battery staple")


def test_what_is_closed_stays_closed(le_net: ec.Network) -> None:
    before = sys.getswitchinterval()
    cloud = ec.Cloud(networks=[le_net])
    edge = ec.Edge(le_net, cloud.address, point=0)
    edge.close()
    edge.close()
    assert "closed" in repr(edge)
    assert edge.plan.point == 0
    with pytest.raises(ec.UsageError, match="closed"):
        edge(le_net.sample)
    waiting = threading.Thread(target=cloud.wait)
    waiting.start()
    assert not cloud.wait(0.01)
    cloud.close()
    cloud.close()
    waiting.join(LONG_S)
    assert not waiting.is_alive()
    assert "closed" in repr(cloud)
    assert sys.getswitchinterval() == before
    with socket.socket() as sock:
        assert sock.connect_ex(("127.0.0.1", int(cloud.address.rpartition(":")[2])))


def test_a_link_is_recorded(served: ec.Cloud, le_net: ec.Network, tmp_path: Path) -> None:
    path = tmp_path / "seen.csv"
    with ec.Edge(le_net, served.address, point=0, record=path) as edge:
        edge(le_net.sample)
    assert path.read_text().startswith("seconds,mbit\n0.000,")


def test_codecs_are_the_callers_choice(served: ec.Cloud, le_net: ec.Network) -> None:
    sent = {}
    for codec in ("raw", "int8+zstd"):
        with ec.Edge(le_net, served.address, point=3, codec=codec) as edge:
            answer = edge(le_net.sample)
        assert set(answer.plan.codecs.values()) == {codec}
        sent[codec] = answer.times.payload_bytes
    assert sent["int8+zstd"] < sent["raw"] / 2


CLOUD = "127.0.0.1:9"
EDGE: Any = ec.Edge  # also for what its type forbids


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda net: EDGE(net, "127.0.0.1"), "names no port"),
        (lambda net: EDGE(net, "a b:1"), "'a b:1'"),
        (lambda net: EDGE(net, 9999), "cloud must be 'HOST:PORT', or None"),
        (lambda net: EDGE(net, None, point=3), "point 3 requires a cloud"),
        (lambda net: EDGE(net, CLOUD, point=13), "no point 13"),
        (lambda net: EDGE(net, CLOUD, point=1, objective="energy"), "give one of them"),
        (lambda net: EDGE(net, CLOUD, objective="speed"), "no objective 'speed'"),
        (lambda net: EDGE(net, CLOUD, link="5mbit"), "link is an ec.Link"),
        (lambda net: EDGE(net, CLOUD, codec="zip"), "no codec 'zip'"),
        (lambda net: EDGE(net, CLOUD, fallback="maybe"), "fallback is one of on, off, always"),
        (lambda net: EDGE(net, CLOUD, times="now"), "times is one of"),
        (lambda net: EDGE(net, CLOUD, timeout=0), "more than 0 seconds"),
        (lambda net: EDGE(net, CLOUD, timeout="soon"), "a duration"),
        (lambda net: EDGE(net, CLOUD, window=0), "window"),
        (lambda net: EDGE(net, CLOUD, device="tpu"), "unknown device 'tpu'"),
        (lambda net: EDGE(net, CLOUD, emulate_cpu=2.0), "a share of one core"),
        (lambda net: EDGE(net, CLOUD, emulate_cpu=0.5, threads=2), "emulate_cpu cannot be combined with threads"),
        (lambda net: EDGE(net, CLOUD, emulate_cpu=0.5, device="meta"), "emulate_cpu requires device cpu"),
        (lambda net: EDGE(net, CLOUD, emulate_link="fast"), "a rate"),
        (lambda net: EDGE(net, None, emulate_link="5mbit"), "without one there is none"),
        (lambda net: EDGE(net, CLOUD, token="short"), "8 to 1024 bytes"),
        (lambda net: EDGE(net, CLOUD, power="sun"), "sun"),
        (lambda net: EDGE(net, CLOUD, tls_ca="none.pem"), "none.pem"),
        (lambda _: ec.Cloud(networks=[]), "at least one"),
        (lambda _: ec.Cloud(networks="le_net"), "networks is a list"),
        (lambda net: ec.Cloud(networks=[net, "le_net"]), "two networks are called le_net"),
        (lambda net: ec.Cloud(networks=[net], host="0.0.0.0"), "a token (token=..."),
        (lambda net: ec.Cloud(networks=[net], tls_cert="a.pem"), "tls_cert"),
        (lambda net: ec.Cloud(networks=[net], device="tpu"), "unknown device 'tpu'"),
    ],
)
def test_settings_that_do_not_serve_are_told_by_their_names(le_net: ec.Network, make: Any, words: str) -> None:
    with pytest.raises(ec.UsageError) as raised:
        make(le_net)
    assert words in str(raised.value)
    assert "--" not in str(raised.value)


def test_nobody_at_an_address_is_an_error_of_its_kind(le_net: ec.Network) -> None:
    with pytest.raises(ec.ConnectError, match=r"check the address; cloud=None runs all of le_net") as raised:
        ec.Edge(le_net, CLOUD)
    assert raised.value.exit_code == 3


def test_a_module_is_sent_to_a_cloud_that_takes_networks(tmp_path: Path) -> None:
    """It is known to this process alone, and the cloud computes all of it in a process of its own."""
    expected = WIDE(X)
    with ec.Cloud(accept_networks=True, cache_dir=tmp_path / "cloud") as cloud:
        flags: dict[str, Any] = {"ship": "wait", "point": 0, "cache_dir": tmp_path}
        with ec.Edge(WIDE, X, cloud=cloud.address, **flags) as edge:
            answer = edge(X)
    assert answer.completed_by == "cloud"
    assert isinstance(answer.value, tuple)
    for one, other in zip(answer.value, expected, strict=True):
        torch.testing.assert_close(torch.as_tensor(one), other, rtol=1e-4, atol=1e-5)


def test_a_cloud_serves_what_it_was_given_and_nothing_else(served: ec.Cloud) -> None:
    with pytest.raises(ec.MismatchError, match="serves only le_net, module:Wide"):
        ec.Edge("mnist", served.address)
    other = nn.Sequential(nn.Linear(16, 2))
    with pytest.raises(ec.MismatchError, match="serves only"):
        ec.Edge(ec.load(other, X, name="other"), served.address)
    with pytest.raises(ec.MismatchError, match="module:Wide"):
        ec.Edge(ec.load(other, X, name="Wide"), served.address)  # of the same name, and another network
