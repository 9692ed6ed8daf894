"""Timing: clocks, threads, and the device names in records. Torch is imported by who asks for a device of torch."""

import contextlib
import ctypes
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from edgecloud.utils.cpu_limit import cpu_limit
from edgecloud.utils.errors import UsageError
from edgecloud.utils.extras import require_torch

if TYPE_CHECKING:
    import torch

Clock = Callable[[], float]
CPU = "cpu"


def _cuda_clock() -> float:
    import torch

    torch.cuda.synchronize()
    return time.perf_counter()


def _mps_clock() -> float:
    import torch

    torch.mps.synchronize()
    return time.perf_counter()


def _use_full_float32() -> None:
    """cuDNN's default rounds what a convolution reads to the 10 bits of TF32, which changes answers by 1e-3."""
    import torch

    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def _check_cuda(device: "torch.device") -> None:
    import torch

    if not torch.cuda.is_available():
        raise UsageError("no CUDA device available: use -d cpu, or install a CUDA build of torch")
    if (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"no device {device}: this machine has {torch.cuda.device_count()} CUDA devices")


def _check_mps(device: "torch.device") -> None:
    import torch

    if not torch.backends.mps.is_available():
        raise UsageError("no MPS device available: use -d cpu")


@cache
def processor_name() -> str:
    """What the processor calls itself.

    Read once: it stays the same, and a cloud may have no file descriptor left when it is asked.
    """
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            field, _, value = line.partition(":")
            if field.strip() in ("model name", "Model", "Hardware"):
                return value.strip()
    return platform.processor() or platform.machine()


def _cuda_name(device: "torch.device") -> str:
    import torch

    name: str = torch.cuda.get_device_name(device)
    return name


@dataclass(frozen=True)
class _Kind:
    """One kind of device."""

    clock: Clock
    """Read when the device has finished what it was given."""
    check: "Callable[[torch.device], None]"
    """Raises UsageError where this machine has no such device."""
    name: "Callable[[torch.device], str]"
    prepare: Callable[[], None] = lambda: None
    """Settings of this process without which float32 is not computed as float32."""


_KINDS: dict[str, _Kind] = {
    "cpu": _Kind(time.perf_counter, lambda _: None, lambda _: processor_name()),
    "cuda": _Kind(_cuda_clock, _check_cuda, _cuda_name, _use_full_float32),
    "mps": _Kind(_mps_clock, _check_mps, lambda _: processor_name()),
}


def wall_clock(device: "torch.device") -> Clock:
    """The wall clock for work on a device, which waits for what an accelerator is doing. Seconds; only differences
    mean anything."""
    return _KINDS[device.type].clock


def check_device(name: str) -> None:
    """Raises UsageError for a `--device` that is unknown or absent. Every machine has its processor."""
    if name != CPU:
        find_device(name)


def find_device(name: str) -> "torch.device":
    """Read a `--device`. Raises UsageError for one that is unknown or absent; it never falls back to another."""
    require_torch(f"device {name!r}", "without it only the processor computes: use -d cpu, which runs bundles")
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device {name!r}: use cpu, cuda, cuda:1 or mps") from None
    if device.type not in _KINDS:
        raise UsageError(f"device {name!r} is not supported: use cpu, cuda or mps")
    _KINDS[device.type].check(device)
    return device


def prepare_device(device: "torch.device") -> None:
    """Make a device compute float32 as float32, in this process, as the other side does."""
    _KINDS[device.type].prepare()


def device_name(device: "torch.device") -> str:
    """What the hardware calls itself."""
    return _KINDS[device.type].name(device)


def work_clock() -> float:
    """Seconds of work of this thread: what a slower device would take longer for. Waiting does not count."""
    return time.thread_time()


def waited_s() -> float:
    """Seconds that threads of this process were ready to run and had no processor; 0 where the system keeps none."""
    waited = 0
    for path in Path("/proc/self/task").glob("*/schedstat"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # a thread that has ended
            waited += int(path.read_text().split()[1])
    return waited / 1e9


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_KEEP_BYTES, _FROM_HEAP_BYTES = 1 << 30, 32 << 20


@cache
def keep_freed_memory() -> bool:
    """Tell the C library to keep what is freed for the next tensor, instead of giving it back to the system at once.

    Otherwise every large output may be made of fresh pages, each of which the kernel has to clear first: in a process
    that runs a short head or tail, layers then take up to ten times as long. False where the library cannot be told.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(_MMAP_THRESHOLD, _FROM_HEAP_BYTES) and mallopt(_TRIM_THRESHOLD, _KEEP_BYTES))
    except (AttributeError, OSError, TypeError):  # not glibc
        return False


_waiting: int | None = None
"""Threads that were asked for before there was a torch to be told."""


def set_threads(threads: int | None) -> int:
    """Set how many threads one operation uses, in this process; returns the number in force.

    Where nobody says how many, and a quota allows fewer cores than there are, as many as it has whole cores: more would
    use it up sooner and then all stand still. Torch is not imported for it: it is told now, or by `tell_torch`.
    """
    global _waiting
    limit = cpu_limit() if threads is None else None
    if limit is not None and limit.cores < threads_in_force():
        threads = max(1, int(limit.cores))
    _waiting = _waiting if threads is None else threads
    if "torch" in sys.modules:
        tell_torch()
    return threads_in_force()


def tell_torch() -> None:
    """Give torch the number of threads that was asked for; called by who has imported it, before it computes."""
    import torch

    global _waiting
    _at_start()
    if _waiting is not None:
        torch.set_num_threads(_waiting)
    _waiting = None


def threads_in_force() -> int:
    """How many threads one operation uses: torch's number once it is there, else what was asked for, or every core."""
    torch = sys.modules.get("torch")
    if _waiting is not None or torch is None:
        return _waiting or available_cores()
    threads: int = torch.get_num_threads()
    return threads


@cache
def _at_start() -> int:
    import torch

    return torch.get_num_threads()


def usual_threads() -> int:
    """What `set_threads(None)` gives in a program of this machine that sets nothing."""
    limit = cpu_limit()
    return _at_start() if limit is None else min(_at_start(), max(1, int(limit.cores)))


def available_cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
