"""Attacks of untrusted clients: is everything refused, how soon, at what cost in memory, and do other edges notice?

    python -m benchmarks.hostile [--rows A1,A2,A3,A4,A6,A7,A8,A9,A11,A13,A14,A15,A16,A17,A18,A19,A20] [--turns 3]

Every row has a real cloud_api.py with le_net on loopback and, with enough cores, on core 1; the attackers are on core
0, the slow ones of A8 and the flood of A16 on core 2. After every row (and more often in some) a legitimate edge
requests an inference and compares the answer. Memory is the growth of the peak of the cloud (VmHWM, reset before each
row).
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.fingerprint import write_table
from benchmarks.hostile.coded import coded
from benchmarks.hostile.content import bombs, pickles, protocols, shapes
from benchmarks.hostile.flood import floods
from benchmarks.hostile.framing import caps, lengths, odd_sends, truncated
from benchmarks.hostile.networks import networks
from benchmarks.hostile.pace import INFERENCES, PACE_S, idle, never_read, slow
from benchmarks.hostile.site import (
    ALL_CORES,
    HEAD,
    Row,
)
from benchmarks.hostile.streams import streams
from benchmarks.hostile.tokens import tokens
from benchmarks.hostile.trained import learned

ROWS = "A1,A2,A3,A4,A6,A7,A8,A9,A11,A13,A14,A15,A16,A17,A18,A19,A20"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write benchmarks/results/hostile.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", default=ROWS)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    known: dict[str, Callable[[Path], list[Row]]] = {
        "A1": lengths,
        "A2": caps,
        "A3": truncated,
        "A4": odd_sends,
        "A6": protocols,
        "A7": pickles,
        "A8": lambda cache: slow(cache, options.turns),
        "A9": never_read,
        "A11": shapes,
        "A13": bombs,
        "A14": idle,
        "A15": tokens,
        "A16": lambda cache: floods(cache, options.turns),
        "A17": coded,
        "A18": learned,
        "A19": networks,
        "A20": streams,
    }
    rows: list[Row] = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            for name in options.rows.split(","):
                rows += known[name](Path(folder))
    finally:
        os.sched_setaffinity(0, ALL_CORES)  # for the table to tell
        write_table("hostile", "Untrusted clients", HEAD, [row.cells() for row in rows], NOTES)
    return int(not all(row.is_good for row in rows))


NOTES = [
    "`as expected`: refused with the code that fits and closed, or answered where the row says so. "
    "`correct inferences`: of a legitimate edge after the row, some also during it. `worst time`: from the last "
    "byte sent until the refusal or the end, or as the row says. `peak RSS`: growth of the peak of the cloud over what "
    "it had when the row began, with what the legitimate edge needs.",
    "",
    f"A8: the legitimate edge was connected before; it asks {INFERENCES} times in each turn, with and without in "
    f"turns, for the last six layers of alex_net, and pauses {PACE_S * 1e3:.0f} ms between two. The target is a "
    "ratio of p95 under 1.2. A closed client reconnects within the next second.",
]

if __name__ == "__main__":
    sys.exit(main())
