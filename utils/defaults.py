"""The defaults of all settings, each in this one place: configurations and flags both take them from here. Pure.

They are not written in the configurations themselves, since dataclasses would cost every --help a third of its time.
"""

from typing import Final

HOST, PORT = "127.0.0.1", 9999
"""Where a cloud listens, and where an edge looks for it."""


class Device:
    """What computes."""

    NAME = "cpu"
    BACKEND = "auto"
    TIMES = "auto"


class Cloud:
    """How an edge waits for its cloud, in seconds, and what it does without."""

    FALLBACK: Final = "on"
    SHIP: Final = "background"
    TRANSPORT: Final = "tcp"
    TIMEOUT_S = 60.0
    READY_S = 300.0


class Codec:
    """How tensors may be packed."""

    NAME = "auto"
    ACCURACY_BUDGET = 0.0


class Edge:
    """One call of edge_api.py."""

    WEIGHTS = "default"
    REPEAT = 1
    WARM_UP = 1
    POWER = "raspberry_pi_4"
    RADIO = "wifi"
    OVERLAP: Final = "auto"


class Tasks:
    """One call of tasks_edge_api.py."""

    MODELS = ("alex_net", "vgg_net", "mobile_net", "le_net")
    COUNT = 40
    SEED = 1
    INTERVAL_S = 1.0


class Server:
    """A cloud. Sizes in bytes, times in seconds."""

    HEADER_BYTES = 64 << 10
    PAYLOAD_BYTES = 64 << 20
    TENSORS = 64
    MIN_BYTES_PER_S = 1000
    SMALL_PER_S = 50
    PENALTY_S = 600.0
    CONNECTIONS_PER_SOURCE = 16
    CONNECTIONS = 64
    QUEUE = 32
    BATCH = 1
    BATCH_OF_TASKS = 8
    BATCH_WAIT_S = 0.0
    NETWORK_BYTES = 4 << 30
    STORE_BYTES = 2 << 30
    LOAD_BUDGET_S = 600.0
    HELLO_S = 10.0
    IDLE_S = 600.0
    REQUEST_S = 120.0
    DRAIN_S = 30.0
    CONNECTION_AGE_S = 0.0
