"""What a number was measured on. Printed above every table, because without it a number means nothing."""

import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from edgecloud.models.vision import torchvision
from edgecloud.utils.inference_utils import available_cores, device_name

RESULTS = Path(__file__).parent / "results"


def fingerprint() -> dict[str, str]:
    """Device, versions and settings that change times."""
    congestion = Path("/proc/sys/net/ipv4/tcp_congestion_control")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": device_name(torch.device("cpu")),
        "cores": str(available_cores()),
        "torch threads": str(torch.get_num_threads()),
        "system": f"{platform.system()} {platform.release()}",
        "congestion control": congestion.read_text().strip() if congestion.exists() else "unknown",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision().__version__,
        "numpy": np.__version__,
    }


def write_table(name: str, title: str, head: list[str], rows: list[list[str]], notes: list[str]) -> None:
    """Write benchmarks/results/NAME.md and print it."""
    lines = [f"# {title}", "", f"`{' '.join(['python', '-m', _module(), *sys.argv[1:]])}`", ""]
    lines += [f"{key}: {value}  " for key, value in fingerprint().items()]
    lines += ["", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", *notes, ""]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


def _module() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec else "benchmarks"
