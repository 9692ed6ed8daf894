"""The identity of a network in HELLO, so that both sides can compare it."""

import hashlib
from collections.abc import Sequence

import torch

from edgecloud.engine.executor import Network
from edgecloud.net.codec import STANDARD
from edgecloud.net.messages import Hello


def hello_of(network: Network, token: str = "", codecs: Sequence[str] = tuple(STANDARD)) -> Hello:
    """Name the network with the digests of its weights and its graph, and with what tells where others differ."""
    loaded, traced = network.loaded, network.traced
    graph = traced.graph.digest
    if traced.numbers:  # what the file of a custom model has made part of the graph
        graph = "sha256:" + hashlib.sha256(f"{graph} {traced.numbers}".encode()).hexdigest()
    about = (str(torch.__version__), loaded.code, loaded.marks)
    return Hello(traced.graph.name, loaded.digest, graph, list(codecs), token, *about)
