"""Which modules are pure: they only decide, from what they are given. `python -m tests.pure` lists them.

A module is pure where its docstring says `Pure`, and where its package says so all of it is.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BELOW_THE_COMMAND_LINE = ("models", "net", "predictor", "partition", "engine", "client", "server", "tasks", "tools")
PACKAGES = (*BELOW_THE_COMMAND_LINE, "library", "page", "cli", "lab", "utils")


def says_pure(path: Path) -> bool:
    """Whether the docstring of a module has the word."""
    return bool(re.search(r"\b[Pp]ure\b", ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""))


def pure_modules() -> Iterator[Path]:
    """Their files."""
    for package in PACKAGES:
        of_package = says_pure(ROOT / package / "__init__.py")
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.name != "__init__.py" and (of_package or says_pure(path)):
                yield path


if __name__ == "__main__":
    print(",".join(str(path.relative_to(ROOT)) for path in pure_modules()))  # noqa: T201  for the Makefile
