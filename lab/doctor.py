"""python -m lab doctor: checks this machine for experiments, and how to fix what is missing."""

import argparse
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgecloud.cli import script
from edgecloud.lab import cgroup, hosts
from edgecloud.lab.environment import CONGESTION, congestion_control, version_of
from edgecloud.lab.reaper import MARK, leftovers, sweep
from edgecloud.lab.texts import now, padded, say
from edgecloud.lab.token_bucket import tbf
from edgecloud.utils import extras
from edgecloud.utils.cpu_limit import cpu_limit
from edgecloud.utils.names import is_installed, typed

ENOUGH_BYTES = 1 << 30
ENOUGH_CORES = 3
FINE_CLOCK_S = 1e-5
CLOCK = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
OK, MISSING, WARNING = "ok", "missing", "warning"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: str
    """`ok`, `missing` (a mode or a figure cannot be had) or `warning` (numbers may be worse)."""
    found: str
    to_do: str = ""
    needed_for: str = "hosts"
    """`both` modes, or only `hosts`."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Those of `lab doctor`."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--clean", action="store_true", help="remove leftovers of crashed experiments")
    parser.add_argument(
        "--out", type=Path, default=Path(), metavar="DIR", help="output directory to check for free space"
    )


def main(options: argparse.Namespace) -> int:
    """0 where at least the emulated mode works."""
    removed = sweep(_groups()) if options.clean else []
    findings = [check(options) for check in CHECKS]
    modes = [name for name in ("hosts", "emulated") if _works(name, findings)]
    if options.json:
        document: dict[str, Any] = {"modes": modes, "checks": [asdict(finding) for finding in findings]}
        script.say(json.dumps(document | {"removed": removed}))
    else:
        for name in removed:
            script.say(say("removed", name=name))
        for finding in findings:
            script.say(line_of(finding))
        script.say(say("modes", names=", ".join(modes) or say("no_modes")))
    return 0 if "emulated" in modes else 1


def line_of(finding: Finding) -> str:
    """For people, in the language that was chosen."""
    translated = now().translated
    advice = f"  -> {translated(finding.to_do)}" if finding.to_do else ""
    state, name = say(f"state_{finding.state}"), translated(finding.name)
    return f"{padded(state, 8)} {padded(name, 20)} {translated(finding.found)}{advice}"


def warnings(mode: str, out: Path) -> tuple[Finding, ...]:
    """What makes numbers that are measured now in a mode worse than they could be."""
    options = argparse.Namespace(out=out)
    findings = [check(options) for check in (*OF_NUMBERS, *((_netem,) if mode == "hosts" else ()))]
    return tuple(each for each in findings if each.state == WARNING)


def warning_line(finding: Finding) -> str:
    """One of them, as a line, in the language that was chosen."""
    translated = now().translated
    advice = say("advice", text=translated(finding.to_do)) if finding.to_do else ""
    return say("warning", name=translated(finding.name), found=translated(finding.found), advice=advice)


def _works(mode: str, findings: list[Finding]) -> bool:
    return not any(each.state == MISSING and each.needed_for in ("both", mode) for each in findings)


def _groups() -> tuple[Path, ...]:
    controller = cgroup.find()
    return () if controller is None else (controller.top,)


def _root(_: argparse.Namespace) -> Finding:
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    if is_root:
        return Finding("root", OK, "yes")
    return Finding("root", MISSING, "no", "hosts mode needs it: sudo; --mode emulated does not")


def _tools(_: argparse.Namespace) -> Finding:
    absent = [name for name in ("ip", "tc", "nsenter") if shutil.which(name) is None]
    if not absent:
        return Finding("ip, tc, nsenter", OK, "installed")
    return Finding("ip, tc, nsenter", MISSING, f"no {', '.join(absent)}", "apt install iproute2 util-linux")


def _namespaces(_: argparse.Namespace) -> Finding:
    problem = hosts.missing() or hosts.cannot()
    if not problem:
        return Finding("namespaces, tbf", OK, "can be made") if _qdisc("tbf") else _no_tbf()
    return Finding(
        "namespaces, tbf", MISSING, problem, "in a container: --privileged, or --cap-add NET_ADMIN,SYS_ADMIN"
    )


def _no_tbf() -> Finding:
    return Finding("namespaces, tbf", MISSING, "the kernel has no tbf", "modprobe sch_tbf")


def _netem(_: argparse.Namespace) -> Finding:
    if hosts.missing():
        return Finding("netem", WARNING, "not tried")
    if _qdisc("netem"):
        return Finding("netem", OK, "in the kernel")
    return Finding("netem", WARNING, "not in this kernel", "modprobe sch_netem; without it a relay adds round trips")


QDISCS = {"tbf": tbf(125_000.0), "netem": ("netem", "delay", "1ms")}


def _qdisc(name: str) -> bool:
    """Whether the kernel has it: try it in a namespace of its own."""
    mark = f"{MARK}{os.getpid()}-probe"
    lines = (["ip", "netns", "add", mark], ["tc", "-n", mark, "qdisc", "add", "dev", "lo", "root", *QDISCS[name]])
    try:
        return not any(subprocess.run(line, check=False, capture_output=True).returncode for line in lines)
    finally:
        subprocess.run(["ip", "netns", "del", mark], check=False, capture_output=True)


def _quota(_: argparse.Namespace) -> Finding:
    group = cgroup.find()
    if group is not None:
        return Finding("cgroup CPU quota", OK, f"version {group.version} at {group.top}")
    return Finding("cgroup CPU quota", MISSING, "none that can be written", "root, and in a container --privileged")


def _own_limit(_: argparse.Namespace) -> Finding:
    limit = cpu_limit()
    if limit is None:
        return Finding("own CPU limit", OK, "none", needed_for="both")
    text = f"{limit.cores:g} cores, every {limit.period_s * 1e3:g} ms"
    return Finding("own CPU limit", WARNING, text, "both sides run under it: raise it for experiments", "both")


def _cores(_: argparse.Namespace) -> Finding:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if count >= ENOUGH_CORES:
        return Finding("cores", OK, f"{count}: one for the edge, the others for the cloud", needed_for="both")
    return Finding("cores", WARNING, str(count), "edge and cloud disturb each other: use two machines", "both")


def _busy(_: argparse.Namespace) -> Finding:
    if not hasattr(os, "getloadavg"):
        return Finding("other work", WARNING, "unknown", needed_for="both")
    load = os.getloadavg()[0]
    if load < 1:
        return Finding("other work", OK, f"load {load:.2f}", needed_for="both")
    return Finding("other work", WARNING, f"load {load:.2f}", "stop other programs while you measure", "both")


def _clock(_: argparse.Namespace) -> Finding:
    source = CLOCK.read_text(encoding="ascii").strip() if CLOCK.exists() else "unknown"
    step_s = min(_tick(time.perf_counter) for _ in range(100))
    text = f"{source}, steps of {step_s * 1e9:.0f} ns"
    if step_s < FINE_CLOCK_S:
        return Finding("clock", OK, text, needed_for="both")
    return Finding("clock", WARNING, text, "too coarse for short layers: look at the clock source", "both")


def _tick(clock: Callable[[], float]) -> float:
    start = clock()
    while (now := clock()) == start:
        pass
    return now - start


def _threads(_: argparse.Namespace) -> Finding:
    settings = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ}
    text = ", ".join(f"{name}={value}" for name, value in settings.items()) or "not limited by the environment"
    return Finding(
        "threads", OK, f"{text}; the lab's edge has one, its cloud one for each of its cores", needed_for="both"
    )


def _needed() -> str:
    """What pip is to be told for what is missing."""
    return extras.PROJECT if is_installed() else "-r requirements.txt"


def _torch(_: argparse.Namespace) -> Finding:
    if version_of("torch") is None and version_of("onnxruntime") is not None:
        text = f"not installed; ONNX Runtime {version_of('onnxruntime')} runs bundles, made by deployment.py export"
        return Finding("torch", WARNING, text, f"-t FILE.bundle, or pip install {_needed()} for other networks", "both")
    if version_of("torch") is None:
        return Finding("torch", MISSING, "not installed", f"pip install {_needed()}", "both")
    try:
        import torch

        from edgecloud.models import vision

        has_operators = not vision.is_patched() and hasattr(torch.ops.torchvision, "nms")
    except Exception as error:  # noqa: BLE001  what a broken library raises when it is imported may be anything
        text = " ".join(f"{type(error).__name__}: {error}".split())[:100]
        return Finding("torch", MISSING, text, f"pip install {_needed()}: the two have to match", "both")
    build = "CUDA" if torch.version.cuda else "CPU"
    both = f"{torch.__version__} ({build}), torchvision {version_of('torchvision')}"
    if has_operators:
        return Finding("torch", OK, both, needed_for="both")
    return Finding("torch", OK, f"{both} of another build, which does for networks without its operators", "", "both")


def _congestion(_: argparse.Namespace) -> Finding:
    algorithm = congestion_control()
    if not CONGESTION.exists():
        return Finding("congestion control", WARNING, "unknown on this system", needed_for="both")
    return Finding("congestion control", OK, algorithm, needed_for="both")


def _disk(options: argparse.Namespace) -> Finding:
    folder = options.out.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:.1f} GB at {folder}"
    if free >= ENOUGH_BYTES:
        return Finding("free disk", OK, text, needed_for="both")
    return Finding("free disk", WARNING, text, "make room, or give --out on another disk", "both")


def _left(_: argparse.Namespace) -> Finding:
    orphans = leftovers(_groups())
    if not orphans:
        return Finding("leftovers", OK, "none", needed_for="both")
    names = ", ".join(name for _, name in orphans)
    return Finding("leftovers", WARNING, names, typed("python -m lab doctor --clean"), "both")


OF_NUMBERS: tuple[Callable[[argparse.Namespace], Finding], ...] = (
    *(_own_limit, _cores, _busy, _clock, _congestion, _disk, _left),
)
"""Those that say how good numbers can be in either mode."""
CHECKS: tuple[Callable[[argparse.Namespace], Finding], ...] = (
    *(_root, _tools, _namespaces, _netem, _quota),
    *(_own_limit, _cores, _busy, _clock, _threads, _torch, _congestion, _disk, _left),
)
