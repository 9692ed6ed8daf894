"""Garbage in a conversation ends that conversation by name, and the cloud goes on: the short run of tests.fuzz.live."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import many
from tests.fuzz.live import Live, live_cloud


@pytest.fixture(scope="module")
def live(cache: Path) -> Iterator[Live]:
    with live_cloud(cache) as found:
        yield found


@pytest.mark.parametrize("kind", ["random_frame", "flipped_frame", "broken_session", "broken_chunks"])
def test_garbage_ends_its_own_conversation_only(kind: str, live: Live) -> None:
    rng = random.Random(kind)
    accepted = sum(live.attack(getattr(live, kind)(rng)) for _ in range(many(100, 150)))
    assert accepted < 100
    live.assert_serves()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_thousand_pieces_of_garbage_end_their_own_conversations_only(live: Live) -> None:
    rng = random.Random(7)
    for number in range(20_000):
        live.attack((live.random_frame, live.flipped_frame, live.broken_session)[number % 3](rng))
    live.assert_serves()
