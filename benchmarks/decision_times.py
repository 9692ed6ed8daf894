"""Seconds of decisions about made-up times, as JSON: what benchmarks.decision_against runs in each checkout.

    python benchmarks/decision_times.py [GRAPH ...]

It imports what PYTHONPATH names, and only what older checkouts have as well.
"""

import json
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from statistics import median

from benchmarks import decision
from edgecloud.partition.chain import best, scan
from edgecloud.partition.cost import CloudTimes, Problem
from edgecloud.partition.mincut import CutSolver

GRAPHS = ("alex_net", "mobile_net", "torchvision:googlenet", "torchvision:densenet121")
TIMES = 30
Found = dict[str, dict[str, float]]
"""Seconds, by graph and by what was decided."""


def problem_of(name: str) -> Problem:
    """A graph with made-up times, the same ones in every checkout."""
    if name == decision.RANDOM:
        return decision.random_problem()
    graph, chance = decision.prepared(name).traced.graph, random.Random(name)
    cloud_s = [0.0, *(chance.lognormvariate(-8.5, 1.0) for _ in graph.layers[1:])]
    starts_s = [chance.uniform(0, 1e-3) for _ in graph.layers]
    edge_s = [decision.SLOWER * seconds for seconds in cloud_s]
    return Problem(graph, edge_s, CloudTimes(cloud_s, starts_s), decision.LINK)


def best_point(problem: Problem) -> object:
    """A decision that tries all points."""
    return best(scan(problem))


def measured(names: Sequence[str]) -> Found:
    """In this process."""
    found: Found = {}
    for name in names:
        problem = problem_of(name)
        solver = CutSolver(problem.graph)
        decision.first_decision(decision.unknown(problem))  # what is imported and made for the first time
        others = [replace(problem, link=link) for link in decision.links(TIMES)]
        found[name] = {
            "new graph": median(decision.first_decision(decision.unknown(problem)) for _ in range(TIMES)),
            "new link": median(decision.update_s(solver, other) for other in others),
            "all points": median(decision.timed(partial(best_point, problem)) for _ in others),
        }
    return found


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1:] or (*GRAPHS, decision.RANDOM))))
