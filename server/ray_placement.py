"""Workers that Ray places: one actor for each, with its share of a node. Ray chooses the node, starts an actor again
where it or its node has died, and starts nodes where there are none; the gateway talks to the workers itself. Here is
the gateway's end of it, without Ray: see server.ray_driver.
"""

import contextlib
import json
import logging
import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from edgecloud.server.placement import Setup, WorkerAddress
from edgecloud.server.ray_cluster import count_of, pause_s, share_of
from edgecloud.server.ray_driver import AUTO, OWN, STEADY_S, Orders
from edgecloud.utils import addresses
from edgecloud.utils.commands import command_of
from edgecloud.utils.environment import SECRET, without_settings
from edgecloud.utils.errors import AppError, ConnectError, UsageError
from edgecloud.utils.extras import require

log = logging.getLogger(__name__)

ADDRESS, CPUS, GPUS = "ray-address", "ray-cpus", "ray-gpus"
"""The flags of this placement."""
WAKING_S = 15.0
BEGIN_S = 120.0
"""How long Ray may take to start, or to let us join."""
LEAVE_S = 5.0
"""What it may take to go, beside the time for what is in hand."""
DRIVER = ("-m", "edgecloud.server.ray_driver")


class RayPlacement:
    """`N` workers, or as many as the nodes have room for where no number was given: that follows nodes that come and
    go.

    `text` is what was written after `ray`: a number or nothing. A cluster is joined at its address, without one that of
    this machine if there is one; else Ray is started here, on loopback, for as long as this placement lasts.
    """

    waking_s = WAKING_S

    def __init__(self, text: str, setup: Setup) -> None:
        require("ray")
        count, options = count_of(text), setup.options
        is_on_gpu = setup.device.startswith("cuda")
        share = share_of(
            *(options.get(CPUS, ""), options.get(GPUS, "")),
            threads=setup.threads,
            is_on_gpu=is_on_gpu,
        )
        self._orders = Orders(
            generation=0,
            count=count,
            cpus=share.cpus,
            gpus=share.gpus,
            address=address_of(options.get(ADDRESS, "")),
            # Ray shows each worker only its own GPUs, which are numbered from 0.
            arguments=(
                "-d",
                "cuda" if is_on_gpu else setup.device,
                "--threads",
                str(setup.threads or share.threads),
                *setup.arguments,
            ),
        )
        self.wanted = 1 if count is None else count
        self._workers: tuple[WorkerAddress, ...] = ()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._begun, self._closing = threading.Event(), threading.Event()
        self._failure: AppError | None = None
        self._last = ""
        """Line of the driver's stderr."""
        self._thread = threading.Thread(target=self._keep, name="workers on Ray", daemon=True)

    def start(self) -> None:
        """Start Ray or join it. Raises ConnectError where there is none at the address, and AppError."""
        self._thread.start()
        if not self._begun.wait(BEGIN_S):
            self._failure = AppError(f"Ray did not start within {BEGIN_S:.0f} s")
        if self._failure is not None:
            self.close(0.0)
            raise self._failure

    def addresses(self) -> Sequence[WorkerAddress]:
        """Those that listen."""
        return self._workers

    def lost(self, name: str) -> None:
        """End it, and have it started again: by its actor, or by another one on another node."""
        self._workers = tuple(worker for worker in self._workers if worker.name != name)
        self._order({"lost": name})

    def close(self, seconds: float) -> None:
        """End all workers, which may finish what is in hand, and Ray where it was started here."""
        self._closing.set()
        self._order({"drain_s": seconds})
        with self._lock:
            process = self._process
            if process is not None and process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()
        if process is not None:
            try:
                process.wait(seconds + LEAVE_S)
            except subprocess.TimeoutExpired:
                process.kill()
        self._thread.join(LEAVE_S)

    def _order(self, told: Mapping[str, object]) -> None:
        with self._lock, contextlib.suppress(OSError, ValueError):
            if self._process is not None and self._process.stdin is not None:
                self._process.stdin.write(json.dumps(told) + "\n")
                self._process.stdin.flush()

    # --- in a thread of its own

    def _keep(self) -> None:
        """Keep a driver running: where it has ended, as with the head of its cluster, there is another one later."""
        failures, generation = 0, 0
        while not self._closing.is_set():
            generation += 1
            since = time.monotonic()
            self._drive(generation)
            self._workers = ()
            if not self._begun.is_set() or self._closing.is_set():  # the first one has never come to anything
                self._failure = self._failure or AppError(self._ended())
                self._begun.set()
                return
            failures = 0 if time.monotonic() - since > STEADY_S else failures + 1
            log.warning("! no workers: %s", self._failure or self._ended())
            self._closing.wait(max(1.0, pause_s(failures)))

    def _ended(self) -> str:
        code = self._process.poll() if self._process is not None else None
        how = f"by signal {-code}" if code is not None and code < 0 else self._last or f"with exit code {code}"
        return f"the process that talks to Ray has ended: {how}"

    def _drive(self, generation: int) -> None:
        """One driver, from its start to its end."""
        self._failure, self._last = None, ""
        process = subprocess.Popen(
            command_of(DRIVER),
            stdin=subprocess.PIPE,  # it ends when the system closes this: with us, however we end
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="backslashreplace",
            env={name: text for name, text in without_settings(os.environ).items() if name != SECRET},
            start_new_session=True,  # Ctrl-C in a terminal reaches only us
        )
        assert process.stdin is not None  # both were asked for
        assert process.stdout is not None
        reader = threading.Thread(target=self._overhear, args=(process,), name="stderr of Ray", daemon=True)
        reader.start()
        with self._lock:
            self._process = process
        self._order(asdict(self._orders) | {"generation": generation})
        with contextlib.suppress(ValueError):
            for line in process.stdout:
                self._hear(json.loads(line))
        process.wait()
        reader.join(LEAVE_S)
        process.stdout.close()
        with self._lock, contextlib.suppress(OSError):  # what is still to be told goes nowhere
            process.stdin.close()

    def _overhear(self, process: "subprocess.Popen[str]") -> None:
        """What Ray says is for its own log, which it keeps; here it can be seen with --log-level debug."""
        assert process.stderr is not None  # asked for
        with contextlib.suppress(OSError, ValueError), process.stderr as lines:
            for line in lines:
                self._last = line.strip() or self._last
                log.debug("ray: %s", line.rstrip())

    def _hear(self, told: Mapping[str, Any]) -> None:
        if "log" in told:
            log.warning("%s", told["log"])
        elif "error" in told:
            self._failure = (ConnectError if told["exit_code"] == ConnectError.exit_code else AppError)(told["error"])
        else:
            self.wanted = told["wanted"]
            self._workers = tuple(WorkerAddress(*worker) for worker in told["workers"])
            self._begun.set()


def address_of(text: str) -> str:
    """Where Ray is: "" for anywhere, auto, local, or HOST:PORT. Raises UsageError."""
    if text in ("", AUTO, OWN):
        return text
    if text.startswith("ray://"):
        raise UsageError(f"--ray-address {text}: give HOST:PORT of the cluster's head, which is 6379 by default")
    place = addresses.parse(text)
    if not place.port:
        raise UsageError(f"--ray-address {text}: give its port too, such as {addresses.show(place.host, 6379)}")
    return addresses.show(place.host, place.port)
