"""Many tasks: tasks_edge_api.py and many edges at once, against real clouds over real sockets."""

import csv
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from openpyxl import load_workbook

from benchmarks import load
from edgecloud import tasks_edge_api
from edgecloud.engine.answers import matches
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.net.connection import Connection, connect
from edgecloud.net.messages import Error, Hello, Infer, Ready, Result, State, Status, from_header
from edgecloud.utils.deadline import Deadline
from tests.conftest import (
    LONG_S,
    THREADS,
    CloudProcess,
    Finished,
    answered_all,
    call,
    read_until,
    run_script,
    running_cloud,
    started_tasks,
    until,
)

MBIT = 1e6 / 8


def soon(seconds: float = 60.0) -> Deadline:
    return Deadline.after(seconds, "the test")


# --- a cloud for many


@pytest.fixture(scope="module")
def many(cache: Path) -> Iterator[CloudProcess]:
    with running_cloud(cache, "--max-batch", "4", script="tasks_cloud_api.py") as process:
        yield process


def greet(port: int, *networks: TorchNetwork) -> Connection:
    connection = connect("127.0.0.1", port, 5.0)
    for network in networks:
        graph = network.traced.graph
        connection.send(Hello(graph.name, network.loaded.digest, graph.digest, ["raw"], ""), soon())
        connection.receive(soon(LONG_S)).read(Ready)
    return connection


def test_requests_of_two_networks_overlap_on_one_connection(
    many: CloudProcess, network: Callable[[str], TorchNetwork]
) -> None:
    networks = {name: network(name) for name in ("le_net", "mobile_net")}
    expected = {name: found.loaded.model(found.example.tensor).detach().numpy() for name, found in networks.items()}
    with closing(greet(many.port, *networks.values())) as connection:
        asked = {}
        for number in range(1, 8):
            name = ("mobile_net", "le_net")[number % 2]
            found = networks[name]
            layers = [[1, len(found.traced.graph.layers)]]
            connection.send(Infer(number, layers, 30.0, name), soon(), [np.asarray(found.example.tensor)])
            asked[number] = name
        for _ in range(len(asked)):
            frame = connection.receive(soon())
            result = frame.read(Result)
            assert matches(frame.arrays(), [expected[asked.pop(result.id)]])
            assert result.received_s > 0
            assert result.load >= 1
            assert result.batch in (1, 2, 3, 4)
        assert not asked
        connection.send(Status(), soon())
        state = connection.receive(soon()).read(State)
        assert (state.waiting, state.max_queue) == (0, 32)
        assert state.connections >= 1
        connection.send(Infer(9, [[1, 2]], 30.0, "alex_net"), soon(), [np.zeros(3, np.float32)])
        error = from_header(Error, connection.receive(soon()).header)
        assert (error.code, error.id, "no HELLO named" in error.text) == ("BAD_REQUEST", 9, True)


def test_a_batch_gives_the_answers_of_single_requests(
    many: CloudProcess, network: Callable[[str], TorchNetwork]
) -> None:
    found = network("mobile_net")
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(found.example.tensor.shape).astype(np.float32) for _ in range(8)]
    layers = [[1, len(found.traced.graph.layers)]]
    with torch.inference_mode():
        wholes = [found.loaded.model(torch.from_numpy(x)).numpy() for x in inputs]
    with closing(greet(many.port, found)) as connection:

        def largest_batch() -> int:
            for number, x in enumerate(inputs):
                connection.send(Infer(number, layers, 60.0), soon(), [x])
            sizes = []
            for _ in inputs:
                frame = connection.receive(soon())
                result = frame.read(Result)
                sizes.append(result.batch)
                assert matches(frame.arrays(), [wholes[result.id]])
            return max(sizes)

        until(lambda: largest_batch() > 1)  # the first ones are tried beside single ones


def test_an_input_with_nan_does_not_end_batches_for_others(
    many: CloudProcess, network: Callable[[str], TorchNetwork]
) -> None:
    found = network("le_net")
    layers, x = [[4, 13]], np.full((1, 6, 14, 14), np.nan, np.float32)
    assert found.traced.graph.layers[3].out_shape == x.shape
    with closing(greet(many.port, found)) as connection:

        def largest_batch(value: np.ndarray[Any, Any]) -> int:
            for number in range(8):
                connection.send(Infer(number, layers, 60.0), soon(), [value])
            return max(connection.receive(soon()).read(Result).batch for _ in range(8))

        assert largest_batch(x) == 1
        until(lambda: largest_batch(np.ones_like(x)) > 1)


def test_an_edge_that_has_said_all_still_gets_its_answers(
    many: CloudProcess, network: Callable[[str], TorchNetwork]
) -> None:
    found = network("mobile_net")
    with closing(greet(many.port, found)) as connection:
        for number in range(4):
            layers = [[1, len(found.traced.graph.layers)]]
            connection.send(Infer(number, layers, 30.0), soon(), [np.asarray(found.example.tensor)])
        connection.sock.shutdown(socket.SHUT_WR)
        assert {connection.receive(soon()).read(Result).id for _ in range(4)} == {0, 1, 2, 3}


def test_whoever_sends_too_much_is_told_busy_with_a_number(cache: Path, network: Callable[[str], TorchNetwork]) -> None:
    found = network("mobile_net")
    layers = [[1, len(found.traced.graph.layers)]]
    x = np.asarray(found.example.tensor)
    with running_cloud(cache, "--max-queue", "1") as cloud, closing(greet(cloud.port, found)) as connection:
        for number in range(1, 9):
            connection.send(Infer(number, layers, 30.0), soon(), [x])
        told: dict[int, str] = {}
        for _ in range(8):
            frame = connection.receive(soon())
            if "code" in frame.header:
                error = from_header(Error, frame.header)
                assert error.retry_after_s > 0
                told[error.id] = error.code
            else:
                told[frame.read(Result).id] = "answered"
        assert set(told) == set(range(1, 9))
        assert set(told.values()) == {"BUSY", "answered"}


def test_sixteen_edges_at_once_get_their_shares(many: CloudProcess) -> None:
    for _ in range(3):  # on a busy machine an edge may not come to ask as often as the others
        found = load.measure(load.Subject("le_net", 3), ("127.0.0.1", many.port), edges=16, seconds=3.0, rate=8.0)
        assert (found.wrong, found.lost) == (0, 0)
        if found.jain > 0.9 and found.goodput_per_s > 1:
            return
    pytest.fail(f"the shares were not alike: {found}")


def test_an_edge_that_takes_no_answers_does_not_hold_the_others_up(
    many: CloudProcess, network: Callable[[str], TorchNetwork]
) -> None:
    found = network("mobile_net")
    graph = found.traced.graph
    wide = max(range(1, len(graph.layers)), key=lambda number: graph.layers[number].out_bytes)
    x = np.asarray(found.example.tensor)
    with closing(greet(many.port, found)) as deaf:
        deaf.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for number in range(8):
            deaf.send(Infer(number, [[1, wide + 1]], 30.0), soon(), [x])
        with closing(greet(many.port, found)) as other:
            for number in range(3):
                other.send(Infer(number, [[1, len(graph.layers)]], 60.0), soon(), [x])
                other.receive(soon()).read(Result)  # within the --timeout for which the cloud waits for the deaf one


# --- tasks_edge_api.py


@pytest.fixture
def run_tasks(cache: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """tasks_edge_api.py in this process, which is quicker than starting another one."""

    def run(*arguments: object) -> Finished:
        flags = ["--cache-dir", str(cache), "--threads", THREADS, *map(str, arguments)]
        return call(tasks_edge_api.main, flags, capsys)

    return run


def test_every_task_of_a_mix_is_answered_right_and_written_down(
    many: CloudProcess, cache: Path, tmp_path: Path
) -> None:
    files = {name: tmp_path / f"tasks.{name}" for name in ("csv", "xlsx", "svg")}
    done = run_script(
        *("tasks_edge_api.py", "--cache-dir", str(cache), "-p", str(many.port), "-t", "le_net,mobile_net"),
        *("--tasks", "12", "--seed", "3", "--verify", "--json", "--emulate-cpu", "0.3", "--emulate-link", "50mbit,5ms"),
        *("--csv", str(files["csv"]), "--excel", str(files["xlsx"]), "--plot", str(files["svg"])),
    )
    assert done.code == 0, done.stderr
    document = done.document
    summary = document["summary"]
    assert (summary["completed"], summary["failed"], summary["wrong"]) == (12, 0, 0)
    assert summary["bound_fraction"] == pytest.approx(summary["bound_s"] / summary["wall_s"])
    assert 0 < summary["bound_fraction"] <= 1.5  # the mean of few tasks is not each of them, nor is a machine steady
    assert 1 <= summary["balance"] <= 3
    assert summary["p50_s"] <= summary["p95_s"] <= summary["p99_s"]
    assert sum(sum(cuts.values()) for cuts in summary["cuts"].values()) == 12
    assert sorted(task["id"] for task in document["tasks"]) == list(range(1, 13))
    assert all(task["matches"] for task in document["tasks"])
    assert document["link"]["history"]
    with files["csv"].open() as file:
        rows = list(csv.DictReader(file))
    assert {row["id"] for row in rows} == {str(n) for n in range(1, 13)}
    assert load_workbook(files["xlsx"])["tasks"].max_row == 13
    drawn = files["svg"].read_text(encoding="utf-8")  # matplotlib keeps texts as comments
    for task in document["tasks"]:
        assert f"<!-- {task['id']} {task['model']} -->" in drawn
        where = {"edge": "all on the edge"}.get(task["completed_by"], f"point {task['point']}: ")
        assert f"<!-- {where if task['point'] else 'all on the cloud: '}" in drawn, task


def test_a_file_with_mistakes_runs_the_rest_and_can_be_resumed(
    many: CloudProcess, run_tasks: Callable[..., Finished], tmp_path: Path
) -> None:
    not_a_picture = tmp_path / "x.png"
    not_a_picture.write_text("hello")
    tasks = tmp_path / "tasks.csv"
    tasks.write_text(
        f"model,input,priority,deadline_ms\nle_net,,,\nnonsense,,,\nle_net,{not_a_picture},,\nle_net,,1,-5\nle_net,,,60000\n"
    )
    flags = ("-p", many.port, "--tasks-file", tasks, "--json")
    first = run_tasks(*flags)
    assert first.code == 1
    document = first.document
    assert [problem["line"] for problem in document["problems"]] == [3, 4]
    by_line = {task["id"]: task for task in document["tasks"]}
    assert set(by_line) == {2, 5, 6}
    assert by_line[5]["error"] == "its deadline has passed"
    assert by_line[2]["completed_by"]
    assert "line 3: unknown network 'nonsense'" in first.stderr
    tasks.write_text(tasks.read_text() + "le_net,,,\n")
    second = run_tasks(*flags, "--resume").document
    assert second["summary"]["skipped"] == 2
    assert {task["id"] for task in second["tasks"]} == {5, 7}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--tasks-file", "{empty}"), "contains no tasks"),
        (("--tasks-file", "{missing}"), "no file"),
        (("--image-dir", "{folder}"), "contains no image"),
        (("--resume",), "--resume requires --tasks-file"),
        (("--excel", "tasks.csv"), "the suffix must be .xlsx"),
        (("--plot", "tasks.txt"), "the suffix must be .png"),
        (("--plot", "tasks.pgf"), "the suffix must be .png"),
        (("--rate", "0/s"), "is not an arrival rate"),
        (("-t", "nonsense"), "unknown network"),
        (("--emulate-cpu", "0.5", "--threads", "2"), "--emulate-cpu cannot be combined with --threads"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(
    arguments: tuple[str, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.csv").touch()
    places = {"empty": tmp_path / "empty.csv", "missing": tmp_path / "missing.csv", "folder": tmp_path}
    given = [*(text.format(**places) for text in arguments), "-p", "1", "--tasks", "1"]
    try:
        code = tasks_edge_api.main(given)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    shown = capsys.readouterr()
    assert (code, shown.out) == (2, "")
    assert words in shown.err
    assert len(shown.err.splitlines()) == 1


def test_no_cloud_is_said_at_once(run_tasks: Callable[..., Finished]) -> None:
    done = run_tasks("-p", 1, "-t", "le_net", "--tasks", 1)
    assert done.code == 3
    assert "no cloud at 127.0.0.1:1" in done.stderr


def test_a_cloud_that_leaves_and_comes_back_in_the_middle_costs_no_answer(cache: Path) -> None:
    """It goes on until the cloud has been used, was away, and is used again; then Ctrl-C says what came of it all."""
    flags = ("-t", "le_net", "--verify", "--emulate-cpu", "0.002", "--rate", "5/s", "--tasks", 10_000)
    with ExitStack() as stack:
        with running_cloud(cache, script="tasks_cloud_api.py") as cloud:
            process = stack.enter_context(started_tasks(cache, "-p", cloud.port, *flags, "--interval", "200ms"))
            read_until(process, " cloud$", 2)
            cloud.was_told_to_stop = True
            cloud.process.send_signal(signal.SIGTERM)
            cloud.process.wait(LONG_S)
        read_until(process, " edge$", 2)
        with running_cloud(cache, "-p", str(cloud.port), script="tasks_cloud_api.py"):
            read_until(process, " cloud$", 2)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=2 * LONG_S)
    assert process.returncode == 130, err
    assert answered_all(out), out


def test_ctrl_c_finishes_what_is_in_flight(many: CloudProcess, cache: Path, tmp_path: Path) -> None:
    table = tmp_path / "tasks.csv"
    flags = ("-t", "le_net", "--tasks", 5000, "--rate", "20/s", "--csv", table)
    with started_tasks(cache, "-p", many.port, *flags) as process:
        read_until(process, "le_net", 5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=2 * LONG_S)
    assert process.returncode == 130, err
    found = re.search(r"tasks +(\d+) done, 0 failed, (\d+) left", out)
    assert found is not None, out
    assert int(found[1]) + int(found[2]) == 5000
    assert len(table.read_text().splitlines()) == int(found[1]) + 1


def test_nothing_grows_while_nothing_comes(many: CloudProcess, network: Callable[[str], TorchNetwork]) -> None:
    with closing(greet(many.port, network("le_net"))) as connection:
        connection.send(Infer(1, [[1, 13]], 30.0), soon(), [np.asarray(network("le_net").example.tensor)])
        connection.receive(soon()).read(Result)
        seen = [(many.threads, many.descriptors)]
        for _ in range(20):
            time.sleep(0.1)
            seen.append((many.threads, many.descriptors))
        assert seen == sorted(seen, reverse=True)  # threads of who left before may still end
    until(lambda: many.threads < seen[-1][0])
