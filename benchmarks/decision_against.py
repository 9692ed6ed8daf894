"""Is a decision as quick as it was? The decisions of this checkout beside those of another one, in turns.

    git worktree add --detach DIR COMMIT
    python -m benchmarks.decision_against DIR [--rounds 9]

Each round starts a process in either checkout, which decides about the same graphs with the same made-up times, and
knows nothing of the other. What is told is the ratio of the pairs, and by how much it varies.
"""

import argparse
import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks import decision
from benchmarks.fingerprint import write_table
from benchmarks.noise import Figure, Versus
from edgecloud.utils.commands import ROOT

GRAPHS = ("alex_net", "mobile_net", "torchvision:googlenet", "torchvision:densenet121")
TIMES = 30
Found = dict[str, dict[str, float]]
"""Seconds, by graph and by what was decided."""


def problem_of(name: str) -> decision.Problem:
    """A graph with made-up times, the same ones in every checkout."""
    if name == decision.RANDOM:
        return decision.random_problem()
    graph, chance = decision.prepared(name).network.graph, random.Random(name)
    cloud_s = [0.0, *(chance.lognormvariate(-8.5, 1.0) for _ in graph.layers[1:])]
    starts_s = [chance.uniform(0, 1e-3) for _ in graph.layers]
    edge_s = [decision.SLOWER * seconds for seconds in cloud_s]
    return decision.Problem(graph, edge_s, decision.CloudTimes(cloud_s, starts_s), decision.LINK)


def measured() -> Found:
    """Of this checkout, in this process."""
    found: Found = {}
    for name in (*GRAPHS, decision.RANDOM):
        problem = problem_of(name)
        solver = decision.CutSolver(problem.graph)
        decision.first_decision(decision.unknown(problem))  # what is imported and made for the first time
        others = [decision.replace(problem, link=link) for link in decision.links(TIMES)]
        found[name] = {
            "new graph": median(decision.first_decision(decision.unknown(problem)) for _ in range(TIMES)),
            "new link": median(decision.update_s(solver, other) for other in others),
            "all points": median(decision.timed(lambda p=problem: decision.best(decision.scan(p))) for _ in others),
        }
    return found


def in_checkout(folder: Path) -> Found:
    """The same in a process there. Raises SystemExit where it fails."""
    code = f"import runpy; runpy.run_path({str(Path(__file__).resolve())!r}, run_name='there')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{folder}: {done.stderr}")
    found: Found = json.loads(done.stdout)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write benchmarks/results/decision_against.md."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.decision_against", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("other", type=Path, metavar="DIR", help="a checkout of another commit")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(argv)
    pairs = []
    for number in range(options.rounds):
        folders = [ROOT, options.other.resolve()]
        found = {folder: in_checkout(folder) for folder in (folders if number % 2 else folders[::-1])}
        pairs.append([found[folder] for folder in folders])
    rows = []
    for name, decisions in pairs[0][0].items():
        for what in decisions:
            ours, theirs = ([pair[side][name][what] for pair in pairs] for side in (0, 1))
            figures = [str(Figure.of([1e3 * s for s in seconds])) for seconds in (theirs, ours)]
            rows.append([decision.short(name), what, *figures, str(Versus.of(ours, theirs))])
    head = ["graph", "decision", "there, ms", "here, ms", "here over there"]
    commit = subprocess.run(
        ["git", "-C", str(options.other), "log", "-1", "--format=%h"], capture_output=True, text=True, check=False
    ).stdout.strip()
    notes = [f"There: commit {commit or 'unknown'}. Medians of {options.rounds} pairs of processes, which take turns."]
    write_table("decision_against", "Decisions of two versions", head, rows, notes)
    return 0


if __name__ == "there":
    print(json.dumps(measured()))
if __name__ == "__main__":
    sys.exit(main())
