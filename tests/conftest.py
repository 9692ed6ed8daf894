"""Fixtures: real cloud processes on loopback, and the scripts as users run them."""

import gc
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

# A thread of torch's that waits for the others sleeps meanwhile, and leaves the core to the many programs of the tests:
# where it spins instead, a layer of `le_net` takes 20 ms on a busy machine. Read once, while torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch
from hypothesis import HealthCheck, settings

from benchmarks.clouds import THREADS as THREADS
from benchmarks.clouds import CloudProcess as CloudProcess  # for the tests
from benchmarks.clouds import running_cloud as running_cloud
from edgecloud import edge_api
from edgecloud.models import inputs, registry, weights
from edgecloud.models.torch_network import TorchNetwork, prepare
from tests import warm

ROOT = Path(__file__).resolve().parent.parent
LONG_S = 300.0
"""What no step takes on any machine, not beside a load of 20, where starting a program takes over a minute: tests wait
for what has to happen, up to here, and never for a time."""

COLD = {"COLD": "1"}
"""In the environment of a program that is to start as it does for a user: where a test is about that."""

THOROUGH = os.environ.get("THOROUGH") == "1"


def many(usual: int, thorough: int) -> int:
    """How many random examples a test tries; `make slow` tries as many as are promised."""
    return thorough if THOROUGH else usual


# The same examples every time, however long each takes: what fails here fails everywhere. `make slow` draws others.
settings.register_profile(
    "tests", deadline=None, derandomize=not THOROUGH, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")

# Tests are about the arguments that they give, not about who runs them.
for name in ("EDGE_CLOUD_TOKEN", "FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS", "LINES"):
    os.environ.pop(name, None)

# Where the tests run in the background of a script, SIGINT is ignored, and every program that they start inherits that:
# an interrupt from the keyboard could not be tested.
signal.signal(signal.SIGINT, signal.default_int_handler)


def until(condition: Callable[[], object], seconds: float = LONG_S) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def processes_with(word: object) -> list[int]:
    """Processes whose command line holds a word. What has ended and only waits to be collected is none."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(word).encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:  # it has gone meanwhile
            continue
    return [number for number in found if number != os.getpid()]


def children_of(pid: int) -> list[int]:
    """Processes that it has started and that run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            is_child = state != "Z" and int(parent) == pid and not warm.serves(int(path.parent.name))
        except OSError:  # it has gone meanwhile
            continue
        if is_child:
            found.append(int(path.parent.name))
    return found


def is_running(pid: int) -> bool:
    """Whether there is such a process, other than one that waits to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def pytest_collection_finish() -> None:
    """Modules and tests stay to the end: the collector need not search their 250,000 objects again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    torch.set_num_threads(int(THREADS))


@pytest.fixture(scope="session", autouse=True)
def _warm_starts() -> Iterator[None]:
    """Programs of ours start as copies of a process that has loaded torch, where nothing speaks against it."""
    with warm.Starter().at_work() if warm.is_wanted() else nullcontext():
        yield


@pytest.fixture(scope="session")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where measured layers are kept, by all processes that run tests: to measure a network takes five seconds."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "profiles"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _own_cache_folder(tmp_path_factory: pytest.TempPathFactory, profiles: Path) -> None:
    """Where no --cache-dir is given, neither read nor write what belongs to whoever runs the tests."""
    home = tmp_path_factory.mktemp("xdg")
    (home / "edge-cloud-inference").mkdir()
    (home / "edge-cloud-inference" / "profiles").symlink_to(profiles)
    os.environ["XDG_CACHE_HOME"] = str(home)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory, profiles: Path) -> Path:
    """A cache folder for the whole session, so that each network is measured once."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "profiles").symlink_to(profiles)
    return folder


@pytest.fixture(scope="session")
def network() -> Callable[[str], TorchNetwork]:
    """Networks by name, each built once."""
    kept: dict[str, TorchNetwork] = {}

    def get(name: str) -> TorchNetwork:
        entry = registry.lookup(name)
        if name not in kept:
            kept[name] = prepare(weights.load(entry), inputs.sample(entry.sample, entry.preprocess), entry.name)
        return kept[name]

    return get


@pytest.fixture(scope="session")
def cloud(cache: Path) -> Iterator[CloudProcess]:
    """One cloud for all tests that do not change it: it has to survive every one of them."""
    with running_cloud(cache, "--hello-timeout", "2s", "--models", "all") as process:
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


def run_script(*arguments: str, timeout_s: float = 300) -> Finished:
    """Run a script of the project as a user does."""
    command = [sys.executable, *arguments]
    return Finished(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s))


def run_edge(cache: Path, *arguments: str) -> Finished:
    """Run edge_api.py."""
    return run_script("edge_api.py", "--cache-dir", str(cache), "--threads", THREADS, *arguments)


@contextmanager
def started_tasks(cache: Path, *arguments: object) -> Iterator["subprocess.Popen[str]"]:
    """tasks_edge_api.py, still running; not longer than this lasts, and never for ever."""
    command = [sys.executable, "tasks_edge_api.py", "--cache-dir", str(cache), *map(str, arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        timer = threading.Timer(4 * LONG_S, process.kill)  # ends the wait for a line that never comes
        timer.start()
        try:
            yield process
        finally:
            timer.cancel()
            process.kill()


def read_until(process: "subprocess.Popen[str]", pattern: str, count: int = 1) -> list[str]:
    """The lines that it prints until so many of them have matched."""
    assert process.stdout is not None
    lines: list[str] = []
    while count:
        lines.append(process.stdout.readline())
        assert lines[-1], f"it has ended before another line with {pattern}"
        count -= re.search(pattern, lines[-1]) is not None
    return lines


def answered_all(printed: str) -> bool:
    """Whether the summary says that no task failed, none was answered wrong, and that it has connected again."""
    tasks = re.search(r"^tasks +\d+ done, 0 failed, .*\b0 wrong", printed, re.MULTILINE)
    connected = re.search(r"connected (\d+) times", printed)
    return tasks is not None and connected is not None and int(connected[1]) >= 2


CallEdge = Callable[..., Finished]


def at(cloud: CloudProcess) -> tuple[str, ...]:
    """Flags that name a cloud."""
    return ("-i", "127.0.0.1", "-p", str(cloud.port))


def call(main: Callable[[list[str]], int], arguments: list[str], capsys: pytest.CaptureFixture[str]) -> Finished:
    """A script's main, in this process: starting another one for every wrong argument would take minutes."""
    try:
        code = main(arguments)
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        torch.set_num_threads(int(THREADS))  # a script sets them for its whole process
    return Finished(subprocess.CompletedProcess(arguments, code, *capsys.readouterr()))


@pytest.fixture
def edge(cache: Path, capsys: pytest.CaptureFixture[str]) -> CallEdge:
    """edge_api.py in this process, which is quicker than starting another one."""

    def run(*arguments: str) -> Finished:
        return call(edge_api.main, ["--cache-dir", str(cache), "--threads", THREADS, *arguments], capsys)

    return run
