"""From the start of an edge to its answer: with torch, and without it.

    make edge
    python -m benchmarks.startup [--rounds N] [--network NAME] [--edge-python .venv-edge/bin/python]

A cloud that computes with torch runs on this machine, and knows the network. In turns an edge with torch runs the
network, one without torch runs its bundle, and a script of a few lines runs the same bundle in a session of ONNX
Runtime, with no cloud: what no edge can be faster than. Times of the layers are cached, as from the second call on.
Each is a process of its own, from its start to its end; memory is its peak. Only what the installation needs is
counted for its size, and of torch the build that is installed here.
"""

import argparse
import os
import select
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.clouds import running_cloud
from benchmarks.fingerprint import write_table
from benchmarks.noise import Figure, Versus
from edgecloud.tools import export
from edgecloud.utils.commands import ROOT

NETWORK, ROUNDS, LOOK_MS = "mobile_net", 7, 10
TIMES_SOONER, MOST_MB, MOST_INSTALLED_MB = 5.0, 150.0, 350.0
BARE = """
import sys
from pathlib import Path
from edgecloud.models import bundle
from edgecloud.models.onnx_session import OnnxPart
opened = bundle.read(Path(sys.argv[1]))
print(OnnxPart(opened, opened.graph.everything, 1)([opened.fed])[0].argmax())
"""


@dataclass(frozen=True)
class Ended:
    """One process: seconds from its start to its end, and the most memory that it held."""

    seconds: float
    megabytes: float


def ended(command: Sequence[str]) -> Ended:
    """Run a program. Raises CalledProcessError where it fails.

    Its peak is read while it runs: what the system counts for a child that has ended begins with its parent's memory.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, env=environment)
    peak_kb, over = 0, select.poll()
    end = os.pidfd_open(process.pid)
    over.register(end, select.POLLIN)
    while not over.poll(LOOK_MS):
        peak_kb = max(peak_kb, _peak_kb(process.pid))
    seconds = time.perf_counter() - began
    os.close(end)
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, command)
    return Ended(seconds, peak_kb / 1024)


def ended_with_known_times(command: Sequence[str], profiles: Path) -> Ended:
    """Run a program until it measures no layers: it does so again where the machine was busy when it did so before."""
    while True:
        before = _written(profiles)
        run = ended(command)
        if _written(profiles) == before:
            return run


def _written(folder: Path) -> dict[Path, int]:
    """The files there, and when they were written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("*.json")}


def _peak_kb(process: int) -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def installed_mb(python: str) -> float:
    """What is installed for an interpreter, without pip and without compiled files, which Python makes by itself."""
    folder = Path(sysconfig.get_path("purelib"))
    if python != sys.executable:
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        folder = Path(subprocess.check_output([python, "-c", code], text=True).strip())
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and path.suffix != ".pyc")
    return sum(path.stat().st_size for path in files if path.relative_to(folder).parts[0][:3] != "pip") / 1e6


def measured(network: str, edge_python: str, rounds: int) -> dict[str, list[Ended]]:
    """Every kind of edge in turns, after one call of each that is not counted: files are read, times measured."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = str(folder / f"{network}.bundle")
        export.export(network, "default", Path(bundle), lambda _what, _done: None)
        with running_cloud(folder / "cloud", "-t", network) as cloud:
            end = ["-i", "127.0.0.1", "-p", str(cloud.port), "--cache-dir", str(folder / "edge")]
            commands = {
                "torch": [sys.executable, "edge_api.py", "-t", network, *end],
                "without torch": [edge_python, "edge_api.py", "-t", bundle, *end],
                "bare script": [edge_python, "-c", BARE, bundle],
            }
            runs: dict[str, list[Ended]] = {kind: [] for kind in commands}
            for count in range(1 + rounds):
                for kind, command in commands.items():
                    run = ended_with_known_times(command, folder / "edge" / "profiles")
                    print(f"{kind}: {run.seconds:.2f} s, {run.megabytes:.0f} MB", file=sys.stderr)
                    if count:
                        runs[kind].append(run)
    return runs


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write benchmarks/results/startup.md; 1 where a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--network", default=NETWORK, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N")
    parser.add_argument("--edge-python", default=str(ROOT / ".venv-edge" / "bin" / "python"), metavar="FILE")
    options = parser.parse_args(argv)
    runs = measured(options.network, options.edge_python, options.rounds)
    seconds = {kind: [run.seconds for run in each] for kind, each in runs.items()}
    sizes = {"torch": installed_mb(sys.executable), "without torch": installed_mb(options.edge_python)}
    light_mb = max(run.megabytes for run in runs["without torch"])
    rows = [
        [
            kind,
            f"{Figure.of(seconds[kind])} s",
            f"{Figure.of([run.megabytes for run in each])} MB",
            f"{sizes[kind]:.0f} MB" if kind in sizes else "",
        ]
        for kind, each in runs.items()
    ]
    sooner = Versus.of(seconds["torch"], seconds["without torch"])
    notes = [
        f"{options.network}, {options.rounds} runs of each in turns, ± is half of what the middle half of them spans.",
        "",
        f"Without torch the answer comes {sooner} times sooner; at least {TIMES_SOONER:g} is the target: "
        f"{_met(sooner.ratio.value >= TIMES_SOONER)}.",
        f"Peak memory without torch at most {light_mb:.0f} MB; at most {MOST_MB:g} MB is the target: "
        f"{_met(light_mb <= MOST_MB)}.",
        f"Installed without torch {sizes['without torch']:.0f} MB; at most {MOST_INSTALLED_MB:g} MB is the target: "
        f"{_met(sizes['without torch'] <= MOST_INSTALLED_MB)}.",
    ]
    head = ["edge", "start to answer", "peak memory", "installed"]
    write_table("startup", "From the start of an edge to its answer", head, rows, notes)
    return int(sooner.ratio.value < TIMES_SOONER or light_mb > MOST_MB or sizes["without torch"] > MOST_INSTALLED_MB)


def _met(is_met: bool) -> str:
    return "met" if is_met else "MISSED"


if __name__ == "__main__":
    sys.exit(main())
