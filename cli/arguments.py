"""Argument types: each converts the text of a flag into its value, or raises an error.

Every one raises argparse.ArgumentTypeError, which ends a script with one line and code 2. Times become seconds, sizes
bytes.

Pure.
"""

import argparse
import math
from collections.abc import Callable
from typing import TypeVar

from edgecloud.utils import addresses, defaults
from edgecloud.utils.addresses import MAX_PORT
from edgecloud.utils.errors import UsageError
from edgecloud.utils.units import parse_duration, parse_link, parse_size, parse_wait

MIN_PAYLOAD = 64 << 10
MIN_HEADER, MAX_HEADER = 4 << 10, 1 << 20
MAX_WORKERS = 1024
T = TypeVar("T")


def number(text: str) -> float:
    """An argument that is a finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


def at_least_zero(text: str) -> float:
    """An argument that is a finite number of at least 0."""
    if number(text) < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is below zero")
    return number(text)


def above_zero(text: str) -> float:
    """An argument that is a finite number above 0."""
    if number(text) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not above zero")
    return number(text)


def percent(text: str) -> float:
    """An argument such as 0.5%, or 0.005, as a share from 0 to 1."""
    value = number(text.strip().removesuffix("%")) / (100 if text.strip().endswith("%") else 1)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage from 0% to 100%")
    if value == 1 and not text.strip().endswith("%"):
        raise argparse.ArgumentTypeError(f"{text!r} could mean 1% or 100%: write which")
    return value


def port(text: str) -> int:
    """An argument that is a TCP port to listen on; 0 lets the system choose one."""
    return _whole(text, 0, MAX_PORT)


def port_there(text: str) -> int:
    """An argument that is a TCP port to connect to."""
    return _whole(text, 1, MAX_PORT)


def address(text: str) -> tuple[str, int]:
    """An argument such as 127.0.0.1:9999, cloud.example:9999 or [::1]:9999, to connect to."""
    place = checked(addresses.parse)(text)
    if place.port is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT or [IPV6]:PORT")
    return place.host, port_there(str(place.port))


def place(text: str) -> str:
    """An argument such as 192.168.1.20, cloud.example:9999, fe80::1%eth0 or [::1]:9999, as it was written."""
    checked(addresses.parse)(text)
    return text


def page_place(text: str) -> tuple[str, int]:
    """An argument such as 8080, 192.168.1.20:8080 or [::1]:8080, to listen on; a port alone is on loopback."""
    if text.strip().isdecimal():
        return defaults.HOST, port(text)
    place = checked(addresses.parse)(text)
    if place.port is None:
        raise argparse.ArgumentTypeError(f"{text!r} names no port: give PORT, HOST:PORT or [IPV6]:PORT")
    return place.host, place.port


def places_there(text: str) -> str:
    """The same, to connect to, or several with commas between."""
    if any(place.port == 0 for place in checked(addresses.parse_several)(text)):
        raise argparse.ArgumentTypeError(f"{text!r}: port 0 is only for listening")
    return text


def host(text: str) -> str:
    """An argument that is an address without a port."""
    address = checked(addresses.parse)(text)
    if address.port is not None:
        raise argparse.ArgumentTypeError(f"{text!r}: give the address without a port; the port has its own flag")
    return address.host


def workers(text: str) -> tuple[str, str]:
    """An argument such as 4, ray, dns:NAME:PORT or HOST:PORT,HOST:PORT: the kind of a placement (server.placement), and
    what it has to know."""
    words = text.strip()
    kind, _, rest = words.partition(":")
    if words.isdecimal():
        return "local", str(_whole(words, 0, MAX_WORKERS))
    if kind == "ray":
        return kind, rest
    if kind == "dns":
        address(rest)
        return kind, rest
    for each in words.split(","):
        address(each)
    return "addresses", words


def listening_place(text: str) -> str:
    """An argument to listen on: a place, or unix:PATH for a worker."""
    if addresses.is_unix(text):
        checked(addresses.unix_path)(text)
        return text
    return place(text)


def positive_int(text: str) -> int:
    """An argument that is a whole number of at least 1."""
    return _whole(text, 1, 1_000_000)


def count(text: str) -> int:
    """An argument that is a whole number of at least 0."""
    return _whole(text, 0, 1_000_000)


def _whole(text: str, least: int, most: int) -> int:
    if not text.strip().isdecimal() or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
    return int(text)


def names(text: str) -> tuple[str, ...]:
    """An argument such as alex_net,le_net."""
    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    if not parts:
        raise argparse.ArgumentTypeError(f"{text!r} is an empty list")
    return parts


def share(text: str) -> float:
    """An argument that is a share of one core, above 0 and at most 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share of a core: use a number above 0 and at most 1")
    return value


def sentence(text: str) -> str:
    """An argument that is a text for a network: what is no UTF-8 is not guessed at."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{text!a} is not UTF-8 text") from None
    return text


def checked(parse: Callable[[str], T]) -> Callable[[str], T]:
    """Make an argument type of a function that raises UsageError."""

    def convert(text: str) -> T:
        try:
            return parse(text)
        except UsageError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def duration(text: str) -> float:
    """An argument such as 20ms or 1.5s, above zero, in seconds."""
    seconds = checked(parse_duration)(text)
    if not 0 < seconds < 1e8:
        raise argparse.ArgumentTypeError(f"{text!r}: the duration must be above zero")
    return seconds


def link(text: str) -> str:
    """An argument that describes a link, as it was written."""
    checked(parse_link)(text)
    return text


def arrivals(text: str) -> float:
    """An argument such as 5/s, above zero, in tasks per second."""
    try:
        value = float(text.strip().removesuffix("/s"))
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not an arrival rate: use a number above zero, such as 5/s")
    return value


def wait(text: str) -> float:
    """An argument such as 2ms, or 0, in seconds; a number without a unit is refused."""
    return checked(parse_wait)(text)


def size(text: str) -> int:
    """An argument such as 64MiB, in bytes."""
    return int(checked(parse_size)(text))


def payload_size(text: str) -> int:
    """A size that the smallest messages and the probe of the link fit into."""
    if size(text) < MIN_PAYLOAD:
        raise argparse.ArgumentTypeError(f"{text!r}: must be at least {MIN_PAYLOAD >> 10} KiB")
    return size(text)


def header_size(text: str) -> int:
    """A size that the HELLO of a large network fits into."""
    if not MIN_HEADER <= size(text) <= MAX_HEADER:
        raise argparse.ArgumentTypeError(f"{text!r}: must be from {MIN_HEADER >> 10} KiB to {MAX_HEADER >> 20} MiB")
    return size(text)
