"""Garbage gives a prefix, plain data, a message and arrays within the limits, or a protocol error, and nothing else."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import many
from tests.fuzz.corpus import SEEDS
from tests.fuzz.targets import TARGETS, mutate


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=many(100, 2000))
@given(data=st.binary(max_size=300))
def test_any_bytes_are_accepted_or_refused(name: str, data: bytes) -> None:
    TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=many(100, 2000))
@given(seed=st.integers(0, 1 << 62))
def test_a_good_example_that_was_broken_is_accepted_or_refused(name: str, seed: int) -> None:
    TARGETS[name](mutate(random.Random(seed), SEEDS[name]))


@pytest.mark.parametrize("name", TARGETS)
def test_the_good_examples_are_accepted_so_that_breaking_them_means_something(name: str) -> None:
    assert all(TARGETS[name](seed) for seed in SEEDS[name])
