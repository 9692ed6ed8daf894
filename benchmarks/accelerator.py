"""A cloud with an accelerator: the same answers as on the CPU at every point, and its times.

    python -m benchmarks.accelerator [--device cuda] [--models alex_net,le_net] [--seconds 400]

Real programs on loopback: `cloud_api.py -d DEVICE` and `edge_api.py -d cpu --points all --codec raw`, network after
network until the time limit. Every answer is compared with that of the full model in plain torch on the CPU. `clock` is
the time of the full model on the device as the program measures it, `events` the same model in plain torch as the
device measures it: a program that reads its clock before the device has finished would report less.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.clouds import running_cloud
from benchmarks.fingerprint import write_table
from edgecloud.models import inputs, registry, weights
from edgecloud.utils.commands import ROOT
from edgecloud.utils.inference_utils import device_name, find_device, prepare_device

MODELS = "le_net,alex_net,mobile_net,vgg_net,resnet18,googlenet,densenet121,deepface,kaldi,senna_pos"
HEAD = ["network", "points", "same top-1", "largest difference", "relative to the largest value", "clock", "events"]


def main() -> int:
    """Measure, and write the table; 1 if an answer differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--edge-device", default="cpu")
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--seconds", type=float, default=400.0, help="no network is started later")
    options = parser.parse_args()
    device = find_device(options.device)
    started, rows, are_right = time.monotonic(), [], True
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models.split(","):
            if time.monotonic() - started > options.seconds:
                break
            row, is_right = measure(model, options, device, Path(folder))
            print(" | ".join(row), flush=True)
            rows.append(row)
            are_right &= is_right
    notes = [f"Cloud on {device_name(device)}, edge on {options.edge_device}."]
    if left_out := options.models.split(",")[len(rows) :]:
        notes.append(f"Not measured (time limit reached): {', '.join(left_out)}.")
    name = "_".join(["accelerator", device.type, *([] if options.edge_device == "cpu" else ["both"])])
    write_table(name, "A cloud on an accelerator", HEAD, rows, notes)
    return 0 if are_right else 1


def measure(model: str, options: argparse.Namespace, device: torch.device, folder: Path) -> tuple[list[str], bool]:
    """A row of the table, and whether every answer matched the full model."""
    with running_cloud(folder / "cloud", "-d", options.device) as cloud:
        lines = points_of(model, cloud.port, options.edge_device, folder / "edge")
    verified = [line["verify"] for line in lines]
    tops = {line["result"]["top"][0]["index"] for line in lines}
    is_right = len(tops) == 1 and all(found["matches"] for found in verified)
    largest, value, events_s = whole(model, device)
    difference = max(found["max_abs_diff"] for found in verified)
    clock_s = lines[0]["measured"]["cloud_s"]
    return [
        model,
        f"{sum(found['matches'] for found in verified)} of {len(lines)} match",
        "yes" if len(tops) == 1 and tops == {largest} else f"no: {sorted(tops)}",
        f"{difference:.3g}",
        f"{difference / value:.2g}",
        f"{clock_s * 1e3:.3g} ms",
        f"{events_s * 1e3:.3g} ms",
    ], is_right


def points_of(model: str, port: int, device: str, cache: Path) -> list[dict[str, Any]]:
    """What edge_api.py prints of every point, and of the one that it chooses."""
    command = [sys.executable, "edge_api.py", "-p", str(port), "-t", model, "-d", device, "--cache-dir", str(cache)]
    flags = ["--points", "all,auto", "--codec", "raw", "--verify", "--json", "--repeat", "3", "--timeout", "60s"]
    ran = subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    if not lines or "asked" not in lines[-1]:
        raise SystemExit(f"{model}: exit code {ran.returncode}: {ran.stdout[-500:]} {ran.stderr[-2000:]}")
    return lines


def whole(model: str, device: torch.device) -> tuple[int, float, float]:
    """The full model in plain torch: its class and largest value on the CPU, its seconds on the device."""
    entry = registry.resolve_trusted(model)
    module = weights.load(entry).model
    x = inputs.sample(entry.sample, entry.preprocess).tensor
    with torch.inference_mode():
        answer = module(x)
        answer = answer if isinstance(answer, torch.Tensor) else answer[0]
        rows = answer[0] if answer.ndim == 3 else answer.reshape(1, -1)
        prepare_device(device)
        return int(rows[0].argmax()), float(answer.abs().max()), device_s(module.to(device), x.to(device), device)


def device_s(module: torch.nn.Module, x: torch.Tensor, device: torch.device) -> float:
    """Median seconds of a forward pass after a rest, by the device's own clock where it has one."""
    event: Any = torch.cuda.Event  # torch gives it no types
    took: list[float] = []
    for _ in range(8):
        time.sleep(0.1)
        if device.type == "cuda":
            begin, end = event(enable_timing=True), event(enable_timing=True)
            begin.record()
            module(x)
            end.record()
            end.synchronize()
            took.append(float(begin.elapsed_time(end)) / 1e3)
        else:
            started = time.perf_counter()
            module(x)
            took.append(time.perf_counter() - started)
    return median(took[3:])


if __name__ == "__main__":
    sys.exit(main())
