"""The cut with the minimum bottleneck stage of any graph, as a mixed-integer program. Pure.

    minimise T   subject to   every stage <= T
    x[v] in {0, 1}            1 where layer v runs on the edge; 1 for the input
    x[v] <= x[u]              for every layer v that reads u: a cut is closed under inputs
    x[u] - x[v] <= y[u]       the same: y[u] is 1 if the output of u crosses, once however many layers read it

A tail that begins after point k adds start[k] * (x[k] - x[k + 1]), for a layer of a point needs those of all points
before it. Only all on the edge pays no start; it is looked at apart.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecloud.models.graph import LayerGraph
from edgecloud.partition.branch_and_bound import TIE, Flags, needs_of
from edgecloud.partition.mincut import Terms, Values
from edgecloud.utils.quiet import silent_stdout

if TYPE_CHECKING:
    from scipy.sparse import csr_array

# The best bottleneck stage known is this many units in the program, which makes the solver's absolute tolerances, 1e-6
# and 1e-7, finer than TIE; with 100 it fails more often.
UNITS = 10.0
INFEASIBLE, FAILED = 2, 4  # statuses of scipy.optimize.milp


@dataclass(frozen=True, slots=True)
class Program:
    """The cuts but all on the edge whose bottleneck stage is at most `best_s`, as a mixed-integer program.

    Its variables are x and y of every layer and T. T and all costs are in shares of `best_s`, times UNITS.
    """

    graph: LayerGraph
    rows: "csr_array"
    most: Values
    """What the rows may add up to."""
    lower: Values
    upper: Values
    longest: Values
    """The objective: T."""
    total: Values
    """The other one: seconds of all stages together."""

    @classmethod
    def of(cls, graph: LayerGraph, terms: Terms, best_s: float) -> "Program":
        """The program of terms in seconds. `best_s` is that of some cut, so no layer is forced to both sides."""
        from scipy.sparse import vstack  # for those who need it

        limit = 1 + TIE / 2
        shares = [np.minimum(part / best_s, 2.0) for part in (terms.edge, terms.cloud, terms.tensor, terms.entry)]
        on_edge, on_cloud = _forced(graph, shares[0], shares[1], float(shares[3].min()), limit)
        size = len(graph.layers)
        may_cross = shares[2] <= limit
        lower = np.concatenate([on_edge, np.zeros(size + 1)])
        upper = np.concatenate([~on_cloud, may_cross, [UNITS * limit]]).astype(np.float64)
        stages, paid = _stage_rows(graph, *(UNITS * part for part in shares))
        joins = _join_rows(graph, on_edge, on_cloud)
        rows = vstack([joins, np.hstack([stages, -np.ones((3, 1))])], format="csr")
        most = np.concatenate([np.zeros(joins.shape[0]), -paid])
        return cls(graph, rows, most, lower, upper, np.eye(2 * size + 1)[-1], np.append(stages.sum(axis=0), 0.0))

    def solve(self, objective: Values, limit_s: float) -> tuple[frozenset[int] | None, float]:
        """The best cut found in `limit_s`, if one was, and a lower bound of T, in shares, if T is the objective.

        `objective` is `longest` or `total`, shape (2 * layers + 1,).
        """
        solution = self._solved(objective, limit_s)
        if solution is None or solution.status == INFEASIBLE:
            return None, 0.0 if solution is None else 1.0
        on_edge = None if solution.x is None else np.flatnonzero(solution.x[: len(self.graph.layers)] > 0.5)
        bound = solution.mip_dual_bound
        head = None if on_edge is None else _closed(self.graph, on_edge.tolist())
        return head, 0.0 if bound is None or not bound > 0 else bound / UNITS

    def _solved(self, objective: Values, limit_s: float) -> Any:
        """What the solver answers, or None where it fails.

        HiGHS 1.12 does on one problem in thousands: what presolve made of it is not quite a solution ("solve error",
        github.com/ERGO-Code/HiGHS/issues/2782), or it reserves memory of a negative size (a ValueError). As often it
        prints a line to stdout, also when told to be quiet.
        """
        from scipy.optimize import Bounds, LinearConstraint, milp  # 0.6 s, for those who need it

        problem = {
            "integrality": np.arange(len(objective)) < len(self.graph.layers),
            "bounds": Bounds(self.lower, self.upper),
            "constraints": LinearConstraint(self.rows, -np.inf, self.most),
        }
        for presolve in (True, False):
            options = {"time_limit": limit_s, "mip_rel_gap": 0.0, "presolve": presolve}
            with suppress(ValueError), silent_stdout():
                solution = milp(objective, **problem, options=options)
                if solution.status != FAILED:
                    return solution
        return None


def _forced(graph: LayerGraph, edge: Values, cloud: Values, start: float, limit: float) -> tuple[Flags, Flags]:
    """Layers that are on the edge, or on the cloud, in all cuts whose stages are within limit but all on the edge.

    A layer on the edge takes all that it needs with it, and one on the cloud all that needs it.
    """
    needs = needs_of(graph)
    on_edge = np.arange(len(graph.layers)) < len(graph.inputs)
    on_cloud, count = np.zeros_like(on_edge), 0
    while count < on_edge.sum() + on_cloud.sum():
        count = on_edge.sum() + on_cloud.sum()
        on_cloud = on_cloud | ((needs | on_edge) @ edge > limit)
        on_edge = on_edge | ((needs.T | on_cloud) @ cloud + start > limit)
    return on_edge, on_cloud


def _join_rows(graph: LayerGraph, on_edge: Flags, on_cloud: Flags) -> "csr_array":
    """x[v] - x[u] <= 0 and x[u] - x[v] - y[u] <= 0 wherever v reads u and that is not known anyway."""
    from scipy.sparse import csr_array

    arcs = np.array([(u, v) for u, readers in enumerate(graph.readers) for v in readers]).reshape(-1, 2)
    closed = arcs[~on_edge[arcs[:, 0]] & ~on_cloud[arcs[:, 1]]]
    crossed = arcs[~on_cloud[arcs[:, 0]] & ~on_edge[arcs[:, 1]]]
    size, first, second = len(graph.layers), np.arange(len(closed)), len(closed) + np.arange(len(crossed))
    rows = np.concatenate([first, first, second, second, second])
    columns = np.concatenate([closed[:, 1], closed[:, 0], crossed[:, 0], crossed[:, 1], size + crossed[:, 0]])
    signs = np.repeat([1.0, -1.0, 1.0, -1.0, -1.0], [len(first)] * 2 + [len(second)] * 3)
    return csr_array((signs, (rows, columns)), shape=(len(first) + len(second), 2 * size + 1))


def _stage_rows(graph: LayerGraph, edge: Values, cloud: Values, tensor: Values, entry: Values) -> tuple[Values, Values]:
    """The three stages as rows over x and y, and what is added to each."""
    size = len(graph.layers)
    rows = np.zeros((3, 2 * size))
    rows[0, :size], rows[1, size:], rows[2, :size] = edge, tensor, -cloud
    points = [point.layer for point in graph.points[:-1]]
    rows[2, points] += entry
    rows[2, points[1:]] -= entry[:-1]
    return rows, np.array([0.0, 0.0, cloud.sum()])


def _closed(graph: LayerGraph, chosen: Iterable[int]) -> frozenset[int]:
    """The layers among the chosen ones whose inputs are too: a cut."""
    head = set(graph.inputs)
    for number in sorted(chosen):
        if head.issuperset(graph.layers[number].inputs):
            head.add(number)
    return frozenset(head)
