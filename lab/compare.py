"""python -m lab compare DIR DIR: whether two runs of the same cells, such as both modes, agree."""

import argparse
from pathlib import Path

from edgecloud.cli import script
from edgecloud.lab.grid import agreement, summary
from edgecloud.lab.records import read
from edgecloud.lab.show import agreement_table
from edgecloud.lab.texts import say
from edgecloud.utils.errors import UsageError

ENOUGH = 0.9


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Those of `lab compare`."""
    parser.add_argument("folders", nargs=2, type=Path, metavar="DIR", help="output directory of lab run")


def main(options: argparse.Namespace) -> int:
    """0 if at least 90 % of the cells agree, else 1."""
    runs = [read(folder) for folder in options.folders]
    mine, theirs = (summary(records) for _, records in runs)
    cells = agreement(mine, theirs)
    if not cells:
        raise UsageError("the two experiments have no cell with common cut points")
    names = tuple(f"{folder.name} ({run[0].mode})" for folder, run in zip(options.folders, runs, strict=True))
    script.show(lambda console: console.print(agreement_table(cells, (names[0], names[1]))))
    same = sum(is_same for _, _, is_same in cells.values())
    script.say(say("agreement", same=same, of=len(cells)))
    return 0 if same >= ENOUGH * len(cells) else 1
