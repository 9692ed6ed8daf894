"""Addresses: HOST, HOST:PORT, IPv6 with or without brackets, with or without an interface; `unix:PATH` for workers.

Pure: nothing is looked up. An IPv4 address that is written as an IPv6 one (::ffff:192.0.2.7) is that IPv4 address
everywhere, or rules for loopback and for sources could be walked around.
"""

import ipaddress
import re
from typing import NamedTuple

from edgecloud.utils.errors import UsageError

MAX_PORT = 65535
UNIX = "unix:"
MAX_UNIX = 107  # bytes of a path that the system takes
MOST = 16
"""Places in one list."""
FORMS = "HOST, HOST:PORT, an IPv6 address or [IPV6]:PORT"
_NAME = re.compile(r"[^\s\[\]:/@%\\?#,\x00-\x1f\x7f]+")
_INTERFACE = re.compile(r"[^\s\[\]:/%\x00-\x1f\x7f]+")
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
_LOOPBACK = ipaddress.IPv4Address("127.0.0.1")


class Place(NamedTuple):  # a dataclass costs every --help a tenth of its time
    """A host, without brackets, and the port where one was written."""

    host: str
    port: int | None = None


def parse(text: str) -> Place:
    """What a text means. Raises UsageError for what is none of the forms."""
    address = text.strip()
    if address.startswith("["):
        host, bracket, rest = address[1:].partition("]")
        host, number = _ipv6(host, text), rest[1:] if rest.startswith(":") else None
        if not bracket or (rest and number is None):
            raise _wrong(text)
    elif address.count(":") > 1:
        host, number = _ipv6(address, text), None
    else:
        host, colon, rest = address.partition(":")
        number = rest if colon else None
        if not _NAME.fullmatch(host) or host.startswith("-") or "\uff1a" in host:  # a full-width colon
            raise _wrong(text)
    return Place(host, None if number is None else _port(number, text))


def parse_several(text: str) -> tuple[Place, ...]:
    """What a list with commas means, such as `host1,host2:9999,[::1]:9999`; one place is such a list too.

    Raises UsageError for an item that is none of the forms, for one that is there twice, and for too many.
    """
    if "," not in text:
        return (parse(text),)
    items = text.split(",")
    if not all(item.strip() for item in items):
        raise UsageError(f"{text[:80]!r} has an empty item between its commas")
    if len(items) > MOST:
        raise UsageError(f"{len(items)} addresses in one list, at most {MOST}")
    places = tuple(parse(item) for item in items)
    if len(set(places)) < len(places):
        raise UsageError(f"{text[:80]!r} names an address twice")
    return places


def _ipv6(host: str, text: str) -> str:
    """An IPv6 address, or the IPv4 one that it stands for."""
    address, percent, interface = host.partition("%")
    try:
        ip = ipaddress.IPv6Address(address)
    except ValueError:
        raise _wrong(text) from None
    if percent and not _INTERFACE.fullmatch(interface):
        raise _wrong(text)
    return host if ip.ipv4_mapped is None else str(ip.ipv4_mapped)


def _port(number: str, text: str) -> int:
    if not (number.isascii() and number.isdecimal()) or len(number) > len(str(MAX_PORT)) or int(number) > MAX_PORT:
        raise UsageError(f"{text!r}: {number!r} is not a port from 0 to {MAX_PORT}")
    return int(number)


def _wrong(text: str) -> UsageError:
    return UsageError(f"{text[:80]!r} is not {FORMS}")


def is_unix(host: str) -> bool:
    """Whether a host is a socket of this machine that is a file."""
    return host.startswith(UNIX)


def unix_path(host: str) -> str:
    """The path in `unix:PATH`. Raises UsageError for one that is relative, or too long for the system."""
    path = host.removeprefix(UNIX)
    if not path.startswith("/") or len(path.encode()) > MAX_UNIX:
        raise UsageError(f"{host[:120]!r}: give unix:PATH with an absolute path of at most {MAX_UNIX} bytes")
    return path


def show(host: str, port: int) -> str:
    """As a flag or a URL has it: an IPv6 address in brackets."""
    if is_unix(host):
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def ip_of(address: str) -> IpAddress:
    """An address in numbers, its interface left away; loopback for `unix:PATH`. Raises ValueError for what is none."""
    ip = _LOOPBACK if is_unix(address) else ipaddress.ip_address(address.partition("%")[0])
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return mapped or ip


def is_number(host: str) -> bool:
    """Whether a host is an address in numbers, which needs no name server."""
    try:
        ip_of(host)
    except ValueError:
        return False
    return True


def is_loopback(address: str) -> bool:
    """Whether an address in numbers is on this machine only. Raises ValueError for what is none."""
    return ip_of(address).is_loopback


def is_here(host: str) -> bool:
    """Whether a host is this machine by its name alone: localhost, or a loopback address."""
    try:
        return is_loopback(host)
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def is_link_local(host: str) -> bool:
    """Whether a host is an IPv6 address that means nothing without an interface."""
    try:
        ip = ip_of(host)
    except ValueError:
        return False
    return ip.version == 6 and ip.is_link_local
