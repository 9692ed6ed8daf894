"""Starts our programs as copies of a process that has loaded torch already: to load it takes 3 s of a processor.

They are real programs all the same. Each is a process of its own and a child of the test, with its own command line,
environment, folder, streams, session and exit code, and runs its file as `__main__` from the first line on. What it
does not do again is to start Python and to load what is named here. Everything else is started as usual: `-c`, `-I` and
whatever else Python is told, another interpreter, another user, an environment with other words for Python or a
library. `COLD=1` in the environment starts programs as usual, and so does measuring what the tests cover.

`subprocess.Popen` asks the process that is copied, over a socket; that one forks twice. The process in between ends at
once, and Linux gives what it has started to the nearest ancestor that asks for such: to the test. Each copy has such a
process of its own, made before there is a thread, for the programs that it starts itself.
"""

import ctypes
import fcntl
import gc
import importlib
import inspect
import io
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from edgecloud.utils.commands import AS_MODULE, ROOT

LIBRARIES = ("scipy.optimize", "scipy.sparse", "PIL.Image", "safetensors.torch", "zstandard", "yaml", "rich.progress")
OURS = (
    "client.inference",
    "client.points",
    "engine.torch_executor",
    "library.edge",
    "models.torch_network",
    "partition.decide",
    "server.cloud",
    "tasks.task_runner",
)
"""What the programs load once they have read their arguments; none of it is a program."""
THREADS = ("GOMP_", "KMP_", "MKL_", "OMP_", "OPENBLAS_")
READ_ONCE = ("COVERAGE_", "LANG", "LC_", "LD_", "MALLOC_", "PYTHON", "TORCH", *THREADS)
"""How the variables begin that Python or a library reads when it starts, and not again."""
SET_LATER = {"TORCHINDUCTOR_CACHE_DIR", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK"}
"""But for what torch sets itself when it exports, and looks up each time, and scikit-learn when it is imported, for an
OpenMP that torch has not. From then on no program could be a copy."""
UNUSUAL = ("executable", "preexec_fn", "pass_fds", "shell", "gid", "gids", "uid")
ROOM = 1 << 12
"""Bytes for the command line of a copy, and as many more for its environment."""
ASIDE = 200
"""From this number on a copy holds the one file that it would not have as usual."""
SET_CHILD_SUBREAPER = 36
SERVES = b"from tests import warm; warm.serve"
MOST_BYTES, START_S, TURN_S = 1 << 17, 120.0, 0.001


def is_wanted() -> bool:
    """Whether this system has what that needs, and nothing speaks against it."""
    is_measured = "coverage" in sys.modules or any(name.startswith("COVERAGE_") for name in os.environ)
    if sys.platform != "linux" or os.environ.get("COLD") == "1" or is_measured:
        return False
    try:
        with _taking_orphans():
            return True
    except OSError:
        return False


def read_once(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that have to be what they were when the process to be copied was started."""
    found = {name: value for name, value in environment.items() if name.startswith(READ_ONCE)}
    return {name: value for name, value in found.items() if name not in SET_LATER}


def serves(pid: int) -> bool:
    """Whether that is no program but a process that is copied."""
    return SERVES in Path(f"/proc/{pid}/cmdline").read_bytes()


def is_ours(command: list[str], folder: Path) -> bool:
    """Whether it starts a program of this project, as a user or the project itself does."""
    match command:
        case [sys.executable, "-m", module, *_]:
            return folder == ROOT and module.split(".")[0] in ("lab", "edgecloud", "benchmarks")
        case [sys.executable, "-c", code, root, *_]:
            return code == AS_MODULE and root == str(ROOT)
        case [sys.executable, script, *_]:
            return script.endswith(".py") and (folder / script).parent == ROOT
    return False


class Starter:
    """Asks for copies of a process, which is started with the first of them."""

    def __init__(self, sock: socket.socket | None = None) -> None:
        """`sock` leads to a process that is there already."""
        self._then = (read_once(os.environ), os.sched_getaffinity(0))
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._sock = sock

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Meanwhile `subprocess` starts our programs in this way."""
        usual = subprocess.Popen._execute_child  # type: ignore[attr-defined]
        order = inspect.signature(usual)

        def start(process: "subprocess.Popen[Any]", *args: Any) -> None:
            asked = order.bind(process, *args).arguments
            request = self.request(asked)
            if request is None:
                usual(process, *args)
                return
            process.pid = self.start(request, [asked[end] for end in ("p2cread", "c2pwrite", "errwrite")])
            process._child_created = True  # type: ignore[attr-defined]
            ends = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
            process._close_pipe_fds(*(asked[end] for end in ends))  # type: ignore[attr-defined]

        subprocess.Popen._execute_child = start  # type: ignore[attr-defined]
        try:
            yield
        finally:
            subprocess.Popen._execute_child = usual  # type: ignore[attr-defined]
            self._close()

    def request(self, asked: Mapping[str, Any]) -> dict[str, Any] | None:
        """What a copy has to know; None where it would differ from the program that `subprocess.Popen` is asked for."""
        environment = dict(os.environ if asked["env"] is None else asked["env"])
        command, folder = asked["args"], Path(asked["cwd"] or ".").absolute()
        if (
            not isinstance(command, list)
            or not all(isinstance(word, str) for word in (*command, *environment, *environment.values()))
            or any(asked[name] for name in UNUSUAL)
            or not asked["close_fds"]
            or asked["umask"] != -1
            or not (is_ours(command, folder) and folder.is_dir())
            or (read_once(environment), os.sched_getaffinity(0)) != self._then
            or len(_in_memory(command)) > ROOM
            or environment.get("COLD") == "1"
        ):
            return None
        return {
            "command": command,
            "folder": str(folder),
            "environment": environment,
            "session": asked["start_new_session"],
            "group": asked["process_group"],
            "ignores_interrupts": signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
        }

    def start(self, request: dict[str, Any], streams: list[int]) -> int:
        """The number of a new process, which is our child. -1 as a stream is our own one."""
        files = [number if theirs == -1 else theirs for number, theirs in enumerate(streams)]
        with self._lock, _taking_orphans():
            if self._sock is None:
                self._sock = self._first()
            socket.send_fds(self._sock, [json.dumps(request).encode()], files)
            return int(self._sock.recv(MOST_BYTES))

    def _first(self) -> socket.socket:
        here, there = _pair()
        code = f"{SERVES.decode()}({there.fileno()})"
        with there:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code, "-" * ROOM],
                cwd=ROOT,
                env=os.environ | self._then[0] | {"ROOM": "-" * ROOM},
                pass_fds=[there.fileno()],
            )
        return here

    def _close(self) -> None:
        """End the process; its copies go on."""
        if self._sock is not None:
            self._sock.close()
        if self._process is not None:
            self._process.wait(START_S)


def _pair() -> tuple[socket.socket, socket.socket]:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    here.settimeout(START_S)
    return here, there


@contextmanager
def _taking_orphans() -> Iterator[None]:
    """Whoever has lost its parent becomes our child, for as long as this lasts."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    try:
        yield
    finally:
        prctl(SET_CHILD_SUBREAPER, 0, 0, 0, 0)


# --- the process that is copied, and the copies


def serve(number: int) -> None:
    """Start a copy for each request, until nobody can ask any more. Comes back in a copy only, as its program."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a terminal; it ends with whom it serves
    from edgecloud.models import vision

    vision.torchvision()
    for name in (*LIBRARIES, *(f"edgecloud.{name}" for name in OURS)):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what is never looked at again stays shared
    sock = socket.socket(fileno=number)
    while True:
        data, files, _, _ = socket.recv_fds(sock, MOST_BYTES, 3)
        if not data:
            os._exit(0)
        if _fork_twice():
            request = json.loads(data)
            here, there = _join(request)
            if os.fork():
                there.close()
                try:
                    _become(request, files)
                finally:
                    sock.send(str(os.getpid()).encode())
                    sock.close()
                with Starter(here).at_work():
                    return _run(request["command"], request["folder"])
            here.close()
            sock.close()
            sock = there  # this is the process that serves the copy
        for file in files:
            os.close(file)


def _fork_twice() -> bool:
    """Whether this is the new process, once it is the child of whoever has asked for it."""
    between = os.fork()
    if between:
        os.waitpid(between, 0)
        return False
    between = os.getpid()
    if os.fork():
        os._exit(0)
    while os.getppid() == between:
        time.sleep(TURN_S)
    return True


def _join(request: dict[str, Any]) -> tuple[socket.socket, socket.socket]:
    """The session and the group of a new process, and a way to ask the one that serves it."""
    if request["session"]:
        os.setsid()
    if request["group"] != -1:
        os.setpgid(0, request["group"])
    here, there = _pair()
    moved = socket.socket(fileno=fcntl.fcntl(here, fcntl.F_DUPFD_CLOEXEC, ASIDE))
    moved.settimeout(START_S)
    here.close()
    return moved, there


def _write(start: int, end: int, words: list[str]) -> None:
    """Put words where Linux looks for the command line, or the environment."""
    size = end - start
    ctypes.memmove(start, _in_memory(words)[:size].ljust(size, b"\0"), size)


def _in_memory(words: list[str]) -> bytes:
    return b"".join(os.fsencode(word) + b"\0" for word in words)


def _become(request: dict[str, Any], files: list[int]) -> None:
    """Take over what a new process is given."""
    os.environ.clear()  # each of them is then held somewhere else, and not where the first ones were
    os.environ.update(request["environment"])
    figures = [int(word) for word in Path("/proc/self/stat").read_text().rpartition(")")[2].split()[1:]]
    _write(figures[44], figures[45], request["command"])
    _write(figures[46], figures[47], [f"{name}={value}" for name, value in request["environment"].items()])
    os.chdir(request["folder"])
    for standard, file in enumerate(files):
        os.dup2(file, standard)
        os.close(file)
    for name, mode in (("stdin", "rb"), ("stdout", "wb"), ("stderr", "wb")):
        _renew(name, mode)
    signal.signal(signal.SIGINT, signal.SIG_IGN if request["ignores_interrupts"] else signal.default_int_handler)


def _renew(name: str, mode: str) -> None:
    """A standard stream, as Python makes it for the file that it is now."""
    old = getattr(sys, name)
    is_bare = old.write_through and mode == "wb"  # PYTHONUNBUFFERED
    raw = open(old.fileno(), mode, 0 if is_bare else -1, closefd=False)  # noqa: SIM115  open to the end
    is_by_line = name == "stderr" or raw.isatty()
    new = io.TextIOWrapper(raw, old.encoding, old.errors, "\n", line_buffering=is_by_line, write_through=is_bare)
    setattr(sys, name, new)
    setattr(sys, f"__{name}__", new)


def _run(command: list[str], folder: str) -> None:
    """What Python does with its command line."""
    sys.orig_argv = command
    main = sys.modules["__main__"] = ModuleType("__main__")
    match command[1:]:
        case ["-m", name, *rest]:
            sys.argv, sys.path[0] = [name, *rest], folder
            runpy._run_module_as_main(name)  # type: ignore[attr-defined]
        case ["-c", code, *rest]:
            sys.argv, sys.path[0] = ["-c", *rest], ""
            exec(code, main.__dict__)
        case [script, *rest]:
            sys.argv, sys.path[0] = [script, *rest], str(Path(folder, script).parent)
            main.__file__ = str(Path(folder, script))
            exec(compile(Path(script).read_bytes(), main.__file__, "exec"), main.__dict__)
