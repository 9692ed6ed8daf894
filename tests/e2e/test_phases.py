"""An answer in every phase: a real cloud behind a link that does something to a certain frame of the conversation."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.frame_proxy import Act, FrameProxy, Line, Place, Rewrite, Said, close, dribble, garbage, silence
from edgecloud import edge_api, tasks_edge_api
from edgecloud.net.frames import FrameType
from tests.conftest import LONG_S, THREADS, CloudProcess, Finished, call

TIMEOUT_S = 2.0
LATE_S = 20.0  # what a loaded machine may add to building a network and running it
HELLO, READY, PROBE, STATUS = FrameType.HELLO, FrameType.READY, FrameType.PROBE, FrameType.STATUS
INFER, RESULT = FrameType.INFER, FrameType.RESULT

PROGRAMS = {
    "edge": (edge_api.main, ("--point", "3", "--repeat", "2")),
    "tasks": (tasks_edge_api.main, ("--tasks", "6", "--emulate-cpu", "0.02", "--interval", "100ms")),
}


class Subject:
    """Both programs, in this process, with a link between them and the session's cloud."""

    def __init__(self, stack: ExitStack, cloud: CloudProcess, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._stack, self._cloud, self._cache, self._capsys = stack, cloud, cache, capsys
        self._asked: dict[FrameProxy, tuple[tuple[tuple[Place, Act], ...], Rewrite | None]] = {}

    def link(self, *acts: tuple[Place, Act], rewrite: Rewrite | None = None) -> FrameProxy:
        """What stands in between."""
        made = FrameProxy(("127.0.0.1", self._cloud.port), acts, rewrite)
        self._stack.callback(made.close)
        self._asked[made] = (acts, rewrite)
        return made

    def call(self, program: str, port: int, *flags: str, timeout_s: float = TIMEOUT_S) -> Finished:
        """Run it with le_net."""
        main, own = PROGRAMS[program]
        common = ("--cache-dir", str(self._cache), "-t", "le_net", "--codec", "raw", "--verify", "--json")
        threads = ("--threads", THREADS) if program == "edge" else ()
        place = ("-i", "127.0.0.1", "-p", str(port), "--timeout", f"{timeout_s}s")
        return call(lambda words: main(words), [*common, *threads, *own, *place, *flags], self._capsys)

    def answered(self, program: str, link: FrameProxy, *flags: str, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
        """Run it; every answer has to be there, right and in time. Returns its document.

        Where a loaded machine has not come to the place of the fault by the timeout it gets longer, up to LONG_S.
        """
        while True:
            began = time.monotonic()
            done = self.call(program, link.port, *flags, timeout_s=timeout_s)
            assert time.monotonic() - began < timeout_s + LATE_S
            assert done.code == 0, done.stderr
            if link.is_over:
                break
            assert timeout_s < LONG_S, "the place of the fault was not reached"
            timeout_s *= 5
            acts, rewrite = self._asked[link]
            link = self.link(*acts, rewrite=rewrite)
        found = done.document
        if program == "edge":
            assert found["verify"]["matches"]
            assert len(found["measured"]["repeats"]) == 2
        else:
            assert (found["summary"]["completed"], found["summary"]["wrong"]) == (6, 0)
        return found


def told(program: str, found: dict[str, Any]) -> str:
    """All that a document says of why the cloud did not answer."""
    if program == "edge":
        return " ".join(each["fallback"]["reason"] for each in found["measured"]["repeats"] if each["fallback"])
    return " ".join([found["summary"]["cloud_error"] or "", *(each["error"] or "" for each in found["tasks"])])


@pytest.fixture
def subject(cloud: CloudProcess, cache: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Subject]:
    with ExitStack() as stack:
        yield Subject(stack, cloud, cache, capsys)


@pytest.fixture(scope="module", autouse=True)
def _measured(cloud: CloudProcess, cache: Path) -> None:
    """Both sides have their times on disk: the first call of all takes longer than these tests allow."""
    place = ["--cache-dir", str(cache), "-t", "le_net", "-i", "127.0.0.1", "-p", str(cloud.port)]
    assert edge_api.main([*place, "--threads", THREADS]) == 0
    assert tasks_edge_api.main([*place, "--tasks", "1", "--emulate-cpu", "0.02"]) == 0


ANYWHERE = ("edge", "tasks")


@pytest.mark.parametrize(
    ("place", "act"),
    [
        (Place(READY), silence),
        (Place(HELLO), dribble),
        (Place(READY, share=0.5), close),
        (Place(READY), garbage),
        (Place(PROBE, 2, 0.5, least_bytes=8192), close),
        (Place(PROBE), silence),
        (Place(INFER, share=0.5), garbage),
        (Place(RESULT), silence),
        (Place(RESULT, share=0.5), close),
    ],
    ids=lambda value: (
        f"{getattr(value.kind, 'name', value.kind)}-{value.share}" if isinstance(value, Place) else value.__name__
    ),
)
@pytest.mark.parametrize("program", ANYWHERE)
def test_whatever_happens_at_a_frame_there_is_an_answer(program: str, place: Place, act: Act, subject: Subject) -> None:
    found = subject.answered(program, subject.link((place, act)))
    if place.kind in (HELLO, READY, PROBE):
        assert told(program, found)


def test_a_lost_status_leaves_it_all_to_the_edge(subject: Subject) -> None:
    found = subject.answered("edge", subject.link((Place(STATUS), close)))
    assert found["completed_by"] == "fallback"


@pytest.mark.parametrize("act", [close, garbage, silence])
def test_a_second_greeting_that_fails_costs_nothing(act: Act, subject: Subject) -> None:
    first = (Place(INFER), close)
    found = subject.answered("edge", subject.link(first, (Place(HELLO), act)))
    assert found["completed_by"] in (("fallback", "split") if act is close else ("fallback",))  # it is tried again
    found = subject.answered("tasks", subject.link((Place(HELLO, 2), act)))  # its first connection only measures
    assert found["summary"]["completed_by"] == {"edge": 6}


# --- clouds that lie


def in_ready(**changed: Any) -> Rewrite:
    def rewrite(kind: FrameType, header: dict[str, Any], payload: bytes) -> Said:
        return kind, header | (changed if kind is READY else {}), payload

    return rewrite


def in_result(make: Callable[[dict[str, Any], bytes], tuple[dict[str, Any], bytes]]) -> Rewrite:
    def rewrite(kind: FrameType, header: dict[str, Any], payload: bytes) -> Said:
        return (kind, *make(header, payload)) if kind is RESULT else (kind, header, payload)

    return rewrite


def all_of(value: float, count: int = 10) -> bytes:
    return np.full(count, value, np.float32).tobytes()


def described(dtype: str, shape: tuple[int, ...], payload: bytes) -> dict[str, Any]:
    return {"tensors": [(dtype, shape, "raw", 0)], "buffers": [len(payload)]}


LIES = {
    "max_payload 300": in_ready(max_payload=300),
    "max_payload 0": in_ready(max_payload=0),
    "NaN seconds": in_ready(seconds=[math.nan] * 13),
    "negative seconds": in_ready(start_s=[-1.0] * 13),
    "endless seconds": in_ready(seconds=[1e300] * 13),
    "too few seconds": in_ready(seconds=[0.1] * 12),
    "no codecs": in_ready(codecs=[]),
    "NaN": in_result(lambda header, _: (header, all_of(math.nan))),
    "infinity": in_result(lambda header, _: (header, all_of(math.inf))),
    "another shape": in_result(lambda h, p: (h | described("float32", (1, 9), p[:36]), p[:36])),
    "another dtype": in_result(lambda h, p: (h | described("int32", (1, 10), p), p)),
    "not a tensor": in_result(lambda h, _: (h | {"tensors": [], "buffers": []}, b"")),
    "absurd seconds": in_result(lambda h, p: (h | {"queue_s": 9e8, "cloud_s": 9e8, "load": 9e8}, p)),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("program", ANYWHERE)
def test_a_cloud_that_lies_changes_no_answer(program: str, lie: str, subject: Subject) -> None:
    found = subject.answered(program, subject.link(rewrite=LIES[lie]), timeout_s=30.0)
    if lie in ("NaN", "infinity"):
        assert "the cloud returned NaN or infinity" in told(program, found)
    if lie.startswith("max_payload"):
        by = found["summary"]["completed_by"] if program == "tasks" else {found["completed_by"]: 6}
        assert by in ({"edge": 6}, {"fallback": 6})
    if lie == "absurd seconds" and program == "edge":
        assert found["measured"]["transfer_s"] >= 0


@pytest.mark.parametrize("program", ANYWHERE)
def test_nan_of_the_cloud_is_an_error_without_a_fallback(program: str, subject: Subject) -> None:
    done = subject.call(program, subject.link(rewrite=LIES["NaN"]).port, "--fallback", "off", timeout_s=30.0)
    assert done.code == 1
    text = done.stderr + done.stdout
    assert "the cloud returned NaN or infinity, but the local full model does not" in text


NAN_NETWORK = """
import torch
from torch import nn
class Log(nn.Module):
    def forward(self, x):
        return torch.log(-1 - torch.abs(x))
def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3), Log())
def example():
    return torch.ones(1, 1, 2, 2)
"""


def test_nan_of_the_network_is_the_fault_of_its_weights(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "holed.py"
    path.write_text(NAN_NETWORK)
    common = ["--cache-dir", str(cache), "-t", str(path), "-p", "1", "--fallback", "always"]
    for main, more in ((edge_api.main, ["--json"]), (tasks_edge_api.main, ["--tasks", "1", "--json"])):
        done = call(lambda words, main=main: main(words), [*common, *more], capsys)  # type: ignore[misc]
        assert done.code == 1
        assert "so does the local full model: check the weights and the input" in done.stderr + done.stdout


# --- refusals at the first greeting


def refuses(code: str, times: int = 1000) -> Rewrite:
    left = [times]

    def rewrite(kind: FrameType, header: dict[str, Any], payload: bytes) -> Said:
        if kind is not READY or left[0] <= 0:
            return kind, header, payload
        left[0] -= 1
        return FrameType.ERROR, {"code": code, "text": "not you", "retry_after_s": 0.1}, b""

    return rewrite


@pytest.mark.parametrize("program", ANYWHERE)
def test_only_what_somebody_has_to_mend_is_an_error(program: str, subject: Subject) -> None:
    for code, exit_code in (("MISMATCH", 4), ("UNKNOWN_MODEL", 4), ("VERSION", 4), ("TOKEN", 3)):
        link = subject.link(rewrite=refuses(code))
        assert subject.call(program, link.port, timeout_s=30.0).code == exit_code
        found = subject.answered(program, link, "--fallback", "always")
        assert "not you" in told(program, found)
    assert "INTERNAL" in told(program, subject.answered(program, subject.link(rewrite=refuses("INTERNAL"))))


@pytest.mark.parametrize("program", ANYWHERE)
def test_a_cloud_that_is_busy_at_the_greeting_is_asked_again(program: str, subject: Subject) -> None:
    found = subject.answered(program, subject.link(rewrite=refuses("BUSY", 3)), timeout_s=30.0)
    by = found["summary"]["completed_by"] if program == "tasks" else {found["completed_by"]: 1}
    assert not {"edge", "fallback"} >= set(by), by
    assert "BUSY" in told(program, subject.answered(program, subject.link(rewrite=refuses("BUSY"))))
    ends = subject.link((Place(READY, share=1.0), lambda proxy, _: proxy.refuse()), rewrite=refuses("BUSY"))
    assert "BUSY" in told(program, subject.answered(program, ends))


def test_a_cloud_that_ends_between_the_two_connections_of_tasks_costs_no_answer(subject: Subject) -> None:
    link = subject.link((Place(PROBE, share=1.0), lambda proxy, _: proxy.refuse()))
    assert subject.answered("tasks", link)["summary"]["completed_by"] == {"edge": 6}


# --- without a cloud at the start


@pytest.mark.parametrize("host", ["127.0.0.1", "no.such.host.invalid"])
@pytest.mark.parametrize("program", ANYWHERE)
def test_without_a_cloud_there_is_an_answer_where_that_is_wanted(program: str, host: str, subject: Subject) -> None:
    assert subject.call(program, 1, "-i", host).code == 3
    done = subject.call(program, 1, "-i", host, "--fallback", "always")
    assert done.code == 0, done.stderr
    assert f"no cloud at {host}:1" in told(program, done.document) or "no answer yet" in told(program, done.document)


def test_an_emulated_link_in_front_of_nobody_answers_too(subject: Subject) -> None:
    done = subject.call("edge", 1, "--fallback", "always", "--emulate-link", "5mbit,20ms")
    assert (done.code, done.document["completed_by"]) == (0, "fallback")


def test_points_are_answered_where_the_cloud_is_lost(subject: Subject, cache: Path) -> None:
    def gone(proxy: FrameProxy, line: Line) -> None:
        proxy.refuse()
        line.close()

    link = subject.link((Place(INFER), gone))
    flags = ["--cache-dir", str(cache), "-t", "le_net", "--points", "2,3,12", "--verify", "--json", "--warm-up", "0"]
    done = call(edge_api.main, [*flags, "-p", str(link.port), "-i", "127.0.0.1"], subject._capsys)
    assert done.code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert '"completed_by": "fallback"' in lines[0]
    absent = subject.link((Place(HELLO), gone))
    done = call(edge_api.main, [*flags, "-p", str(absent.port), "-i", "127.0.0.1"], subject._capsys)
    assert (done.code, done.stdout.count('"matches": true')) == (0, 3)
