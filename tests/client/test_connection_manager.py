"""What keeps the connection of many tasks: a link that falls silent in the middle of a probe."""

import threading
from collections.abc import Callable

import pytest

from edgecloud.client import connection_manager as module
from edgecloud.client.connection_manager import ConnectionConfig, ConnectionManager
from edgecloud.engine.executor import Network
from edgecloud.lab.link_shape import LinkShape
from edgecloud.lab.relay import Relay
from edgecloud.net.codec import CODECS
from edgecloud.net.messages import Hello, State
from tests.client.test_multiplexed import Ear
from tests.conftest import CloudProcess


def test_a_link_that_falls_silent_within_a_probe_is_connected_to_again(
    cloud: CloudProcess, network: Callable[[str], Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was kept for good, and everything ran on the edge: part of a frame was sent, and nothing can follow that."""
    monkeypatch.setattr(module, "PROBE_TIMEOUT_S", 0.5)
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
            return state

        monkeypatch.setattr(client, "ask_state", ask_and_freeze)
        manager.tick()
        assert not is_connected()
        relay.freeze(0)
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
