"""Many tasks with packed boundaries: options, bytes, answers, clouds that know less, clouds that die."""

import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgecloud import tasks_edge_api
from edgecloud.client.conditions import Conditions
from edgecloud.engine.packing import CodecPolicy, pack, packing_of
from edgecloud.engine.torch_executor import TorchExecutor
from edgecloud.models import inputs, registry
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.net.codec import CODECS, is_name
from edgecloud.net.link import LinkEstimate
from edgecloud.net.messages import Ready
from edgecloud.partition.cost import CloudTimes, Link, Packed, Problem, parts_of, predict
from edgecloud.partition.packing import RAW, Allowed
from edgecloud.tasks.planner import OpenQueue, Option, Profiled, options_of
from edgecloud.tasks.tasks import Task
from tests.conftest import (
    LONG_S,
    ROOT,
    CloudProcess,
    Finished,
    answered_all,
    call,
    read_until,
    run_script,
    running_cloud,
    started_tasks,
)

MBIT = 1e6 / 8
LINK = LinkEstimate(5 * MBIT, 20 * MBIT, 0.02, "given")
SLOW = ("--emulate-cpu", "0.002", "--emulate-link", "100kbit,5ms")


# --- what can be chosen


@pytest.fixture
def profiled(network: Callable[[str], TorchNetwork]) -> Profiled:
    """mobile_net with half the bytes under zstd everywhere, and a lossy codec after one of its points."""
    graph = network("mobile_net").traced.graph
    lossless = [[Packed(RAW, e.out_bytes), Packed("zstd", e.out_bytes // 2, 0.03, 0.01)] for e in graph.layers]
    lossy = {graph.points[3].layer: [Packed("int8", 100, 0.02, 0.005)]}
    return Profiled(graph, [0.01] * len(graph.layers), Allowed(lossless, lossy))


def conditions(known: Profiled, codecs: Iterable[str] = CODECS, link: LinkEstimate = LINK) -> Conditions:
    count = len(known.graph.layers)
    ready = Ready([0.001] * count, [0.002] * count, 0.0, "cpu", list(codecs), 64 << 20, "measured")
    return Conditions(link, {known.graph.name: ready}, load=2.0, queue_s=0.1, max_payload=64 << 20)


def test_every_point_with_every_codec_has_the_stages_of_the_formula(profiled: Profiled) -> None:
    graph, now = profiled.graph, conditions(profiled)
    options = options_of(profiled, now)
    assert len(options) == 2 * (len(graph.points) - 1) + 1 + 1
    assert len(set(options)) == len(options)
    assert now.ready is not None
    ready = now.ready[graph.name]
    cloud = CloudTimes(ready.seconds, ready.start_s, now.load, now.queue_s)
    for option in options:
        packed = next((p for p in profiled.ways(option.point, CODECS) if p.codec == option.codec), None)
        assert packed is not None
        problem = Problem(graph, profiled.seconds, cloud, Link(5 * MBIT, 20 * MBIT, 0.02), packed=[packed] * 999)
        found = predict(problem, parts_of(graph, graph.head_at(option.point)))
        assert option.stages.total_s == pytest.approx(found.total_s)
        assert option.stages.longest_s == pytest.approx(found.longest_s)
        assert option.stages.edge_s == pytest.approx(found.edge_s + found.encode_s)


def codecs_of(options: Iterable[Option]) -> set[str]:
    return {option.codec for option in options}


def test_only_what_the_cloud_knows_is_planned(profiled: Profiled) -> None:
    assert codecs_of(options_of(profiled, conditions(profiled))) == {RAW, "zstd", "int8"}
    older = options_of(profiled, conditions(profiled, [RAW]))
    assert codecs_of(older) == {RAW}
    assert len(older) == len(profiled.graph.points)
    only = replace(profiled, allowed=Allowed([[Packed("zstd", 9)]] * len(profiled.graph.layers), {}))
    assert codecs_of(options_of(only, conditions(only, [RAW]))) == {RAW}


def test_the_limit_of_a_cloud_is_for_unpacked_tensors(profiled: Profiled) -> None:
    graph = profiled.graph
    first = graph.layers[0].out_bytes
    now = replace(conditions(profiled), max_payload=first - 1)
    fits = {point.number for point in graph.points[:-1] if graph.layers[point.layer].out_bytes < first}
    points = {option.point for option in options_of(profiled, now)}
    assert 0 < len(fits) < len(graph.points) - 1
    assert points == fits | {len(graph.points) - 1}


def test_a_codec_follows_the_link_and_is_no_move(profiled: Profiled) -> None:
    queue = OpenQueue([Task(n, "mobile_net") for n in range(4)], {"mobile_net": fast_cloud(profiled)}, 0.01)
    seen = []
    for mbit in (2.0, 2000.0):
        queue.refresh(0.0, conditions(profiled, link=replace(LINK, up_bytes_per_s=mbit * MBIT)))
        found = queue.take(0.0)
        assert found is not None
        seen.append((found[1].point, found[1].codec))
    assert seen == [(0, "zstd"), (0, RAW)]
    assert queue.moves == []


def fast_cloud(profiled: Profiled) -> Profiled:
    """The same on an edge that had better run nothing."""
    return replace(profiled, seconds=[0.0] + [1.0] * (len(profiled.graph.layers) - 1))


def test_pixels_are_planned_only_where_the_inputs_are_pictures(
    network: Callable[[str], TorchNetwork], tmp_path: Path
) -> None:
    subject = network("mobile_net")
    entry = registry.lookup("mobile_net")
    pictures = [np.asarray(inputs.from_image(path, entry.preprocess).tensor) for path in inputs.samples(entry.sample)]
    noise = np.random.default_rng(0).standard_normal(pictures[0].shape).astype(np.float32)
    wanted = CodecPolicy.of("auto", None, 0.0)
    sizes = [
        packing_of(subject, wanted, tmp_path, inputs=found).sizes for found in (pictures, [*pictures, noise], [noise])
    ]
    assert [(0, "pixels") in found for found in sizes] == [True, False, False]
    each = [packing_of(subject, wanted, tmp_path, inputs=[x]).sizes[0, "zstd"] for x in pictures]
    assert min(each) <= sizes[0][0, "zstd"] <= max(each)


def test_what_cannot_be_packed_or_unpacked_travels_raw(network: Callable[[str], TorchNetwork]) -> None:
    executor = TorchExecutor(network("le_net"), torch.device("cpu"))
    x, bad = np.ones((1, 64), np.float32), np.full((1, 64), np.nan, np.float32)
    packed, encode_s = pack(executor, [x, bad, x], ["int8", "int8", "fp16"], [RAW, "int8"])
    assert [one.codec for one in packed] == ["int8", RAW, RAW]
    assert [one.nbytes for one in packed][1:] == [256, 256]
    assert encode_s > 0


# --- real processes


@pytest.fixture(scope="module")
def served(cache: Path) -> Iterator[CloudProcess]:
    """A cloud for all of them, that counts."""
    with running_cloud(cache, "--metrics-port", "0", script="tasks_cloud_api.py") as cloud:
        yield cloud


def run_tasks(cache: Path, *arguments: object) -> Finished:
    return run_script("tasks_edge_api.py", "--cache-dir", str(cache), "--verify", "--json", *map(str, arguments))


@pytest.fixture
def call_tasks(cache: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """The same in this process, which is quicker; the log is not in its stderr."""

    def run(*arguments: object) -> Finished:
        flags = ["--cache-dir", str(cache), "--verify", "--json", *map(str, arguments)]
        return call(tasks_edge_api.main, flags, capsys)

    return run


def all_right(done: Finished, tasks: int) -> dict[str, Any]:
    """The summary of a call that answered every task as the whole network does."""
    assert done.code == 0, done.stderr
    summary: dict[str, Any] = done.document["summary"]
    assert (summary["completed"], summary["failed"], summary["wrong"]) == (tasks, 0, 0)
    return summary


def test_packed_tasks_send_less_and_the_cloud_saw_just_that(
    call_tasks: Callable[..., Finished], served: CloudProcess
) -> None:
    flags = ("-t", "le_net", "--tasks", 12, *SLOW)
    earlier = served.figures()
    raw, auto = (call_tasks("-p", served.port, *flags, "--codec", name) for name in ("raw", "auto"))
    seen = served.figures()
    before, after = all_right(raw, 12), all_right(auto, 12)
    assert set(before["codecs"]["le_net"]) == {RAW}
    assert before["bytes_sent"] == before["raw_bytes"]
    assert after["raw_bytes"] > after["bytes_sent"]
    sent: dict[str, int] = {}
    for task in raw.document["tasks"] + auto.document["tasks"]:
        if task["codec"]:
            sent[task["codec"]] = sent.get(task["codec"], 0) + task["payload_bytes"]
            assert CODECS[task["codec"]].is_lossless
            assert (task["encode_s"] > 0, task["tries"]) == (True, 1)
    assert set(sent) > {RAW}
    counter = 'edgecloud_payload_bytes_total{{codec="{}",direction="in"}}'.format
    crossed = {name: int(seen[counter(name)] - earlier.get(counter(name), 0)) for name in sent}
    assert crossed == sent
    assert sum(sent.values()) == before["bytes_sent"] + after["bytes_sent"]
    assert after["planned_s"] < before["planned_s"]
    assert after["bound_fraction"] > 0


def test_a_lossy_codec_by_name_is_compared_by_its_top_1(
    call_tasks: Callable[..., Finished], served: CloudProcess
) -> None:
    flags = ("-p", served.port, "-t", "le_net", "--tasks", 6, *SLOW, "--accuracy-budget", "0.5%")
    summary = all_right(call_tasks(*flags, "--codec", "int4+zstd"), 6)
    assert set(summary["codecs"]["le_net"]) == {"int4+zstd"}
    assert 5 * summary["bytes_sent"] < summary["raw_bytes"]
    assert summary["max_abs_diff"] > 1e-3  # more than what `matches` takes for equal


def test_a_budget_works_at_once_where_a_calibration_comes_along(cache: Path, served: CloudProcess) -> None:
    flags = ("-p", served.port, "-t", "le_net", "--tasks", 6, *SLOW)
    done = run_tasks(cache, *flags, "--accuracy-budget", "1%")
    assert done.stderr == ""
    summary = all_right(done, 6)
    assert all(is_name(name) for name in summary["codecs"]["le_net"])


@pytest.mark.slow  # of one inference, in test_cuts_end_to_end.py, it is tried always
def test_a_budget_with_a_calibration_allows_what_was_tried(cache: Path, tmp_path: Path) -> None:
    for number, crop in enumerate(inputs.crops(inputs.samples("photo")[0], 2)):
        crop.save(tmp_path / f"{number}.png")
    place = ("-t", "alex_net", "--image-dir", str(tmp_path))
    tried = run_script("deployment.py", "calibrate", *place, "--cache-dir", str(cache), "--json")
    assert tried.code == 0, tried.stderr
    link = ("--emulate-cpu", "0.05", "--emulate-link", "2mbit,20ms")
    done = run_tasks(cache, *place, "--tasks", 4, *link, "--accuracy-budget", "0.5%")
    assert done.stderr == ""
    lossy = [name for name in all_right(done, 4)["codecs"]["alex_net"] if not CODECS[name].is_lossless]
    assert lossy
    assert {name.removesuffix("+zstd") for name in lossy} <= {
        row["codec"] for row in tried.document["tried"] if row["loss"] <= 0.005
    }


OLDER = f"""
import sys
import time
sys.path.insert(0, {str(ROOT)!r})
import edgecloud.net.codec, edgecloud.net.tensors, edgecloud.server.model_cache
for place in (edgecloud.net.tensors, edgecloud.server.model_cache):  # what it can unpack, and what it says
    assert place.STANDARD is edgecloud.net.codec.STANDARD
    place.STANDARD = ("raw",)
import tasks_cloud_api
sys.exit(tasks_cloud_api.main())
"""


@pytest.mark.slow  # a minute of waiting for clouds that are frozen and killed
def test_a_cloud_that_dies_and_an_older_one_in_its_place_cost_no_answer(cache: Path, tmp_path: Path) -> None:
    """What is finished here starts from the tensor as it was: it is compared number by number, and not by its top-1.

    Each step waits for what the edge prints of the one before; then Ctrl-C says what came of it all."""
    older = tmp_path / "older.py"
    older.write_text(OLDER)
    flags = ("-t", "le_net", "--tasks", 10_000, *SLOW, "--interval", "200ms", "--verify", "--codec", "int4+zstd")
    with ExitStack() as stack:
        with running_cloud(cache, script="tasks_cloud_api.py") as cloud:
            edge = stack.enter_context(started_tasks(cache, "-p", cloud.port, *flags))
            read_until(edge, r"B int4\+zstd .* cloud$")
            cloud.process.send_signal(signal.SIGSTOP)
            time.sleep(1)  # tasks come every 200 ms: some are sent now, to which no answer will come
            cloud.kill()
        read_until(edge, " fallback$")
        with running_cloud(cache, "-p", str(cloud.port), script=str(older)):
            lines = read_until(edge, r"B raw .* (cloud|split)$", 2)
            edge.send_signal(signal.SIGINT)
            rest, err = edge.communicate(timeout=2 * LONG_S)
    assert edge.returncode == 130, err
    assert answered_all(rest), rest
    later = "".join(lines) + rest
    assert not re.search(r"B int4.* (cloud|split)$", later, re.MULTILINE)
    assert "refused" not in later + err


def test_a_wrong_codec_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert tasks_edge_api.main(["-p", "1", "--tasks", "1", "--codec", "gzip"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert line.startswith("tasks_edge_api.py: no codec 'gzip': choose auto, raw, ")


def test_both_edges_take_the_same_flags_for_packing() -> None:
    texts = [run_script(script, "--help").stdout for script in ("edge_api.py", "tasks_edge_api.py")]
    for flag in ("--codec NAME", "--accuracy-budget SHARE"):
        found = [" ".join(text.split(flag)[-1].split()).partition(" --")[0] for text in texts]
        assert found[0] == found[1]
        assert "default: " in found[0]
