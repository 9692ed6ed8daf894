"""Autodidactic Neurosurgeon's bandit, beside which the edge's own deciding is measured. Pure.

muLinUCB (Zhang, Chen, Xu: Autodidactic Neurosurgeon, WWW 2021, Algorithm 1) knows how long every head takes on the
device, and learns the delay of the rest, link and cloud, as a linear function of a point's context: multiply-adds and
numbers of layers by kind, and the bytes that are sent. It picks the point of the least optimistic delay. A local
inference shows nothing of the rest, so every so often it is forced to offload.

Parameters as published: mu 0.25 (every ceil(T ** mu)-th frame is forced), T from 200 on and doubled, delta 0.1, noise
0.05, |theta| 1, weight of a frame that is no key frame 0.2, kinds convolutional, fully connected and activation.

Where this differs: our graphs have no multiply-adds, so the seconds of the cloud's layers as profiled stand for them;
the columns of contexts are scaled to 100 and delays to that of the whole network on the device (unscaled, as in the
authors' code, the matrix cannot be inverted in floating point; scaled to 1, it explores for thousands of frames);
frames are all equal, since a picture has no key frames; A begins as the identity, where the authors' code draws its
diagonal."""

import math

import numpy as np

from edgecloud.partition.cost import Problem
from edgecloud.partition.drift import Floats

MU, DELTA, NOISE, LEAST_T = 0.25, 0.1, 0.05, 200
NORM, WEIGHT, KEY_WEIGHT = 1.0, 0.2, 0.8
SCALE = 100.0
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

    def saw(self, point: int, rest_s: float) -> None:
        """What that frame took beyond its head, in seconds; all on the device shows nothing."""
        if point == len(self._head) - 1:
            return
        context = self._contexts[point]
        self._a += np.outer(context, context)
        self._b += context * (rest_s / self._unit_s)
