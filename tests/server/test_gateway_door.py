"""A gateway is a cloud to whoever comes: tests of a cloud, with one that has a worker."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgecloud.models.torch_network import TorchNetwork
from edgecloud.server import health
from tests.conftest import CloudProcess, running_cloud, until
from tests.net.test_sides import (
    test_after_a_refusal_the_tables_travel_again,
    test_damaged_data_are_refused_or_answered_and_the_cloud_goes_on,
    test_lies_about_tables_end_the_connection_and_the_cloud_goes_on,
    test_tables_that_did_not_come_are_told_and_the_connection_goes_on,
    test_tables_travel_once_and_the_answer_is_that_of_the_network,
)
from tests.server.test_hostile import (
    test_a_frame_truncated_at_every_byte_leaves_it_standing,
    test_an_oversized_length_takes_no_memory,
    test_random_bytes_and_flipped_bits_leave_it_standing,
    test_what_is_no_greeting_is_refused_by_name,
)

__all__ = [
    "test_a_frame_truncated_at_every_byte_leaves_it_standing",
    "test_after_a_refusal_the_tables_travel_again",
    "test_an_oversized_length_takes_no_memory",
    "test_damaged_data_are_refused_or_answered_and_the_cloud_goes_on",
    "test_lies_about_tables_end_the_connection_and_the_cloud_goes_on",
    "test_random_bytes_and_flipped_bits_leave_it_standing",
    "test_tables_that_did_not_come_are_told_and_the_connection_goes_on",
    "test_tables_travel_once_and_the_answer_is_that_of_the_network",
    "test_what_is_no_greeting_is_refused_by_name",
]


@pytest.fixture(scope="module")
def cloud(cache: Path) -> Iterator[CloudProcess]:
    with running_cloud(cache, "--hello-timeout", "2s", "--workers", "1", "--threads", "1") as process:
        until(lambda: (state := health.ask("127.0.0.1", process.port, "", None).state) is not None and state.workers)
        yield process


@pytest.fixture
def le_net(network: Callable[[str], TorchNetwork]) -> TorchNetwork:
    return network("le_net")
