"""Parsing and formatting of units. Pure.

Inside the program time is seconds, size is bytes and rate is bytes per second; names carry the unit. Rates use the
decimal prefixes of network vendors: 1 mbit = 10^6 bits per second. What users may write: docs/units.md.
"""

import math
import re

from edgecloud.utils.errors import UsageError

_PREFIXES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}
_RATE_UNIT = re.compile(r"(?P<prefix>(?:[kmg]i?)?)(?P<what>bits?|b)(?P<per>/s|ps)?", re.IGNORECASE)
_DURATION_S = {"us": 1e-6, "\u00b5s": 1e-6, "\u03bcs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}
_SIZE_BYTES = {"b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_NUMBER_AND_UNIT = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z/\u00b5\u03bc]*)\s*")


def _split(text: str) -> tuple[str, str]:
    """Number and unit; two empty texts where it is neither."""
    match = _NUMBER_AND_UNIT.fullmatch(text)
    return ("", "") if match is None else (match[1], match[2])


def _value(text: str, number: str, unit: float, what: str) -> float:
    value = float(number) * unit
    if not math.isfinite(value):
        raise UsageError(f"{text!r} is too large for a {what}")
    return value


def _parse(text: str, units: dict[str, float] | dict[str, int], what: str, example: str) -> float:
    number, unit = _split(text)
    if unit.lower() not in units or not number:
        names = ", ".join(name for name in units if name.isascii())
        raise UsageError(f"{text!r} is not a {what}: use a number and a unit ({names}), e.g. {example}")
    return _value(text, number, units[unit.lower()], what)


def parse_rate(text: str) -> float:
    """Read `5mbit`, `5Mb/s`, `5Mbps` (bits) or `2MB/s`, `2MiB/s` (bytes) as bytes per second; see docs/units.md.

    `bit` says it in any spelling. An abbreviation says it by its b, of bits, or B, of bytes, and only where it is
    written as usual: `5mb/s`, `5MBPS`, `5M` and `5mb` leave it open, and are refused. So is zero: nothing would ever
    arrive. As all that read here, it raises UsageError for a text that is no such thing.
    """
    number, unit = _split(text)
    bytes_per_s = _rate_unit(unit)
    if not number or bytes_per_s is None:
        count = number or "5"
        raise UsageError(
            f"{text!r} is not a rate: use {count}mbit (or Mbit/s, Mb/s, Mbps) for bits per second, "
            f"{count}MB/s (or MiB/s) for bytes"
        )
    rate = _value(text, number, bytes_per_s, "rate")
    if rate <= 0:
        raise UsageError(f"{text!r}: the rate must be above zero")
    return rate


def _rate_unit(unit: str) -> float | None:
    """Bytes per second of a unit; None where it is none, or does not say whether bits or bytes are meant."""
    match = _RATE_UNIT.fullmatch(unit)
    if match is None:
        return None
    prefix, what, per = match["prefix"], match["what"], match["per"]
    scale = _PREFIXES[prefix.lower()]
    if what.lower().startswith("bit"):
        return scale / 8
    is_usual = per in ("/s", "ps") and prefix[:1] not in ("m", "g") and prefix[1:] in ("", "i")
    return (scale / 8 if what == "b" else float(scale)) if is_usual else None


def parse_duration(text: str) -> float:
    """Read `20ms`, `1.5s` or `2min` as seconds; a bare number is seconds, as for a timeout."""
    number, unit = _split(text)
    return _parse(f"{number}s" if number and not unit else text, _DURATION_S, "duration", "20ms")


def parse_wait(text: str) -> float:
    """Read a round trip or another short wait as seconds. Only 0 may be without a unit: 20 may be meant as 20 ms."""
    number, unit = _split(text)
    if number and not unit and float(number) != 0:
        raise UsageError(f"{text!r} is a time without a unit: use {number}ms or {number}s")
    return parse_duration(text)


def parse_size(text: str) -> int:
    """Read `64MiB` or `2GB` as bytes. `64Mb` would be bits, and is refused."""
    if re.search(r"[KMG]i?b\s*$", text):
        raise UsageError(f"{text!r} is not a size: b means bits, and sizes are in bytes: use for example 64MiB or 64MB")
    return int(_parse(text, _SIZE_BYTES, "size", "64MiB"))


def parse_link(text: str) -> tuple[float, float, float]:
    """Read UP[,RTT[,DOWN]], such as `5mbit,20ms`, as bytes per second up and down (UP where it is left out) and seconds
    of round trip."""
    parts = text.split(",")
    if len(parts) > 3:
        raise UsageError(f"{text!r} is not a link: use UP[,RTT[,DOWN]], for example 5mbit,20ms or 5mbit,20ms,20mbit")
    up = parse_rate(parts[0])
    rtt_s = parse_wait(parts[1]) if len(parts) > 1 else 0.0
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
    """Untrusted text for a terminal or a log: one line, no control characters, not longer than `length`."""
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
