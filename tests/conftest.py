"""Fixtures: real cloud processes on loopback, and the scripts as users run them."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.clouds import THREADS as THREADS
from lab.clouds import CloudProcess as CloudProcess  # for the tests
from lab.clouds import running_cloud as running_cloud
from models import inputs, registry, weights
from runtime.executor import Network, prepare

ROOT = Path(__file__).resolve().parent.parent

# Where the tests run in the background of a script, SIGINT is ignored, and every program that they start inherits that:
# an interrupt from the keyboard could not be tested.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    torch.set_num_threads(int(THREADS))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for the whole session, so that each network is measured once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def network() -> Callable[[str], Network]:
    """Networks by name, each built once."""
    kept: dict[str, Network] = {}

    def get(name: str) -> Network:
        entry = registry.find(name)
        if name not in kept:
            kept[name] = prepare(weights.load(entry), inputs.sample(entry.sample, entry.preprocess), entry.name)
        return kept[name]

    return get


@pytest.fixture(scope="session")
def cloud(cache: Path) -> Iterator[CloudProcess]:
    """One cloud for all tests that do not change it: it has to survive every one of them."""
    with running_cloud(cache, "--hello-timeout", "2s") as process:
        yield process


class Finished:
    """A script that has ended."""

    def __init__(self, run: "subprocess.CompletedProcess[str]") -> None:
        self.code = run.returncode
        self.stdout = run.stdout
        self.stderr = run.stderr

    @property
    def document(self) -> dict[str, Any]:
        """Its whole standard output as one JSON document."""
        parsed: dict[str, Any] = json.loads(self.stdout)
        return parsed


def run_script(*arguments: str, timeout_s: float = 120) -> Finished:
    """Run a script of the project as a user does."""
    command = [sys.executable, *arguments]
    return Finished(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s))


def run_edge(cache: Path, *arguments: str) -> Finished:
    """Run edge_api.py."""
    return run_script("edge_api.py", "--cache-dir", str(cache), "--threads", THREADS, *arguments)
