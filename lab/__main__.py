"""python -m lab COMMAND: experiments on this machine. Each command is a module, imported only when it is chosen."""

import importlib
import sys
from collections.abc import Sequence

from utils import cli

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


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    name, *rest = arguments
    if name == "--version":
        print(f"{PROG} {cli.VERSION}")
        return 0
    if name not in COMMANDS:
        cli.complain(f"{PROG}: no command {name[:40]!r}: choose {', '.join(COMMANDS)}")
        return 2
    where, about = COMMANDS[name]
    module = importlib.import_module(where)
    parser = cli.Parser(f"{PROG} {name}", about[0].upper() + about[1:] + ".")
    module.add_flags(parser)
    options = parser.parse_args(rest)
    return cli.run(f"lab {name}", lambda: int(module.main(options)), options)


if __name__ == "__main__":
    sys.exit(main())
