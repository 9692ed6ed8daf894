"""python -m lab COMMAND: experiments on this machine. Each command is a module, imported only when it is chosen."""

import os
import sys

if __name__ == "__main__":  # before what takes longer: also as `python -I lab`, and with Ctrl-C at any moment
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120  pathlib takes its time
    from edgecloud.cli import start

    start.begin()

import importlib
from collections.abc import Sequence
from types import ModuleType

from edgecloud.cli import completion, script
from edgecloud.lab import texts
from edgecloud.utils import names
from edgecloud.utils.errors import AppError
from edgecloud.utils.suggest import nearest

COMMANDS = {
    "run": "edgecloud.lab.run",
    "report": "edgecloud.lab.report",
    "page": "edgecloud.lab.live",
    "compare": "edgecloud.lab.compare",
    "doctor": "edgecloud.lab.doctor",
    "baselines": "edgecloud.lab.baselines.command",
    "link": "edgecloud.lab.link",
}
PROG = "python -m lab"


def usage() -> str:
    """What there is."""
    lines = [f"  {name:<9}  {texts.say(f'about_{name}')}" for name in COMMANDS]
    first = f"{texts.say('usage')}{names.typed(PROG)} [{texts.FLAG} {'|'.join(texts.LANGUAGES)}] COMMAND ..."
    return "\n".join([first, "", *lines, "", texts.say("more_help", prog=PROG)])


def build_parser(name: str) -> script.Parser:
    """The command line of one command, its help in the language that was chosen."""
    about = texts.say(f"about_{name}")
    parser = script.Parser(f"{PROG} {name}", f"{about[0].upper()}{about[1:]}{texts.say('full_stop')}")
    importlib.import_module(COMMANDS[name]).add_flags(parser)
    help_text = "language of help, messages and reports"
    parser.add_argument(texts.FLAG, choices=texts.LANGUAGES, default=texts.DEFAULT, help=help_text)
    texts.translate(parser, name, texts.now())
    return parser


def _imported(where: str) -> ModuleType | None:
    """The module of a command; None where a library is to blame, which is told in a line."""
    try:
        return importlib.import_module(where)
    except Exception as error:
        reason = script.explained(error)
        if reason is None:
            raise
        script.complain(f"{PROG}: {texts.now().translated(reason)}")
        return None


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    texts.choose(texts.requested_language(arguments, os.environ))
    if completion.VARIABLE in os.environ and completion.answer_commands(arguments, COMMANDS):
        return 0
    if arguments[:1] == [texts.FLAG]:  # it may stand before the command, too
        arguments = [*arguments[2:3], *arguments[:2], *arguments[3:]]
    elif arguments[:1] and arguments[0].startswith(f"{texts.FLAG}="):
        arguments = [*arguments[1:2], arguments[0], *arguments[2:]]
    if not arguments or arguments[0] in ("-h", "--help", texts.FLAG) or arguments[0].startswith(f"{texts.FLAG}="):
        script.announce(usage())
        return 0 if {"-h", "--help"} & set(arguments) else 2
    name, *rest = arguments
    if name == "--version":
        script.announce(f"{names.typed(PROG)} {script.VERSION}")
        return 0
    if name not in COMMANDS:
        near = nearest(name, COMMANDS)
        message = texts.say("no_command", name=repr(name[:40]), names=", ".join(COMMANDS))
        script.complain(f"{PROG}: {message}{near}")
        return 2
    module = _imported(COMMANDS[name])
    if module is None:
        return AppError.exit_code
    options = build_parser(name).parse_args(rest)
    texts.choose(options.language)  # which a file may have said
    return script.run(f"{PROG} {name}", lambda: int(module.main(options)), options, texts.now().translated)


if __name__ == "__main__":
    start.end(main())
