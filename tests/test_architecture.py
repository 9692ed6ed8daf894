"""docs/architecture.md is true: its figure has every arrow between rooms and no other, its list every file."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
ROOMS = ("models", "predictor", "partition", "net", "runtime", "lab", "utils")
SCRIPTS = "scripts"


def arrows_drawn() -> set[tuple[str, str]]:
    """Of the Mermaid figure: `a & b --> c & d` is four."""
    figure = re.search(r"```mermaid\n(.*?)```", TEXT, re.DOTALL)
    assert figure is not None
    found = set()
    for line in figure[1].splitlines():
        if "-->" in line:
            left, right = (re.findall(r"\w+", side) for side in re.sub(r'\[".*?"\]', "", line).split("-->"))
            found |= {(reader, read) for reader in left for read in right}
    return found


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the product, with its room."""
    yield from ((SCRIPTS, path) for path in ROOT.glob("*.py"))
    for room in ROOMS:
        yield from ((room, path) for path in (ROOT / room).rglob("*.py"))


def rooms_read(path: Path) -> set[str]:
    """The rooms that a module imports from, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found & set(ROOMS)


def test_the_figure_has_every_arrow_and_no_other() -> None:
    """All rooms read utils: the figure says that once, in words."""
    measured = {(room, read) for room, path in modules() for read in rooms_read(path) - {room, "utils"}}
    assert arrows_drawn() == measured


def test_every_module_is_in_the_list_of_rooms_and_every_name_there_is_one() -> None:
    """A folder in a room may stand for its files."""
    rooms = re.search(r"## Rooms\n\n```\n(.*?)```", TEXT, re.DOTALL)
    assert rooms is not None
    named = set(re.findall(r"\w+\.py\b", rooms[1]))
    folders = set(re.findall(r"\b(\w+)/", rooms[1])) - set(ROOMS)
    there = {path for room, path in modules() if path.name not in ("__init__.py", "__main__.py")}
    inside = {path for path in there if folders & set(path.relative_to(ROOT).parts[1:-1])}
    assert {path.name for path in there - inside} <= named
    assert named <= {path.name for path in there}
