"""Generates the three traces in lab/links. They are synthetic: each resembles one kind of link.

    python -m lab.made_links [FOLDER]

A logarithm of the rate that is pulled back to its mean (an Ornstein-Uhlenbeck process) gives the drift: rates are
positive, and fall and rise by factors. The same seed gives the same files on every machine.
"""

import argparse
import math
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from edgecloud.lab.traces import write

FOLDER = Path(__file__).resolve().parent / "links"


def drift(draw: random.Random, steps: int, spread: float, memory: float) -> list[float]:
    """Factors around 1: `spread` is the standard deviation of their logarithm, `memory` how much of it a step keeps."""
    value, factors = 0.0, []
    for _ in range(steps):
        value = memory * value + math.sqrt(1 - memory**2) * spread * draw.gauss(0.0, 1.0)
        factors.append(math.exp(value))
    return factors


def walk_4g(draw: random.Random) -> tuple[list[float], list[float]]:
    """A line for each second."""
    rates = [min(max(5.85 * factor, 1.0), 15.0) for factor in drift(draw, 120, 0.45, 0.92)]
    for begin, lasts in ((38, 4), (87, 6)):
        for second in range(begin, begin + lasts):
            rates[second] = 0.3 + 0.4 * draw.random()
    return [float(second) for second in range(120)], rates


def train(draw: random.Random) -> tuple[list[float], list[float]]:
    """A line for each second; the tunnels are from 52 s to 60 s and from 131 s to 136 s."""
    rates = []
    for second, factor in enumerate(drift(draw, 180, 0.35, 0.7)):
        mast = 0.5 - 0.5 * math.cos(2 * math.pi * second / 21)
        in_tunnel = 52 <= second < 60 or 131 <= second < 136
        rates.append(0.0 if in_tunnel else min(max((0.6 + 14 * mast**2) * factor, 0.2), 25.0))
    return [float(second) for second in range(180)], rates


def wifi_dips(draw: random.Random) -> tuple[list[float], list[float]]:
    """Two lines for each second."""
    seconds = [step / 2 for step in range(180)]
    rates = [18.88 * factor for factor in drift(draw, 180, 0.06, 0.5)]
    dip = 5 + 10 * draw.random()
    while dip < 88:
        for step in range(int(2 * dip), int(2 * dip) + draw.choice((1, 2, 3))):
            rates[step] *= 0.1
        dip += 10 + 10 * draw.random()
    return seconds, rates


Make = Callable[[random.Random], tuple[list[float], list[float]]]
MADE: dict[str, tuple[Make, str]] = {
    "walk_4g": (
        walk_4g,
        "resembles walking through a town with a 4G telephone: about 6 mbit (the 4G of DADS's Table I has 5.85), slow "
        "drift from 1 to 15 mbit as cells load and unload, two falls behind buildings",
    ),
    "train": (
        train,
        "resembles a journey by train: waves of 21 s from mast to mast between 0.2 and 25 mbit, and two tunnels, of "
        "8 s and 5 s, with nothing at all",
    ),
    "wifi_dips": (
        wifi_dips,
        "resembles Wi-Fi at home: about 18.9 mbit (DADS's Wi-Fi), and every 10 to 20 s a dip to a tenth for about a "
        "second, as when a neighbour sends",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Write all of them."""
    about = "Write the made-up traces of links that come along."
    parser = argparse.ArgumentParser(prog="python -m lab.made_links", description=about, allow_abbrev=False)
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER, help="where to")
    folder: Path = parser.parse_args(argv).folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, (make, about) in MADE.items():
        seconds, rates = make(random.Random(f"{name} 1"))
        notes = [f"Made up by lab/made_links.py, not measured: {about}."]
        write(folder / f"{name}.csv", seconds, [round(rate, 2) for rate in rates], notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
