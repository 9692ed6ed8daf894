"""The arrows between the packages, as docs/architecture.md draws them."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.pure import PACKAGES as TESTED
from tests.pure import pure_modules

PACKAGES = (*TESTED, "benchmarks")
ENGINE = {"engine", "partition", "predictor", "net", "models", "utils"}
CLIENT = {"client", *ENGINE}
BELOW = {
    "utils": set(),
    "net": {"utils"},
    "models": {"utils"},
    "partition": {"models.graph", "utils"},
    "predictor": {"models", "utils"},
    "engine": ENGINE,
    "client": CLIENT,
    "server": {"server", *ENGINE},
    "tasks": CLIENT,
    "tools": CLIENT,
    "library": {"server", "tools", *CLIENT},
    "page": {"tasks", *CLIENT},
    "cli": {"library", "page", "server", "tasks", "tools", *CLIENT},
    "lab": {"cli", "page", "server", "tasks", "tools", *CLIENT},
}
"""What each package may import from."""


@cache  # six tests ask for the same files
def imported_by(path: Path) -> frozenset[str]:
    """Dotted names that a file imports anywhere in it; `import edgecloud as ec` takes names of the library."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {"edgecloud.library" if alias.asname == "ec" else alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def files(*folders: str) -> Iterator[Path]:
    """Every module of them, and the scripts."""
    yield from ROOT.glob("*.py")
    for folder in folders:
        yield from (ROOT / folder).rglob("*.py")


@pytest.mark.parametrize("package", BELOW)
def test_imports_follow_the_arrows(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        for name in imported_by(path):
            first, _, rest = name.partition(".")
            if first != "edgecloud" or rest.split(".")[0] in ("", package):
                continue
            allowed = any(rest == below or rest.startswith(below + ".") for below in BELOW[package])
            assert allowed, f"{path.relative_to(ROOT)} imports {name}"


def test_every_package_has_its_arrows() -> None:
    assert set(BELOW) == set(TESTED)
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == {*TESTED, "edgecloud", "benchmarks"}


def test_nothing_is_imported_but_from_the_namespace() -> None:
    """In a checkout `import net` would work as well, and make a second module of the same file."""
    outside = {*TESTED, *(path.stem for path in ROOT.glob("*.py"))}
    for path in files(*PACKAGES, "edgecloud", "tests"):
        assert not {name.split(".")[0] for name in imported_by(path)} & outside, path


def test_nobody_imports_the_scripts() -> None:
    scripts = {f"edgecloud.{path.stem}" for path in ROOT.glob("*.py")}
    for package in TESTED:
        for path in (ROOT / package).rglob("*.py"):
            assert not imported_by(path) & scripts, path


WAYS_IN = {"client.inference.enter", "client.edge.Edge", "client.edge_client.EdgeClient", "server.cloud.Cloud"}
"""What the library begins with."""


def test_the_scripts_begin_with_the_library() -> None:
    """There is no second way inside: they make an `ec.Edge` and an `ec.Cloud`, of a configuration."""
    users = [*ROOT.glob("*.py"), *(ROOT / "cli").glob("*.py")]
    named = {name.removeprefix("edgecloud.") for path in users for name in imported_by(path)}
    assert {"library.edge.Edge", "library.cloud.Cloud"} <= named
    assert not named & WAYS_IN


IMPURE = {"torch", "torchvision", "socket", "select", "ssl", "subprocess", "threading", "time", "tempfile", "shutil"}
"""What a pure module has no use for."""


@pytest.mark.parametrize("path", list(pure_modules()), ids=lambda path: str(path.relative_to(ROOT)))
def test_pure_modules_only_decide(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported_by(path)} & IMPURE


def test_only_one_module_imports_torchvision() -> None:
    for path in files(*PACKAGES, "tests"):
        found = {name for name in imported_by(path) if name.split(".")[0] == "torchvision"}
        assert not found, f"{path} imports {found}; take it from edgecloud.models.vision"


@pytest.mark.parametrize(
    "module",
    [
        "edgecloud.partition.chain",
        "edgecloud.partition.cost",
        "edgecloud.partition.throughput",
        "edgecloud.engine.batching",
        "edgecloud.client.fallback",
        "edgecloud.tasks.tasks",
        "edgecloud.net.frames",
        "edgecloud.net.messages",
        "edgecloud.net.penalties",
        "edgecloud.net.refusals",
        "edgecloud.models.graph",
    ],
)
def test_pure_modules_load_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'socket'}} & sys.modules.keys()))"
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=unmeasured).returncode == 0


@pytest.mark.parametrize(
    "module",
    [
        "edgecloud.partition.decide",
        "edgecloud.partition.decision_map",
        "edgecloud.partition.pareto",
        "edgecloud.tools.whatif",
    ],
)
def test_solvers_load_no_torch_and_nothing_of_the_network(module: str) -> None:
    """scipy itself loads `socket`."""
    unwanted = "[name for name in sys.modules if (name + '.').startswith(('torch.', 'edgecloud.net.'))]"
    code = f"import sys, {module}; sys.exit(bool({unwanted}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_planning_loads_neither_a_solver_of_others_nor_yaml() -> None:
    """Nor what draws bars and opens pictures: an edge that only infers needs none of it."""
    code = (
        "import sys, edgecloud as ec\n"
        "rows = [{'id': 'in', 'inputs': [], 'out_bytes': 9, 'cloud_s': 0, 'edge_s': 0}]\n"
        "rows += [{'id': 'a', 'inputs': ['in'], 'out_bytes': 5, 'cloud_s': 0.1, 'edge_s': 1}]\n"
        "rows += [{'id': 'b', 'inputs': ['a'], 'out_bytes': 5, 'cloud_s': 0.1, 'edge_s': 1}]\n"
        "ec.plan(rows, None, None, ec.Link('5mbit'), power='raspberry_pi_4')\n"
        "rows += [{'id': 'c', 'inputs': ['a', 'b'], 'out_bytes': 5, 'cloud_s': 0.1, 'edge_s': 1}]\n"
        "plan = ec.plan(rows, None, None, ec.Link('5mbit'), power='raspberry_pi_4')\n"
        "assert plan.method == 'mincut'\n"
        "import edgecloud.library.edge, edgecloud.client.inference\n"
        "unused = {'scipy', 'yaml', 'rich', 'PIL.Image', 'ssl', 'numpy.random', 'edgecloud.partition.bottleneck'}\n"
        "assert not unused & sys.modules.keys(), unused & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_network_of_this_project_does_not_wait_for_torchvision() -> None:
    """And who does wait, does not for torch's compiler, of which torchvision takes a function."""
    code = (
        "import sys; from edgecloud.cli import start; start.begin()\n"
        "import edgecloud.client.inference; from edgecloud.models import registry\n"
        "for name in registry.NAMES: registry.lookup(name)\n"
        "assert not {'torch', 'torchvision'} & sys.modules.keys()\n"
        "registry.lookup('torchvision:resnet18')\n"
        "assert 'torchvision' in sys.modules\n"
        "assert not [name for name in sys.modules if name.startswith('torch._dynamo')]\n"
        "taken = sys.modules['torchvision.ops.roi_align'].is_compile_supported\n"
        "given = [taken(kind) for kind in ('cpu', 'cuda', 'mps')]\n"
        "import torch._dynamo.utils as compiler\n"
        "assert compiler.__file__ and sys.modules['torch._dynamo.utils'] is compiler\n"
        "assert given == [compiler.is_compile_supported(kind) for kind in ('cpu', 'cuda', 'mps')]"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_torchvision_of_somebody_elses_program_is_as_it_was_made() -> None:
    """The library puts nothing off: what torchvision takes of torch is torch's own function."""
    code = (
        "import edgecloud as ec, sys\n"
        "ec.load('alex_net')\n"
        "import torch._dynamo.utils as compiler\n"
        "assert sys.modules['torchvision.ops.roi_align'].is_compile_supported is compiler.is_compile_supported"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_whoever_needs_the_compiler_while_torchvision_is_imported_gets_all_of_it() -> None:
    code = (
        "import sys; from edgecloud.cli import start; start.begin()\n"
        "import torch; from edgecloud.models import vision\n"
        "with vision._compiler_put_off():\n"
        "    import torch._dynamo\n"
        "    assert torch.compile(lambda x: x + 1, backend='eager')(torch.ones(1)).item() == 2\n"
        "assert sys.modules['torch._dynamo.utils'].__file__"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
