"""The conversation in which an edge sends a network: OFFER, then a PIECE after the other, then a PROOF.

It has its own connection, and its thread does nothing else: it reads, hashes and writes, all of which let others run.
While somebody is served, pieces are taken at a limited rate, so that they cost the others little.
"""

import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from edgecloud.models.bundle import Outline
from edgecloud.net.connection import Frame
from edgecloud.net.frames import FrameType
from edgecloud.net.messages import Hello, Offer, Piece, Proof, Want
from edgecloud.net.pacing import Bucket, Spending
from edgecloud.net.server import Peer
from edgecloud.server.accepting import Accepting, graph_of
from edgecloud.server.cloud_config import CloudConfig
from edgecloud.server.network_store import NetworkStore, Upload, Wanted
from edgecloud.server.requests import RequestError
from edgecloud.server.session import Session
from edgecloud.utils import addresses
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import ProtocolError
from edgecloud.utils.extras import require
from edgecloud.utils.units import format_size, printable

log = logging.getLogger(__name__)

PIECE_BYTES = 256 << 10
IDLE_S = 60.0
ANSWER_S = 30.0
READY_S = 600.0
BESIDE_PER_S = 16 << 20
"""Bytes of networks that are taken in a second while requests are served."""


def accepting(config: CloudConfig) -> Accepting | None:
    """What takes networks, where that is wanted. Raises UsageError where there is no place for them, and
    MissingLibraryError."""
    if not config.accepts_networks:
        return None
    require("onnxruntime")
    if config.network_store is not None:
        return Accepting(config, NetworkStore(config.network_store, config.max_store_bytes))
    folder = tempfile.TemporaryDirectory(prefix="edge-cloud-networks-")
    return Accepting(config, NetworkStore(Path(folder.name), config.max_store_bytes), folder)


def may_send(config: CloudConfig, peer: Peer) -> bool:
    """Whether a network of this client is taken: it has the token, or a certificate, or is on this machine."""
    is_here = config.policy.spares_loopback and addresses.ip_of(peer.address).is_loopback
    return bool(config.token) or config.authenticates or is_here


def receive(
    networks: Accepting, session: Session, offer: Offer, source: str | None, is_serving: Callable[[], bool]
) -> None:
    """Take the network that was offered, or what is missing of it, and start it.

    `is_serving` says whether requests were served in the last moments. Raises NotTakenError, NoRoomYetError,
    RequestError for one that proves to be of no use, and ProtocolError.
    """
    wanted = Wanted(offer.bundle, offer.head_bytes, offer.bytes)
    networks.check(offer.bundle)
    name = printable(offer.model, 60)
    with networks.store.upload(wanted, source or session.peer.payer) as upload:
        was_whole = upload.is_whole
        if not was_whole:
            log.info("< %s sends %s, %s", session.peer.name, name, format_size(wanted.bytes))
            _take_all(networks, session, upload, is_serving)
        outline = upload.outline
    if outline is None:
        raise RequestError("the network is not here any more, offer it again")
    if networks.has(offer.bundle):
        session.send(Want([], wanted.bytes, is_whole=True, is_ready=True))
        return
    if was_whole:
        session.send(Want([], wanted.bytes, is_whole=True))
    _take_proof(networks, session, outline)
    hello = Hello(offer.model, "", graph_of(outline), [], "", bundle=offer.bundle)
    turn = Deadline.after(READY_S, "the network was not ready")
    networks.get(hello, turn, lambda: not session.peer.connection.peer_has_left(), source)
    session.send(Want([], wanted.bytes, is_whole=True, is_ready=True))


def _take_all(networks: Accepting, session: Session, upload: Upload, is_serving: Callable[[], bool]) -> None:
    connection, before = session.peer.connection, session.peer.connection.limits
    bucket, checked = Bucket(BESIDE_PER_S, 0.1), False
    connection.limits = replace(before, payload_bytes=min(PIECE_BYTES, before.payload_bytes))
    try:
        while True:
            if upload.outline is not None and not checked:
                networks.check_size(upload.outline)
                checked = True
            session.send(Want(upload.wants(), upload.have, upload.is_whole and checked))
            if upload.is_whole:
                return
            frame = _received(session, Deadline.after(IDLE_S, f"no piece of the network came for {IDLE_S:.0f} s"))
            session.await_turn(Spending.PIECE)
            if frame.kind is not FrameType.PIECE:
                raise ProtocolError(f"unexpected {frame.kind.name} frame")
            upload.take(frame.read(Piece).offset, frame.payload)
            wait_s = bucket.pay(frame.payload.nbytes, time.monotonic())
            if is_serving():
                time.sleep(wait_s)
    finally:
        connection.limits = before


def _received(session: Session, deadline: Deadline) -> Frame:
    """The next frame; while it is waited for nothing is in hand, so that a stop need not wait."""
    session.end()
    try:
        return session.peer.connection.receive(deadline)
    finally:
        session.begin()


def _take_proof(networks: Accepting, session: Session, outline: Outline) -> None:
    connection, before = session.peer.connection, session.peer.connection.limits
    most = outline.content.graph.result_bytes
    if most > before.payload_bytes:
        raise RequestError(f"the answer of the network has {most} bytes, over --max-payload ({before.payload_bytes})")
    connection.limits = replace(before, payload_bytes=most)
    try:
        frame = _received(session, Deadline.after(READY_S, "no PROOF came"))
        if frame.read(Proof).bundle != outline.digest:
            raise ProtocolError("PROOF: of another network")
        networks.prove(outline.digest, outline, frame.arrays())
    finally:
        connection.limits = before
