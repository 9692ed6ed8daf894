"""The best of all cuts where stages overlap. Pure.

With overlap what a cut takes is no sum of terms, so no minimum cut finds the best one. But it lies between two sums:

    the stages one after the other           at most, since no cut has to overlap
    the same with packing and unpacking free  at least: a cut of several tensors has no more to hide behind the link

The minimum cut of the first and all points, each with its best chunks, are a first answer. Then cuts are walked
through in the order of the second sum (branch_and_bound.by_sum) and given their best chunks, until that sum is no
longer below the best answer: no cut is better then. Where that takes too long, the gap says by how much one may be.

That each of several tensors leaves when it is made, while the head goes on, and that the tail begins with branches, is
in what a cut takes, but not in the lower bound: it can only make the cuts better that were looked at.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgecloud.partition.branch_and_bound import by_sum
from edgecloud.partition.chunking import Overlapped, best_chunks
from edgecloud.partition.cost import Problem, StageWeights, parts_of, predict
from edgecloud.partition.mincut import CutSolver, Terms

STEPS = 20_000
"""Of the walk; each takes a few microseconds."""
CLOSE = 1e-9
ROUGHLY = 1.1
"""How many times what is least a cut may take with rough chunks to be given the best ones."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The best cut that was found, and how far it may be from the best there is, as a share."""

    head: frozenset[int]
    value: float
    is_optimal: bool = True
    gap: float = 0.0


def best(
    problem: Problem,
    weights: StageWeights,
    solver: CutSolver,
    points: Iterable[tuple[frozenset[int], float]],
    steps: int = STEPS,
) -> Cut:
    """The cut with the least weighted sum of stages, less what is hidden; `points` are cuts of one tensor with theirs.

    Optimal up to how chunks are chosen (partition.chunking), which is the same for all cuts.
    """
    terms = solver.terms(problem, weights)
    first = solver.best(terms)
    found = [(value_of(problem, first, weights), first), *((value, head) for head, value in points)]
    least, head = min(found, key=lambda pair: pair[0])
    known = {each for _, each in found}
    tensors = _unhidden(problem, weights, terms)
    bounds = replace(terms, tensor=np.maximum(tensors, 0.0))
    if (tensors < 0).any():  # packing that is cheaper than waiting: then these are no bounds
        return Cut(head, least, is_optimal=False, gap=1.0)
    if bounds.value(problem.graph, solver.best(bounds)) >= least * (1 - CLOSE):
        return Cut(head, least)
    for bound, other in by_sum(problem.graph, bounds, steps):
        if bound >= least * (1 - CLOSE):
            break
        if other is None:
            return Cut(head, least, is_optimal=False, gap=max(0.0, 1 - bound / least))
        if other not in known and (value := _below(problem, other, weights, least)) is not None:
            least, head = value, other
    return Cut(head, least)


def _below(problem: Problem, head: frozenset[int], weights: StageWeights, least: float) -> float | None:
    """What a cut takes if that is less; cuts that cannot be are not searched for chunks, or not to the end."""
    in_turn = predict(problem, parts_of(problem.graph, head))
    stages = (in_turn.edge_s + in_turn.encode_s, in_turn.upload_s, in_turn.decode_s, in_turn.queue_s + in_turn.cloud_s)
    if weights.value(in_turn) - weights.hidden * (sum(stages) - max(stages)) >= least:
        return None
    rough = best_chunks(problem, head, in_turn, weights, is_rough=True)
    if weights.value(rough.predicted) > ROUGHLY * least:
        return None
    value = weights.value(best_chunks(problem, head, in_turn, weights).predicted)
    return value if value < least else None


def value_of(problem: Problem, head: frozenset[int], weights: StageWeights) -> float:
    """What a cut takes, of what is minimized, with its best chunks."""
    return weights.value(chunks_of(problem, head, weights).predicted)


def chunks_of(problem: Problem, head: frozenset[int], weights: StageWeights) -> Overlapped:
    """A cut with its best chunks."""
    return best_chunks(problem, head, predict(problem, parts_of(problem.graph, head)), weights)


def _unhidden(problem: Problem, weights: StageWeights, terms: Terms) -> NDArray[np.float64]:
    """Of each tensor, what is left where all packing and unpacking is hidden behind the link."""
    if problem.packed is None:
        return terms.tensor
    hidden = [weights.hidden * (packed.encode_s + packed.decode_s) for packed in problem.packed]
    return np.asarray(terms.tensor - np.array(hidden), dtype=np.float64)
