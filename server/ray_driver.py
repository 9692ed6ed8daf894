"""The process between a gateway and Ray: it joins Ray, or starts it, keeps one actor for each worker, and tells the
gateway on stdout where they are.

It is a process of its own, since Ray ends a process that has lost its cluster, takes over signals, and brings threads
that would hold up a gateway. What it is told comes on stdin, a line of JSON each: first what to start, then names of
workers that were lost; at the end of it all workers may finish what is in hand, and end. What it tells are lines of
JSON as well: the workers that listen and how many there should be, whenever that changes, and what goes wrong.
"""

import contextlib
import json
import logging
import math
import os
import queue
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from edgecloud.net.endpoints import dial
from edgecloud.server.ray_actor import Started, WorkerActor
from edgecloud.server.ray_cluster import Share, pause_s, room, surplus
from edgecloud.utils import addresses
from edgecloud.utils.commands import ROOT
from edgecloud.utils.errors import AppError, ConnectError, UsageError
from edgecloud.utils.inference_utils import available_cores

AUTO, OWN = "auto", "local"
DIAL_S = 5.0
TICK_S = 0.25
ROOM_EVERY_S = 5.0
AGAIN_S = 1.0
"""How long an actor that cannot be reached is left alone."""
STEADY_S = 60.0
"""One that served for so long has not failed to start: it is started again at once."""
GIVE_UP_S = 5.0
"""How long an actor may take to end its worker before the actor is ended instead."""
LOOPBACK = "127.0.0.1"
STORE_BYTES = 78_643_200  # the least that Ray takes: nothing is put there
USAGE, MODE, SECRET = "RAY_USAGE_STATS_ENABLED", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
SECRETS = (MODE, SECRET, "RAY_AUTH_TOKEN_PATH")


@dataclass(frozen=True)
class Orders:
    """What a driver is told first."""

    generation: int
    """How many drivers this gateway has started: a part of the names of workers."""
    count: int | None
    """How many workers; None for as many as the nodes have room for."""
    cpus: float
    gpus: float
    address: str
    """Of a cluster; "" for that of this machine, or for one of our own."""
    arguments: tuple[str, ...]

    @property
    def share(self) -> Share:
        """What each worker is given."""
        return Share(self.cpus, self.gpus)


@dataclass(eq=False)
class _Slot:
    """The place of one worker: its actor, the one call to it that is open, and where the worker listens."""

    number: int
    actor: Any
    token: str
    """Of its worker."""
    call: Any
    starts: int = 1
    place: tuple[str, str, int] | None = None
    """Name, host and port."""
    since: float = 0.0
    failures: int = 0
    again_at: float | None = None
    """When it is to be started again, where that is waited for."""
    end_by: float | None = None
    """When an actor whose worker is lost is ended itself."""
    reason: str = ""
    """Why it does not serve, as the gateway was told."""


class Driver:
    """Keeps the actors. Its one thread makes all calls of Ray's."""

    def __init__(self, ray: Any, orders: Orders, host: str, out: IO[str]) -> None:
        self._ray, self._orders, self._host, self._out = ray, orders, host, out
        self._wanted = 1 if orders.count is None else orders.count
        self._slots: dict[int, _Slot] = {}
        self._told = ""
        self._looked_at = -math.inf

    def step(self, lost: "queue.SimpleQueue[str]") -> None:
        """Wait a moment for something to happen, and answer it."""
        now = time.monotonic()
        self._follow_nodes(now)
        self._make_all()
        self._end_lost(lost, now)
        for slot in self._slots.values():
            if slot.again_at is not None and now >= slot.again_at:
                slot.again_at, slot.call = None, slot.actor.start.remote()
        self._tell()
        calls = {slot.call: slot for slot in self._slots.values() if slot.call is not None}
        if not calls:
            time.sleep(TICK_S)
            return
        done, _ = self._ray.wait(list(calls), num_returns=len(calls), timeout=TICK_S)
        for call in done:
            self._answered(calls[call], call)

    def end(self, seconds: float) -> None:
        """End all workers, which may finish what is in hand for so long."""
        slots = list(self._slots.values())
        self._slots.clear()
        with contextlib.suppress(self._ray.exceptions.RayError):
            calls = [slot.actor.stop.remote(seconds) for slot in slots]
            if calls:
                self._ray.wait(calls, num_returns=len(calls), timeout=seconds + 1.0)
        for slot in slots:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.kill(slot.actor)

    def _tell(self) -> None:
        """The gateway, where something has changed."""
        places = [(*slot.place, slot.token) for slot in self._slots.values() if slot.place is not None]
        line = json.dumps({"wanted": self._wanted, "workers": places})
        if line != self._told:
            self._told = line
            say(self._out, line)

    def _follow_nodes(self, now: float) -> None:
        """As many workers as there is room for, where no number was asked for."""
        if self._orders.count is not None or now - self._looked_at < ROOM_EVERY_S:
            return
        self._looked_at, self._wanted = now, room(self._ray.nodes(), self._orders.share)
        serving = [slot.number for slot in self._slots.values() if slot.place is not None]
        waiting = [slot.number for slot in self._slots.values() if slot.place is None]
        for number in surplus(waiting, serving, self._wanted):
            self._ray.kill(self._slots.pop(number).actor)

    def _make_all(self) -> None:
        """An actor for each worker that there should be and that has none."""
        for number in range(self._wanted):
            if number not in self._slots:
                token = secrets.token_urlsafe(32)  # only the gateway and this worker know it
                actor = self._kind.remote(self._orders.arguments, token, self._host)
                self._slots[number] = _Slot(number, actor, token, actor.start.remote())

    @property
    def _kind(self) -> Any:
        """The actor's class with what it may take: one of its threads waits for the worker's end, another ends it."""
        return self._ray.remote(WorkerActor).options(
            num_cpus=self._orders.cpus,
            num_gpus=self._orders.gpus,
            max_restarts=-1,
            max_concurrency=4,
            scheduling_strategy="SPREAD",
        )

    def _answered(self, slot: _Slot, call: Any) -> None:
        """A call has come back: the worker listens, could not be started, or has ended; or its actor is gone."""
        slot.call, slot.end_by = None, None
        try:
            answer = self._ray.get(call)
        except self._ray.exceptions.RayError as error:
            self._gone(slot, "its actor or its node has died")
            slot.again_at = time.monotonic() + AGAIN_S  # which then waits until Ray has started it again
            if isinstance(error, self._ray.exceptions.ActorDiedError):  # for good: it gets another one
                self._slots.pop(slot.number, None)
            return
        if isinstance(answer, Started) and not answer.reason:
            name = f"ray-{slot.number}-{self._orders.generation}-{slot.starts}"
            slot.place, slot.since, slot.starts = (name, answer.host, answer.port), time.monotonic(), slot.starts + 1
            slot.reason = ""
            slot.call = slot.actor.ended.remote()
            return
        self._failed(slot, answer.reason if isinstance(answer, Started) else str(answer))

    def _failed(self, slot: _Slot, reason: str) -> None:
        """It has ended: start it again, at once after it has served for long, later each time it has not."""
        was_steady = slot.since > 0 and time.monotonic() - slot.since > STEADY_S
        self._gone(slot, reason)
        slot.failures = 0 if was_steady else slot.failures + 1
        slot.again_at = time.monotonic() + pause_s(slot.failures - 1)

    def _gone(self, slot: _Slot, reason: str) -> None:
        """It does not serve any more, which is told once."""
        slot.place, slot.since = None, 0.0
        if reason != slot.reason:
            slot.reason = reason
            say(self._out, json.dumps({"log": f"! worker {slot.number} on Ray: {reason}"}))

    def _end_lost(self, lost: "queue.SimpleQueue[str]", now: float) -> None:
        """End those that the gateway could not use: by their actors, or else with them, so that Ray makes others."""
        with contextlib.suppress(queue.Empty):
            while True:
                name = lost.get_nowait()
                for slot in self._slots.values():
                    if slot.place is not None and slot.place[0] == name:
                        slot.place, slot.end_by = None, now + GIVE_UP_S
                        slot.actor.kill.remote()
        for slot in self._slots.values():
            if slot.end_by is not None and now >= slot.end_by:
                slot.end_by = None
                self._ray.kill(slot.actor, no_restart=False)


def say(out: IO[str], line: str) -> None:
    """Tell the gateway; where it is gone, the end of stdin says so too."""
    with contextlib.suppress(OSError):
        out.write(line + "\n")
        out.flush()


def find(address: str) -> str:
    """HOST:PORT of a cluster that answers, or `local` where Ray is to be started here: with no address, and no cluster
    that runs on this machine. Raises ConnectError."""
    if address == OWN:
        return OWN
    is_named = address not in ("", AUTO)
    place = address if is_named else os.environ.get("RAY_ADDRESS", "") or _of_this_machine()
    try:
        host, port = addresses.parse(place) if place else ("", None)
        dial(host, port or 0, DIAL_S).close()  # Ray itself would try for a minute
    except (ConnectError, UsageError):
        if not address:
            return OWN
        cure = "start it there with ray start --head, or check --ray-address"
        raise ConnectError(f"no Ray at {place or 'this machine'}: {cure}") from None
    return place


def _of_this_machine() -> str:
    """Where `ray start` says that its cluster is."""
    with contextlib.suppress(OSError):
        return (Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster").read_text().strip()
    return ""


def set_environment(place: str) -> None:
    """What Ray reads when it is imported: it reports nothing to anybody, and a Ray of our own has a secret, or it would
    write one into the user's home."""
    os.environ[USAGE] = "0"
    has_secret = any(os.environ.get(name) for name in SECRETS) or (Path.home() / ".ray" / "auth_token").exists()
    if place == OWN and not has_secret:
        os.environ |= {MODE: "token", SECRET: secrets.token_hex(32)}


@contextlib.contextmanager
def joined(ray: Any, place: str, cpus: int) -> Iterator[None]:
    """A connection to Ray for as long as the context lasts; what is started here is ended. Raises ConnectError."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    own = {
        "num_cpus": cpus,
        "include_dashboard": False,
        "object_store_memory": STORE_BYTES,
    }
    try:
        ray.init(
            address=place,
            log_to_driver=False,
            configure_logging=False,
            runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
            **(own if place == OWN else {}),
        )
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        if place == OWN:
            raise
        cure = "it takes the same version of Ray and of Python, and its token where it has one (ray get-auth-token)"
        raise ConnectError(f"cannot join Ray at {place}: {first_line(error)}; {cure}") from None
    try:
        yield
    finally:
        ray.shutdown()


def first_line(error: BaseException) -> str:
    """What an error of Ray's says, whose texts are long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def main() -> int:
    """Read the orders, and keep the workers until stdin ends."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what Ray prints is not for the gateway
    orders = Orders(**json.loads(sys.stdin.readline()))
    lost: queue.SimpleQueue[str] = queue.SimpleQueue()
    closing, drain = threading.Event(), [0.0]

    def read() -> None:
        for line in sys.stdin:
            told = json.loads(line)
            if "lost" in told:
                lost.put(told["lost"])
            drain[0] = told.get("drain_s", 0.0)
        closing.set()

    threading.Thread(target=read, name="orders", daemon=True).start()
    try:
        place = find(orders.address)
        set_environment(place)
        import ray

        cpus = max(available_cores(), math.ceil((orders.count or 0) * orders.cpus))
        with joined(ray, place, cpus):
            driver = Driver(ray, orders, LOOPBACK if place == OWN else "", out)
            while not closing.is_set():
                driver.step(lost)
            driver.end(drain[0])
    except AppError as error:
        say(out, json.dumps({"error": str(error), "exit_code": error.exit_code}))
        return error.exit_code
    except Exception as error:  # noqa: BLE001  of Ray's there are any number
        say(out, json.dumps({"error": f"Ray has failed: {first_line(error)}", "exit_code": AppError.exit_code}))
        return AppError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
