"""Workers as child processes of the gateway, each on a socket in a folder that only this user may enter."""

import contextlib
import logging
import os
import secrets
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgecloud.server.placement import Setup, WorkerAddress
from edgecloud.utils.commands import command_of
from edgecloud.utils.environment import SECRET, without_settings
from edgecloud.utils.errors import AppError, UsageError
from edgecloud.utils.inference_utils import available_cores

log = logging.getLogger(__name__)

WAKING_S = 10.0
LEAST_PAUSE_S, MOST_PAUSE_S = 0.25, 30.0
START_S, LOOK_S = 60.0, 0.05
SPARE_S, LINGER_S = 5.0, 3.0
STEADY_S = 60.0
"""One that ran for so long has not failed to start: the next one is not waited for."""
PROGRAM = "cloud_api.py"
DRIVERS = Path("/proc/driver/nvidia/gpus")


@dataclass(eq=False)
class _Slot:
    """The place of one worker: its process, and when there may be another one."""

    number: int
    process: "subprocess.Popen[bytes] | None" = None
    name: str = ""
    begun_at: float = 0.0
    ended_at: float = 0.0
    starts: int = 0
    pause_s: float = 0.0
    again_at: float = 0.0


@dataclass
class LocalPlacement:
    """`wanted` child processes. It may be changed at any time: missing ones are started, the others ended."""

    wanted: int
    setup: Setup
    waking_s: float = WAKING_S
    _slots: list[_Slot] = field(default_factory=list)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _is_closed: bool = False
    _folder: Path | None = None
    _token: str = field(default="", repr=False)

    def start(self) -> None:
        """Start them, and wait for the first. Raises AppError where there is no place for their sockets, and UsageError
        where they cannot do what they were told: one of them has said why."""
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="edge-cloud-workers-"))  # 0700
        except OSError as error:
            raise AppError(f"no folder for the sockets of workers: {error.strerror}") from None
        self._token = secrets.token_urlsafe(32)
        self._watch()
        self._await_first()

    def _await_first(self) -> None:
        until = time.monotonic() + START_S
        slots = list(self._slots)
        while slots and time.monotonic() < until and not any(self._path(slot.name).exists() for slot in slots):
            if any(slot.process is not None and slot.process.poll() == UsageError.exit_code for slot in slots):
                raise UsageError("the workers cannot be started: see the line of cloud_api.py above")
            time.sleep(LOOK_S)

    def addresses(self) -> Sequence[WorkerAddress]:
        """Those that run. What has ended is started again, a little later each time."""
        with self._lock:
            self._watch()
            running = [slot for slot in self._slots if slot.process is not None]
            return [WorkerAddress(slot.name, f"unix:{self._path(slot.name)}", 0, self._token) for slot in running]

    def lost(self, name: str) -> None:
        """End it: it hangs, or is gone."""
        with self._lock:
            for slot in self._slots:
                if slot.name == name and slot.process is not None:
                    self._end(slot, 0.0)
                    self._ended(slot)

    def close(self, seconds: float) -> None:
        """End all, those at once that do not go by themselves."""
        with self._lock:
            self._is_closed = True
            slots, self._slots = self._slots, []
        for slot in slots:
            self._ask_to_end(slot)
        until = time.monotonic() + seconds
        for slot in slots:
            self._end(slot, max(0.0, until - time.monotonic()))
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    # --- with the lock

    def _watch(self) -> None:
        if self._is_closed:
            return
        while len(self._slots) < self.wanted:
            self._slots.append(_Slot(len(self._slots)))
        while len(self._slots) > max(0, self.wanted):
            slot = self._slots.pop()
            self._ask_to_end(slot)
            ends = (slot, self.setup.drain_s + SPARE_S)
            threading.Thread(target=self._end, args=ends, name=f"ends {slot.name}", daemon=True).start()
        for slot in self._slots:
            self._look_whether_ended(slot)
            if slot.process is None and time.monotonic() >= slot.again_at:
                self._begin(slot)

    def _look_whether_ended(self, slot: _Slot) -> None:
        """One that had begun to listen stays named for a moment: the gateway finds out, and says that it is lost."""
        if slot.process is None or slot.process.poll() is None:
            return
        now = time.monotonic()
        if not slot.ended_at:
            slot.ended_at = now
            log.warning("! worker %s has ended: %s", slot.name, _how(slot.process.returncode))
        if now - slot.ended_at > LINGER_S or not self._path(slot.name).exists():
            self._ended(slot)

    def _begin(self, slot: _Slot) -> None:
        slot.starts += 1
        slot.name = f"local-{slot.number}-{slot.starts}"
        slot.begun_at, slot.ended_at = time.monotonic(), 0.0
        try:
            slot.process = subprocess.Popen(
                command_of(self._arguments(slot)),
                stdin=subprocess.PIPE,  # it ends when the system closes this: with us, however we end
                stdout=subprocess.DEVNULL,
                env=without_settings(os.environ) | {SECRET: self._token},  # not that of our clients
                start_new_session=True,  # Ctrl-C in a terminal reaches only us
            )
        except OSError as error:
            log.warning("! worker %s cannot be started: %s", slot.name, error.strerror)
            self._ended(slot)

    def _arguments(self, slot: _Slot) -> list[str]:
        threads = self.setup.threads or max(1, available_cores() // max(1, self.wanted))
        place = ["-i", f"unix:{self._path(slot.name)}", "--threads", str(threads)]
        device = device_of(self.setup.device, slot.number, gpus())
        return [PROGRAM, "--worker", "--quiet", "--exit-on-stdin-eof", *place, "-d", device, *self.setup.arguments]

    def _ended(self, slot: _Slot) -> None:
        was_steady = time.monotonic() - slot.begun_at > STEADY_S
        slot.pause_s = LEAST_PAUSE_S if was_steady else min(MOST_PAUSE_S, max(LEAST_PAUSE_S, 2 * slot.pause_s))
        slot.again_at = time.monotonic() + slot.pause_s
        if slot.process is not None:
            _close(slot.process)
        slot.process = None
        with contextlib.suppress(OSError):
            self._path(slot.name).unlink()

    def _path(self, name: str) -> Path:
        return (self._folder or Path()) / name

    # --- without

    def _ask_to_end(self, slot: _Slot) -> None:
        if slot.process is not None:
            with contextlib.suppress(OSError):
                slot.process.terminate()

    def _end(self, slot: _Slot, seconds: float) -> None:
        """Wait for it, and kill it if it does not go."""
        process = slot.process
        if process is None:
            return
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _close(process)
        with contextlib.suppress(OSError):
            self._path(slot.name).unlink()


def _close(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(OSError):
        if process.stdin is not None:
            process.stdin.close()


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def device_of(device: str, number: int, count: int) -> str:
    """The device of one worker: where there are several GPUs and none is named, each has its own."""
    return f"{device}:{number % count}" if device == "cuda" and count > 1 else device


def gpus() -> int:
    """How many CUDA devices there are, as far as can be told without torch."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return len([name for name in named.split(",") if name.strip()])
    with contextlib.suppress(OSError):
        return len(list(DRIVERS.iterdir()))
    return 0
