"""What a process gives up before it runs what somebody sent: files, the network, other processes, memory without end.

Linux only, as far as it is there; what a system does not have is left out, and told. Threads that are started later
have the same limits.
"""

import contextlib
import ctypes
import os
import platform
import resource
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgecloud.utils.niceness import put_behind

NOBODY = 65534
KILLED_FIRST = b"1000"  # where memory runs out
PAGE = os.sysconf("SC_PAGESIZE")

_DUMPABLE, _NO_NEW_PRIVS = 4, 38
_SET_FILTER, _ALL_THREADS = 1, 1
_NEW_NET, _NEW_IPC = 0x40000000, 0x08000000
WATCH_S = 1.0

_LOAD, _EQUALS, _LEAST, _SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
"""BPF: load a word, jump if equal, if not below, if a bit is set."""
_ALLOW, _REFUSE, _ABSENT, _KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000  # EPERM, ENOSYS
_NUMBER_AT, _ARCH_AT, _FIRST_AT = 0, 4, 16
_CLONE_THREAD = 0x00010000
_CLONE3 = 435
_OTHER_NAMES = 0x40000000
"""From here on x86-64 has other numbers for the same calls (x32)."""

_X86 = (
    # execve execveat socket connect bind ptrace fork vfork kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo
    *(59, 322, 41, 42, 49, 101, 57, 58, 62, 200, 234, 129, 297),
    # open openat openat2 creat unlink unlinkat rename renameat renameat2 truncate ftruncate mkdir mkdirat rmdir
    *(2, 257, 437, 85, 87, 263, 82, 264, 316, 76, 77, 83, 258, 84),
    # chmod fchmod fchmodat chown fchown lchown fchownat link linkat symlink symlinkat mknod mknodat mount setxattr
    *(90, 91, 268, 92, 93, 94, 260, 86, 265, 88, 266, 133, 259, 165, 188),
    # process_vm_readv process_vm_writev bpf keyctl add_key request_key io_uring_setup unshare setns pidfd_open
    *(310, 311, 321, 250, 248, 249, 425, 272, 308, 434),
    # pidfd_getfd userfaultfd perf_event_open chroot pivot_root open_by_handle_at setpriority sched_setscheduler
    *(438, 323, 298, 161, 155, 304, 141, 144),
)
_ARM = (
    *(221, 281, 198, 203, 200, 117, 129, 130, 131, 138, 240),
    *(56, 437, 35, 38, 276, 45, 46, 34),
    *(52, 53, 54, 55, 37, 36, 33, 40, 5),
    *(270, 271, 280, 219, 217, 218, 425, 97, 268, 434),
    *(438, 282, 241, 51, 41, 265, 140, 119),
)


@dataclass(frozen=True)
class _System:
    """What calls are called on a kind of processor."""

    arch: int
    clone: int
    seccomp: int
    refused: tuple[int, ...]


_SYSTEMS = {
    "x86_64": _System(0xC000003E, 56, 317, _X86),
    "aarch64": _System(0xC00000B7, 220, 277, _ARM),
}


def limit_memory(more_bytes: int) -> None:
    """From now on this process may take so many bytes more of address space, where the system tells what it has taken,
    and write no file and no core dump."""
    with contextlib.suppress(OSError):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * PAGE
        resource.setrlimit(resource.RLIMIT_AS, (used + more_bytes, used + more_bytes))
    for what in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(what, (0, 0))


def step_back(pid: int) -> None:
    """Let a process that has just started compute behind all others, and be the first to go where memory runs out."""
    with contextlib.suppress(OSError):
        put_behind(pid)
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_bytes(KILLED_FIRST)


def confine() -> tuple[str, ...]:
    """Give up everything but computing and the files that are open. Returns what this system did not allow to give up.

    The caller has one thread. To be called when all is imported and open that will be needed.
    """
    steps: dict[str, Callable[[], bool]] = {
        "the network": _leave_network,
        "the user": _become_nobody,
        "privileges": lambda: _prctl(_NO_NEW_PRIVS, 1),
        "traces": lambda: _prctl(_DUMPABLE, 0),
        "system calls": _refuse_calls,
    }
    return tuple(name for name, step in steps.items() if not step())


def end_with(parent: int) -> None:
    """End when the process that started this one has ended, whatever is being computed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_S)
        os._exit(1)

    threading.Thread(target=watch, name="watches", daemon=True).start()


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _prctl(what: int, value: int) -> bool:
    try:
        return int(_libc().prctl(what, ctypes.c_ulong(value), 0, 0, 0)) == 0
    except (OSError, AttributeError):
        return False


def _leave_network() -> bool:
    """As root only; else the calls are refused."""
    try:
        return int(_libc().unshare(_NEW_NET | _NEW_IPC)) == 0
    except (OSError, AttributeError):
        return False


def _become_nobody() -> bool:
    """Where this is root, or in a container who looks like it."""
    if os.geteuid() != 0:
        return False
    try:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    except OSError:
        return False
    return True


def _refuse_calls() -> bool:
    """seccomp: what could reach files, the network or other processes fails; threads may be started."""
    system = _SYSTEMS.get(platform.machine())
    if system is None:
        return False
    program = _program(system)
    code = ctypes.create_string_buffer(program, len(program))
    about = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code)))
    try:
        return int(_libc().syscall(system.seccomp, _SET_FILTER, _ALL_THREADS, about)) == 0
    except (OSError, AttributeError):
        return False


def _program(system: _System) -> bytes:
    """One decision after the other; a jump counts the instructions that it leaves out."""
    steps = [(_LOAD, 0, 0, _ARCH_AT), (_EQUALS, 1, 0, system.arch), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, _NUMBER_AT)]
    steps += [(_LEAST, 0, 1, _OTHER_NAMES), (_RETURN, 0, 0, _ABSENT)]
    for number in system.refused:
        steps += [(_EQUALS, 0, 1, number), (_RETURN, 0, 0, _REFUSE)]
    steps += [(_EQUALS, 0, 1, _CLONE3), (_RETURN, 0, 0, _ABSENT)]  # the C library then takes clone
    steps += [(_EQUALS, 0, 3, system.clone), (_LOAD, 0, 0, _FIRST_AT), (_SET, 1, 0, _CLONE_THREAD)]
    steps += [(_RETURN, 0, 0, _REFUSE), (_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
