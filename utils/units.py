"""The one place where units are read and printed.

Inside the program time is seconds, size is bytes and rate is bytes per second; names carry the unit. Rates use the
decimal prefixes of `tc` and of network vendors: 1 mbit = 10^6 bits per second.
"""

import math
import re

from utils.errors import UsageError

_RATE_BYTES_PER_S = {
    "bit": 1 / 8,
    "kbit": 1e3 / 8,
    "mbit": 1e6 / 8,
    "gbit": 1e9 / 8,
    "b/s": 1.0,
    "kb/s": 1e3,
    "mb/s": 1e6,
    "gb/s": 1e9,
}
_DURATION_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}
_SIZE_BYTES = {"b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_NUMBER_AND_UNIT = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z/]*)\s*")


def _parse(text: str, units: dict[str, float] | dict[str, int], what: str, example: str) -> float:
    match = _NUMBER_AND_UNIT.fullmatch(text)
    if match is None or match[2].lower() not in units:
        raise UsageError(f"{text!r} is not a {what}: give a number and a unit ({', '.join(units)}), e.g. {example}")
    value = float(match[1]) * units[match[2].lower()]
    if not math.isfinite(value):
        raise UsageError(f"{text!r} is too large for a {what}")
    return value


def parse_rate(text: str) -> float:
    """Read `5mbit`, `800kbit` or `2MB/s` as bytes per second. Zero is refused: nothing would ever arrive.

    As all that read here, it raises UsageError for a text that is no such thing.
    """
    rate = _parse(text, _RATE_BYTES_PER_S, "rate", "5mbit")
    if rate <= 0:
        raise UsageError(f"{text!r}: a link needs a rate above zero")
    return rate


def parse_duration(text: str) -> float:
    """Read `20ms`, `1.5s` or `2min` as seconds; a bare number is seconds."""
    if re.fullmatch(r"\s*[0-9.]+\s*", text):
        text = f"{text.strip()}s"
    return _parse(text, _DURATION_S, "duration", "20ms")


def parse_size(text: str) -> int:
    """Read `64MiB` or `2GB` as bytes."""
    return int(_parse(text, _SIZE_BYTES, "size", "64MiB"))


def parse_link(text: str) -> tuple[float, float, float]:
    """Read UP[,RTT[,DOWN]], such as `5mbit,20ms`, as bytes per second up and down (UP where it is left out) and seconds
    of round trip."""
    parts = text.split(",")
    if len(parts) > 3:
        raise UsageError(f"{text!r} is not a link: give UP[,RTT[,DOWN]], for instance 5mbit,20ms or 5mbit,20ms,20mbit")
    up = parse_rate(parts[0])
    rtt_s = parse_duration(parts[1]) if len(parts) > 1 else 0.0
    return up, parse_rate(parts[2]) if len(parts) > 2 else up, rtt_s


def format_seconds(seconds: float) -> str:
    """Print seconds with three significant digits: `1.23 s`, `45.6 ms`, `789 us`."""
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if abs(seconds) >= scale or unit == "us":
            return f"{_three_digits(seconds / scale)} {unit}"
    raise AssertionError("unreachable: the last unit takes every value")


def format_bytes(count: float) -> str:
    """Print bytes with decimal prefixes: `602 kB`, `12.8 MB`."""
    for scale, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(count) >= scale:
            return f"{_three_digits(count / scale)} {unit}"
    return f"{count:.0f} B"


def format_rate(bytes_per_s: float) -> str:
    """Print a rate in bits per second: `5 mbit`, `12.3 gbit`."""
    bits = bytes_per_s * 8
    for scale, unit in ((1e9, "gbit"), (1e6, "mbit"), (1e3, "kbit")):
        if bits >= scale:
            return f"{_three_digits(bits / scale)} {unit}"
    return f"{bits:.0f} bit"


def printable(text: str, length: int) -> str:
    """A stranger's text for a terminal or a log: one line, no control characters, not longer than `length`."""
    text = text[:length]
    return text if text.isprintable() and text.isascii() else ascii(text)


def readable(text: str, length: int) -> str:
    """The user's own text for a terminal, in any script: one line, no control characters, not longer than `length`."""
    text = text if len(text) <= length else f"{text[: length - 3]}..."
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def middle_cut(text: str, length: int) -> str:
    """A text of at most this many characters, of which a longer one has lost some in its middle."""
    if len(text) <= length:
        return text
    after = (length - 1) // 2
    return f"{text[: length - 1 - after]}…{text[len(text) - after :]}"


def _three_digits(value: float) -> str:
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
