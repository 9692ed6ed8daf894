"""Is a decision as quick as it was? The decisions of this checkout beside those of another one, in turns.

    git worktree add --detach DIR COMMIT
    python -m benchmarks.decision_against DIR [--rounds 9]

Each round starts a process in either checkout, which decides about the same graphs with the same made-up times, and
knows nothing of the other. What is told is the ratio of the pairs, and by how much it varies.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.fingerprint import write_table
from benchmarks.noise import Figure, Versus
from edgecloud.utils.commands import ROOT

Found = dict[str, dict[str, float]]
"""Seconds, by graph and by what was decided."""


def in_checkout(folder: Path) -> Found:
    """Of a checkout, in a process of its own. Raises SystemExit where it fails."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("decision_times.py"))],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{folder}: {done.stderr}")
    found: Found = json.loads(done.stdout)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write benchmarks/results/decision_against.md."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.decision_against", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("other", type=Path, metavar="DIR", help="a checkout of another commit")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(argv)
    pairs = []
    for number in range(options.rounds):
        folders = [ROOT, options.other.resolve()]
        found = {folder: in_checkout(folder) for folder in (folders if number % 2 else folders[::-1])}
        pairs.append([found[folder] for folder in folders])
    rows = []
    for name, decisions in pairs[0][0].items():
        for what in decisions:
            ours, theirs = ([pair[side][name][what] for pair in pairs] for side in (0, 1))
            figures = [str(Figure.of([1e3 * s for s in seconds])) for seconds in (theirs, ours)]
            rows.append([name.removeprefix("torchvision:"), what, *figures, str(Versus.of(ours, theirs))])
    head = ["graph", "decision", "there, ms", "here, ms", "here over there"]
    commit = subprocess.run(
        ["git", "-C", str(options.other), "log", "-1", "--format=%h"], capture_output=True, text=True, check=False
    ).stdout.strip()
    notes = [f"There: commit {commit or 'unknown'}. Medians of {options.rounds} pairs of processes, which take turns."]
    write_table("decision_against", "Decisions of two versions", head, rows, notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
