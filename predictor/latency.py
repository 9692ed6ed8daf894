"""Fitted predictors: layer times of a network without running it.

The sum of layers is not the whole: a pass after a rest takes longer at its start, since the processor was asleep and
its caches were used by others. `Start` is what that adds, fitted on networks that were run both ways. The other half of
the gap, that a layer alone costs something else than a layer in its network, is in the data: layers are measured in
place, and the features say what stands before them. How large that half is on this machine is kept and reported.
"""

import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from edgecloud.models.graph import INPUT
from edgecloud.models.specs import UnknownLayerError
from edgecloud.predictor.dataset import Machine, Whole
from edgecloud.predictor.features import FEATURE_HASH, Described, table
from edgecloud.predictor.joined import Units
from edgecloud.predictor.pace import Pace
from edgecloud.predictor.quality import MOST_KIND
from edgecloud.predictor.regressors import FORMS, LEAST_S, Fitted, Seconds
from edgecloud.predictor.train import KindFit, Spread, whole_factor
from edgecloud.utils.errors import AppError, MismatchError, UsageError
from edgecloud.utils.files import replaced, require_file

SCHEMA = 1
SMALL = 0.1
"""Share of a network's time below which it does not matter how well a kind is predicted."""
MAX_FILE_BYTES, MAX_UNPACKED_BYTES = 256 << 20, 1 << 30
TRUSTED = ["sklearn.tree._tree.Tree", "sklearn._loss.link.IdentityLink", "sklearn._loss.link.Interval"]
TRUSTED += ["sklearn._loss.loss.HalfSquaredError", "sklearn._loss._loss.CyHalfSquaredError"]
"""Types beyond skops' own list that forests and boosting consist of. They hold numbers and run nothing."""


@dataclass(frozen=True)
class Start:
    """What a pass after a rest takes beyond its layers: `most_s`, nearly all of it within the first `scale_s`."""

    most_s: float = 0.0
    scale_s: float = 1e-3

    def extra_s(self, work_s: float) -> float:
        """Seconds on top of a pass of `work_s` seconds."""
        return self.most_s * (1.0 - math.exp(-work_s / self.scale_s))

    @classmethod
    def fit(cls, wholes: Sequence[Whole]) -> "Start":
        """The least absolute deviation, in seconds, over a few scales; nothing where nothing was measured."""
        if not wholes:
            return cls()
        candidates = []
        for scale_s in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2):
            share = [1.0 - math.exp(-whole.pass_s / scale_s) for whole in wholes]
            extra = [whole.rested_s - whole.pass_s for whole in wholes]
            most_s = max(0.0, median(e / s for e, s in zip(extra, share, strict=True)))
            off = sum(abs(e - most_s * s) for e, s in zip(extra, share, strict=True))
            candidates.append((off, cls(most_s, scale_s)))
        return min(candidates, key=lambda pair: pair[0])[1]


@dataclass(frozen=True)
class PredictedTimes:
    """Seconds of a network's layers on one machine, none of them measured.

    `seconds[k]` is layer k in a pass that starts with the first one after a rest, `start_s[k]` what a tail that begins
    after layer k takes beyond the sum of its layers, and `factors[k]` the P90 error of layer k, as a factor.
    """

    seconds: tuple[float, ...]
    start_s: tuple[float, ...]
    factors: tuple[float, ...]
    by_kind: tuple[str, ...]


@dataclass(frozen=True)
class Predictors:
    """One regression for each kind of layer, for one machine."""

    machine: Machine | None
    kinds: Mapping[str, Fitted]
    spreads: Mapping[str, Spread]
    start: Start
    whole_factor: float
    """The P90 error of full networks, as a factor."""
    alone: Mapping[str, float]
    """By kind: seconds of a layer run by itself again and again over seconds in its network."""
    errors: Mapping[str, float] = field(default_factory=dict)
    """By kind: the P90 error of its layers in a network, as a factor, held out by network."""
    pace: Pace | None = None
    """What the reference work takes on the machine whose times these are; None where nobody knows."""

    def weak(self, layers: Sequence[Described]) -> dict[str, float]:
        """Kinds of a network that are predicted worse than `MOST_KIND` and that may matter there, with their factors.

        Those that take less than a tenth of the time even if they take as long as they may do not matter. Raises
        UnknownLayerError for a kind never fitted.
        """
        seconds, _ = self.layers(layers)
        sums: dict[str, float] = {}
        for layer, layer_s in zip(layers, seconds.tolist(), strict=True):
            sums[layer.spec.kind] = sums.get(layer.spec.kind, 0.0) + layer_s
        whole = sum(sums.values())
        factors = {kind: self.errors.get(kind, self.whole_factor) for kind in sums}
        longest = {kind: kind_s * factors[kind] for kind, kind_s in sums.items()}
        return {
            kind: factor
            for kind, factor in factors.items()
            if not factor <= MOST_KIND and longest[kind] > SMALL * (whole - sums[kind] + longest[kind])
        }

    def layers(self, layers: Sequence[Described]) -> tuple[Seconds, Seconds]:
        """Seconds of layers back to back, and the factor of each, both of shape (layers,).

        Raises UnknownLayerError for a kind never fitted.
        """
        features, kinds = table(layers), np.array([layer.spec.kind for layer in layers])
        seconds, factors = np.zeros(len(layers)), np.ones(len(layers))
        for kind in dict.fromkeys(kinds.tolist()):
            if kind not in self.kinds:
                raise UnknownLayerError(f"no predictor for {kind} layers: run deployment.py with a larger --budget")
            mine = kinds == kind
            seconds[mine] = self.kinds[kind].seconds(features[mine])
            factors[mine] = self.spreads[kind].at(seconds[mine])
        return seconds, factors

    def network(
        self, layers: Sequence[Described] | Units, corrections: Mapping[str, float] | None = None
    ) -> PredictedTimes:
        """A whole network's table; layer 0 is the input and takes nothing. `corrections` multiply, by kind.

        Of layers that are computed in one piece the first takes all of it. A tail that begins within such a piece
        computes the rest of it by itself, which is part of its start.

        Raises UnknownLayerError for a kind never fitted.
        """
        units = layers if isinstance(layers, Units) else Units.single(layers)
        by = corrections or {}
        seconds, factors = self.layers(units.described)
        warm = units.by_layer(
            [float(s) * by.get(unit.spec.kind, 1.0) for s, unit in zip(seconds, units.described, strict=True)]
        )
        rest_s = self._rest_s(units, by)
        placed_factors, kinds = [1.0] * units.count, [""] * units.count
        kinds[INPUT] = "input"
        for numbers, unit, factor in zip(units.layers, units.described, factors, strict=True):
            placed_factors[numbers[0]], kinds[numbers[0]] = float(factor), unit.spec.kind
        done = list(accumulate(warm))
        rested = [work_s + self.start.extra_s(work_s) for work_s in done]
        placed = [0.0, *(end - begin for begin, end in pairwise(rested))]
        start_s = []
        for number, (before_s, rested_s) in enumerate(zip(done, rested, strict=True)):
            tail_s = done[-1] - before_s + rest_s.get(number, 0.0)
            start_s.append(max(0.0, tail_s + self.start.extra_s(tail_s) - (rested[-1] - rested_s)))
        return PredictedTimes(tuple(placed), tuple(start_s), tuple(placed_factors), tuple(kinds))

    def _rest_s(self, units: Units, by: Mapping[str, float]) -> dict[int, float]:
        """For layers within pieces, seconds of what is left of those for a tail that begins there, as far as known."""
        places = [
            (number, layer) for number, left in units.rest.items() for layer in left if layer.spec.kind in self.kinds
        ]
        seconds, _ = self.layers([layer for _, layer in places])
        sums: dict[int, float] = {}
        for (number, layer), left_s in zip(places, seconds.tolist(), strict=True):
            sums[number] = sums.get(number, 0.0) + left_s * by.get(layer.spec.kind, 1.0)
        return sums


def combine(
    fits: Sequence[KindFit], machine: Machine | None, wholes: Sequence[Whole], pace: Pace | None = None
) -> Predictors:
    """What was fitted for each kind, with the gap between layers and networks."""
    alone: dict[str, list[float]] = {}
    for whole in wholes:
        for kind, placed_s, alone_s in whole.alone:
            alone.setdefault(kind, []).append(alone_s / max(placed_s, LEAST_S))
    return Predictors(
        machine=machine,
        kinds={kind_fit.kind: kind_fit.fitted for kind_fit in fits},
        spreads={kind_fit.kind: kind_fit.spread for kind_fit in fits},
        start=Start.fit(wholes),
        whole_factor=whole_factor(fits),
        alone={kind: median(ratios) for kind, ratios in sorted(alone.items())},
        errors={kind_fit.kind: kind_fit.factor for kind_fit in fits},
        pace=pace,
    )


# --- files


class DamagedError(UsageError):
    """A file of predictors that cannot be trusted or read."""


def save(predictors: Predictors, path: Path) -> None:
    """Write under a temporary name and rename. Raises OSError; the old file is then as it was."""
    import skops.io

    document = {
        "schema": SCHEMA,
        "features": FEATURE_HASH,
        "machine": None if predictors.machine is None else asdict(predictors.machine),
        "kinds": {kind: {"form": fitted.form, "parts": fitted.parts} for kind, fitted in predictors.kinds.items()},
        "spreads": {kind: asdict(spread) for kind, spread in predictors.spreads.items()},
        "start": asdict(predictors.start),
        "whole_factor": predictors.whole_factor,
        "alone": dict(predictors.alone),
        "errors": dict(predictors.errors),
        "pace": None if predictors.pace is None else asdict(predictors.pace),
    }
    packed = skops.io.dumps(document, compression=zipfile.ZIP_DEFLATED, compresslevel=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as temporary:
        temporary.write_bytes(packed)


def load(path: Path, machine: Machine | None = None) -> Predictors:
    """Read what `save` wrote. Nothing in the file is run.

    Raises UsageError where it is missing, damaged, or holds other than numbers, and MismatchError where it is of
    another version, another set of features, or another machine than `machine`.
    """
    require_file(path)
    document = _document(path)
    if document.get("schema") != SCHEMA:
        raise MismatchError(f"{path} has schema {document.get('schema')!r}, expected {SCHEMA}: run deployment.py fit")
    if document.get("features") != FEATURE_HASH:
        raise MismatchError(f"{path} was fitted with other features: run deployment.py fit again")
    try:
        predictors = _predictors(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedError(f"{path} is damaged ({type(error).__name__}): run deployment.py fit again") from None
    if machine is not None and predictors.machine != machine:
        raise MismatchError(
            f"{path} is for another machine ({predictors.machine}, this is {machine}): "
            "run deployment.py on this machine"
        )
    return predictors


def _document(path: Path) -> dict[str, Any]:
    import skops.io

    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError("it is too large")
        packed = path.read_bytes()
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_UNPACKED_BYTES:
                raise ValueError("its unpacked size is too large")
            if (bad := archive.testzip()) is not None:
                raise ValueError(f"{bad} is damaged")
        document = skops.io.loads(packed, trusted=TRUSTED)
        if not isinstance(document, dict):
            raise ValueError("it is not a table")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    except AppError:
        raise
    except Exception as error:  # noqa: BLE001  a damaged archive makes zipfile, json, numpy and skops raise all kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise DamagedError(f"{path} is damaged or contains no predictors ({reason}): run deployment.py fit") from None
    return document


def _predictors(document: dict[str, Any]) -> Predictors:
    machine = document["machine"]
    kinds = {kind: Fitted(part["form"], kind, part["parts"]) for kind, part in document["kinds"].items()}
    if not kinds or any(fitted.form not in FORMS for fitted in kinds.values()):
        raise ValueError("unknown regressor")
    spreads = {kind: Spread(tuple(s["edges_s"]), tuple(s["factors"])) for kind, s in document["spreads"].items()}
    if set(spreads) != set(kinds):
        raise ValueError("a layer kind has no spread")
    return Predictors(
        machine=None if machine is None else Machine(**machine),
        kinds=kinds,
        spreads=spreads,
        start=Start(**document["start"]),
        whole_factor=float(document["whole_factor"]),
        alone=document["alone"],
        errors={kind: float(factor) for kind, factor in document.get("errors", {}).items()},  # older files have none
        pace=None if document.get("pace") is None else Pace.read(document["pace"]),
    )
