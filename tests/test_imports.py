"""The arrows between the rooms, as docs/architecture.md draws them."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("models", "net", "partition", "predictor", "runtime", "lab", "utils", "benchmarks")
BELOW = {
    "utils": set(),
    "net": {"utils"},
    "models": {"utils"},
    "partition": {"edgecloud.models.graph", "utils"},
    "predictor": {"models", "utils"},
    "runtime": {"partition", "predictor", "net", "models", "utils"},
    "lab": {"runtime", "partition", "predictor", "net", "models", "utils"},
}


def imported_by(path: Path) -> set[str]:
    """Dotted names that a file imports anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("room", BELOW)
def test_imports_follow_the_arrows(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        for name in imported_by(path):
            top = name.split(".")[0]
            if top not in ROOMS or top == room:
                continue
            allowed = any(name == below or name.startswith(below + ".") for below in BELOW[room])
            assert allowed, f"{path.relative_to(ROOT)} imports {name}"


def test_nobody_imports_the_scripts() -> None:
    scripts = {path.stem for path in ROOT.glob("*.py")}
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            found = {name.split(".")[0] for name in imported_by(path)}
            assert not found & scripts, path


def test_only_one_module_imports_torchvision() -> None:
    for room in (*ROOMS, "tests"):
        for path in (ROOT / room).rglob("*.py"):
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
    code = f"import sys, {module}; sys.exit(any(name.split('.')[0] in ('torch', 'net') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_network_of_this_project_does_not_wait_for_torchvision() -> None:
    """Which takes as long to load as torch."""
    code = (
        "import sys, edgecloud.client.inference; from edgecloud.models import registry\n"
        "registry.find('le_net'); registry.find('senna_pos')\n"
        "assert 'torchvision' not in sys.modules\n"
        "registry.find('alex_net')\n"
        "assert 'torchvision' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
