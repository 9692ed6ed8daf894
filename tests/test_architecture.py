"""docs/architecture.md is true: its figure has every arrow between packages and no other, its list every file."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import ROOT
from tests.pure import PACKAGES

TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
SCRIPTS = "scripts"
PUBLIC = "edgecloud.library"
"""What `import edgecloud as ec` takes names from."""


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
    """Every module of the product, with its package."""
    yield from ((SCRIPTS, path) for path in ROOT.glob("*.py"))
    for package in PACKAGES:
        yield from ((package, path) for path in (ROOT / package).rglob("*.py"))


def packages_read(path: Path) -> set[str]:
    """The packages that a module imports from, anywhere in it; the public names are the library's."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {PUBLIC if alias.asname == "ec" else alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("edgecloud.")} & set(PACKAGES)


def below(package: str, arrows: set[tuple[str, str]]) -> set[str]:
    """What the arrows lead to from there, over any number of them. Raises RecursionError where they go round."""
    return {end for start, read in arrows if start == package for end in ({read} | below(read, arrows))}


def test_the_figure_has_every_arrow_and_no_other() -> None:
    """All packages read utils: the figure says that once, in words. What several arrows lead to needs none of its
    own."""
    measured = {(package, read) for package, path in modules() for read in packages_read(path) - {package, "utils"}}
    drawn = arrows_drawn()
    assert drawn <= measured
    assert measured <= {(package, end) for package, _ in drawn for end in below(package, drawn)}


def test_every_module_is_in_the_list_of_packages_and_every_name_there_is_one() -> None:
    """A folder in a package may stand for its files."""
    listed = re.search(r"## Packages\n.*?```\n(.*?)```", TEXT, re.DOTALL)
    assert listed is not None
    named = set(re.findall(r"\w+\.py\b", listed[1]))
    folders = set(re.findall(r"\b(\w+)/", listed[1])) - set(PACKAGES)
    there = {path for _, path in modules() if path.name not in ("__init__.py", "__main__.py")}
    inside = {path for path in there if folders & set(path.relative_to(ROOT).parts[1:-1])}
    assert {path.name for path in there - inside} <= named
    assert named <= {path.name for path in there}
