"""Regressors. All are fitted on one table of features and return seconds, never below zero. Pure.

linear, logarithmic   the paper's two forms on the paper's variables (Kang et al., ASPLOS 2017, section 5.1): least
                      squares on seconds, and on their logarithm
published             least squares on the hyper-parameters as the published data sets list them, the baseline to beat
                      (Tjyy-1223/Neurosurgeon, predictor/predictor_utils.py)
trees                 extremely randomised trees on the logarithm
roofline_trees        first what the time is proportional to: work, bytes, and a constant, none of them negative, so
                      that it holds beyond what was measured; then trees on the logarithm of what is left
roofline_medians      the same, every leaf and the forest giving medians, for noisy measurements with far outliers
roofline_boosted      the same with gradient boosting
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor, GradientBoostingRegressor
from sklearn.linear_model import LinearRegression

from edgecloud.models.specs import base_kind
from edgecloud.predictor.features import FEATURES, Table, linear_part

Seconds = NDArray[np.float64]
LEAST_S, MOST_S = 1e-7, 3600.0
QUICK_ROWS = 60
MEDIAN_ROWS = 3  # in a leaf, for a median that one outlier cannot move


@dataclass(frozen=True)
class Fitted:
    """A form with its parameters for one kind: plain arrays and estimators, so that they can be stored."""

    form: str
    kind: str
    parts: dict[str, Any]

    def seconds(self, features: Table) -> Seconds:
        """Predicted seconds of each row of `features.table`, shape (layers,), none below LEAST_S or above MOST_S."""
        return np.clip(FORMS[self.form].predict(self.kind, self.parts, features), LEAST_S, MOST_S)


@dataclass(frozen=True)
class Form:
    """How to fit a kind's table to seconds, and how to predict seconds from the parts that came out."""

    fit: Callable[[str, Table, Seconds], dict[str, Any]]
    predict: Callable[[str, dict[str, Any], Table], Seconds]


def fit(form: str, kind: str, features: Table, seconds: Seconds) -> Fitted:
    """Fit one form to measured seconds, shape (layers,), of layers of one kind, from their rows of `features.table`."""
    return Fitted(form, kind, FORMS[form].fit(kind, features, np.maximum(seconds, LEAST_S)))


# --- the paper's forms


def _plain(features: Table, name: str) -> Seconds:
    """A column that the table has the logarithm of."""
    values: Seconds = np.exp2(features[:, FEATURES.index(f"log_{name}")]) - 1.0
    return values


def _in_maps(features: Table) -> Seconds:
    """Numbers in the input feature maps."""
    values: Seconds = _plain(features, "in_channels") * _plain(features, "in_side") ** 2
    return values


def _filters(features: Table) -> Seconds:
    """(filter size / stride)^2 * number of filters."""
    stride = np.maximum(1.0, features[:, FEATURES.index("stride")])
    size = features[:, FEATURES.index("kernel_height")] / stride
    values: Seconds = size**2 * _plain(features, "out_channels")
    return values


Variable = Callable[[Table], Seconds]
_SIZE: tuple[Variable, ...] = (lambda features: _plain(features, "in_bytes"),)
_SIZES: tuple[Variable, ...] = (*_SIZE, lambda features: _plain(features, "out_bytes"))
_NEURONS: tuple[Variable, ...] = (
    lambda features: _plain(features, "in_channels"),
    lambda features: _plain(features, "out_channels"),
)
PAPER: dict[str, tuple[Variable, ...]] = {
    **dict.fromkeys(("conv", "dw_conv", "local"), (_in_maps, _filters)),
    "linear": _NEURONS,
    **dict.fromkeys(("maxpool", "avgpool"), _SIZES),
}
"""The paper's regression variables in the terms of the table; every other kind has the size of its input alone."""


def paper_variables(kind: str, features: Table) -> Table:
    """The paper's regression variables of a kind from `features.table`: shape (layers, 2), or (layers, 1) for a size.

    Those of convolutions, pools and fully connected layers are also in Edgent's table I (arXiv 1806.07840).
    """
    variables: Table = np.column_stack([variable(features) for variable in PAPER.get(base_kind(kind), _SIZE)])
    return variables


def _fit_linear(kind: str, features: Table, seconds: Seconds) -> dict[str, Any]:
    model = LinearRegression().fit(paper_variables(kind, features), seconds)
    return {"model": model, "least_s": float(seconds.min())}


def _predict_linear(kind: str, parts: dict[str, Any], features: Table) -> Seconds:
    """A straight line goes below zero for small layers; nothing is faster than the fastest layer that was seen."""
    seconds: Seconds = parts["model"].predict(paper_variables(kind, features))
    at_least: Seconds = np.maximum(seconds, parts["least_s"])
    return at_least


def _fit_logarithmic(kind: str, features: Table, seconds: Seconds) -> dict[str, Any]:
    return {"model": LinearRegression().fit(np.log2(1.0 + paper_variables(kind, features)), np.log(seconds))}


def _predict_logarithmic(kind: str, parts: dict[str, Any], features: Table) -> Seconds:
    """Far from a handful of rows a straight line leads anywhere: what is beyond MOST_S is not even a number."""
    logarithms = parts["model"].predict(np.log2(1.0 + paper_variables(kind, features)))
    seconds: Seconds = np.exp(np.minimum(logarithms, np.log(MOST_S)))
    return seconds


# --- the published baseline


_PUBLISHED = ("log_in_side", "kernel_height", "stride", "log_in_channels", "log_out_channels", "log_macs")


def _published_variables(features: Table) -> Table:
    """Side, kernel, stride, channels, operations."""
    columns = features[:, [FEATURES.index(name) for name in _PUBLISHED]]
    is_log = np.array([name.startswith("log_") for name in _PUBLISHED])
    return np.where(is_log, np.exp2(columns) - 1.0, columns)


def _fit_published(_kind: str, features: Table, seconds: Seconds) -> dict[str, Any]:
    return {"model": LinearRegression().fit(_published_variables(features), seconds)}


def _predict_published(_kind: str, parts: dict[str, Any], features: Table) -> Seconds:
    """As published, negative times become nothing; here the least there is."""
    seconds: Seconds = parts["model"].predict(_published_variables(features))
    return seconds


# --- trees


def _trees(leaf_rows: int = 2) -> ExtraTreesRegressor:
    return ExtraTreesRegressor(20, min_samples_leaf=leaf_rows, max_features=0.8, random_state=0)


def _boosted() -> GradientBoostingRegressor:
    return GradientBoostingRegressor(
        n_estimators=80, max_depth=5, learning_rate=0.12, subsample=0.5, max_features=0.3, random_state=0
    )


def _fit_trees(_kind: str, features: Table, seconds: Seconds) -> dict[str, Any]:
    return {"trees": _trees().fit(features, np.log(seconds))}


def _predict_trees(_kind: str, parts: dict[str, Any], features: Table) -> Seconds:
    seconds: Seconds = np.exp(_ask(parts["trees"], features))
    return seconds


def _ask(trees: Any, features: Table) -> Seconds:
    """What an ensemble says."""
    if isinstance(trees, ExtraTreesRegressor):
        means: Seconds = np.mean(_each(trees, features), axis=0)
        return means
    values: Seconds = trees.predict(features)
    return values


def _each(forest: ExtraTreesRegressor, features: Table) -> list[Seconds]:
    """What each tree of a forest says, asked directly: the forest's own `predict` starts threads to do so."""
    rows = features.astype(np.float32)
    return [tree.tree_.predict(rows)[:, 0] for tree in forest.estimators_]


# --- roofline and trees


def _fit_roofline(features: Table, seconds: Seconds) -> dict[str, Any]:
    """Non-negative least squares on relative errors."""
    columns = linear_part(features)
    scale = columns.max(axis=0) + 1e-12
    model = LinearRegression(positive=True, fit_intercept=False)
    model.fit(columns / scale / seconds[:, None], np.ones(len(seconds)))
    return {"scale": scale, "weights": np.asarray(model.coef_)}


def _roofline(parts: dict[str, Any], features: Table) -> Seconds:
    seconds: Seconds = np.maximum((linear_part(features) / parts["scale"]) @ parts["weights"], LEAST_S)
    return seconds


def _fit_roofline_with(ensemble: Callable[[], Any], features: Table, seconds: Seconds) -> dict[str, Any]:
    parts = _fit_roofline(features, seconds)
    parts["trees"] = ensemble().fit(features, np.log(seconds / _roofline(parts, features)))
    return parts


def _predict_roofline(_kind: str, parts: dict[str, Any], features: Table) -> Seconds:
    seconds: Seconds = _roofline(parts, features) * np.exp(_ask(parts["trees"], features))
    return seconds


def _fit_medians(_kind: str, features: Table, seconds: Seconds) -> dict[str, Any]:
    """Leaves hold medians, as in quantile regression forests (Meinshausen, JMLR 2006), not the means they grow with."""
    parts = _fit_roofline(features, seconds)
    left = np.log(seconds / _roofline(parts, features))
    parts["trees"] = forest = _trees(MEDIAN_ROWS).fit(features, left)
    rows = features.astype(np.float32)
    for tree in forest.estimators_:
        leaves = tree.tree_.apply(rows)
        order = np.lexsort((left, leaves))
        leaf_ids, first, count = np.unique(leaves[order], return_index=True, return_counts=True)
        lower, upper = left[order[first + (count - 1) // 2]], left[order[first + count // 2]]
        tree.tree_.value[leaf_ids, 0, 0] = (lower + upper) / 2
    return parts


def _predict_medians(_kind: str, parts: dict[str, Any], features: Table) -> Seconds:
    seconds: Seconds = _roofline(parts, features) * np.exp(np.median(_each(parts["trees"], features), axis=0))
    return seconds


AS_PUBLISHED = ("linear", "logarithmic")
"""What Neurosurgeon has: for each kind the better of these."""
FORMS: dict[str, Form] = {
    "published": Form(_fit_published, _predict_published),
    "linear": Form(_fit_linear, _predict_linear),
    "logarithmic": Form(_fit_logarithmic, _predict_logarithmic),
    "trees": Form(_fit_trees, _predict_trees),
    "roofline_trees": Form(lambda _, x, y: _fit_roofline_with(_trees, x, y), _predict_roofline),
    "roofline_medians": Form(_fit_medians, _predict_medians),
    "roofline_boosted": Form(lambda _, x, y: _fit_roofline_with(_boosted, x, y), _predict_roofline),
}


def quick_errors(features: Table, seconds: Sequence[float], networks: Sequence[str]) -> Seconds | None:
    """The relative error of each row, shape (layers,), predicted from the networks of the other half.

    `networks` names each row's. None where there are too few.
    """
    names = sorted(set(networks))
    if len(seconds) < QUICK_ROWS or len(names) < 2:
        return None
    half = np.isin(networks, names[::2])
    measured = np.asarray(seconds)
    errors = np.zeros(len(measured))
    for train, test in ((half, ~half), (~half, half)):
        # the trees and the roofline do not look at the kind
        predicted = fit("roofline_trees", "", features[train], measured[train]).seconds(features[test])
        errors[test] = np.abs(predicted / np.maximum(measured[test], LEAST_S) - 1)
    return errors
