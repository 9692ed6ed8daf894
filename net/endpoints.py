"""Sockets by address: listen on all addresses of a host, or connect to one of them in time.

`unix:PATH` is a socket of this machine that is a file, in a folder that only this user may enter.
"""

import contextlib
import errno
import logging
import os
import socket
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgecloud.utils import addresses
from edgecloud.utils.deadline import Deadline
from edgecloud.utils.errors import ConnectError, DeadlineError, UsageError

log = logging.getLogger(__name__)

PORT_TRIES = 16  # for one that is free on every address, where any will do
Address = tuple[str, int] | tuple[str, int, int, int]
Endpoint = tuple[socket.AddressFamily, Address]

_NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL})
"""Of one of several addresses that a name has: another one may do."""


def listen(host: str, port: int, backlog: int, flag: str = "-p") -> list[socket.socket]:
    """Listen on each address of a host, at one port, which 0 chooses; `::` takes IPv4 too.

    Raises ConnectError, whose text names `flag` where another port would help, and UsageError for a `unix:PATH` in a
    folder that others may enter. Close what is returned.
    """
    if addresses.is_unix(host):
        return [_listen_on_file(host, backlog)]
    try:
        endpoints = _addresses_of(host, port)
        for _ in range(PORT_TRIES):
            try:
                return _listen_on_all(endpoints, port, backlog)
            except OSError as error:
                if port or len(endpoints) < 2 or error.errno != errno.EADDRINUSE:
                    raise
        raise OSError(errno.EADDRINUSE, "")
    except (OSError, OverflowError, UnicodeError) as error:
        place = addresses.show(host, port)
        words = {
            errno.EADDRINUSE: f"the port is in use; choose another with {flag}, or use 0 for a free one",
            errno.EADDRNOTAVAIL: "no such address on this machine",
            errno.EACCES: f"ports below 1024 require privileges; choose another with {flag}",
        }
        raise ConnectError(f"cannot listen on {place}: {_why(error, host, words)}") from None


def name_of(sock: socket.socket) -> tuple[str, int]:
    """Where a socket listens, an IPv6 address with its interface where it has one."""
    if sock.family == socket.AF_UNIX:
        return f"{addresses.UNIX}{sock.getsockname()}", 0
    host, port = socket.getnameinfo(sock.getsockname(), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
    return host, int(port)


def _addresses_of(host: str, port: int) -> list[Endpoint]:
    """Each once, in the order of the system; an IPv4 address that is written as IPv6 is an IPv4 one."""
    rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    endpoints: dict[Endpoint, None] = {}
    for family, _, _, _, address in rows:
        ip = addresses.ip_of(str(address[0]))
        if family == socket.AF_INET6 and ip.version == 4:
            family, address = socket.AF_INET, (str(ip), int(address[1]))
        endpoints[family, address] = None  # type: ignore[index]  # of a stream over IP there is no other address
    return list(endpoints)


def _listen_on_all(endpoints: Sequence[Endpoint], port: int, backlog: int) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, (host, _, *scope) in endpoints:
            try:
                sockets.append(_listen_on(family, (host, port, *scope), backlog))  # type: ignore[arg-type]
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                missing = error
                if len(endpoints) > 1:
                    log.warning("not on %s: %s", host, error.strerror)
                continue
            port = port or sockets[0].getsockname()[1]
        if missing is not None and not sockets:
            raise missing
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _listen_on(family: socket.AddressFamily, address: Address, backlog: int) -> socket.socket:
    """As socket.create_server does, whose errors hold a Python tuple, and which drops an interface."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
        sock.bind(address)
        sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    return sock


def _listen_on_file(host: str, backlog: int) -> socket.socket:
    path = addresses.unix_path(host)
    folder = Path(path).parent
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        about = folder.stat()
        if about.st_uid != os.geteuid() or stat.S_IMODE(about.st_mode) & 0o077:
            raise UsageError(
                f"{folder} may be entered by others: keep the socket in a folder of your own with mode 0700"
            )
        if Path(path).is_socket():
            _remove_left(path)
        sock.bind(path)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise ConnectError(f"cannot listen on {host}: {error.strerror or error}") from None
    except UsageError:
        sock.close()
        raise
    return sock


def _remove_left(path: str) -> None:
    """Remove a socket that a process left behind, not one on which somebody listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other, contextlib.suppress(ConnectionRefusedError):
        other.settimeout(1.0)
        other.connect(path)
        return
    Path(path).unlink()


def dial(host: str, port: int, timeout_s: float) -> socket.socket:
    """Connect to one of a host's addresses, each having its share of the time that is left.

    Raises ConnectError that says what to do.
    """
    if addresses.is_unix(host):
        return _dial_file(host, timeout_s)
    deadline = Deadline.after(timeout_s, "no answer")
    try:
        rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for number, (family, kind, protocol, _, address) in enumerate(rows):
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(deadline.remaining() / (len(rows) - number))
                sock.connect(address)
            except (OSError, DeadlineError) as error:
                sock.close()
                failure = error
                continue
            return sock
        raise failure
    except (OSError, OverflowError, UnicodeError, DeadlineError) as error:
        place, why = addresses.show(host, port), _why(error, host, {})
        raise ConnectError(
            f"no cloud at {place} ({why}): start cloud_api.py on that host, or check -i and -p"
        ) from None


def _dial_file(host: str, timeout_s: float) -> socket.socket:
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as error:  # out of descriptors
        raise ConnectError(f"no worker at {host} ({error.strerror or error})") from None
    try:
        sock.settimeout(timeout_s)
        sock.connect(addresses.unix_path(host))
    except OSError as error:
        sock.close()
        raise ConnectError(f"no worker at {host} ({error.strerror or error})") from None
    return sock


def resolve(host: str, port: int) -> list[tuple[str, int]]:
    """The addresses of a host in numbers, each once, in the order of the system. Raises OSError and UnicodeError."""
    found: dict[tuple[str, int], None] = {}
    for _, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        numbers, _ = socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)  # with its interface
        found[numbers, port] = None
    return list(found)


def _why(error: Exception, host: str, words: Mapping[int, str]) -> str:
    """In words that say what to do, where that is known; `words` are those for some error numbers."""
    if isinstance(error, TimeoutError | DeadlineError):
        return "no answer"
    if isinstance(error, socket.gaierror) and "%" in host:
        return f"no interface {host.partition('%')[2]!r} on this machine"
    number = (error.errno if isinstance(error, OSError) else None) or 0
    if number in (errno.EINVAL, errno.EADDRNOTAVAIL) and addresses.is_link_local(host) and "%" not in host:
        return f"a link-local address requires its interface, for example {host}%eth0"
    if number == errno.EAFNOSUPPORT:
        return "this machine has no IPv6"
    return words.get(number) or getattr(error, "strerror", None) or str(error)
