"""A cut chosen once, and a published bandit, beside which deciding while running is compared. Pure.

static-best     the point of least measured edge seconds, cloud seconds, and bytes over a nominal link of 10 mbit,
                whatever the cell's link is: a cut that is chosen once, offline, and kept
ans             Autodidactic Neurosurgeon's muLinUCB (Zhang, Chen, Xu, WWW 2021, Algorithm 1): it knows how long every
                head takes on the device, and learns the delay of the rest, link and cloud, as a linear function of a
                point's context: multiply-adds and numbers of layers by kind, and the bytes that are sent. It picks the
                point of the least optimistic delay. A local inference shows nothing of the rest, so every so often it
                is forced to offload

Parameters of the bandit are as published: mu 0.25 (every ceil(T ** mu)-th frame is forced), T from 200 on and doubled,
delta 0.1, noise 0.05, |theta| 1, weight of a frame that is not a key frame 0.2, kinds convolutional, fully connected
and activation.

Where it differs: our graphs have no multiply-adds, so the seconds of the cloud's layers as profiled stand for them; the
columns of contexts are scaled to 100 and delays to that of the whole network on the device (unscaled, as in the
authors' code, the matrix cannot be inverted in floating point; scaled to 1, it explores for thousands of frames);
frames are all equal, since a picture has no key frames; A begins as the identity, where the authors' code draws its
diagonal. The lab measures cuts that stay for all repeats, so there it learns for 200 frames from the measured times of
layers, and the cut that it runs most often in the last half is measured. `python -m benchmarks.worlds` runs it online.
"""

import math
from collections import Counter

import numpy as np

from edgecloud.lab.baselines.inputs import RAW, BaselineInputs, Choice, Sides
from edgecloud.partition import chain
from edgecloud.partition.cost import CloudTimes, Link, Problem
from edgecloud.partition.drift import Floats
from edgecloud.utils.errors import UsageError

MU, DELTA, NOISE, LEAST_T = 0.25, 0.1, 0.05, 200
NORM, WEIGHT, KEY_WEIGHT = 1.0, 0.2, 0.8
SCALE = 100.0
NOMINAL_BYTES_PER_S = 1.25e6
KINDS = {"conv": 0, "linear": 1}
"""Columns of the kinds that have their own; all others are in the third."""


def contexts_of(problem: Problem) -> Floats:
    """For every point of a graph: cloud seconds and numbers of the tail's layers by kind, and the bytes sent (7)."""
    graph, table = problem.graph, np.zeros((len(problem.graph.points), 7))
    for point in graph.points[:-1]:
        for number in sorted(graph.everything - graph.head_at(point.number)):
            column = next((c for kind, c in KINDS.items() if graph.layers[number].kind.startswith(kind)), 2)
            table[point.number, 2 * column] += problem.cloud.seconds[number]
            table[point.number, 2 * column + 1] += 1
        table[point.number, 6] = problem.crossing((point.layer,)).bytes
    most = table.max(axis=0)
    return np.asarray(SCALE * table / np.where(most > 0, most, 1.0), dtype=np.float64)


class MuLinUcb:
    """The bandit. `contexts` (points, 7) has zeros for the last point, all on the device; `head_s` is known."""

    def __init__(self, contexts: Floats, head_s: Floats) -> None:
        self._contexts, self._unit_s = contexts, max(float(head_s[-1]), 1e-9)
        self._head = head_s / self._unit_s
        self._a, self._b = np.eye(contexts.shape[1]), np.zeros(contexts.shape[1])
        self._frame, self._horizon = 0, LEAST_T

    @property
    def _alpha(self) -> float:
        size, largest = self._contexts.shape[1], float((self._contexts**2).sum(axis=1).max())
        inside = (1 + self._horizon * largest**2) / DELTA
        return (NORM + NOISE * math.sqrt(size * math.log(inside))) / (1 - KEY_WEIGHT)

    def pick(self) -> int:
        """The point of the next frame."""
        self._frame += 1
        if self._frame > self._horizon:
            self._horizon *= 2
        inverse = np.linalg.inv(self._a)
        rest = self._contexts @ (inverse @ self._b)
        spread = np.sqrt((1 - WEIGHT) * np.einsum("ij,jk,ik->i", self._contexts, inverse, self._contexts))
        delays = self._head + rest - self._alpha * spread
        is_forced = self._frame % math.ceil(self._horizon**MU) == 0
        return int(np.argmin(delays[:-1] if is_forced else delays))

    def record(self, point: int, rest_s: float) -> None:
        """What that frame took beyond its head, in seconds; all on the device shows nothing."""
        if point == len(self._head) - 1:
            return
        context = self._contexts[point]
        self._a += np.outer(context, context)
        self._b += context * (rest_s / self._unit_s)


# --- as baselines of the lab


def static_best(inputs: BaselineInputs) -> Choice:
    """The point for the nominal link and an idle cloud. Raises UsageError without measured times."""
    problem = _problem(inputs, NOMINAL_BYTES_PER_S, 1.0)
    point = chain.best(chain.scan(problem)).point.number
    actual = chain.scan(_problem(inputs, inputs.up_bytes_per_s, inputs.load))
    return Choice("static-best", inputs.graph.head_at(point), point, RAW, actual[point].predicted.total_s)


def ans(inputs: BaselineInputs) -> Choice:
    """Where the bandit settles. Raises UsageError without measured times."""
    problem = _problem(inputs, inputs.up_bytes_per_s, inputs.load)
    candidates = chain.scan(problem)
    head_s = np.array([candidate.predicted.edge_s for candidate in candidates])
    total_s = np.array([candidate.predicted.total_s for candidate in candidates])
    bandit, picks = MuLinUcb(contexts_of(problem), head_s), []
    for _ in range(LEAST_T):
        point = bandit.pick()
        picks.append(point)
        bandit.record(point, float(total_s[point] - head_s[point]))
    ((point, _),) = Counter(picks[LEAST_T // 2 :]).most_common(1)
    return Choice("ans", inputs.graph.head_at(point), point, RAW, float(total_s[point]))


def _problem(inputs: BaselineInputs, rate: float, load: float) -> Problem:
    """Without a round trip, and with tensors as they are: what both know."""
    sides: Sides | None = inputs.measured
    if sides is None:
        raise UsageError("this baseline requires measured times of both sides: run deployment.py profile -t MODEL")
    cloud = CloudTimes(sides.cloud_s, [0.0] * len(sides.cloud_s), load)
    return Problem(inputs.graph, sides.edge_s, cloud, Link(rate, rate, 0.0))
