"""Refusals of a cloud as errors of the edge, and so as exit codes. Pure."""

from edgecloud.net.messages import Error
from edgecloud.utils.errors import AppError, ConnectError, DeadlineError, MismatchError, UsageError
from edgecloud.utils.units import printable

_REFUSALS: dict[str, type[AppError]] = {
    "MISMATCH": MismatchError,
    "VERSION": MismatchError,
    "UNKNOWN_MODEL": MismatchError,
    "TOKEN": ConnectError,
    "BUSY": ConnectError,
    "TLS": ConnectError,
    "TRANSPORT": ConnectError,
    "PENALTY": ConnectError,
    "DEADLINE": DeadlineError,
    "USAGE": UsageError,
}


MISSING = frozenset({"UNKNOWN_MODEL", "MISMATCH"})
SEND = "; or start the cloud with --accept-networks, and this edge sends it its network"


def refusal(error: Error) -> AppError:
    """What an ERROR of the cloud means on the edge."""
    kind = _REFUSALS.get(error.code, AppError)
    what = "is busy" if error.code == "BUSY" else "refused"
    cure = SEND if error.code in MISSING and not error.accepts else ""
    exception = kind(f"the cloud {what} ({printable(error.code, 32)}): {printable(error.text, 300)}{cure}")
    exception.refusal, exception.retry_after_s, exception.accepts = error.code, error.retry_after_s, error.accepts
    return exception
