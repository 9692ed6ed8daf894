"""What keeps the connection: a link that falls silent in the middle of a probe, a cloud that only refuses."""

import threading
from collections.abc import Callable
from contextlib import closing

import pytest

from edgecloud.client import connection_manager as module
from edgecloud.client.connection_manager import ConnectionConfig, ConnectionManager
from edgecloud.client.fallback import MOST_BUSY_S, REFUSALS
from edgecloud.client.handshake import RefusedError
from edgecloud.client.multiplexed import Request
from edgecloud.engine.identity import hello_of
from edgecloud.lab.link_shape import LinkShape
from edgecloud.lab.relay import Relay
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.net.codec import CODECS
from edgecloud.net.messages import Error, Hello, State
from edgecloud.utils.deadline import Deadline
from tests.client.test_multiplexed import Ear
from tests.conftest import LONG_S, CloudProcess, until
from tests.e2e.test_fallback import FakeCloud


def test_a_link_that_falls_silent_within_a_probe_is_connected_to_again(
    cloud: CloudProcess, network: Callable[[str], TorchNetwork], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was kept for good, and everything ran on the edge: part of a frame was sent, and nothing can follow that."""
    monkeypatch.setattr(module, "PROBE_TIMEOUT_S", LONG_S)  # but for the one that is to end
    found = network("le_net")
    graph = found.traced.graph
    hello = Hello(graph.name, found.loaded.digest, graph.digest, list(CODECS), "")
    relay = Relay(("127.0.0.1", cloud.port), LinkShape(2.5e6, 2.5e6))
    serving = threading.Thread(target=relay.serve)
    serving.start()
    told: list[float] = []
    config = ConnectionConfig(relay.address, interval_s=1e-6, on_sample=lambda _, rate: told.append(rate))
    manager = ConnectionManager(config, [hello], {graph.name: len(graph.layers)})
    manager.listener = Ear()

    def is_connected() -> bool:
        return manager.client is not None

    try:
        manager.open()
        client = manager.client
        assert client is not None
        ask = client.ask_state

        def ask_and_freeze(timeout_s: float) -> tuple[State, float] | None:
            state = ask(timeout_s)
            relay.freeze(60)
            monkeypatch.setattr(module, "PROBE_TIMEOUT_S", 0.5)
            return state

        monkeypatch.setattr(client, "ask_state", ask_and_freeze)
        manager.tick()
        assert not is_connected()
        relay.freeze(0)
        monkeypatch.setattr(module, "PROBE_TIMEOUT_S", LONG_S)
        manager.tick()
        assert is_connected()
        assert manager.connects == 2
        assert told.count(0.0) == 1
        assert told[0] > 0
        assert told[-1] > 0
    finally:
        manager.close()
        relay.stop()
        serving.join()


def test_a_cloud_that_only_refuses_is_left_alone_and_connected_to_later(network: Callable[[str], TorchNetwork]) -> None:
    """Whoever asks, one inference or many tasks: the budget and the breaker are those of the connection."""
    found = network("le_net")
    graph = found.traced.graph
    with closing(
        FakeCloud(found, lambda number: Error("BUSY", "full", 1, 0.25) if number <= REFUSALS else None)
    ) as cloud:
        manager = ConnectionManager(
            ConnectionConfig(("127.0.0.1", cloud.port)), [hello_of(found)], {graph.name: len(graph.layers)}
        )
        with closing(manager):
            manager.connect()

            def ask() -> None:
                deadline = Deadline.after(LONG_S, "the test")
                request = Request(0, graph.name, graph, graph.everything - {0}, [found.example.tensor.numpy()])
                manager.ready_client(deadline).ask(request, deadline)

            pauses: list[float | None] = []
            for number in range(REFUSALS):
                with pytest.raises(RefusedError) as caught:
                    ask()
                pauses.append(manager.on_failure(caught.value, 1))
                manager.give_up(f"refused {number + 1} times")
            assert pauses == [0.25] * (REFUSALS - 1) + [None]
            assert (manager.is_left_alone, manager.client, manager.is_connected) == (True, None, False)
            assert manager.why == f"refused {REFUSALS} times"
            assert cloud.greeted == 1

            def is_back() -> bool:
                manager.look()
                return manager.client is not None

            until(is_back)
            ask()
            manager.on_success()
            assert (cloud.greeted, manager.reconnects, manager.is_left_alone) == (2, 1, False)


def test_a_cloud_that_names_a_long_pause_is_not_waited_for(network: Callable[[str], TorchNetwork]) -> None:
    """A gateway without workers says when one may have come; the edge computes meanwhile, and does not wait."""
    found = network("le_net")
    with closing(ConnectionManager(ConnectionConfig(("127.0.0.1", 1)), [hello_of(found)], {})) as manager:
        refused = [RefusedError(Error("BUSY", "no worker", 1, seconds)) for seconds in (0.25, MOST_BUSY_S, 10.0)]
        assert [manager.on_failure(error, 1) for error in refused] == [0.25, MOST_BUSY_S, None]
