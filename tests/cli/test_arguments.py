"""The types of the scripts' arguments: what each text becomes, and that all else is refused with its own words."""

import argparse
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecloud.cli import arguments

TYPES = (
    *(arguments.number, arguments.at_least_zero, arguments.above_zero, arguments.percent, arguments.port),
    *(
        arguments.address,
        arguments.place,
        arguments.places_there,
        arguments.host,
        arguments.positive_int,
        arguments.count,
        arguments.names,
        arguments.share,
    ),
    *(arguments.duration, arguments.link, arguments.wait, arguments.size, arguments.payload_size),
    *(arguments.header_size, arguments.arrivals, arguments.page_place),
)


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (arguments.number, "-1.5e3", -1500.0),
        (arguments.at_least_zero, "0", 0.0),
        (arguments.above_zero, "1e-9", 1e-9),
        (arguments.percent, "0.5%", 0.005),
        (arguments.percent, " 100 % ", 1.0),
        (arguments.percent, "0.25", 0.25),
        (arguments.port, "65535", 65535),
        (arguments.page_place, "8080", ("127.0.0.1", 8080)),
        (arguments.page_place, "0.0.0.0:0", ("0.0.0.0", 0)),
        (arguments.page_place, "[::1]:8080", ("::1", 8080)),
        (arguments.address, "127.0.0.1:9999", ("127.0.0.1", 9999)),
        (arguments.address, "cloud.example:1", ("cloud.example", 1)),
        (arguments.address, "[::1]:80", ("::1", 80)),
        (arguments.positive_int, "1", 1),
        (arguments.count, "0", 0),
        (arguments.names, "alex_net, le_net,", ("alex_net", "le_net")),
        (arguments.share, "1", 1.0),
        (arguments.duration, "20ms", 0.02),
        (arguments.link, "5mbit,20ms", "5mbit,20ms"),
        (arguments.wait, "0ms", 0.0),
        (arguments.arrivals, "5/s", 5.0),
        (arguments.arrivals, "0.5", 0.5),
        (arguments.size, "64MiB", 64 << 20),
        (arguments.payload_size, "64KiB", 64 << 10),
        (arguments.header_size, "4KiB", 4 << 10),
        (arguments.header_size, "1MiB", 1 << 20),
    ],
)
def test_what_a_text_becomes(read: Callable[[str], Any], text: str, value: object) -> None:
    assert read(text) == value


@pytest.mark.parametrize(
    ("read", "text", "words"),
    [
        (arguments.number, "five", "is not a number"),
        (arguments.number, "nan", "is not a number"),
        (arguments.at_least_zero, "-0.1", "is below zero"),
        (arguments.at_least_zero, "inf", "is not a number"),
        (arguments.above_zero, "0", "is not above zero"),
        (arguments.percent, "101%", "is not a percentage from 0% to 100%"),
        (arguments.percent, "-0.1", "is not a percentage from 0% to 100%"),
        (arguments.percent, "2", "is not a percentage from 0% to 100%"),
        (arguments.port, "65536", "is not a whole number from 0 to 65535"),
        (arguments.page_place, "localhost", "names no port"),
        (arguments.page_place, "65536", "is not a whole number from 0 to 65535"),
        (arguments.address, "9999", "is not HOST:PORT"),
        (arguments.address, ":9999", "is not HOST"),
        (arguments.address, "[]:9999", "is not HOST"),
        (arguments.address, "host:", "is not a port"),
        (arguments.address, "host:0", "is not a whole number from 1"),
        (arguments.positive_int, "0", "is not a whole number from 1"),
        (arguments.positive_int, "1.5", "is not a whole number"),
        (arguments.count, "-1", "is not a whole number from 0"),
        (arguments.names, " , ", "is an empty list"),
        (arguments.share, "0", "is not a share of a core"),
        (arguments.share, "1.01", "is not a share of a core"),
        (arguments.share, "half", "is not a share of a core"),
        (arguments.duration, "0s", "the duration must be above zero"),
        (arguments.duration, "1e9s", "the duration must be above zero"),
        (arguments.duration, "soon", "soon"),
        (arguments.link, "5", "is not a rate"),
        (arguments.wait, "-1ms", "-1ms"),
        (arguments.arrivals, "0/s", "is not an arrival rate"),
        (arguments.arrivals, "many", "is not an arrival rate"),
        (arguments.size, "much", "much"),
        (arguments.payload_size, "1KiB", "must be at least 64 KiB"),
        (arguments.header_size, "1KiB", "must be from 4 KiB to 1 MiB"),
        (arguments.header_size, "2MiB", "must be from 4 KiB to 1 MiB"),
    ],
)
def test_what_is_refused_is_told_with_its_own_words(read: Callable[[str], Any], text: str, words: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as refused:
        read(text)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@given(st.text(max_size=12) | st.from_regex(r"[-0-9.,:a-z%\[\]]{1,12}", fullmatch=True))
def test_any_text_is_a_value_or_a_refusal(text: str) -> None:
    for read in TYPES:
        try:
            read(text)
        except argparse.ArgumentTypeError:
            continue
