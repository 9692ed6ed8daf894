"""All errors shown to users, each with its exit code.

An `AppError` is one clear line that names the thing and what to do about it. Anything else that escapes is a bug
and keeps its traceback.
"""

EXIT_OK = 0
EXIT_INTERRUPTED = 130


class AppError(Exception):
    """Something failed for a reason that the message explains."""

    exit_code = 1
    code = "FAILED"
    refusal = ""
    """The code of the ERROR with which a cloud has refused, where that is what happened ..."""
    retry_after_s: float = 0.0
    """... and after how many seconds it may be worth another try."""


class UsageError(AppError):
    """A wrong argument, or a file that is missing, unreadable or not what it should be."""

    exit_code = 2
    code = "USAGE"


class ConnectError(AppError):
    """No cloud answers there, or it does not let us in."""

    exit_code = 3
    code = "CANNOT_CONNECT"


class HandshakeLostError(ConnectError):
    """Something took the connection, and failed before TLS was agreed on; nobody was told why."""


class MismatchError(AppError):
    """The two sides differ in protocol version, network or weights."""

    exit_code = 4
    code = "MISMATCH"


class DeadlineError(AppError):
    """The time that was allowed ran out."""

    exit_code = 5
    code = "DEADLINE"


class ProtocolError(AppError):
    """The other side sent something that the protocol does not allow."""

    code = "PROTOCOL"


class PeerClosedError(ProtocolError):
    """The other side closed the connection, between messages or inside one."""

    code = "CLOSED"
