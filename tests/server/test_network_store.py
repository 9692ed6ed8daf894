"""Networks that come piece by piece: whole and right, or not at all, and never more than the store may hold."""

import hashlib
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgecloud.models import bundle, network
from edgecloud.server import network_store
from edgecloud.server.network_store import NetworkStore, NoRoomYetError, NotTakenError, Upload, Wanted
from edgecloud.utils.errors import AppError, ProtocolError, UsageError
from tests import bundles

PIECE = 1000


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundles") / "chain.bundle"
    bundles.write(path, *bundles.traced_of(bundles.Chain(), (1, 3, 64, 64)))
    return path


@pytest.fixture(scope="module")
def other(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network with another example: all weights are the same."""
    opened = bundle.read(made)
    path = tmp_path_factory.mktemp("others") / "other.bundle"
    raw = made.read_bytes()
    place = opened.content
    weights = {name: opened.weight(name) for name in opened.onnx.weights}
    start = raw.index(bytes(_graph(opened, raw)))
    model = raw[start : start + len(_graph(opened, raw))]
    (example,) = network.arrays_of(opened.fed)
    bundle.write(path, place, model, weights, example + np.float32(1))
    return path


def _graph(opened: bundle.Bundle, raw: bytes) -> bytes:
    """The ONNX graph of a bundle, as it lies in the file."""
    found = bundle.outline_of(opened.path)
    sizes = {(blob.offset, blob.bytes) for blob in found.blobs}
    held = {opened._weights[name].blob for name in opened._weights}
    (model,) = sizes - {(blob.offset, blob.bytes) for blob in held}
    return raw[model[0] : model[0] + model[1]]


def wanted_of(path: Path) -> Wanted:
    found = bundle.outline_of(path)
    return Wanted(found.digest, found.head_bytes, found.bytes)


def send(upload: Upload, raw: bytes, most: int = 1 << 40) -> int:
    """Answer what is wanted, until all is there or `most` bytes were sent; returns how many were."""
    sent = 0
    ranges = upload.wants()
    while ranges:
        start, stop = ranges.pop(0)
        while start < stop:
            if sent >= most:
                return sent
            end = min(stop, start + PIECE)
            upload.take(start, memoryview(raw[start:end]))
            sent, start = sent + end - start, end
            ranges += upload.wants()
    return sent


def test_a_network_that_came_in_pieces_is_the_same_file(made: Path, tmp_path: Path) -> None:
    store, wanted = NetworkStore(tmp_path, 1 << 20), wanted_of(made)
    with store.upload(wanted, "a") as upload:
        assert upload.have == 0
        send(upload, made.read_bytes())
        assert upload.is_whole
        assert upload.have == wanted.bytes
        assert upload.outline is not None
    path = store.find(wanted.digest)
    assert path is not None
    assert path.read_bytes() == made.read_bytes()
    assert store.names == (wanted.digest,)
    with store.upload(wanted, "b") as upload:
        assert upload.is_whole
        assert upload.wants() == []
    store.close()
    again = NetworkStore(tmp_path, 1 << 20)  # another start finds it
    assert again.find(wanted.digest) == path
    again.close()


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.5, 0.9, 0.999])
def test_an_upload_that_broke_off_goes_on_where_it_was(made: Path, tmp_path: Path, share: float) -> None:
    raw, wanted, sent = made.read_bytes(), wanted_of(made), 0
    for most in (int(share * len(raw)), len(raw)):
        store = NetworkStore(tmp_path, 1 << 20)  # also after the cloud was started anew
        with store.upload(wanted, "a") as upload:
            sent += send(upload, raw, most)
        store.close()
    assert sent <= len(raw)  # nothing twice
    assert hashlib.sha256((tmp_path / f"{wanted.digest}.bundle").read_bytes()).digest() == hashlib.sha256(raw).digest()


def test_only_what_no_other_bundle_holds_is_wanted(
    made: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_store, "SHARED_BYTES", 64)
    store, wanted = NetworkStore(tmp_path, 1 << 20), wanted_of(other)
    for path in (made, other):
        with store.upload(wanted_of(path), "a") as upload:
            sent = send(upload, path.read_bytes())
    large = sum(blob.bytes for blob in bundle.outline_of(made).blobs if blob.bytes >= network_store.SHARED_BYTES)
    example = 3 * 64 * 64 * 4
    assert large > example
    assert sent <= wanted.bytes - (large - example)
    assert (tmp_path / f"{wanted.digest}.bundle").read_bytes() == other.read_bytes()
    store.close()


def test_what_is_not_what_its_digest_says_is_refused_and_sent_again(made: Path, tmp_path: Path) -> None:
    store, wanted, raw = NetworkStore(tmp_path, 1 << 20), wanted_of(made), bytearray(made.read_bytes())
    raw[-5] ^= 1
    with pytest.raises(ProtocolError, match="not what its digest says"), store.upload(wanted, "a") as upload:
        send(upload, bytes(raw))
    assert store.find(wanted.digest) is None
    with store.upload(wanted, "a") as upload:
        assert 0 < send(upload, made.read_bytes()) < len(raw) / 2
    assert store.find(wanted.digest) is not None
    store.close()


def test_a_header_that_is_another_or_lies_is_refused(made: Path, tmp_path: Path) -> None:
    store, wanted, raw = NetworkStore(tmp_path, 1 << 20), wanted_of(made), made.read_bytes()
    with pytest.raises(ProtocolError, match="digest"), store.upload(Wanted("0" * 64, *_sizes(wanted)), "a") as upload:
        send(upload, raw)
    rng = random.Random(1)
    for _ in range(300):
        broken = bytearray(raw)
        for _ in range(rng.choice((1, 1, 4))):
            broken[rng.randrange(wanted.head_bytes)] = rng.randrange(256)
        if broken == raw:
            continue
        with pytest.raises((ProtocolError, NotTakenError)), store.upload(wanted, "a") as upload:
            send(upload, bytes(broken))
        assert not upload.is_whole
    assert store.names == ()
    store.close()


def _sizes(wanted: Wanted) -> tuple[int, int]:
    return wanted.head_bytes, wanted.bytes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: Wanted("../../x", w.head_bytes, w.bytes), "no SHA-256"),
        (lambda w: Wanted(w.digest.upper(), w.head_bytes, w.bytes), "no SHA-256"),
        (lambda w: Wanted(w.digest, 10, w.bytes), "header"),
        (lambda w: Wanted(w.digest, w.bytes + 1, w.bytes), "header"),
        (lambda w: Wanted(w.digest, 5 << 20, 1 << 23), "at most"),
        (lambda w: Wanted(w.digest, w.head_bytes, 1 << 62), "--max-store"),
    ],
)
def test_an_offer_that_cannot_be_is_refused_before_anything_is_kept(
    made: Path, tmp_path: Path, change: Callable[[Wanted], Wanted], words: str
) -> None:
    store = NetworkStore(tmp_path, 1 << 20)
    with pytest.raises(AppError, match=words), store.upload(change(wanted_of(made)), "a"):
        pass
    assert store.used_bytes == 0
    store.close()


def test_pieces_that_were_not_asked_for_are_refused(made: Path, tmp_path: Path) -> None:
    store, wanted, raw = NetworkStore(tmp_path, 1 << 20), wanted_of(made), made.read_bytes()
    tries = [(1, 100), (0, 0), (0, wanted.head_bytes + 1), (wanted.bytes - 1, 2), (1 << 62, 10)]
    for offset, count in tries:
        with store.upload(wanted, "a") as upload:
            upload.wants()
            with pytest.raises(ProtocolError, match="not asked for"):
                upload.take(offset, memoryview(bytes(count)))
    with store.upload(wanted, "a") as upload, pytest.raises(ProtocolError, match="not asked for"):
        upload.take(0, memoryview(raw[:10]))
    store.close()


def test_what_was_not_used_for_longest_goes_and_never_what_is_in_use(made: Path, other: Path, tmp_path: Path) -> None:
    first, second = wanted_of(made), wanted_of(other)
    used: set[str] = set()
    store = NetworkStore(tmp_path, int(1.5 * first.bytes), lambda: frozenset(used))
    with store.upload(first, "a") as upload:
        send(upload, made.read_bytes())
    used.add(first.digest)
    with pytest.raises(NoRoomYetError, match="in use"), store.upload(second, "b"):
        pass
    used.clear()
    with store.upload(second, "b") as upload:
        send(upload, other.read_bytes())
    assert store.names == (second.digest,)
    assert store.used_bytes <= store.max_bytes
    store.close()


def test_a_source_cannot_fill_the_store_with_what_it_does_not_end(made: Path, tmp_path: Path) -> None:
    wanted = wanted_of(made)
    store = NetworkStore(tmp_path, 4 * wanted.bytes)
    for number in range(20):
        with store.upload(Wanted(f"{number:064x}", *_sizes(wanted)), "greedy") as upload:
            send(upload, made.read_bytes(), 100)
    assert store.used_bytes <= store.max_bytes / 2 + 4096
    with store.upload(wanted, "good") as upload:
        send(upload, made.read_bytes())
    assert store.find(wanted.digest) is not None
    old = time.time() - network_store.KEPT_S - 60
    for path in tmp_path.glob("*.part"):
        os.utime(path, (old, old))
    with store.upload(wanted, "good"):
        pass
    assert not list(tmp_path.glob("*.part"))
    store.close()


def test_one_network_comes_once_at_a_time_and_a_folder_has_one_cloud(made: Path, tmp_path: Path) -> None:
    store, wanted = NetworkStore(tmp_path, 1 << 20), wanted_of(made)
    with store.upload(wanted, "a"), pytest.raises(NoRoomYetError, match="already"), store.upload(wanted, "b"):
        pass
    with pytest.raises(UsageError, match="--network-store"):
        NetworkStore(tmp_path, 1 << 20)
    store.close()


def test_damage_on_disk_is_found(made: Path, tmp_path: Path) -> None:
    store, wanted = NetworkStore(tmp_path, 1 << 20), wanted_of(made)
    with store.upload(wanted, "a") as upload:
        send(upload, made.read_bytes())
    store.prove(wanted.digest, b"answer")
    assert store.proof(wanted.digest) == b"answer"
    store.close()
    (tmp_path / f"{wanted.digest}.proof").write_bytes(b"x" * 40)
    path = tmp_path / f"{wanted.digest}.bundle"
    path.write_bytes(path.read_bytes()[:-1])
    again = NetworkStore(tmp_path, 1 << 20)
    assert again.proof(wanted.digest) is None
    assert again.names == ()
    again.close()
