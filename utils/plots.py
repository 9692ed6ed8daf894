"""Pictures of numbers."""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # no screen is needed

import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray

from utils.files import replaced

CLOSE, LOOSE = 1.1, 1.2


def scatter(
    path: Path, measured_ms: NDArray[np.float64], predicted_ms: NDArray[np.float64], title: str, note: str
) -> None:
    """Predicted over measured milliseconds, both logarithmic, with bands of 10 and 20 %. Raises OSError."""
    figure, axes = plt.subplots(figsize=(5.5, 5.5), dpi=120)
    both = np.concatenate([measured_ms, predicted_ms])
    line = np.array([both.min() * 0.7, both.max() * 1.4])
    axes.fill_between(line, line / LOOSE, line * LOOSE, color="tab:green", alpha=0.12, label="±20 %", lw=0)
    axes.fill_between(line, line / CLOSE, line * CLOSE, color="tab:green", alpha=0.22, label="±10 %", lw=0)
    axes.plot(line, line, color="grey", lw=0.8)
    axes.scatter(measured_ms, predicted_ms, s=9, alpha=0.5, lw=0, color="tab:blue")
    axes.set(xscale="log", yscale="log", xlim=line, ylim=line, xlabel="measured, ms", ylabel="predicted, ms")
    axes.set_title(title, fontsize=10)
    axes.text(0.98, 0.02, note, transform=axes.transAxes, ha="right", fontsize=7, color="grey")
    axes.legend(loc="upper left", frameon=False, fontsize=8)
    figure.tight_layout()
    try:
        with replaced(path) as temporary:
            figure.savefig(temporary)
    finally:
        plt.close(figure)
