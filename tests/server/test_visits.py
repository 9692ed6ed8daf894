"""The terminal of a cloud: a line for who comes and goes, none for those who only look, few for a crowd."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from edgecloud.server.visits import Visits, show
from edgecloud.utils.flood_log import LINES_A_SECOND
from tests.conftest import LONG_S, ROOT, THREADS, CallEdge


def test_one_line_for_each_change(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now_s = 100.0
    visits = Visits(lambda: now_s)
    visits.left("nobody")
    visits.connected("a:1", "le_net")
    visits.connected("a:1", "le_net")
    visits.answered("a:1", "le_net")
    visits.connected("a:1", "evil\x1b[31m\n")
    visits.answered("b:2", "le_net")
    now_s += 2.5
    visits.left("a:1")
    assert caplog.messages == [
        "+ a:1 connected for le_net",
        "+ a:1 connected for 'evil\\x1b[31m\\n'",
        "- a:1 disconnected after 2.5 s: served 1 x le_net, 0 x 'evil\\x1b[31m\\n'",
    ]
    assert not visits._answers
    assert not visits._since


def test_a_crowd_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now_s = 0.0
    visits = Visits(lambda: now_s)
    for number in range(3 * LINES_A_SECOND):
        visits.connected(f"a:{number}", "le_net")
    now_s += 1.5
    visits.left("a:0")
    assert len(caplog.messages) == LINES_A_SECOND + 2
    assert caplog.messages[-2] == f"{2 * LINES_A_SECOND} further events not shown"


def test_an_error_level_hides_them(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("edgecloud.server.visits")
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    show(logging.ERROR)
    assert logger.level == logging.NOTSET


@pytest.mark.parametrize("flags", [(), ("--quiet",)])
def test_a_cloud_shows_who_comes_unless_it_is_quiet(flags: tuple[str, ...], cache: Path, edge: CallEdge) -> None:
    command = [sys.executable, "cloud_api.py", "-p", "0", "--threads", THREADS, "--cache-dir", str(cache), *flags]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on "), "it is the first line"
        done = edge("-p", line.strip().rpartition(":")[2], "-t", "le_net", "--point", "3")
        process.terminate()
        out, err = process.communicate(timeout=LONG_S)
    assert (done.code, done.stderr, out) == (0, "", "")
    assert ("connected for le_net" in err, "served 2 x le_net" in err) == ((False, False) if flags else (True, True))
