"""The identity of a network in HELLO, so that both sides can compare it."""

import hashlib
from collections.abc import Sequence

from edgecloud.models.bundle_network import BundleNetwork
from edgecloud.models.network import Network
from edgecloud.net.codec import STANDARD
from edgecloud.net.messages import Hello


def hello_of(network: Network, token: str = "", codecs: Sequence[str] = tuple(STANDARD)) -> Hello:
    """Name the network with the digests of its weights and its graph, and with what tells where others differ."""
    weights, graph = network.weights, graph_digest(network.graph.digest, network.numbers)
    about = (network.made_with, weights.code, weights.marks)
    digest = network.bundle.digest if isinstance(network, BundleNetwork) else ""
    return Hello(network.graph.name, weights.digest, graph, list(codecs), token, *about, bundle=digest)


def graph_digest(graph: str, numbers: str) -> str:
    """With what the file of a custom model has made part of the graph."""
    return "sha256:" + hashlib.sha256(f"{graph} {numbers}".encode()).hexdigest() if numbers else graph
