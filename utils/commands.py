"""Command lines that start programs of this project as subprocesses."""

import sys
from collections.abc import Sequence
from pathlib import Path

import edgecloud

ROOT = Path(edgecloud.__file__).resolve().parent.parent
"""The folder from which `edgecloud` is imported: the checkout, or site-packages."""
AS_MODULE = (
    "import runpy, sys; root, name = sys.argv[1:3]; sys.path = [*filter(None, sys.path)]; "
    "root in sys.path or sys.path.insert(0, root); sys.argv[1:3] = []; "
    "runpy.run_module(name, run_name='__main__', alter_sys=True)"
)
"""What `python -m` does, but without the working directory on the path: it may have a folder called `edgecloud`."""


def command_of(arguments: Sequence[str]) -> list[str]:
    """The command line of `cloud_api.py ...` or `-m lab.relay ...`, from any folder, isolated where this process is."""
    python = [sys.executable, "-I"] if sys.flags.isolated else [sys.executable]
    if arguments[0] == "-m":
        module, rest = arguments[1], arguments[2:]
    elif arguments[0].endswith(".py"):
        module, rest = f"edgecloud.{arguments[0].removesuffix('.py')}", arguments[1:]
    else:
        return [*python, *arguments]
    return [*python, "-c", AS_MODULE, str(ROOT), module, *rest]
