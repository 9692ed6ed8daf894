"""All errors shown to users, each with its exit code.

An `EdgeCloudError` is one clear line that names the thing and what to do about it. Anything else that escapes is a bug
and keeps its traceback.
"""

EXIT_OK = 0
EXIT_INTERRUPTED = 130


class EdgeCloudError(Exception):
    """Something failed for a reason that the message explains: the base of all errors of this library.

    `code` is the word that scripts read, `exit_code` what a program ends with. `refusal` is the code with which a cloud
    has refused, "" where none did, and `retry_after_s` says after how many seconds it may be worth another try.

    >>> import edgecloud as ec
    >>> try:
    ...     ec.Link("fast")
    ... except ec.EdgeCloudError as error:
    ...     print(error.code, error.exit_code)
    USAGE 2
    """

    exit_code = 1
    code = "FAILED"
    refusal = ""
    """The code of the ERROR with which a cloud has refused, where that is what happened ..."""
    retry_after_s: float = 0.0
    """... and after how many seconds it may be worth another try."""
    accepts: int = 0
    """How many bytes a network may have that this cloud takes from an edge instead; 0: it takes none."""
    model: str = ""
    """The network of which a cloud said that, in the handshake."""


AppError = EdgeCloudError
"""What the inside calls it."""


class UsageError(AppError):
    """A wrong argument, or a file that is missing, unreadable or not what it should be; exit code 2.

    >>> import edgecloud as ec
    >>> ec.load("le_nett")
    Traceback (most recent call last):
    edgecloud.utils.errors.UsageError: unknown network 'le_nett': ... did you mean le_net?
    """

    exit_code = 2
    code = "USAGE"


class ConnectError(AppError):
    """No cloud answers there, or it does not let this edge in; exit code 3.

    >>> import edgecloud as ec
    >>> ec.Edge(ec.load("le_net"), cloud="127.0.0.1:1")
    Traceback (most recent call last):
    edgecloud.utils.errors.ConnectError: no cloud at 127.0.0.1:1 ...
    """

    exit_code = 3
    code = "CANNOT_CONNECT"


class HandshakeLostError(ConnectError):
    """Something took the connection, and failed before TLS was agreed on; nobody was told why."""


class MismatchError(AppError):
    """The two sides differ in protocol version, network or weights; exit code 4.

    >>> import edgecloud as ec
    >>> with ec.Cloud(networks=["mnist"]) as cloud:
    ...     ec.Edge(ec.load("le_net"), cloud=cloud.address)
    Traceback (most recent call last):
    edgecloud...Error: ...this cloud serves only mnist...
    """

    exit_code = 4
    code = "MISMATCH"


class DeadlineError(AppError):
    """The time that was allowed ran out; exit code 5. Only without a fallback: else the edge answers by itself.

    >>> import edgecloud as ec
    >>> issubclass(ec.DeadlineError, ec.EdgeCloudError), ec.DeadlineError.exit_code
    (True, 5)
    """

    exit_code = 5
    code = "DEADLINE"


class ProtocolError(AppError):
    """The other side sent something that the protocol does not allow, or an answer that is none; exit code 1.

    >>> import edgecloud as ec
    >>> issubclass(ec.ProtocolError, ec.EdgeCloudError), ec.ProtocolError.exit_code
    (True, 1)
    """

    code = "PROTOCOL"


class PeerClosedError(ProtocolError):
    """The other side closed the connection, between messages or inside one."""

    code = "CLOSED"
