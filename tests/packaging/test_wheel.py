"""What the wheel holds: every file of the packages inside one namespace, and nothing else; and what it asks for."""

import ast
import re
import subprocess
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest

import edgecloud
from edgecloud.cli import commands, script
from edgecloud.utils import extras, names
from tests.conftest import ROOT
from tests.pure import PACKAGES

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SCRIPTS = tuple(path.name for path in ROOT.glob("*.py"))
SAFELY: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.4 has it


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as pip builds it."""
    builders = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed: make test does")
    [path] = builders.WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")))
    return Path(path)


def of_the_project() -> set[str]:
    """The files of the packages and the scripts, as they should be in the namespace."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", "edgecloud", *PACKAGES, *SCRIPTS]
    try:
        found = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no checkout of git, or git is not installed")
    there = (name for name in found if (ROOT / name).is_file())
    return {name if name.startswith("edgecloud/") else f"edgecloud/{name}" for name in there}


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == of_the_project()
    for needed in ("models/zoo/le_net.safetensors", "predictor/power/raspberry_pi_4.toml", "lab/specs/student.toml"):
        assert f"edgecloud/{needed}" in held
    for needed in ("lab/report/page.html.j2", "lab/report/page.css", "lab/links/train.csv", "lab/zh.toml"):
        assert f"edgecloud/{needed}" in held


def test_a_wheel_can_be_built_from_the_source_distribution(wheel: Path, tmp_path: Path) -> None:
    builders = pytest.importorskip("hatchling.builders.sdist", reason="hatchling is not installed: make test does")
    [packed] = builders.SdistBuilder(str(ROOT)).build(directory=str(tmp_path))
    with tarfile.open(packed) as archive:
        archive.extractall(tmp_path, **SAFELY)
    [unpacked] = tmp_path.glob("*/")
    again = pytest.importorskip("hatchling.builders.wheel").WheelBuilder(str(unpacked)).build(directory=str(tmp_path))
    held = [set(zipfile.ZipFile(path).namelist()) for path in (wheel, *again)]
    assert held[0] == held[1]
    assert (unpacked / "tests" / "conftest.py").is_file()


def test_the_wheel_says_its_version_its_commands_and_its_extras(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        said = Parser().parsestr(archive.read(name).decode())
        entries = archive.read(name.replace("METADATA", "entry_points.txt")).decode()
    assert said["Version"] == edgecloud.__version__
    assert said["Name"] == extras.PROJECT
    assert set(extras.EXTRAS.values()) <= set(said.get_all("Provides-Extra") or [])
    assert all(f"{command} = " in entries for command in names.COMMANDS.values())


def test_the_version_is_in_one_place() -> None:
    assert edgecloud.__version__ == script.VERSION
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "edgecloud/__init__.py"


def test_the_commands_are_those_that_names_and_texts_know() -> None:
    declared: dict[str, str] = PROJECT["project"]["scripts"]
    assert list(declared) == list(names.COMMANDS.values())
    for target in declared.values():
        module, function = target.split(":")
        assert module == commands.__name__
        assert callable(getattr(commands, function))


def test_all_packages_and_scripts_are_mapped() -> None:
    built = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert set(built["only-include"]) == {"edgecloud", *PACKAGES}
    assert built["sources"] == {name: f"edgecloud/{name}" for name in PACKAGES}
    assert built["force-include"] == {name: f"edgecloud/{name}" for name in SCRIPTS}
    source: list[str] = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["only-include"]
    assert {"edgecloud", *PACKAGES, *SCRIPTS} <= set(source)


OF_ITS_OWN = ("video", "ray")
"""Extras that bring something large that nothing is measured with: requirements.txt does without."""


def optional() -> dict[str, list[str]]:
    """What the other extras bring."""
    return {name: each for name, each in PROJECT["project"]["optional-dependencies"].items() if name not in OF_ITS_OWN}


def wanted() -> dict[str, str]:
    """What is required, and by which extra."""
    project = PROJECT["project"]
    listed = {"": project["dependencies"], **optional()}
    named = ((re.match(r"[\w-]+", each), extra) for extra, several in listed.items() for each in several)
    return {found[0].lower().replace("_", "-"): extra for found, extra in named if found and found[0] != extras.PROJECT}


def test_what_is_measured_with_is_what_is_asked_for() -> None:
    """The versions pinned in requirements.txt lie within the ranges of pyproject.toml; no package is in one only."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pinned = dict(line.partition(";")[0].split("==") for line in lines if "==" in line)  # not what follows on a marker
    assert {name.lower().replace("_", "-") for name in pinned} == set(wanted())
    requirements = pytest.importorskip("packaging.requirements", reason="packaging is not installed: make test does")
    ranges = [*PROJECT["project"]["dependencies"]]
    ranges += [each for several in optional().values() for each in several]
    for each in map(requirements.Requirement, ranges):
        assert each.name == extras.PROJECT or pinned[each.name] in each.specifier, each


def test_an_edge_without_torch_gets_the_same_versions() -> None:
    """requirements-edge.txt has nothing of its own, and none of what is large."""
    edge, all_of_it = (
        {line for line in (ROOT / name).read_text().splitlines() if "==" in line}
        for name in ("requirements-edge.txt", "requirements.txt")
    )
    assert edge < all_of_it
    everywhere = {line.partition("==")[0] for line in edge if "platform_machine" not in line}
    assert "constriction" not in everywhere, "it has no wheel for a board"
    assert not {"torch", "torchvision", "scikit-learn", "matplotlib"} & {line.partition("==")[0] for line in edge}


def test_what_an_extra_brings_is_known_by_its_extra() -> None:
    large = PROJECT["project"]["optional-dependencies"]
    known = wanted() | {re.split(r"[<>=]", each)[0]: extra for extra in OF_ITS_OWN for each in large[extra]}
    for library, extra in extras.EXTRAS.items():
        package = extras.package_of(library).replace("_", "-")
        assert known[package] == extra, library


def test_what_tests_need_on_top_is_what_its_extra_asks_for() -> None:
    requirements = pytest.importorskip("packaging.requirements", reason="packaging is not installed: make test does")
    pinned = dict(re.findall(r"^([\w-]+)==(.+)$", (ROOT / "requirements-dev.txt").read_text(), re.MULTILINE))
    [asked] = PROJECT["project"]["optional-dependencies"]["ray"]
    assert pinned["ray"] in requirements.Requirement(asked).specifier


def at_the_top(path: Path) -> set[str]:
    """The libraries that importing a module imports, not those that its functions do."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.add(node.module.partition(".")[0])
    return found


def test_only_what_needs_an_extra_imports_it() -> None:
    """Modules that import a library of an extra at their top, each of which is imported only where it is used."""
    found = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if at_the_top(path) & set(extras.EXTRAS)
    }
    pictures = {f"tools/pictures/{name}.py" for name in ("front", "gain", "graph", "layers", "layout", "map", "style")}
    assert found == pictures | {
        *("net/calls.py", "net/http2.py", "predictor/regressors.py", "models/zoo/digits.py", "server/prometheus.py"),
        *("lab/report/html.py", "lab/report/pictures.py", "utils/excel_utils.py", "utils/plots.py"),
    }
