"""Workers that somebody else starts: at written addresses, and behind a name whose addresses change."""

import logging
import socket
import threading
from collections.abc import Sequence

import pytest

from edgecloud.server.address_placement import PATIENCE_S, DnsPlacement, resolve
from edgecloud.server.placement import Setup, make_placement
from edgecloud.utils.errors import UsageError
from tests.conftest import LONG_S

SETUP = Setup(token="only for workers")
NOBODY = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
UNKNOWN = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


class Names:
    """A server of names that gives one answer after another, and the clock that goes on meanwhile."""

    def __init__(self, *answers: "Sequence[str] | OSError") -> None:
        self.answers, self.now = list(answers), 0.0

    def look_up(self, name: str) -> Sequence[str]:
        assert name == "workers.edge-cloud.svc"
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, OSError):
            raise answer
        return answer


def placement_of(names: Names) -> DnsPlacement:
    return DnsPlacement("workers.edge-cloud.svc:9998", SETUP, names.look_up, lambda: names.now)


def hosts(placement: DnsPlacement) -> list[str]:
    return [worker.host for worker in placement.addresses()]


def test_addresses_are_those_that_were_written_each_once() -> None:
    placement = make_placement("addresses", "10.0.0.7:9998,[fd00::7]:9998,gpu-1:7000,10.0.0.7:9998", SETUP)
    placement.start()
    given = [(worker.name, worker.host, worker.port, worker.token) for worker in placement.addresses()]
    assert given == [
        ("10.0.0.7:9998", "10.0.0.7", 9998, SETUP.token),
        ("[fd00::7]:9998", "fd00::7", 9998, SETUP.token),
        ("gpu-1:7000", "gpu-1", 7000, SETUP.token),
    ]
    placement.lost("gpu-1:7000")
    assert (placement.wanted, len(placement.addresses())) == (3, 3), "it is looked for again at the same address"
    assert SETUP.token not in repr(placement.addresses())


@pytest.mark.parametrize(("kind", "text"), [("addresses", "10.0.0.7"), ("addresses", "10.0.0.7:9,b"), ("dns", "a")])
def test_a_port_has_to_be_written(kind: str, text: str) -> None:
    with pytest.raises(UsageError, match="give the port of the workers too, such as"):
        make_placement(kind, text, SETUP)


@pytest.mark.parametrize(("kind", "text"), [("addresses", "10.0.0.7:9998"), ("dns", "workers:9998")])
def test_a_token_has_to_be_given(kind: str, text: str) -> None:
    with pytest.raises(UsageError, match="--worker-token-file"):
        make_placement(kind, text, Setup())


def test_a_name_has_the_workers_of_its_last_answer() -> None:
    names = Names(["10.0.0.2", "10.0.0.1"], ["10.0.0.3", "fd00::3", "10.0.0.2"])
    placement = placement_of(names)
    assert (placement.wanted, hosts(placement)) == (0, [])
    placement.look()
    assert hosts(placement) == ["10.0.0.1", "10.0.0.2"]
    placement.look()
    assert hosts(placement) == ["10.0.0.2", "10.0.0.3", "fd00::3"]
    assert [worker.name for worker in placement.addresses()][-1] == "[fd00::3]:9998"
    assert placement.wanted == 3


@pytest.mark.parametrize("nothing", [NOBODY, []])
def test_a_name_without_addresses_is_believed_only_after_a_while(nothing: "OSError | list[str]") -> None:
    names = Names(["10.0.0.1"], nothing)
    placement = placement_of(names)
    placement.look()
    for names.now in (0.5, 1.5, PATIENCE_S - 0.1):
        placement.look()
        assert hosts(placement) == ["10.0.0.1"], names.now
    names.now = PATIENCE_S
    placement.look()
    assert (hosts(placement), placement.wanted) == ([], 0)


def test_a_server_of_names_that_fails_takes_nobody_away(caplog: pytest.LogCaptureFixture) -> None:
    names = Names(["10.0.0.1"], UNKNOWN, TimeoutError("timed out"), OSError("no route"), ["10.0.0.2"], UNKNOWN)
    placement = placement_of(names)
    placement.look()
    with caplog.at_level(logging.WARNING):
        for names.now in (10.0, 100.0, 1000.0):
            placement.look()
            assert hosts(placement) == ["10.0.0.1"]
        assert caplog.text.count("cannot be looked up: ") == 1, "told once, not every second"
        placement.look()
        assert hosts(placement) == ["10.0.0.2"]
        placement.look()
        assert caplog.text.count("cannot be looked up: ") == 2
    assert SETUP.token not in caplog.text


def test_a_look_up_that_hangs_holds_nobody_up() -> None:
    asked, let_go = threading.Event(), threading.Event()

    def hang(name: str) -> Sequence[str]:
        asked.set()
        assert let_go.wait(LONG_S)
        return ["10.0.0.1"]

    placement = DnsPlacement("workers:9998", SETUP, hang, patience_s=0.01)
    placement.start()
    assert asked.wait(LONG_S)
    assert placement.addresses() == ()
    let_go.set()
    placement.close(0.0)


def test_it_looks_by_itself_again_and_again() -> None:
    seen = threading.Event()
    answers = iter((["10.0.0.1"], ["10.0.0.1", "10.0.0.2"]))

    def look_up(name: str) -> Sequence[str]:
        try:
            return next(answers)
        except StopIteration:
            seen.set()
            return ["10.0.0.3"]

    placement = DnsPlacement("workers:9998", SETUP, look_up, every_s=0.01)
    placement.start()
    assert placement.addresses()
    assert seen.wait(LONG_S)
    placement.close(0.0)


def test_the_system_resolves_names_and_addresses() -> None:
    assert resolve("127.0.0.1") == ["127.0.0.1"]
    assert set(resolve("localhost")) <= {"127.0.0.1", "::1"}
