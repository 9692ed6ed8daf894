"""Back-ends where fewer processors are allowed than there are: a quota of a control group, and an affinity."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgecloud.lab import cgroup
from tests import bundles
from tests.conftest import LONG_S, ROOT

QUOTA, PERIOD_US = 0.6, 100_000
CHILD = """
import json, sys, time
from pathlib import Path
from edgecloud.engine.executor import make_executor
from edgecloud.models import bundle_network
from edgecloud.utils.inference_utils import set_threads
set_threads(None)
network = bundle_network.read(Path(sys.argv[1]))
executor = make_executor(network, "cpu", backend="onnxruntime")
executor.look_for_limit()
segment = executor.load(network.graph.everything)
for _ in range(50):
    executor.run(segment, [network.example.array])
began = time.process_time()
time.sleep(0.3)
idle_s = time.process_time() - began
print(json.dumps({"threads": executor.machine.threads, "share": executor.share, "idle_s": idle_s,
                  "torch": "torch" in sys.modules}))
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a small network."""
    made = tmp_path_factory.mktemp("bundles") / "x.bundle"
    bundles.write(made, *bundles.traced_of(bundles.Chain(), (1, 3, 64, 64)))
    return made


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group with a quota."""
    controller = cgroup.find() if os.geteuid() == 0 else None
    if controller is None:
        pytest.skip("needs root, and a control group of processor time that can be written")
    folder = controller.top / f"edge-cloud-test-{os.getpid()}"
    folder.mkdir()
    try:
        if controller.version == 2:
            (folder / "cpu.max").write_text(f"{int(QUOTA * PERIOD_US)} {PERIOD_US}")
        else:
            (folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (folder / "cpu.cfs_quota_us").write_text(str(int(QUOTA * PERIOD_US)))
        yield folder
    finally:
        folder.rmdir()


def _run(path: Path, *before: str) -> dict[str, Any]:
    command = [*before, sys.executable, "-c", CHILD, str(path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LONG_S, check=False)
    assert run.returncode == 0, run.stderr
    document: dict[str, Any] = json.loads(run.stdout)
    return document


def test_under_a_quota_there_is_one_thread_and_nothing_spins(path: Path, group: Path) -> None:
    found = _run(path, "sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh")
    assert found["threads"] == 1
    assert found["share"] == pytest.approx(QUOTA)
    assert found["idle_s"] < 0.05  # a thread that spins would have used 0.18
    assert not found["torch"]


def test_on_one_processor_there_is_one_thread_and_nothing_spins(path: Path) -> None:
    if shutil.which("taskset") is None:
        pytest.skip("needs taskset")
    found = _run(path, "taskset", "-c", "0")
    assert found["threads"] == 1
    assert found["share"] == 1
    assert found["idle_s"] < 0.05
