"""Segments of a bundle by rows in ONNX Runtime: a session for each step of a plan, which runs on blocks of rows.

Steps of the same geometry share a session. Sessions read the bundle's weights where they are, and copy those that the
runtime packs, so only the plans that were used last are kept ready.
"""

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from edgecloud.models import bundle_rules, onnx_session
from edgecloud.models.bundle import Bundle
from edgecloud.models.graph import LayerGraph
from edgecloud.models.onnx_rows import Feed, OnnxRow, Result, StepModel, StepWriter, row_layers
from edgecloud.models.onnx_rules import OnnxError
from edgecloud.models.rows import Kept, Piece, RowOp, RowPlan
from edgecloud.net.tensors import Array

log = logging.getLogger(__name__)

HELD_BYTES, HELD_TIMES = 256 << 20, 3
"""What sessions may hold, or twice what the network has, and how many times its weights each of them holds: clients
choose the ends of chunks, and with them how many sessions a plan needs."""
KEPT_PLANS, KEPT_SESSIONS = 16, 64


@dataclass(frozen=True)
class Step:
    """A step of a plan, ready to run."""

    feeds: tuple[Feed, ...]
    results: tuple[Result, ...]
    session: Any


@dataclass
class Ready:
    """A plan whose sessions are made."""

    steps: tuple[Step | None, ...]
    """None where a step computes nothing."""
    held_bytes: int
    """By its sessions, about."""
    runs: int = 0


class BundleRows:
    """One `engine.by_rows.RowBackend`."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        self._bundle, self._threads = bundle, threads
        self._plans: OrderedDict[RowPlan, Ready] = OrderedDict()
        self._sessions: WeakValueDictionary[bytes, Any] = WeakValueDictionary()
        self._written: tuple[RowPlan, tuple[StepModel | None, ...]] | None = None
        """The models of the plan that was asked about last: it is usually the next one to start."""

    @cached_property
    def _layers(self) -> dict[int, OnnxRow]:
        bundle = self._bundle
        try:
            checked = bundle_rules.check(bundle)
        except OnnxError as error:
            log.info("%s does not run by rows: %s", bundle.graph.name, error)
            return {}
        return row_layers(bundle.graph, bundle.content.tensors, bundle.onnx, checked)

    @cached_property
    def ops(self) -> dict[int, RowOp]:
        """The layers that it can compute by rows."""
        return {number: layer.op for number, layer in self._layers.items()}

    def takes(self, plan: RowPlan) -> bool:
        """Whether its sessions would not hold too much."""
        models = self._models(plan)
        is_small = self._held_by(models) <= self._most_bytes
        if is_small:
            self._written = plan, models
        return is_small

    def start(self, plan: RowPlan) -> tuple["BundleRowRun", bool]:
        """A run of a plan, and whether it is the first one. Raises UsageError where the runtime cannot run it."""
        if plan not in self._plans:
            self._plans[plan] = self._ready(plan)
            while len(self._plans) > 1 and self._holds_too_much:
                self._plans.popitem(last=False)
        self._plans.move_to_end(plan)
        ready = self._plans[plan]
        ready.runs += 1
        return BundleRowRun(self._bundle.graph, plan, ready), ready.runs == 1

    @property
    def _most_bytes(self) -> int:
        return max(HELD_BYTES, 2 * self._bundle.parameter_bytes)

    @property
    def _holds_too_much(self) -> bool:
        held = sum(ready.held_bytes for ready in self._plans.values())
        return held > self._most_bytes or len(self._plans) > KEPT_PLANS or len(self._sessions) > KEPT_SESSIONS

    def _models(self, plan: RowPlan) -> tuple[StepModel | None, ...]:
        bundle = self._bundle
        about = (bundle.graph, bundle.content.tensors, bundle.onnx, self._layers, plan)
        return StepWriter(*about, is_batched=bundle.content.is_batched).models()

    def _held_by(self, models: Iterable[StepModel | None]) -> int:
        """By a session for each of them that is different."""
        parts = {_key(each): each.part for each in models if each is not None}
        return HELD_TIMES * sum(self._bundle.bytes_of(part.weights) for part in parts.values())

    def _ready(self, plan: RowPlan) -> Ready:
        written, self._written = self._written, None
        models = written[1] if written is not None and written[0] == plan else self._models(plan)
        steps = (None if each is None else Step(each.feeds, each.results, self._session(each)) for each in models)
        return Ready(tuple(steps), self._held_by(models))

    def _session(self, model: StepModel) -> Any:
        key = _key(model)
        session = self._sessions.get(key)
        if session is None:
            session = onnx_session.session_for(self._bundle, model.part, self._threads)
            self._sessions[key] = session
        return session


def _key(model: StepModel) -> bytes:
    return hashlib.sha256(model.part.model).digest()


class BundleRowRun:
    """One run of a plan: the rows that are there now."""

    def __init__(self, graph: LayerGraph, plan: RowPlan, ready: Ready) -> None:
        self._graph, self._plan, self._ready = graph, plan, ready
        self._whole: dict[int, Array] = {}
        self._blocks: dict[int, tuple[int, Array]] = {}

    def give(self, number: int, array: Array) -> None:
        """A whole tensor, which stays as it is."""
        self._whole[number] = array

    def whole(self, number: int) -> Array:
        """A tensor that was given, or put together."""
        return self._whole[number]

    def run(self, place: int, array: Array | None = None) -> None:
        """A step of the plan; `array` is its chunk where that comes, and stays as it is."""
        plan = self._plan.steps[place]
        new: dict[int, tuple[int, Array]] = {}
        if array is not None:
            self._arrive(plan.piece, array, new)
        step = self._ready.steps[place]
        if step is not None:
            feeds = {feed.name: np.asarray(self._fed(feed, array), order="C") for feed in step.feeds}
            names = [result.name for result in step.results]
            made = onnx_session.run(step.session, names, feeds)
            for result, rows in zip(step.results, made, strict=True):
                if result.layer in self._plan.full:
                    self._put(result.layer, result.start, rows, self._plan.axes[result.layer])
                else:
                    new[result.layer] = result.start, rows
        self._blocks = {kept.layer: self._kept(kept, new) for kept in plan.kept}

    def _arrive(self, piece: Piece, array: Array, new: dict[int, tuple[int, Array]]) -> None:
        if piece.layer in self._plan.full:
            self._put(piece.layer, piece.start, array, piece.axis)
        else:
            new[piece.layer] = piece.start, array

    def _put(self, number: int, start: int, rows: Array, axis: int) -> None:
        size = self._graph.layers[number].out_shape[axis]
        if rows.shape[axis] == size:
            self._whole[number] = rows
            return
        if number not in self._whole:
            self._whole[number] = np.empty((*rows.shape[:axis], size, *rows.shape[axis + 1 :]), rows.dtype)
        _rows_of(self._whole[number], start, start + rows.shape[axis], axis)[...] = rows

    def _fed(self, feed: Feed, array: Array | None) -> Array:
        if feed.is_chunk:
            assert array is not None
            return array
        if feed.rows is None:
            return self._whole[feed.layer]
        start, block = (0, self._whole[feed.layer]) if feed.layer in self._whole else self._blocks[feed.layer]
        return _rows_of(block, feed.rows[0] - start, feed.rows[1] - start, feed.axis)

    def _kept(self, kept: Kept, new: dict[int, tuple[int, Array]]) -> tuple[int, Array]:
        """What is read again: rows from before, and new ones."""
        axis = self._axes[kept.layer]
        parts = []
        for start, rows in (each[kept.layer] for each in (self._blocks, new) if kept.layer in each):
            first, end = max(kept.start, start), start + rows.shape[axis]
            if first < end:
                parts.append(_rows_of(rows, first - start, end - start, axis))
        return kept.start, np.array(parts[0]) if len(parts) == 1 else np.concatenate(parts, axis)

    @cached_property
    def _axes(self) -> dict[int, int]:
        return {piece.layer: piece.axis for piece in self._plan.pieces} | dict(self._plan.axes)


def _rows_of(array: Array, start: int, stop: int, axis: int) -> Array:
    return array[(slice(None),) * axis + (slice(start, stop),)]
