"""The child: one network that somebody sent, run in a process that can do nothing else.

    python -m edgecloud.engine.child FILE.bundle THREADS BYTES

Standard input is a socket to the process that started it. It opens the bundle, gives up whatever it can, checks the
graph, and then runs the segments that it is asked for. Whatever becomes of it costs that network only.
"""

import os
import socket
import sys
from pathlib import Path
from typing import Any

from edgecloud.engine import child_frames, confine
from edgecloud.models import bundle, onnx_graph
from edgecloud.models.bundle import Bundle
from edgecloud.models.onnx_graph import Node, OnnxGraph
from edgecloud.models.onnx_session import OnnxPart, runtime, session_of
from edgecloud.models.protobuf import bytes_field
from edgecloud.net.tensors import Array
from edgecloud.utils.errors import AppError

MOST_BYTES = 1 << 40  # of what the process that started this one sends, which it has checked
TEXT = 400
_NODE = bytes_field(1, "x") + bytes_field(2, "y") + bytes_field(4, "Identity")
_NOTHING = OnnxGraph(8, 20, (Node("Identity", ("x",), ("y",), memoryview(_NODE)),), {}, {}, {"y": 0})
"""A graph that computes nothing."""


def main(argv: list[str]) -> int:
    """Serve until the other side closes."""
    path, threads, more_bytes = Path(argv[0]), int(argv[1]), int(argv[2])
    sock = socket.socket(fileno=0)
    try:
        opened, kept = _ready(path, threads, more_bytes)
    except (AppError, MemoryError, OSError) as error:
        child_frames.send(sock, _told(error))
        return 1
    child_frames.send(sock, {"kept": list(kept)})
    parts: dict[int, OnnxPart] = {}
    while True:
        try:
            header, arrays = child_frames.receive(sock, MOST_BYTES)
        except AppError:
            return 0
        for number in header.get("forget", []):
            parts.pop(number, None)
        try:
            answer, results = _do(opened, threads, parts, header, arrays)
        except Exception as error:  # noqa: BLE001  the runtime raises whatever it likes
            answer, results = _told(error), []
        child_frames.send(sock, answer, results)


def _ready(path: Path, threads: int, more_bytes: int) -> tuple[Bundle, tuple[str, ...]]:
    """The bundle, checked, and what could not be given up."""
    from edgecloud.models import sent_network  # and with it what it takes, before nothing can be opened any more

    runtime()
    values = [onnx_graph.Value(name, "float32", (1,), is_batched=False) for name in "xy"]
    first = onnx_graph.take(_NOTHING, values[:1], values[1:])
    session_of(first.model, {}, threads)  # what the runtime opens only for the first one
    confine.limit_memory(more_bytes)
    opened = bundle.read(path)
    kept = confine.confine()
    confine.end_with(os.getppid())
    sent_network.check(opened, more_bytes)
    return opened, kept


def _do(
    opened: Bundle, threads: int, parts: dict[int, OnnxPart], header: dict[str, Any], arrays: list[Array]
) -> tuple[dict[str, Any], list[Array]]:
    number = header["id"]
    if header["op"] == "load":
        layers = {layer for start, stop in header["layers"] for layer in range(start, stop)}
        part = parts[number] = OnnxPart(opened, layers, threads)
        return {"weight_bytes": part.weight_bytes}, []
    return {}, parts[number](arrays)


def _told(error: BaseException) -> dict[str, Any]:
    lines = str(error).splitlines() or [type(error).__name__]
    kind = "memory" if isinstance(error, MemoryError) else "failed"
    return {"error": kind, "text": lines[0][:TEXT]}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
