#!/usr/bin/env python3
"""Deployment: what a network costs on this device, layer by layer."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from utils import cli

if TYPE_CHECKING:
    from runtime.measure import MeasuredNetwork


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = cli.Parser("deployment.py", "Measure a network on this device.")
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    what = "Time every layer of a network in place, inside whole forward passes on a real input."
    profile = commands.add_parser("profile", help="time every layer of a network", description=what)
    profile.add_argument("-t", "--type", "--model", dest="type", metavar="MODEL", required=True, help=cli.MODELS)
    cli.add_device_flags(profile)
    profile.add_argument("--weights", default="default", metavar="SOURCE", help=cli.WEIGHTS)
    profile.add_argument("--fresh", action="store_true", help="measure again even where the times are known")
    profile.add_argument("--csv", type=Path, metavar="FILE", help="write the table as CSV")
    profile.add_argument("--excel", type=Path, metavar="FILE.xlsx", help="write the table as a workbook with a chart")
    profile.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def profile(options: argparse.Namespace) -> int:
    """Measure, print, export."""
    from predictor.store import default_folder
    from runtime.measure import measure_network
    from utils.progress import on_terminal

    with on_terminal() as progress:
        measured = measure_network(
            options.type,
            options.weights,
            options.device,
            options.threads,
            options.cache_dir or default_folder(),
            progress,
            is_fresh=options.fresh,
        )
    export(measured, options.csv, options.excel)
    show(measured, as_json=options.json)
    return 0


def export(measured: "MeasuredNetwork", csv: Path | None, excel: Path | None) -> None:
    """Write the files that were asked for."""
    from runtime import measure

    if csv is not None:
        measure.write_csv(measured, csv)
    if excel is not None:
        measure.write_excel(measured, excel)


def show(measured: "MeasuredNetwork", *, as_json: bool) -> None:
    """The table, to stdout."""
    from runtime import measure

    if as_json:
        print(json.dumps(measure.to_json(measured)))
    else:
        cli.show(lambda console: console.print(measure.to_table(measured)))


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run; returns the exit code."""
    options = build_parser().parse_args(argv)
    return cli.run("deployment.py", lambda: profile(options), options)


if __name__ == "__main__":
    sys.exit(main())
