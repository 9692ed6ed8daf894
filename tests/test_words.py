"""What people read is in plain words: no help, message, table, page or docstring has a phrase of this list."""

import argparse
import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from edgecloud.cli.cloud_flags import build_parser as cloud_parser
from edgecloud.lab.__main__ import COMMANDS
from edgecloud.lab.__main__ import build_parser as lab_parser
from tests.conftest import ROOT

PACKAGES = (
    *("cli", "client", "server", "tasks", "tools", "engine", "net", "models", "partition", "predictor", "lab"),
    *("utils", "edgecloud", "library", "page", "benchmarks", "examples"),
)
PHRASES = (
    r"leave (?:\S+ )+away",
    r"least predicted",
    r"layers here",
    r"joules here",
    r"(?:all|everything|runs?|run all of \S+|finished|measured) here\b",
    r"\d kB cross\b",
    r"nothing crosses",
    r"beside both ends",
    r"against this cut",
    r"equals the whole network",
    r"shortest longest stage",
    r"longest stage",
    r"(?:keep|keeps|kept|keeping) up with",
    r"\b9 of 10\b",
    r"\bin line\b",
    r"cloud is away|was away|it is away",
    r"\bTLS came",
    r"what is there does not say",
    r"gone on with",
    r"\bstrangers?\b",
    r"of one's own",
    r"published (?:way|style|scripts)\b",
    r"\bthe house\b|\brooms\b",
    r"who may come|what is wanted|what is shown|where it is cut",
    r"whoever\b",
    r"max-small-rate|until-stdin-closes",
    r"no (?:cloud|one|body) was greeted|\bgreet(?:s|ed|ings?)?\b",
    r"far too (?:large|much)",
    r"is no (?:point|number|picture|link|TOML|record|address|folder|file)\b",
    r"has gone\b|comes for\b",
    r"\ba second of one\b",
    r"\bwhat crosses\b|\bthe way back\b",
    r"\bdearer\b|\bunfold(?:s|ed|ing)\b",
    r"\b(?:come|comes|coming) again\b|\bhangs? up\b|\blets? go of\b|\bwithout a word\b|\b(?:is|being) spared\b",
    r"\bclock on the wall\b|\bas they should\b|\bTold are\b|\bis held against\b",
    r"\bgood edge\b|\bcloud is greeted\b",
)
"""What the project said once, each with what is said now in its history; and more of their kind."""
ALLOWED = {
    ("cli/cloud_flags.py", "--until-stdin-closes"),
    ("cli/cloud_flags.py", "--max-small-rate"),
    ("lab/relay.py", "--until-stdin-closes"),
}
"""Old names of flags, which are hidden."""
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "README.zh-CN.md", "CONTRIBUTING.md", "SECURITY.md")),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "deploy").glob("*.md"),
        *(ROOT / "benchmarks" / "results").rglob("*.md"),
    ]
)


def found_in(text: str) -> list[str]:
    """The phrases that a text has, however its lines are broken."""
    flat = " ".join(text.split())
    return [found.group() for phrase in PHRASES for found in re.finditer(phrase, flat, re.IGNORECASE)]


def texts_of(path: Path) -> Iterator[str]:
    """Every string of a module: messages, help, tables, and docstrings."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


MODULES = sorted([*ROOT.glob("*.py"), *(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))])


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_message_or_docstring_has_no_phrase_of_the_list(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    wrong = [(text, found) for text in texts_of(path) if (name, text) not in ALLOWED for found in found_in(text)]
    assert not wrong


@pytest.mark.parametrize("path", sorted((ROOT / "lab").rglob("??.toml")), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_text_of_the_lab_has_no_phrase_of_the_list(path: Path) -> None:
    def values(table: dict[str, object]) -> Iterator[str]:
        for value in table.values():
            yield from values(value) if isinstance(value, dict) else [str(value)]

    assert not [found for text in values(tomllib.loads(path.read_text(encoding="utf-8"))) for found in found_in(text)]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_has_no_phrase_of_the_list(path: Path) -> None:
    assert not found_in(path.read_text(encoding="utf-8"))


@cache
def parsers() -> dict[str, argparse.ArgumentParser]:
    """Of every program and command."""
    found = {"cloud_api": cloud_parser("cloud_api.py", "", 1)}
    found |= {name: import_module(f"edgecloud.{name}").build_parser() for name in ("edge_api", "tasks_edge_api")}
    found["deployment"] = import_module("edgecloud.deployment").build_parser()
    for action in found["deployment"]._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= {f"deployment {name}": inner for name, inner in action.choices.items()}
    return found | {f"lab {name}": lab_parser(name) for name in COMMANDS}


NAMES = (
    "cloud_api",
    "edge_api",
    "tasks_edge_api",
    "deployment",
    "deployment plan",
    *(f"lab {name}" for name in COMMANDS),
)


@pytest.mark.parametrize("name", NAMES)
def test_help_has_no_phrase_of_the_list(name: str) -> None:
    assert not found_in(parsers()[name].format_help())


def test_groups_of_flags_are_named_as_elsewhere() -> None:
    titles = {group.title for group in parsers()["cloud_api"]._action_groups}
    assert {"Access control", "Timeouts", "Size limits", "Concurrency and limits", "Health check"} <= titles
    titles = {group.title for group in parsers()["edge_api"]._action_groups}
    assert {"Input", "Partitioning", "Objective", "Execution and output"} <= titles


@pytest.mark.parametrize(
    ("name", "old", "new", "values"),
    [
        ("cloud_api", "--max-small-rate", "--max-control-rate", ["7"]),
        ("cloud_api", "--until-stdin-closes", "--exit-on-stdin-eof", []),
    ],
)
def test_an_old_name_of_a_flag_still_works_and_is_hidden(
    name: str, old: str, new: str, values: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    help_text = parsers()[name].format_help()
    assert new in help_text
    assert old not in help_text

    def parsed(*arguments: str) -> argparse.Namespace:
        options: argparse.Namespace = cloud_parser(f"{name}.py", "", 1).parse_args(arguments)
        return argparse.Namespace(**{key: value for key, value in vars(options).items() if key != "config"})

    wanted = parsed(new, *values)
    assert wanted != parsed()
    assert parsed(old, *values) == wanted
    config = tmp_path / "cloud.toml"
    config.write_text(f"{old[2:]} = {values[0] if values else 'true'}\n")
    assert parsed("--config", str(config)) == wanted
    monkeypatch.setenv(f"EDGE_CLOUD_{old[2:].upper().replace('-', '_')}", values[0] if values else "yes")
    assert parsed() == wanted


def test_the_list_finds_what_it_is_for(tmp_path: Path) -> None:
    assert found_in("cut point 0: 0 layers\n  here, 22 on the cloud")
    assert found_in("verify equals the whole network run here")
    assert not found_in("verify: matches the full model run locally")
    module = tmp_path / "module.py"
    module.write_text('def f() -> None:\n    """Of a network of\n    one\'s own."""\n    g(f"{f} layers here")\n')
    assert {found for text in texts_of(module) for found in found_in(text)} == {"of one's own", "layers here"}
