import pytest

from utils.errors import UsageError
from utils.units import format_bytes, format_rate, format_seconds, parse_duration, parse_link, parse_rate, parse_size


@pytest.mark.parametrize(
    ("text", "bytes_per_s"),
    [("8bit", 1), ("8kbit", 1000), ("5mbit", 625_000), ("1gbit", 125_000_000), ("2MB/s", 2e6), (" 1.5 mbit ", 187_500)],
)
def test_rates_are_read_as_bytes_per_second(text: str, bytes_per_s: float) -> None:
    assert parse_rate(text) == bytes_per_s


@pytest.mark.parametrize("text", ["5", "", "mbit", "-5mbit", "5 parsecs", "nanmbit", "0mbit", "1e999mbit", "5mbit,"])
def test_a_rate_without_a_unit_or_above_nothing_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"rate|unit|zero|large"):
        parse_rate(text)


@pytest.mark.parametrize(("text", "seconds"), [("20ms", 0.02), ("1.5s", 1.5), ("3", 3), ("2min", 120), ("7us", 7e-6)])
def test_durations_are_read_as_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


def test_sizes_know_both_kinds_of_prefix() -> None:
    assert (parse_size("64MiB"), parse_size("64MB"), parse_size("10B")) == (64 << 20, 64 * 10**6, 10)


def test_numbers_are_printed_with_three_digits_and_a_unit() -> None:
    assert [format_seconds(s) for s in (1.2345, 0.0456, 0.000789, 0)] == ["1.23 s", "45.6 ms", "789 us", "0 us"]
    assert [format_bytes(b) for b in (602_112, 12_845_056, 12)] == ["602 kB", "12.8 MB", "12 B"]
    assert [format_rate(r) for r in (625_000, 125_000_000, 10)] == ["5 mbit", "1 gbit", "80 bit"]


def test_a_link_is_one_to_three_numbers() -> None:
    assert parse_link("5mbit") == (625_000, 625_000, 0.0)
    assert parse_link("5mbit,20ms") == (625_000, 625_000, 0.02)
    assert parse_link("5mbit,20ms,20mbit") == (625_000, 2_500_000, 0.02)
    with pytest.raises(UsageError, match="is not a link"):
        parse_link("5mbit,20ms,20mbit,1")
