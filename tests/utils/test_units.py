"""Units: what is read, what is refused since it may be read two ways, what is printed."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecloud.utils.errors import UsageError
from edgecloud.utils.units import (
    format_bytes,
    format_rate,
    format_seconds,
    parse_duration,
    parse_link,
    parse_rate,
    parse_size,
    parse_wait,
)
from tests.conftest import ROOT

UNITS = (ROOT / "docs" / "units.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "bytes_per_s"),
    [
        ("8bit", 1),
        ("8kbit", 1000),
        ("5mbit", 625_000),
        ("1gbit", 125_000_000),
        (" 1.5 mbit ", 187_500),
        ("5MBIT", 625_000),
        ("5 Mbit/s", 625_000),
        ("5mbit/s", 625_000),
        ("5mbps".replace("m", "M"), 625_000),
        ("5Mb/s", 625_000),
        ("5Mbits/s", 625_000),
        ("64kbps", 8000),
        ("8Kb/s", 1000),
        ("8b/s", 1),
        ("8bps", 1),
        ("1Gbps", 125_000_000),
        ("8Mibit/s", 1 << 20),
        ("2MB/s", 2e6),
        ("2MBps", 2e6),
        ("2KB/s", 2e3),
        ("2kB/s", 2e3),
        ("2MiB/s", 2 << 20),
        ("2KiB/s", 2 << 10),
        ("1GB/s", 1e9),
        ("1GiB/s", 1 << 30),
        ("3B/s", 3),
    ],
)
def test_rates_are_read_as_bytes_per_second(text: str, bytes_per_s: float) -> None:
    assert parse_rate(text) == bytes_per_s


@pytest.mark.parametrize("text", ["5", "", "mbit", "-5mbit", "5 parsecs", "nanmbit", "0mbit", "1e999mbit", "5mbit,"])
def test_a_rate_without_a_unit_or_above_nothing_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"rate|unit|zero|large"):
        parse_rate(text)


@pytest.mark.parametrize(
    "text",
    ["5M", "5m", "5 m", "5mb", "5MB", "5Mb", "5mb/s", "5mbps", "5MBPS", "5MB/S", "5gb/s", "5K", "5MiB", "5b", "5"],
)
def test_what_does_not_say_bits_or_bytes_is_refused_with_both_cures(text: str) -> None:
    with pytest.raises(UsageError, match=r"use 5mbit .* for bits per second, 5MB/s .* for bytes") as caught:
        parse_rate(text)
    assert repr(text) in str(caught.value)


@given(
    st.integers(1, 10**6),
    st.sampled_from(["", "k", "K", "M", "G", "m", "g"]),
    st.sampled_from(["", "i"]),
    st.sampled_from(["bit", "Bit", "BIT", "b", "B"]),
    st.sampled_from(["", "/s", "ps"]),
    st.sampled_from(["", " "]),
)
def test_a_drawn_rate_is_bits_by_its_bit_or_b_and_bytes_by_its_capital_only(
    number: int, prefix: str, binary: str, what: str, per: str, space: str
) -> None:
    binary = binary if prefix else ""
    scale = (1024 if binary else 1000) ** {"": 0, "k": 1, "m": 2, "g": 3}[prefix.lower()]
    text = f"{number}{space}{prefix}{binary}{what}{per}"
    if what in ("b", "B") and (not per or prefix in ("m", "g")):
        with pytest.raises(UsageError, match="for bits per second"):
            parse_rate(text)
    else:
        assert parse_rate(text) == pytest.approx(number * scale / (1 if what == "B" else 8))


def test_every_unit_of_the_documented_table_is_read() -> None:
    readers = {"rate": parse_rate, "time": parse_duration, "size": parse_size, "link": parse_link}
    read = ""
    count = 0
    for line in UNITS.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 3:
            read = re.split(r"[, ]", cells[0])[0] or read
            for text in re.findall(r"`([^`]+)`", cells[1]) if read in readers else ():
                readers[read](text if text[0].isdigit() else f"1{text}")
                count += 1
    assert count > 40


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("20ms", 0.02), ("1.5s", 1.5), ("3 s", 3), ("3", 3), ("2min", 120), ("7us", 7e-6), ("7\u00b5s", 7e-6), ("0", 0)],
)
def test_durations_are_read_as_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["5m", "5 h", "20msec", "", "ms", "1,5s"])
def test_a_time_of_no_known_unit_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(UsageError, match=r"use a number and a unit \(us, ms, s, min\)"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["20", "1.5", " 20 "])
def test_a_round_trip_or_wait_without_a_unit_is_refused_with_both_cures(text: str) -> None:
    number = text.strip()
    for read in (parse_wait, lambda text: parse_link(f"5mbit,{text}"), lambda text: parse_link(f"5mbit,{text},9mbit")):
        with pytest.raises(UsageError, match=rf"without a unit: use {number}ms or {number}s"):
            read(text)
    assert (parse_wait("0"), parse_wait("0ms"), parse_wait("20ms")) == (0, 0, 0.02)


def test_sizes_know_both_kinds_of_prefix() -> None:
    assert (parse_size("64MiB"), parse_size("64MB"), parse_size("10B")) == (64 << 20, 64 * 10**6, 10)


@pytest.mark.parametrize("text", ["64Mb", "64 Gb", "64Mib", "64M", "64"])
def test_a_size_in_bits_or_without_a_unit_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        parse_size(text)


def test_numbers_are_printed_with_three_digits_and_a_unit() -> None:
    assert [format_seconds(s) for s in (1.2345, 0.0456, 0.000789, 0)] == ["1.23 s", "45.6 ms", "789 us", "0 us"]
    assert [format_bytes(b) for b in (602_112, 12_845_056, 12)] == ["602 kB", "12.8 MB", "12 B"]
    assert [format_rate(r) for r in (625_000, 125_000_000, 10)] == ["5 mbit", "1 gbit", "80 bit"]


def test_a_link_is_one_to_three_numbers() -> None:
    assert parse_link("5mbit") == (625_000, 625_000, 0.0)
    assert parse_link("5mbit,20ms") == (625_000, 625_000, 0.02)
    assert parse_link("5mbit,20ms,20mbit") == (625_000, 2_500_000, 0.02)
    assert parse_link("5mbit,0,20mbit") == (625_000, 2_500_000, 0.0)
    with pytest.raises(UsageError, match="is not a link"):
        parse_link("5mbit,20ms,20mbit,1")
