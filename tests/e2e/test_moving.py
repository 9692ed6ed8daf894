"""Real programs: an edge that is told two clouds goes from one that stops to one that has come, and nothing is lost."""

import re
import signal
import socket
from contextlib import ExitStack
from pathlib import Path

from tests.conftest import LONG_S, CallEdge, CloudProcess, read_until, running_cloud, started_tasks


def test_tasks_go_on_over_a_second_cloud_when_the_first_one_stops(cache: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # nobody is there yet
        later = listener.getsockname()[1]
    flags = ("-t", "le_net", "--verify", "--emulate-cpu", "0.002", "--rate", "10/s", "--tasks", 10_000)
    with ExitStack() as stack:
        first = stack.enter_context(running_cloud(cache, script="tasks_cloud_api.py"))
        places = f"127.0.0.1:{first.port},127.0.0.1:{later}"
        process = stack.enter_context(started_tasks(cache, "-i", places, *flags, "--interval", "500ms"))
        read_until(process, " cloud$", 2)
        stack.enter_context(running_cloud(cache, "-p", str(later), script="tasks_cloud_api.py"))
        first.stop()
        assert first.process.wait(LONG_S) == 0
        read_until(process, " cloud$", 5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=2 * LONG_S)
    assert process.returncode == 130, err
    assert re.search(r"^tasks +\d+ done, 0 failed, .*\b0 wrong", out, re.MULTILINE), out
    assert re.search(r"connected 2 times", out), out
    assert "fallback" not in out + err


def test_the_document_says_which_cloud_was_used(cloud: CloudProcess, edge: CallEdge) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        gone = listener.getsockname()[1]
    named = ("-i", f"127.0.0.1:{gone},127.0.0.1:{cloud.port}", "-t", "le_net", "--point", "3")
    done = edge(*named, "--verify", "--json")
    assert done.code == 0, done.stderr
    assert done.document["cloud"] == {"address": f"127.0.0.1:{cloud.port}", "moved": 0}
    assert (done.document["completed_by"], done.document["verify"]["matches"]) == ("split", True)
    assert f" at 127.0.0.1:{cloud.port}\n" in edge(*named).stdout
    assert edge("-i", f"127.0.0.1:{cloud.port}", "-t", "le_net", "--point", "12", "--json").document["cloud"] is None
    wrong = edge("-i", f"127.0.0.1:{gone},127.0.0.1:1", "-t", "le_net", "--json")
    assert (wrong.code, wrong.document["error"]["code"]) == (3, "CANNOT_CONNECT")
