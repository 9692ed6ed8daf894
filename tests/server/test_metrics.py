"""The figures of a cloud: exact after a few requests, and no cost for who does not want them."""

import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np

from edgecloud.models.torch_network import TorchNetwork
from edgecloud.net.connection import Connection
from edgecloud.net.messages import Infer, Result
from edgecloud.net.metrics import Gauges, Spent, bytes_by_codec
from edgecloud.net.tensors import describe
from edgecloud.server.prometheus import PrometheusMetrics
from tests.conftest import ROOT, run_script, running_cloud, until
from tests.pure import PACKAGES
from tests.server.test_hostile import answer, greet, hello_of, raw_socket, soon
from tests.test_imports import imported_by

ANSWERS = 'edgecloud_answers_total{model="le_net"}'


def infer(connection: Connection, subject: TorchNetwork, request_id: int) -> int:
    """One request for everything; returns the bytes of the answer."""
    x = np.asarray(subject.example.tensor)
    connection.send(Infer(request_id, [[1, len(subject.traced.graph.layers)]], 30.0), soon(), [x])
    frame = connection.receive(soon())
    frame.read(Result)
    return frame.payload.nbytes


def test_a_scrape_says_what_the_cloud_has_done(cache: Path, network: Callable[[str], TorchNetwork]) -> None:
    subject = network("le_net")
    bytes_in = np.asarray(subject.example.tensor).nbytes
    with running_cloud(cache, "--metrics-port", "0") as cloud, closing(greet(cloud, hello_of(subject))) as edge:
        bytes_out = [infer(edge, subject, number) for number in range(1, 4)]
        edge.send(Infer(4, [[1, 99]], 30.0), soon(), [np.zeros(1, np.float32)])
        edge.receive(soon())
        with raw_socket(cloud) as sock:
            sock.sendall(bytes(40))
            assert answer(sock) == "BAD_MAGIC"
        # an answer is counted when it has left, which may be after it has come; and who was refused takes a while to go
        until(lambda: (now := cloud.figures()).get(ANSWERS) == 3 and now["edgecloud_open_connections"] == 1)
        seen = cloud.figures()
    assert seen['edgecloud_requests_total{model="le_net"}'] == 3
    assert seen[ANSWERS] == 3
    assert seen['edgecloud_payload_bytes_total{codec="raw",direction="in"}'] == 3 * bytes_in
    assert seen['edgecloud_payload_bytes_total{codec="raw",direction="out"}'] == sum(bytes_out)
    assert seen['edgecloud_refusals_total{code="BAD_REQUEST"}'] == 1
    assert seen['edgecloud_refusals_total{code="BAD_MAGIC"}'] == 1
    assert seen["edgecloud_connections_total"] == 2
    assert seen["edgecloud_open_connections"] == 1
    assert seen["edgecloud_queue_length"] == 0
    assert seen["edgecloud_load"] >= 1
    assert 0 < seen["edgecloud_speed"] <= 10
    parts = [seen[f'edgecloud_{part}_seconds_sum{{model="le_net"}}'] for part in ("queue", "decode", "compute")]
    assert seen["edgecloud_work_seconds_total"] == parts[2], "nothing was computed in batches"
    assert seen['edgecloud_request_seconds_count{model="le_net"}'] == 3
    assert 0 < sum(parts) <= seen['edgecloud_request_seconds_sum{model="le_net"}']


def test_who_wants_no_figures_loads_nothing_for_them() -> None:
    importers = [path.name for package in PACKAGES for path in (ROOT / package).rglob("*.py") if uses(path)]
    assert importers == ["prometheus.py"]
    code = "import sys, edgecloud.cli.serve, edgecloud.net.server; sys.exit('prometheus_client' in sys.modules)"
    assert run_script("-c", code).code == 0


def uses(path: Path) -> bool:
    """Whether a file imports the library."""
    return any(name.split(".")[0] == "prometheus_client" for name in imported_by(path))


def test_two_clouds_in_one_process_do_not_count_together() -> None:
    one, two = PrometheusMetrics(), PrometheusMetrics()
    for metrics in (one, two):
        metrics.watch(Gauges(lambda: 1, lambda: 2, lambda: 3, lambda: 0.5))
    one.connected()
    one.refused("BUSY")
    one.received("m", {"raw": 10})
    one.answered("m", Spent(0.1, 0.2, 0.3, 0.7), {"raw": 5})
    assert one.registry.get_sample_value("edgecloud_connections_total") == 1
    assert two.registry.get_sample_value("edgecloud_connections_total") == 0
    assert two.registry.get_sample_value("edgecloud_queue_length") == 2
    assert two.registry.get_sample_value("edgecloud_speed") == 0.5


def test_a_port_that_is_taken_is_one_line_and_code_3() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run_script("cloud_api.py", "-p", "0", "--metrics-port", str(taken.getsockname()[1]))
    assert (done.code, len(done.stderr.splitlines())) == (3, 1)


def test_bytes_are_counted_by_codec() -> None:
    header, _ = describe([np.zeros(3, np.float32), np.zeros((2, 2), np.uint8)])
    assert bytes_by_codec(header) == {"raw": 16}
    assert bytes_by_codec({}) == {}
