"""Installs Python packages into a directory with pip, and shows progress, also in logs.

Runs before anything is installed, so it needs Python alone: `python3 utils/install.py .venv requirements.txt`.
"""

import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

QUIET_S = 1.5
"""After so long without a line there is one of ours."""
WIDTH = 79
PIP = ("-m", "pip", "install", "--disable-pip-version-check", "--no-compile", "--progress-bar", "off", "-r")
"""What is imported is compiled then; compiling all that is installed takes longer than everything else."""


def main(arguments: Sequence[str]) -> int:
    """Make the folder where there is none, and install what the files name; returns the exit code."""
    folder, *files = map(Path, arguments)
    python = folder / "bin" / "python"
    commands = [] if python.exists() else [[sys.executable, "-m", "venv", str(folder)]]
    commands += [[str(python), *PIP, str(file)] for file in files]
    began = time.monotonic()
    for command in commands:
        code = shown(command, lambda: f"{time.monotonic() - began:.0f} s, {_packages(folder)} packages in {folder}")
        if code:
            return code
    _tell(f"ready after {time.monotonic() - began:.0f} s: {_packages(folder)} packages in {folder}", lasts=True)
    return 0


def shown(command: Sequence[str], state: Callable[[], str], quiet_s: float = QUIET_S) -> int:
    """Run a command, its lines cut to the width of a terminal; where it is silent, tell the `state`.

    Returns its exit code.
    """
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        threading.Thread(target=_read, args=(process, lines), daemon=True).start()
        while True:
            try:
                line = lines.get(timeout=quiet_s)
            except queue.Empty:
                _tell(f"... {state()}", lasts=False)
                continue
            if line is None:
                return process.wait()
            if "already satisfied" not in line:
                _tell(line.rstrip(), lasts=True)


def _read(process: "subprocess.Popen[str]", lines: "queue.SimpleQueue[str | None]") -> None:
    assert process.stdout is not None  # asked for
    for line in process.stdout:
        lines.put(line)
    lines.put(None)


def _packages(folder: Path) -> int:
    """How many there are by now."""
    return len(list(folder.glob("lib/python*/site-packages/*.dist-info")))


def _tell(text: str, *, lasts: bool) -> None:
    """A line; on a terminal one that does not last is written over by the next."""
    is_terminal = sys.stdout.isatty()
    text = text if lasts and ("error" in text.lower() or len(text) <= WIDTH) else text[:WIDTH]
    before = "\r\x1b[K" if is_terminal else ""
    sys.stdout.write(f"{before}{text}" if is_terminal and not lasts else f"{before}{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
