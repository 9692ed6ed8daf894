"""The identity of a network in HELLO, so that both sides can compare it."""

import hashlib
from collections.abc import Sequence

from edgecloud.models.network import Network
from edgecloud.net.codec import STANDARD
from edgecloud.net.messages import Hello


def hello_of(network: Network, token: str = "", codecs: Sequence[str] = tuple(STANDARD)) -> Hello:
    """Name the network with the digests of its weights and its graph, and with what tells where others differ."""
    weights, graph = network.weights, network.graph.digest
    if network.numbers:  # what the file of a custom model has made part of the graph
        graph = "sha256:" + hashlib.sha256(f"{graph} {network.numbers}".encode()).hexdigest()
    about = (network.made_with, weights.code, weights.marks)
    return Hello(network.graph.name, weights.digest, graph, list(codecs), token, *about)
