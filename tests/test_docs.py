"""The documents are true where that can be checked: a relative link leads somewhere, a flag is one of the program's."""

import argparse
import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from edgecloud.cli.cloud_flags import build_parser as cloud_parser
from edgecloud.lab.__main__ import COMMANDS
from edgecloud.lab.__main__ import build_parser as lab_parser
from tests.conftest import ROOT

FOLDERS = ("docs", "docs/decisions", "benchmarks/results", "deploy")
DOCUMENTS = sorted(path for folder in (".", *FOLDERS) for path in (ROOT / folder).glob("*.md"))
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
OF_OTHERS = {"--build", "--build-arg", "--exit-code-from", "--for", "--from-file", "--platform", "--strict"}
OF_OTHERS |= {"--no-deps", "--now", "--yes"}
OF_OTHERS |= {"--scale", "--head", "--address", "--port", "--generate", "--disable-usage-stats"}
"""Of docker, kubectl, mypy, pip, systemctl, apt and ray."""
COMMAND = re.compile(
    r"python (?:-m (lab) (\w+)|(?:-m )?(\w[\w./]*?)(?:\.py)?"
    r"(?: (plan|profile|fit|evaluate|calibrate|bottleneck))?)(?: |$)"
)


def prose(path: Path) -> str:
    """Without what stands between fences, where [a](b) is no link and # no heading."""
    return re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """What GitHub calls the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def links(path: Path) -> Iterator[tuple[Path, str]]:
    """File and anchor of every relative link."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if not re.match(r"\w+:", target):
            name, _, anchor = target.partition("#")
            yield (path.parent / name if name else path), anchor


def below(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, set[str]]]:
    """The flags of a parser and of its commands, by what one types."""
    yield name, set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command, inner in action.choices.items():
                yield f"{name} {command}", {*parser._option_string_actions, *inner._option_string_actions}


@cache
def programs() -> dict[str, set[str]]:
    """The flags of every program: `edge_api`, `deployment plan`, `lab run`, `benchmarks.load`."""
    found = {key: set(cloud_parser("", "", 1)._option_string_actions) for key in ("cloud_api", "tasks_cloud_api")}
    for script in ("edge_api", "tasks_edge_api", "deployment"):
        found |= dict(below(import_module(f"edgecloud.{script}").build_parser(), script))
    for command in COMMANDS:
        found[f"lab {command}"] = set(lab_parser(command)._option_string_actions)
    for path in (ROOT / "lab/relay.py", *(ROOT / "benchmarks").glob("*.py"), *(ROOT / "tests/fuzz").glob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name] = {"--help", *written_flags(path)}
    return found


def written_flags(path: Path) -> Iterator[str]:
    """What a module gives to add_argument."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
            yield from (
                word.value for word in node.args if isinstance(word, ast.Constant) and isinstance(word.value, str)
            )


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    for target, anchor in links(path):
        assert target.exists(), f"there is no {target}"
        assert not anchor or anchor in anchors(target), f"{target} has no heading #{anchor}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_flag_is_one(path: Path) -> None:
    """Of any program in the text, and in a command line of the one that it calls."""
    text = path.read_text(encoding="utf-8")
    if path.name != "CHANGELOG.md":  # it speaks of the past
        assert set(FLAG.findall(text)) <= OF_OTHERS.union(*programs().values())
    for line in text.replace("\\\n", " ").splitlines():
        called = COMMAND.search(line)
        if called is None or "`" in line[called.start() :]:
            continue
        lab, command, name, sub = called.groups()
        program = f"{lab} {command}" if lab else " ".join(filter(None, (name, sub)))
        if program in programs():
            assert set(FLAG.findall(line)) <= programs()[program], line


def test_the_commands_of_the_readme_are_understood() -> None:
    """Or the test above would check nothing."""
    found = [COMMAND.search(line) for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()]
    names = {match[3] for match in found if match is not None}
    assert {"cloud_api", "edge_api"} <= names


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_row_of_a_table_has_its_cells(path: Path) -> None:
    """A | inside of a cell ends it, also between backticks, unless it is written \\|: the rest would not be shown."""
    cells = 0
    for line in prose(path).splitlines():
        found = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert not (cells and found) or cells == found, line
        cells = found


def test_the_readme_in_chinese_has_the_links_of_the_english_one() -> None:
    english, chinese = (list(links(ROOT / name)) for name in ("README.md", "README.zh-CN.md"))
    assert english[0][0].name == "README.zh-CN.md"
    assert chinese[0][0].name == "README.md"
    assert set(english[1:]) == set(chinese[1:])


def test_the_lab_in_chinese_has_the_commands_and_the_links_of_the_english_one() -> None:
    def commands(name: str) -> list[str]:
        fences = re.findall(r"^```\n(.*?)^```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        return [fence.replace(" --language zh", "") for fence in fences]

    english, chinese = "docs/lab.md", "docs/lab.zh-CN.md"
    assert commands(english) == commands(chinese)
    both = {ROOT / english, ROOT / chinese, ROOT / "docs/raspberry-pi.md"}
    assert {link for link in links(ROOT / english) if link[0] not in both} == {
        link for link in links(ROOT / chinese) if link[0] not in both
    }


def test_the_index_has_every_page() -> None:
    listed = {target for target, _ in links(ROOT / "docs/README.md")}
    pages = {path for path in (ROOT / "docs").glob("*.md") if path.name != "README.md"}
    assert {path.resolve() for path in pages} <= {path.resolve() for path in listed}


def test_a_cell_of_the_results_has_one_figure() -> None:
    """Or one cannot tell which of them is meant. Cells with words or links say what was measured, and where."""
    rows = [line for line in (ROOT / "docs/results.md").read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    figures = [cell.strip() for row in rows for cell in row.strip("|").split("|")[1:] if re.match(r"[\s+-]*\d", cell)]
    assert len(figures) > 100, "or they are not found"
    assert not [cell for cell in figures if len(re.findall(r"\d[\d,.]*(?:e-?\d+)?", cell)) != 1]


def test_decisions_are_numbered_without_a_gap() -> None:
    paths = sorted((ROOT / "docs/decisions").glob("*.md"))
    for number, path in enumerate(paths, start=1):
        assert path.name.startswith(f"{number:04d}-")
        assert path.read_text(encoding="utf-8").startswith(f"# {number}. ")
