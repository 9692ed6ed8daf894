"""What others would run where: their own published costs, by brute force, and their cuts run for real."""

import json
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecloud.cli import script
from edgecloud.client import points
from edgecloud.lab.baselines import command
from edgecloud.lab.baselines.inputs import BaselineInputs, CellInfo, Choice, Needs, Sides
from edgecloud.lab.baselines.loader import InputLoader, Sources
from edgecloud.lab.baselines.registry import BASELINES, FixedPoint, baseline
from edgecloud.models.graph import LayerGraph
from edgecloud.models.specs import KINDS
from edgecloud.predictor import dataset
from edgecloud.predictor.dataset import Dataset
from edgecloud.predictor.features import Table, table
from edgecloud.predictor.regressors import AS_PUBLISHED, paper_variables
from edgecloud.predictor.train import fit_all
from edgecloud.utils.errors import UsageError
from tests.conftest import LONG_S, ROOT
from tests.models.test_graph import all_cuts, random_graph
from tests.models.test_graph import chain as make_chain
from tests.predictor.test_dataset import HERE, rows

LARGE, SMALL = ("alex_net", "torchvision:resnet18"), "torchvision:squeezenet1_1"
"""Networks whose cuts are run; the small one has blocks, as resnet18 has."""
SHARE, LINK = 0.3, "20mbit,10ms"
QUICK = ("--warm-up", "0", "--verify")


def inputs_of(rng: random.Random, graph: LayerGraph) -> BaselineInputs:
    """Random times, also of nothing, and a rate at which sending costs about as much as computing."""

    def sides() -> Sides:
        some = [[0.0, *(rng.choice([0.0, rng.random()]) for _ in graph.layers[1:])] for _ in range(2)]
        return Sides(some[0], [rng.choice([0.1, 1.0]) * seconds for seconds in some[1]])

    return BaselineInputs(graph, rng.choice([0.5, 5.0, 50.0, 1e9]), sides(), sides(), rng.choice([1.0, 3.0]))


def test_neurosurgeon_takes_the_point_that_is_least_by_algorithm_1() -> None:
    rng = random.Random(1)
    for number in range(400):
        graph = (
            make_chain([rng.randrange(1, 50) for _ in range(rng.randrange(2, 9))])
            if number % 2
            else random_graph(rng, rng.randrange(3, 10))
        )
        inputs = inputs_of(rng, graph)
        assert inputs.regressed is not None
        totals = []
        for point in graph.points:
            head = graph.head_at(point.number)
            mobile = sum(inputs.regressed.edge_s[layer] for layer in head)
            cloud = sum(inputs.regressed.cloud_s[layer] * inputs.load for layer in graph.everything - head)
            sent = sum(graph.layers[layer].out_bytes for layer in graph.boundary(head))
            totals.append(mobile + cloud + sent / inputs.up_bytes_per_s)
        found = baseline("neurosurgeon").choose(inputs)
        assert found.expected_s == pytest.approx(min(totals))
        assert found.point is not None
        assert totals[found.point] == pytest.approx(min(totals))


def test_dads_takes_the_cut_that_is_least_of_all_closed_cuts_by_its_own_cost() -> None:
    """T_e + T_c + T_t of section II: no round trip, no load, no way back, every tensor once."""
    rng, several = random.Random(2), 0
    for _ in range(1500):
        inputs = inputs_of(rng, random_graph(rng, rng.randrange(3, 10)))
        graph, sides = inputs.graph, inputs.measured
        assert sides is not None
        costs = {
            cut: sum(sides.edge_s[layer] for layer in cut)
            + sum(sides.cloud_s[layer] for layer in graph.everything - cut)
            + sum(graph.layers[layer].out_bytes for layer in graph.boundary(cut)) / inputs.up_bytes_per_s
            for cut in all_cuts(graph)
        }
        found = baseline("dads").choose(inputs)
        assert costs[found.head] == pytest.approx(min(costs.values()), rel=1e-6, abs=1e-7)
        assert found.expected_s == pytest.approx(costs[found.head], abs=1e-7)
        assert (found.point is None) == (len(graph.boundary(found.head)) > 1)
        (wanted,) = points.parse(found.points_text(graph), graph)
        head = wanted.head if wanted.point is None else graph.head_at(wanted.point)
        assert head == found.head, "or the edge would run another cut"
        several += found.point is None
    assert several > 20  # or the half of it that matters was never seen


def test_the_simple_ones_are_the_ends() -> None:
    graph = make_chain([5, 4, 3, 2, 1])
    inputs, last = BaselineInputs(graph, 1.0), len(graph.points) - 1
    fixed = {name: row for name, row in BASELINES.items() if isinstance(row, FixedPoint)}
    found = {name: row.choose(inputs).points_text(graph) for name, row in fixed.items()}
    packed = {"all-cloud-8bit": "0:pixels", "all-cloud-jpeg": "0:jpeg"}
    assert found == {"all-edge": f"{last}:raw", "all-cloud": "0:raw", **packed}
    cell = CellInfo("any", last + 1, {}, Path(), None)
    assert found == {name: row.points_text(cell) for name, row in fixed.items()}


@pytest.mark.parametrize("name", ["neurosurgeon", "dads", "nobody"])
def test_what_has_no_times_or_no_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        baseline(name).choose(BaselineInputs(make_chain([3, 2, 1]), 1.0))


def test_regressions_are_the_papers_two_forms_and_the_better_one_for_each_kind() -> None:
    """A kind whose time grows with a power of the paper's variables, and one whose time is a straight line in them."""
    made = {}
    laws: dict[str, Callable[[Table], float]] = {
        "conv": lambda v: 1e-9 * float(v[0] ** 0.7 * v[1] ** 0.4),
        "linear": lambda v: 1e-3 + 1e-6 * float(v.sum()),
    }
    for kind, law in laws.items():
        some = rows(200, kind)
        variables = paper_variables(kind, table([row.layer for row in some]))
        made[kind] = tuple(replace(row, raw_s=(law(v),) * 3) for row, v in zip(some, variables, strict=True))
    fits = {found.kind: found for found in fit_all(Dataset(made, None, "made up"), forms=AS_PUBLISHED)}
    assert {kind: found.chosen for kind, found in fits.items()} == {"conv": "logarithmic", "linear": "linear"}
    assert all(set(found.candidates) == set(AS_PUBLISHED) for found in fits.values())
    assert all(found.score.within_5 > 0.9 for found in fits.values())


@pytest.fixture(scope="module")
def surveyed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of every kind whose times follow their work: so many are measured in a minute, which is too long here."""
    found = tmp_path_factory.mktemp("survey") / "edge"
    dataset.write(found, {kind: rows(60, kind) for kind in KINDS}, HERE)
    return found


def several_tensors(graph: LayerGraph) -> Choice:
    """DADS's choice for times that make it cut through a block: only the run of it is real."""
    rng = np.random.default_rng(3)
    for _ in range(1000):
        times = rng.exponential(1.0, (2, len(graph.layers)))
        found = baseline("dads").choose(BaselineInputs(graph, 1e6, Sides(times[0], times[1])))
        if len(graph.boundary(found.head)) > 1:
            return found
    raise AssertionError("it never cuts through a block")


Documents = list[dict[str, Any]]


@contextmanager
def edge_that_listens(cache: Path, *flags: str) -> Iterator[Callable[[str, int], Documents]]:
    """edge_api.py with a cloud of its own, asked for one list of points after the other."""
    command = [sys.executable, "edge_api.py", "--cache-dir", str(cache), "--times", "measured", "--json", *flags]
    command += ["--points", "-"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        timer = threading.Timer(4 * LONG_S, process.kill)  # ends the wait for a line that never comes
        timer.start()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            lines = process.stdout
            assert "ready" in json.loads(lines.readline())

            def ask(points: str, count: int) -> Documents:
                print(points, file=process.stdin, flush=True)
                return [json.loads(lines.readline()) for _ in range(count)]

            yield ask
            process.stdin.close()
            assert process.wait() == 0
        finally:
            timer.cancel()
            process.kill()


@pytest.mark.parametrize("model", [*(pytest.param(name, marks=pytest.mark.slow) for name in LARGE), SMALL])
def test_their_cuts_run_over_an_emulated_link(model: str, surveyed: Path, cache: Path) -> None:
    """Both choose from what the machine has measured by then, and the answers are the whole network's."""
    loader = InputLoader(Sources(cache, surveyed, surveyed.parent / "no cloud"))
    graph, _ = loader.network(model)
    with edge_that_listens(cache, "-t", model, "--emulate-cpu", str(SHARE), "--emulate-link", LINK, *QUICK) as ask:
        (first,) = ask("auto", 1)
        up = first["link"]["up_bytes_per_s"]
        inputs = loader.load(model, up, set(Needs), SHARE)
        choices = [baseline(name).choose(inputs) for name in ("neurosurgeon", "dads", "all-cloud-8bit")]
        if not graph.is_chain:
            choices.append(several_tensors(graph))
        documents = ask(",".join(choice.points_text(graph) for choice in choices), len(choices))
    assert len(documents) == len(choices)
    for choice, document in zip(choices, documents, strict=True):
        assert document["verify"]["matches"]
        assert document["plan"]["point"] == choice.point
        assert document["plan"]["head"] == len(choice.head) - 1
        sent = graph.bytes_of(graph.boundary(choice.head))
        assert document["measured"]["raw_bytes"] == sent
        if choice.codec == "raw":
            assert document["measured"]["payload_bytes"] == sent


def test_the_command_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = script.Parser("lab baselines", "")
    command.add_flags(parser)
    flags = [
        "-t",
        "le_net",
        "--bandwidth",
        "5mbit",
        "--cache-dir",
        str(tmp_path),
        "--edge-survey",
        str(tmp_path / "no"),
    ]

    def called(*more: str) -> tuple[int, str, str]:
        options = parser.parse_args([*flags, *more])
        code = script.run("lab baselines", lambda: command.main(options), options)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    code, out, _ = called("--names", "all-cloud,all-edge", "--json")
    assert code == 0
    assert json.loads(out)["baselines"][0]["points"] == "0:raw"
    for names, words in (
        ("dads", "deployment.py profile -t"),
        ("neurosurgeon", "no survey"),
        ("x", "choose all-"),
    ):
        code, _, err = called("--names", names)
        assert (code, err.count("\n")) == (2, 1)
        assert words in err
