"""One inference end to end, compared with the baseline implementation at the same cut over the same link.

    python -m benchmarks.published

The baseline follows the description of published programs, not their code: eager torch modules, the point and
the length as messages of their own that are acknowledged, torch tensors through pickle.dumps, parts joined after every
packet, an acknowledgement after the tensor, then the pickled answer. It is given the cut that ours chose, the same
weights and the same real input, which those programs do not use.
"""

import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median

import numpy as np
import torch

from benchmarks.fingerprint import write_table
from benchmarks.noise import Versus
from edgecloud.client.config import EdgeConfig
from edgecloud.client.edge import Edge, read_input
from edgecloud.client.planning import problem_of
from edgecloud.client.subprocesses import emulated_link, own_cloud
from edgecloud.engine.times import measured
from edgecloud.models import inputs, registry, weights
from edgecloud.models.split import split
from edgecloud.models.steps import Steps
from edgecloud.models.torch_network import TorchNetwork, prepare
from edgecloud.partition import chain
from edgecloud.predictor.store import default_folder
from edgecloud.utils.commands import ROOT
from edgecloud.utils.inference_utils import set_threads
from edgecloud.utils.units import format_seconds

MODELS = ("le_net", "alex_net", "mobile_net", "vgg_net")
CLOUD_THREADS = 2
SHARE = 0.05
LINKS = ("5mbit,20ms", "20mbit,20ms", "100mbit,5ms")
REPEATS = 7
TIMEOUT_S = 120.0


def network_of(name: str) -> TorchNetwork:
    """Built as the programs build it."""
    entry = registry.lookup(name)
    return prepare(weights.load(entry), inputs.sample(entry.sample, entry.preprocess), entry.name)


def take(sock: socket.socket) -> torch.Tensor:
    """Receive as the baseline does: length, acknowledgement, parts joined again and again, acknowledgement.

    Raises EOFError where the connection ends before.
    """
    size = pickle.loads(sock.recv(1024))
    sock.sendall(b"yes len")
    data = b""
    while len(data) < size:
        part = sock.recv(40960)
        if not part:
            raise EOFError
        data = b"".join([data, part])
    sock.sendall(b"yes")
    tensor: torch.Tensor = pickle.loads(data)
    return tensor


def give(sock: socket.socket, tensor: torch.Tensor) -> None:
    """Send as the baseline does."""
    data = pickle.dumps(tensor)
    sock.sendall(pickle.dumps(len(data)))
    sock.recv(1024)
    sock.sendall(data)
    sock.recv(1024)


def serve(name: str) -> None:
    """The baseline's cloud: one network, one client."""
    set_threads(CLOUD_THREADS)
    network = network_of(name)
    tails: dict[int, Steps] = {}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(f"listening on 127.0.0.1:{listener.getsockname()[1]}", flush=True)
        sock, _ = listener.accept()
    while True:
        message = sock.recv(1024)
        if not message:
            return
        point = pickle.loads(message)
        sock.sendall(b"yes point")
        tensor = take(sock)
        if point not in tails:
            tails[point] = split(network.traced, network.traced.graph.head_at(point))[1].module
        with torch.inference_mode():
            (answer,) = tails[point](tensor)
        give(sock, answer)


@contextmanager
def published_cloud(name: str) -> Iterator[int]:
    """Its process; gives its port."""
    command = [sys.executable, "-m", "benchmarks.published", "--serve", name]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline().rpartition(":")[2])
    finally:
        process.kill()
        process.communicate()


def published_inference(edge: Edge, sock: socket.socket, point: int) -> tuple[float, np.ndarray]:
    """One inference of the baseline's edge, slowed down like ours."""
    x = np.asarray(edge.network.example.tensor)
    part = edge.executor.load(edge.graph.head_at(point))
    started = time.perf_counter()
    ran = edge.executor.run(part, [x])
    if point == len(edge.graph.points) - 1:
        answer = torch.from_numpy(ran.arrays[0])  # to be fair: the published ones send even this one away
    else:
        sock.sendall(pickle.dumps(point))
        sock.recv(1024)
        give(sock, torch.from_numpy(ran.arrays[0]))
        answer = take(sock)
    return time.perf_counter() - started, answer.numpy()


def row_of(edge: Edge, ours: tuple[str, int], published_port: int, link: str) -> list[str]:
    """Both in turns, each over its own, equal link."""
    x = np.asarray(edge.network.example.tensor)
    with ExitStack() as stack:
        relay = stack.enter_context(emulated_link(*ours, link))
        other = stack.enter_context(emulated_link("127.0.0.1", published_port, link))
        edge.connect(*relay.address(), "", TIMEOUT_S)
        stack.callback(edge.close)
        sock = stack.enter_context(socket.create_connection(other.address(), timeout=TIMEOUT_S))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert edge.cloud is not None
        estimate = edge.cloud.measure()
        edge_s = measured(edge.executor, default_folder()).seconds
        problem = problem_of(edge, edge_s, estimate, edge.status(TIMEOUT_S))
        point = chain.best(chain.scan(problem)).point.number
        mine, theirs = [], []
        for _ in range(REPEATS + 1):
            answered = edge.infer(x, edge.graph.head_at(point), TIMEOUT_S)
            seconds, answer = published_inference(edge, sock, point)
            np.testing.assert_allclose(answered.outputs[0], answer, rtol=1e-3, atol=1e-3)
            mine.append(answered.measured.total_s)
            theirs.append(seconds)
    return [
        edge.graph.name,
        link,
        str(point),
        *map(format_seconds, (median(mine[1:]), median(theirs[1:]))),
        str(Versus.of(theirs[1:], mine[1:])),
    ]


def rows_of(name: str) -> list[list[str]]:
    """One network over every link; the baseline takes one client, so it is started anew for each."""
    config, entry = EdgeConfig(model=name, cpu_share=SHARE), registry.lookup(name)
    edge = Edge.build(config, entry, read_input(config, entry))
    rows = []
    with own_cloud(["--threads", str(CLOUD_THREADS), "--cache-dir", str(default_folder())]) as cloud:
        address = cloud.address()
        for link in LINKS:
            with published_cloud(name) as port:
                rows.append(row_of(edge, address, port, link))
    return rows


def main(argv: list[str]) -> int:
    """Measure and write benchmarks/results/published.md."""
    if argv[:1] == ["--serve"]:
        serve(argv[1])
        return 0
    head = ["network", "link", "cut", "ours", "baseline, same cut", "ratio"]
    notes = [f"The edge at {SHARE} of a core, {REPEATS} inferences each in turns, medians; the answers are compared."]
    rows = [row for name in MODELS for row in rows_of(name)]
    write_table("published", "Comparison with the baseline implementation", head, rows, notes)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
