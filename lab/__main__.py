"""python -m lab COMMAND: experiments on this machine. Each command is a module, imported only when it is chosen."""

import importlib
import os
import sys
from collections.abc import Sequence

from lab import texts
from utils import cli, completion

COMMANDS = {
    "run": "lab.run",
    "report": "lab.report",
    "compare": "lab.compare",
    "doctor": "lab.doctor",
    "baselines": "lab.chooser",
    "link": "lab.link",
}
PROG = "python -m lab"


def usage() -> str:
    """What there is."""
    lines = [f"  {name:<9}  {texts.say(f'about_{name}')}" for name in COMMANDS]
    first = f"{texts.say('usage')}{PROG} [{texts.FLAG} {'|'.join(texts.LANGUAGES)}] COMMAND ..."
    return "\n".join([first, "", *lines, "", texts.say("more_help", prog=PROG)])


def build_parser(name: str) -> cli.Parser:
    """The command line of one command, its help in the language that was chosen."""
    about = texts.say(f"about_{name}")
    parser = cli.Parser(f"{PROG} {name}", f"{about[0].upper()}{about[1:]}{texts.say('full_stop')}")
    module = importlib.import_module(COMMANDS[name])
    module.add_flags(parser)
    told = "of help, of what is said, and of the report"
    parser.add_argument(texts.FLAG, choices=texts.LANGUAGES, default=texts.DEFAULT, help=told)
    texts.translate(parser, name, texts.now())
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    texts.choose(texts.wanted(arguments, os.environ))
    if completion.VARIABLE in os.environ and completion.answer_commands(arguments, COMMANDS):
        return 0
    if arguments[:1] == [texts.FLAG]:  # it may stand before the command, too
        arguments = [*arguments[2:3], *arguments[:2], *arguments[3:]]
    elif arguments[:1] and arguments[0].startswith(f"{texts.FLAG}="):
        arguments = [*arguments[1:2], arguments[0], *arguments[2:]]
    if not arguments or arguments[0] in ("-h", "--help", texts.FLAG) or arguments[0].startswith(f"{texts.FLAG}="):
        print(usage())
        return 0 if {"-h", "--help"} & set(arguments) else 2
    name, *rest = arguments
    if name == "--version":
        print(f"{PROG} {cli.VERSION}")
        return 0
    if name not in COMMANDS:
        cli.complain(f"{PROG}: {texts.say('no_command', name=repr(name[:40]), names=', '.join(COMMANDS))}")
        return 2
    options = build_parser(name).parse_args(rest)
    texts.choose(options.language)  # which a file may have said
    return cli.run(f"lab {name}", lambda: int(importlib.import_module(COMMANDS[name]).main(options)), options)


if __name__ == "__main__":
    sys.exit(main())
