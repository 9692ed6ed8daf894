"""python -m lab COMMAND: experiments on this machine. Each command is a module, imported only when it is chosen."""

import os
import sys

if __name__ == "__main__":  # before what takes longer: also as `python -I lab`, and with Ctrl-C at any moment
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120  pathlib takes its time
    from utils import start

    start.begin()

import importlib
from collections.abc import Sequence
from types import ModuleType

from utils import cli, config
from utils.errors import AppError

COMMANDS = {
    "run": ("lab.run", "measure an experiment: every cell through the real programs"),
    "report": ("lab.report", "make a report of what was measured"),
    "compare": ("lab.compare", "two runs beside each other: the same best point, or within 10 %"),
    "doctor": ("lab.doctor", "what this machine can do, and what to do about the rest"),
    "baselines": ("lab.chooser", "what the published rules would choose"),
    "link": ("lab.link", "what the estimator sees of the link to a cloud"),
}
PROG = "python -m lab"


def usage() -> str:
    """What there is."""
    lines = [f"  {name:<9}  {about}" for name, (_, about) in COMMANDS.items()]
    return "\n".join([f"usage: {PROG} COMMAND ...", "", *lines, "", f"{PROG} COMMAND --help lists its flags"])


def _imported(where: str) -> ModuleType | None:
    """The module of a command; None where a library is to blame, which is told in a line."""
    try:
        return importlib.import_module(where)
    except Exception as error:
        reason = cli.explained(error)
        if reason is None:
            raise
        cli.complain(f"{PROG}: {reason}")
        return None


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        cli.announce(usage())
        return 0 if arguments else 2
    name, *rest = arguments
    if name == "--version":
        cli.announce(f"{PROG} {cli.VERSION}")
        return 0
    if name not in COMMANDS:
        near = config.nearest(name, COMMANDS)
        cli.complain(f"{PROG}: no command {name[:40]!r}: choose {', '.join(COMMANDS)}{near}")
        return 2
    where, about = COMMANDS[name]
    module = _imported(where)
    if module is None:
        return AppError.exit_code
    parser = cli.Parser(f"{PROG} {name}", about[0].upper() + about[1:] + ".")
    module.add_flags(parser)
    options = parser.parse_args(rest)
    return cli.run(f"lab {name}", lambda: int(module.main(options)), options)


if __name__ == "__main__":
    sys.exit(main())
