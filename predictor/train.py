"""Fits one regression per layer kind, and reports the accuracy on unseen layers. Pure.

A fifth of the networks is set aside for the test. Among the others the forms are compared by cross-validation, whole
networks at a time; the best one is fitted to all of them and tried on the test. What is kept is then fitted to
everything.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgecloud.predictor.dataset import Dataset, Row
from edgecloud.predictor.features import Table, table
from edgecloud.predictor.quality import FEWEST_ROWS, LEVEL, Fitness, factor_of
from edgecloud.predictor.regressors import FORMS, Fitted, Seconds, fit
from edgecloud.utils.errors import UsageError

TEST_SHARE = 5  # one in five
FOLDS = 3
FEWEST_FITTED = FEWEST_ROWS // FOLDS  # or boosting has none to look at: where nearly all rows are of one network
CLOSE = (0.05, 0.10, 0.20)
BINS = 4

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Score:
    """How good predictions are: shares of rows whose error is within 5, 10 and 20 %, and the mean relative error."""

    rows: int
    within_5: float
    within_10: float
    within_20: float
    mape: float

    @classmethod
    def of(cls, predicted: Seconds, measured: Seconds) -> "Score":
        """Compare seconds with seconds, both of shape (rows,)."""
        errors = np.abs(predicted / measured - 1)
        within_5, within_10, within_20 = (float(np.mean(errors <= share)) for share in CLOSE)
        return cls(len(errors), within_5, within_10, within_20, float(np.mean(errors)))


@dataclass(frozen=True)
class Spread:
    """How far off predictions are, for faster and for slower layers: factors that 90 % of the errors stay below."""

    edges_s: tuple[float, ...]
    factors: tuple[float, ...]

    def at(self, seconds: Seconds) -> Seconds:
        """The factor for each prediction in seconds, at least 1, in the same shape."""
        factors: Seconds = np.asarray(self.factors)[np.searchsorted(self.edges_s, seconds)]
        return factors


@dataclass(frozen=True)
class KindFit:
    """What came out for one kind."""

    kind: str
    chosen: str
    score: Score
    """On networks that were set aside, by a regression that has not seen them."""
    candidates: dict[str, Score]
    """Every form in the cross-validation among the others."""
    fitted: Fitted
    spread: Spread
    predicted: Seconds
    measured: Seconds
    """Of the test, for a picture."""
    sums: dict[str, tuple[float, float]]
    """By network: predicted and measured seconds of its layers of this kind, in the cross-validation."""

    @property
    def factor(self) -> float:
        """The P90 error of networks, for their layers of this kind together, as a factor of at least 1."""
        return factor_of(self.sums.values())


def fit_all(
    dataset: Dataset, progress: Progress = lambda _: None, forms: Sequence[str] = tuple(FORMS)
) -> list[KindFit]:
    """Fit every kind that has enough rows by the best of some forms. Raises UsageError where none has."""
    fits = []
    total, done = dataset.count, 0
    for kind, rows in dataset.rows.items():
        if len(rows) >= FEWEST_ROWS:
            fits.append(fit_kind(kind, rows, forms))
        done += len(rows)
        progress(done / total)
    if not fits:
        raise UsageError(
            f"{dataset.source}: no layer kind has {FEWEST_ROWS} rows: measure more with deployment.py profile first"
        )
    return fits


def fit_kind(kind: str, rows: Sequence[Row], forms: Sequence[str] = tuple(FORMS)) -> KindFit:
    """Compare the forms by cross-validation, test the best one on networks set aside, and fit it to everything.

    The best one is that whose predictions are off by the least mean factor, either way.
    """
    features, measured = table([row.layer for row in rows]), np.array([row.seconds for row in rows])
    parts = np.array([_part(row.network) for row in rows])
    test = parts % TEST_SHARE == 0
    if test.all() or not test.any():  # one network, or too few to set any aside
        test = np.arange(len(rows)) % TEST_SHARE == 0
        parts = np.arange(len(rows))
    folds = parts // TEST_SHARE % FOLDS
    guesses = {form: _cross_validated(form, kind, features[~test], measured[~test], folds[~test]) for form in forms}
    candidates = {form: Score.of(guess, measured[~test]) for form, guess in guesses.items()}
    chosen = min(guesses, key=lambda form: _mean_factor(guesses[form], measured[~test]))
    others = [row.network for row, out in zip(rows, test, strict=True) if not out]
    predicted = fit(chosen, kind, features[~test], measured[~test]).seconds(features[test])
    return KindFit(
        kind=kind,
        chosen=chosen,
        score=Score.of(predicted, measured[test]),
        candidates=candidates,
        fitted=fit(chosen, kind, features, measured),
        spread=_spread(guesses[chosen], measured[~test]),
        predicted=predicted,
        measured=measured[test],
        sums=_sums(others, guesses[chosen], measured[~test]),
    )


def _sums(networks: Sequence[str], predicted: Seconds, measured: Seconds) -> dict[str, tuple[float, float]]:
    sums: dict[str, tuple[float, float]] = {}
    for network, guess, truth in zip(networks, predicted, measured, strict=True):
        before = sums.get(network, (0.0, 0.0))
        sums[network] = before[0] + float(guess), before[1] + float(truth)
    return sums


def whole_factor(fits: Sequence[KindFit]) -> float:
    """The P90 error of full networks, as a factor of at least 1: errors of single layers cancel in part."""
    names = set().union(*(kind_fit.sums for kind_fit in fits))
    sums = [[kind_fit.sums.get(name, (0.0, 0.0)) for kind_fit in fits] for name in names]
    pairs = [(sum(guess for guess, _ in kind_sums), sum(truth for _, truth in kind_sums)) for kind_sums in sums]
    return factor_of(pairs)


def fitness(fits: Sequence[KindFit]) -> Fitness:
    """Of everything that was fitted."""
    return Fitness(len(set().union(*(kind_fit.sums for kind_fit in fits))), whole_factor(fits))


def _mean_factor(predicted: Seconds, measured: Seconds) -> float:
    """The mean factor by which predictions are off, either way. The mean relative error would favour guessing low."""
    return float(np.exp(np.mean(np.abs(np.log(predicted / measured)))))


def _cross_validated(form: str, kind: str, features: Table, measured: Seconds, folds: NDArray[np.int_]) -> Seconds:
    guess = np.zeros(len(measured))
    if len(folds) - np.bincount(folds, minlength=FOLDS).max() < FEWEST_FITTED:
        folds = np.arange(len(folds)) % FOLDS
    for fold in range(FOLDS):
        out = folds == fold
        if not out.any():
            out = np.arange(len(measured)) % FOLDS == fold
        guess[out] = fit(form, kind, features[~out], measured[~out]).seconds(features[out])
    return guess


def _part(network: str) -> int:
    """A number that depends on the network's name alone, so that a row is always on the same side."""
    return int.from_bytes(hashlib.sha256(network.encode()).digest()[:6], "big")


def _spread(predicted: Seconds, measured: Seconds) -> Spread:
    """By size of the prediction, since a microsecond is harder to predict than a millisecond."""
    edges = np.unique(np.quantile(predicted, np.linspace(0, 1, BINS + 1)[1:-1]))
    place = np.searchsorted(edges, predicted)
    off = np.exp(np.abs(np.log(predicted / measured)))
    factors = [float(np.quantile(off[place == b] if (place == b).any() else off, LEVEL)) for b in range(len(edges) + 1)]
    return Spread(tuple(map(float, edges)), tuple(factors))
