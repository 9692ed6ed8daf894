"""Tokens, and the rule for non-loopback addresses."""

import hmac
import os
import socket
from pathlib import Path

from edgecloud.utils import addresses
from edgecloud.utils.environment import SECRET
from edgecloud.utils.errors import UsageError

TOKEN_BYTES = (8, 1024)


def read_token(token_file: Path | None) -> str:
    """The shared secret from a file, else from the environment, else none (""). Raises UsageError for a bad one."""
    if token_file is not None:
        try:
            token = token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise UsageError(f"cannot read the token file {token_file}: {reason}") from None
    else:
        token = os.environ.get(SECRET, "")
        if not token:
            return ""
    return check_token(token)


def check_token(token: str) -> str:
    """A shared secret, as it was given. Raises UsageError for one that is too short, too long, or no plain text."""
    if not token.isascii() or not token.isprintable():
        raise UsageError("the token must be printable ASCII")
    if not TOKEN_BYTES[0] <= len(token.encode()) <= TOKEN_BYTES[1]:
        raise UsageError(f"the token must have {TOKEN_BYTES[0]} to {TOKEN_BYTES[1]} bytes")
    return token


def is_token_right(expected: str, token: str) -> bool:
    """Compare in constant time; where none is expected every one is right."""
    return not expected or hmac.compare_digest(_bytes(expected), _bytes(token))


def _bytes(token: str) -> bytes:
    return token.encode("utf-8", "surrogatepass")


def check_binding(host: str, token: str, *, has_tls: bool, insecure: bool) -> None:
    """Raises UsageError for a port open to other machines, unless a token or TLS guards it or the user insists.

    TLS alone keeps what travels secret, but keeps nobody out: SECURITY.md says to give a token too.
    """
    if token or has_tls or insecure or is_loopback(host):
        return
    raise UsageError(
        f"{host} is reachable from other machines: use a token (--token-file FILE, or {SECRET} in the "
        "environment, the same on both sides), TLS (--tls-cert FILE --tls-key FILE), or use --insecure"
    )


def is_loopback(host: str) -> bool:
    """Whether every address of a host is on this machine only. Raises UsageError for a host that does not exist."""
    if addresses.is_unix(host):
        return True
    try:
        rows = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise UsageError(f"cannot listen on {host!r}: no such address") from None
    return all(addresses.is_loopback(str(row[4][0])) for row in rows)
