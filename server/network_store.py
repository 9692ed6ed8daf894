"""Networks that edges have sent: bundles in a folder of bounded size, and what is there of those that are on their way.

    ID.bundle   a bundle that is whole; ID is the SHA-256 of its header, so the name stands for exactly these bytes
    ID.proof    the edge's own answer to the example in it
    ID.part     one that is on its way, with what is missing as zeros
    ID.json     of that: whose it is, and up to where it is there

Only what is missing is asked for: what another bundle holds already, by its SHA-256, is copied. Every part is compared
with its digest when its last byte comes. When room is needed what was not used for longest goes, never what is in use.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecloud.models import bundle
from edgecloud.models.bundle import Blob, Outline
from edgecloud.utils.errors import AppError, ProtocolError, UsageError
from edgecloud.utils.files import write_atomically, writing

log = logging.getLogger(__name__)

HEAD_BYTES = 4 << 20
"""Of a header that comes over the network: reading it holds the interpreter, and others wait."""
RANGES = 32
"""That are asked for at once ..."""
AHEAD_BYTES = 8 << 20
"""... and how much may be on its way, where there is more than one: no pause of a round trip between two lists."""
PARTS_EACH = 4
"""Networks of one source that may be on their way at once."""
KEPT_S = 3600.0
"""How long what is there of a network is kept where nothing more of it comes."""
NOTE_BYTES = 8 << 20
COPY_BYTES = 1 << 20
SHARED_BYTES = 4096
"""Parts of a bundle from this size on are looked for in others."""
MAX_NOTE_BYTES = 4096
_ID = re.compile("[0-9a-f]{64}")
LATER_S = 5.0
TIMES = "times"
"""The folder in it for what was measured of its networks."""


class NotTakenError(AppError):
    """A network that is not taken; another one may be."""

    code = "BAD_REQUEST"


class NoRoomYetError(AppError):
    """A network for which there is no room now."""

    code = "BUSY"
    retry_after_s = LATER_S


@dataclass(frozen=True)
class Wanted:
    """A network that an edge offers."""

    digest: str
    head_bytes: int
    bytes: int


@dataclass(frozen=True)
class Place:
    """Where the bytes of some digest are."""

    path: Path
    blob: Blob


class NetworkStore:
    """One folder, of this process alone. May be used by any thread."""

    def __init__(self, folder: Path, max_bytes: int, in_use: Callable[[], frozenset[str]] = frozenset) -> None:
        """`in_use` tells the networks that may not go. Raises UsageError where the folder cannot be used."""
        self.folder, self.max_bytes, self.in_use = folder, max_bytes, in_use
        self._lock = threading.RLock()
        self._open: set[str] = set()
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._held = (folder / ".lock").open("w")
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._held.close()
            raise UsageError(f"another cloud uses {folder}: give this one another --network-store") from None
        self._places: dict[str, Place] = {}
        for path in list(self._files("bundle")):
            self._learn(path)

    def close(self) -> None:
        """Another process may use the folder."""
        self._held.close()

    @property
    def used_bytes(self) -> int:
        """Of everything in it; of what is on its way as much as it will be."""
        with self._lock:
            return sum(self._bytes_of(path) for path in self._every())

    @property
    def names(self) -> tuple[str, ...]:
        """The networks that are whole."""
        return tuple(path.stem for path in self._files("bundle"))

    def find(self, digest: str) -> Path | None:
        """The bundle of that digest, if it is whole; it is the one that was used last."""
        path = self.folder / f"{digest}.bundle"
        if not _ID.fullmatch(digest) or not path.is_file():
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return path

    def proof(self, digest: str) -> bytes | None:
        """The edge's own answer to the example in a bundle, as bytes; None where it is not there, or damaged."""
        try:
            raw = (self.folder / f"{digest}.proof").read_bytes()
        except OSError:
            return None
        return raw[32:] if hashlib.sha256(raw[32:]).digest() == raw[:32] else None

    def prove(self, digest: str, answer: bytes) -> None:
        """Keep that answer. Raises NoRoomYetError."""
        path = self.folder / f"{digest}.proof"
        with self._lock, _room():
            self._make_room(len(answer), digest)
            temporary = path.with_suffix(".new")
            temporary.write_bytes(hashlib.sha256(answer).digest() + answer)
            temporary.replace(path)

    def disprove(self, digest: str) -> None:
        """Forget that answer: it is not what the network gives."""
        with self._lock:
            (self.folder / f"{digest}.proof").unlink(missing_ok=True)

    def drop(self, digest: str) -> None:
        """Let a network go: it proved to be of no use."""
        with self._lock:
            self._remove(digest)

    @contextlib.contextmanager
    def upload(self, wanted: Wanted, source: str) -> Iterator["Upload"]:
        """Take a network, or go on with it. `source` is whose it is; until it is whole, it counts as theirs.

        Raises NotTakenError for one that can never be, NoRoomYetError where it may be later.
        """
        self._check(wanted)
        with self._lock:
            if wanted.digest in self._open:
                raise NoRoomYetError("this network is being sent already")
            self._open.add(wanted.digest)
        try:
            with _room():
                upload = self._begin(wanted, source)
            try:
                yield upload
            finally:
                with _room():
                    upload.close()
        finally:
            with self._lock:
                self._open.discard(wanted.digest)

    def _check(self, wanted: Wanted) -> None:
        if not _ID.fullmatch(wanted.digest):
            raise ProtocolError("OFFER: field 'bundle' is no SHA-256")
        if not bundle.PREFIX_BYTES < wanted.head_bytes <= min(wanted.bytes, HEAD_BYTES):
            raise NotTakenError(f"the header of a network has at most {HEAD_BYTES} bytes, not {wanted.head_bytes}")
        if wanted.bytes > self.max_bytes:
            raise NotTakenError(f"the network has {wanted.bytes} bytes, over --max-store ({self.max_bytes})")

    def _begin(self, wanted: Wanted, source: str) -> "Upload":
        path = self.folder / f"{wanted.digest}.part"
        with self._lock:
            self._forget_late()
            whole = self.find(wanted.digest)
            if whole is not None and whole.stat().st_size == wanted.bytes:
                return Upload(self, wanted, source, None, wanted.bytes)
            at = self._position(wanted) if path.is_file() else 0
            if not at:
                self._remove(wanted.digest)
                self._charge(wanted, source)
                self._make_room(wanted.bytes, wanted.digest)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.ftruncate(file, wanted.bytes)
        return Upload(self, wanted, source, file, at)

    def _position(self, wanted: Wanted) -> int:
        """Up to where it is there, by the note beside it."""
        note = self._note(wanted.digest)
        place = note.get("position")
        is_same = (note.get("bytes"), note.get("head_bytes")) == (wanted.bytes, wanted.head_bytes)
        return place if is_same and type(place) is int and 0 <= place <= wanted.bytes else 0

    def _note(self, digest: str) -> dict[str, Any]:
        path = self.folder / f"{digest}.json"
        try:
            if path.stat().st_size > MAX_NOTE_BYTES:
                return {}
            note = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return note if isinstance(note, dict) else {}

    def note(self, wanted: Wanted, source: str, position: int) -> None:
        """Write down up to where a network is there."""
        note = {"source": source, "position": position, "bytes": wanted.bytes, "head_bytes": wanted.head_bytes}
        write_atomically(self.folder / f"{wanted.digest}.json", json.dumps(note))

    def finish(self, wanted: Wanted, file: int) -> None:
        """All of a network is there, and is what it says."""
        os.fsync(file)
        with self._lock:
            path = self.folder / f"{wanted.digest}.bundle"
            (self.folder / f"{wanted.digest}.part").replace(path)
            (self.folder / f"{wanted.digest}.json").unlink(missing_ok=True)
            self._learn(path)

    def known(self, blob: Blob) -> Place | None:
        """Where another bundle holds the same bytes."""
        with self._lock:
            place = self._places.get(blob.sha256)
            return place if place is not None and place.blob.bytes == blob.bytes else None

    # --- room

    def _charge(self, wanted: Wanted, source: str) -> None:
        """A source has half of the store for what it has begun to send; its oldest goes where it begins another."""
        parts = [path for path in self._files("part") if self._note(path.stem).get("source") == source]
        parts.sort(key=lambda path: path.stat().st_mtime)
        most = max(self.max_bytes // 2, wanted.bytes)
        while parts and (len(parts) >= PARTS_EACH or sum(map(self._bytes_of, parts)) + wanted.bytes > most):
            oldest = next((path for path in parts if path.stem not in self._open), None)
            if oldest is None:
                raise NoRoomYetError("your address is sending other networks: wait until they are there")
            parts.remove(oldest)
            self._remove(oldest.stem)

    def _forget_late(self) -> None:
        end = self._now() - KEPT_S
        for path in list(self._files("part")):
            if path.stem not in self._open and path.stat().st_mtime < end:
                log.info("= nothing more came of %s: removed", path.stem[:12])
                self._remove(path.stem)

    def _now(self) -> float:
        """As the file system would date what is written now: only that is compared with the dates of files."""
        lock = self.folder / ".lock"
        os.utime(lock)
        return lock.stat().st_mtime

    def _make_room(self, needed: int, own: str) -> None:
        """Raises NoRoomYetError where all of it is in use, or the disk is full."""
        kept = {own, *self._open, *self.in_use()}
        used = sum(self._bytes_of(path) for path in self._every())
        whole = sorted(self._files("bundle"), key=lambda path: path.stat().st_mtime)
        for path in whole:
            if used + needed <= self.max_bytes:
                break
            if path.stem in kept:
                continue
            used -= self._bytes_of(path) + self._bytes_of(path.with_suffix(".proof"))
            log.info("= %s was not used for longest: removed from the store", path.stem[:12])
            self._remove(path.stem)
        if used + needed > self.max_bytes:
            raise NoRoomYetError("the store of networks is full of networks in use (--max-store)")
        if shutil.disk_usage(self.folder).free < needed:
            raise NoRoomYetError("the cloud has no disk space for this network")

    def _remove(self, digest: str) -> None:
        for ending in ("part", "json", "bundle", "proof"):
            (self.folder / f"{digest}.{ending}").unlink(missing_ok=True)
        for path in (self.folder / TIMES / "profiles").glob(f"*{digest[:12]}*"):
            path.unlink(missing_ok=True)
        gone = [key for key, place in self._places.items() if place.path.stem == digest]
        for key in gone:
            del self._places[key]

    def _learn(self, path: Path) -> None:
        """What of a bundle others may share. One that is damaged goes."""
        try:
            found = bundle.outline_of(path)
            if found.digest != path.stem:
                raise UsageError("it is another network than its name says")
        except UsageError as error:
            log.warning("%s: %s: removed", path, error)
            self._remove(path.stem)
            return
        for blob in found.blobs:
            if blob.bytes >= SHARED_BYTES:
                self._places.setdefault(blob.sha256, Place(path, blob))

    def _files(self, ending: str) -> list[Path]:
        return [path for path in self.folder.glob(f"*.{ending}") if _ID.fullmatch(path.stem)]

    def _every(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if _ID.fullmatch(path.stem)]

    def _bytes_of(self, path: Path) -> int:
        with contextlib.suppress(OSError):
            return path.stat().st_size
        return 0


class Upload:
    """A network that comes, piece after piece, in the order in which they were asked for. One thread at a time."""

    def __init__(self, store: NetworkStore, wanted: Wanted, source: str, file: int | None, position: int) -> None:
        """Without a `file` all of it is there."""
        self._store, self._wanted, self._source, self._file = store, wanted, source, file
        self._at = position
        """Up to where the file is there, but for what is not wanted of it."""
        self._noted = position
        self._missing: list[tuple[int, int]] = []
        """Half-open ranges that are to come, in order; the first one may have come in part."""
        self._asked = 0
        """How many of them were asked for."""
        self._blobs: dict[int, Blob] = {}
        self._sha = hashlib.sha256()
        self.outline: Outline | None = None
        self.is_whole = file is None
        """Whether all of it is there."""
        if file is None:
            path = store.find(wanted.digest)
            self.outline = None if path is None else bundle.outline_of(path)
        elif position < wanted.head_bytes:
            self._missing = [(position, wanted.head_bytes)]
        else:
            self._read_head()

    @property
    def have(self) -> int:
        """Bytes that are there, or not wanted."""
        if self.outline is None and not self.is_whole:
            return self._at
        return self._wanted.bytes - sum(stop - max(start, self._at) for start, stop in self._missing)

    def wants(self) -> list[list[int]]:
        """Ranges that are to be sent next; none where enough is on its way."""
        new: list[list[int]] = []
        ahead = sum(stop - max(start, self._at) for start, stop in self._missing[: self._asked])
        for start, stop in self._missing[self._asked :]:
            if len(new) >= RANGES or (ahead >= AHEAD_BYTES and self._asked > 1):
                break
            new.append([max(start, self._at), stop])
            ahead += stop - max(start, self._at)
            self._asked += 1
        return new

    def take(self, offset: int, data: memoryview) -> None:
        """Write the next piece. Raises ProtocolError where it is another one, or not what its digest says."""
        if not self._asked or self._file is None:
            raise ProtocolError("a piece of a network that was not asked for")
        start, stop = self._missing[0]
        if offset != max(start, self._at) or not 0 < data.nbytes <= stop - offset:
            raise ProtocolError("a piece of a network that was not asked for, or not yet")
        with _room():
            _write(self._file, offset, data)
            self._sha.update(data)
            self._at = offset + data.nbytes
            if self._at == stop:
                self._complete(start)
            if self._file is not None and self._at - self._noted >= NOTE_BYTES:
                self._write_down()

    def close(self) -> None:
        """Nothing more comes now; what is there stays for a while."""
        if self._file is not None:
            self._write_down()
            os.close(self._file)
            self._file = None

    def _write_down(self) -> None:
        if not self._at:
            return
        self._store.note(self._wanted, self._source, self._at)
        self._noted = self._at

    def _complete(self, start: int) -> None:
        """The last byte of a range has come."""
        if self.outline is None:
            self._missing, self._asked = [], 0
            self._read_head()
            return
        if self._sha.hexdigest() != self._blobs[start].sha256:
            self._at = start  # it is sent again
            raise ProtocolError("a piece of a network is not what its digest says")
        del self._missing[0]
        self._asked -= 1
        self._begin_range()

    def _read_head(self) -> None:
        assert self._file is not None  # it is not whole
        wanted = self._wanted
        head = os.pread(self._file, wanted.head_bytes, 0)
        try:
            found = bundle.outline(head, wanted.bytes)
        except UsageError as error:
            self._forget()
            raise NotTakenError(str(error)) from None
        if found.digest != wanted.digest:
            self._forget()
            raise ProtocolError("the header of a network is not what its digest says")
        self.outline = found
        self._at = max(self._at, wanted.head_bytes)
        for blob in found.blobs:
            if blob.offset + blob.bytes <= self._at or not blob.bytes or self._copied(blob):
                continue
            self._missing.append((blob.offset, blob.offset + blob.bytes))
            self._blobs[blob.offset] = blob
        self._begin_range()

    def _begin_range(self) -> None:
        """Get ready for the next blob, of which something may be there from an earlier connection."""
        self._sha = hashlib.sha256()
        if not self._missing:
            self._finish()
            return
        start, _ = self._missing[0]
        assert self._file is not None  # something is missing
        for place in range(start, self._at, COPY_BYTES):
            self._sha.update(os.pread(self._file, min(COPY_BYTES, self._at - place), place))

    def _copied(self, blob: Blob) -> bool:
        """Take a blob out of another bundle that is here, if there is one that holds it."""
        place = self._store.known(blob)
        if place is None or self._file is None:
            return False
        sha = hashlib.sha256()
        try:
            with place.path.open("rb") as other:
                other.seek(place.blob.offset)
                for done in range(0, blob.bytes, COPY_BYTES):
                    data = other.read(min(COPY_BYTES, blob.bytes - done))
                    sha.update(data)
                    _write(self._file, blob.offset + done, memoryview(data))
        except OSError:
            return False
        return sha.hexdigest() == blob.sha256

    def _finish(self) -> None:
        assert self._file is not None  # it was not whole
        file, self._file = self._file, None
        try:
            self._store.finish(self._wanted, file)
            self.is_whole = True
        finally:
            os.close(file)

    def _forget(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._store.drop(self._wanted.digest)


def _write(file: int, offset: int, data: memoryview) -> None:
    while data.nbytes:
        done = os.pwrite(file, data, offset)
        data, offset = data[done:], offset + done


@contextlib.contextmanager
def _room() -> Iterator[None]:
    """What the system has against writing, as an edge is told it."""
    try:
        yield
    except OSError as error:
        log.warning("! the store of networks: %s", error)
        raise NoRoomYetError("the cloud cannot write to its store of networks now") from None
