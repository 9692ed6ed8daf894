"""TLS 1.3 over a connection's socket, so that one thread can send while another receives (docs/decisions/0009).

OpenSSL never sees the socket: it turns bytes in memory into others, under a lock that is held for microseconds.
The socket is read and written outside the lock, each direction with its own time-out, as it is without TLS.
"""

import contextlib
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path

from edgecloud.net.frames import MAGIC, TLS_FIRST
from edgecloud.net.messages import Error
from edgecloud.net.transport import Plain
from edgecloud.utils import addresses
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import AppError, ConnectError, PeerClosedError, ProtocolError, UsageError

AHEAD_BYTES = 64 << 10  # encrypted at once
INBOX_BYTES = 64 << 10
MOST_UNASKED = 64 << 10  # that we may owe as answers to what an unauthenticated client sends within TLS
ALERT_S = 1.0
_PLAIN_FIRST = (MAGIC[:1], b"P", b"\0")  # of frames and of HTTP/2, either way; no record of TLS begins with these
ALPN = ["h2"]  # as gRPC has it; who asks for nothing speaks frames


class TlsError(ProtocolError):
    """The other side does not speak TLS as it should."""

    code = "TLS"


class PlainPeerError(TlsError):
    """The other side speaks without TLS: frames, or HTTP/2."""

    def __init__(self, text: str, *, is_http2: bool = False) -> None:
        super().__init__(text)
        self.is_http2 = is_http2


class TlsRefusedError(ConnectError):
    """One side does not trust the other."""

    code = "TLS"


@dataclass(frozen=True)
class ClientTls:
    """Whom an edge trusts, and what its cloud is called in the certificate."""

    context: ssl.SSLContext
    hostname: str

    def of(self, host: str) -> "ClientTls":
        """The same trust, for a cloud that is called otherwise."""
        return ClientTls(self.context, _hostname(host))


def client_tls(ca: Path | None, cert: Path | None, key: Path | None, host: str) -> ClientTls | None:
    """What the flags of an edge mean; None without TLS. Raises UsageError for files that do not serve."""
    if ca is None:
        if cert is not None or key is not None:
            raise UsageError("--tls-cert and --tls-key require --tls-ca FILE")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    _trust(context, ca)
    if cert is not None or key is not None:
        _identify(context, cert, key)
    return ClientTls(context, _hostname(host))


def server_context(cert: Path | None, key: Path | None, client_ca: Path | None) -> ssl.SSLContext | None:
    """What the flags of a cloud mean; None without TLS. Raises UsageError for files that do not serve."""
    if cert is None and key is None:
        if client_ca is not None:
            raise UsageError("--tls-client-ca requires --tls-cert and --tls-key")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # connections live long; nobody resumes one
    context.set_alpn_protocols(ALPN)
    _identify(context, cert, key)
    if client_ca is not None:
        _trust(context, client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _hostname(host: str) -> str:
    """What a certificate has to say: a name, or an address without its interface."""
    return host.partition("%")[0] if addresses.is_number(host) else host


def _trust(context: ssl.SSLContext, ca: Path) -> None:
    try:
        context.load_verify_locations(ca)
    except OSError as error:  # ssl's own errors are such too
        raise UsageError(f"cannot read certificates from {ca}: {_reason(error)}") from None


def _identify(context: ssl.SSLContext, cert: Path | None, key: Path | None) -> None:
    if cert is None or key is None:
        raise UsageError("--tls-cert FILE and --tls-key FILE must be used together")
    try:
        context.load_cert_chain(cert, key, password="")  # nobody is asked for one
    except OSError as error:
        raise UsageError(f"cannot use the certificate {cert} with the key {key}: {_reason(error)}") from None


def _reason(error: OSError) -> str:
    """In words, without the file and line of OpenSSL's source."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return str(error.verify_message)
    if isinstance(error, ssl.SSLError):
        return str(error.reason or "not a PEM file").lower().replace("_", " ")
    return error.strerror or str(error)


_REFUSALS = {
    "CERTIFICATE_REQUIRED": "the cloud requires a client certificate: use --tls-cert FILE --tls-key FILE",
    "ALERT": "the peer ended the TLS session: {reason}",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no client certificate received (--tls-client-ca)",
}
"""By what OpenSSL's reason has in it, the first that fits; whatever else it says is no TLS of ours."""


def explain(error: ssl.SSLError) -> AppError:
    """The one line that an error of TLS becomes: TlsRefusedError where one side does
    not trust the other, else TlsError."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return TlsRefusedError(f"the peer's certificate is not trusted: {_reason(error)}")
    for part, text in _REFUSALS.items():
        if part in (error.reason or ""):
            return TlsRefusedError(text.format(reason=_reason(error)))
    return TlsError(f"TLS 1.3 handshake failed: {_reason(error)}")


class Secure:
    """A transport that encrypts. Sending and receiving are for one thread each."""

    has_own_end = is_over = False

    def __init__(self, raw: Plain, context: ssl.SSLContext, server_hostname: str | None = None) -> None:
        self._raw = raw
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        is_cloud = server_hostname is None
        self._tls = context.wrap_bio(self._incoming, self._outgoing, is_cloud, server_hostname)
        self._lock = threading.Lock()  # OpenSSL's object is not for two threads at once
        self._inbox = memoryview(bytearray(INBOX_BYTES))
        self._is_at_end = False
        self._sealed = memoryview(b"")  # encrypted, and not taken by the kernel
        self._sealed_bytes, self._open_bytes, self._reported_bytes = 0, 0, 0
        self.has_heard = False
        """Whether anything came at all."""

    # --- the handshake, before anything else and in one thread

    def shake(self, deadline: Deadline) -> None:
        """Agree with the other side. Raises what `explain` makes, PlainPeerError, PeerClosedError and OSError."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush(deadline)
                self._fill(deadline)
                continue
            except ssl.SSLError as error:
                with contextlib.suppress(AppError, OSError):
                    self._flush(Deadline.after(ALERT_S, "an alert"))
                raise explain(error) from None
            self._flush(deadline)
            return

    def _flush(self, deadline: Deadline) -> None:
        left = memoryview(self._outgoing.read())
        while left:
            left = left[self._raw.send([left], deadline.remaining()) :]

    def _fill(self, deadline: Deadline) -> None:
        if not self.has_heard:
            first = self._raw.peek(deadline.remaining())
            if first in _PLAIN_FIRST:
                raise PlainPeerError("this cloud requires TLS: use --tls-ca FILE", is_http2=first != MAGIC[:1])
            if first and first not in TLS_FIRST:  # OpenSSL would wait for four more bytes, as long as it takes
                raise TlsError("not a TLS handshake")
            self.has_heard = bool(first)
        got = self._raw.receive(self._inbox, deadline.remaining())
        if not got:
            raise PeerClosedError("the other side closed the connection during the TLS handshake")
        self._incoming.write(self._inbox[:got])

    # --- of the thread that sends

    def send(self, parts: list[memoryview], seconds: float) -> int:
        """Send some of these bytes. What is encrypted and not yet sent belongs to the bytes that `parts` begin with:
        who calls goes on with what was not counted."""
        if not self._sealed:
            self._seal(parts)
        self._sealed = self._sealed[self._raw.send([self._sealed], seconds) :]
        done = self._open_bytes * (self._sealed_bytes - len(self._sealed)) // self._sealed_bytes
        before, self._reported_bytes = self._reported_bytes, done
        return done - before

    def _seal(self, parts: list[memoryview]) -> None:
        left = AHEAD_BYTES
        with self._lock:
            for part in parts:
                rest = part[:left]
                left -= rest.nbytes
                while rest.nbytes:
                    rest = rest[self._tls.write(rest) :]  # one record at a time
            self._sealed = memoryview(self._outgoing.read())
        self._sealed_bytes, self._open_bytes, self._reported_bytes = len(self._sealed), AHEAD_BYTES - left, 0

    def farewell(self, seconds: float, why: Error | None = None) -> None:
        """Close this direction; the other one goes on."""
        del why
        with self._lock:
            with contextlib.suppress(ssl.SSLError):  # it wants to wait for the other side's
                self._tls.unwrap()
            rest = bytes(self._sealed) + self._outgoing.read()
        self._raw.send([memoryview(rest)], seconds)

    # --- of the thread that receives

    def has_left(self) -> bool:
        """As TCP says it."""
        return self._raw.has_left()

    def receive(self, into: memoryview, seconds: float) -> int | None:
        """Receive some bytes; None where a record is not complete. Raises OSError, and TlsError for a flood of keys.

        What TLS itself would answer (to a change of keys) leaves with the next bytes that are sent: the protocol lets
        it wait until then, and so this thread never sends.
        """
        count = self._read(into)
        if count is not None or self._is_at_end:
            return count or 0
        got = self._raw.receive(self._inbox, seconds)
        with self._lock:
            self._incoming.write(self._inbox[:got])
        self._is_at_end = not got
        return self._read(into) or (0 if self._is_at_end else None)

    def _read(self, into: memoryview) -> int | None:
        total = 0
        with self._lock:
            while total < into.nbytes:
                try:
                    got: int = self._tls.read(into.nbytes - total, into[total:])  # type: ignore[assignment]
                except ssl.SSLWantReadError:
                    break
                except ssl.SSLZeroReturnError:
                    got = 0
                if not got:
                    self._is_at_end = True
                    break
                total += got
            if self._outgoing.pending > MOST_UNASKED:
                raise TlsError("too many TLS key updates")
        return total or None
