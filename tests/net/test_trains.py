"""What the link took for frames one after the other: neither a slow sender nor a slow reader is taken for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecloud.net.connection import BURST_BYTES, Frame
from edgecloud.net.frames import PREFIX_BYTES, FrameType, Limits
from edgecloud.net.trains import Train

HEADER = 100
LIMITS = Limits()


def received(sizes: list[int], ready: list[float], decode_s: float, rate: float) -> Train:
    """Frames of so many bytes, ready at these moments, over a link, to a reader that unpacks each for so long."""
    train, free, read = Train(), 0.0, 0.0
    for size, at in zip(sizes, ready, strict=True):
        begins = max(at, free)
        free = begins + size / rate  # its last byte
        starts, ends = max(begins, read), max(free, read)  # read and read to the end
        is_awaited = begins >= read
        timed_s = max(0.0, ends - starts - BURST_BYTES / rate)
        frame = Frame(
            FrameType.CHUNK,
            {},
            memoryview(bytes(size - HEADER - PREFIX_BYTES)),
            LIMITS,
            HEADER,
            ends - starts,
            max(0, size - BURST_BYTES) if is_awaited else 0,
            timed_s if is_awaited else 0.0,
            100 + ends,
            is_awaited,
            free > read,
        )
        train.take(frame)
        read = ends + decode_s
    return train


SIZES = st.lists(st.integers(2000, 200_000), min_size=2, max_size=8)


@given(SIZES, st.floats(1e4, 1e7))
def test_a_link_that_is_always_busy_is_never_idle_and_tells_its_rate(sizes: list[int], rate: float) -> None:
    """The reader is fast."""
    train = received(sizes, [0.0] * len(sizes), 1e-3 * min(sizes) / rate, rate)
    assert train.received_s == pytest.approx(sum(sizes) / rate)
    assert train.idle_s == pytest.approx(0.0, abs=0.02 * train.received_s)
    assert train.timed_bytes / train.timed_s == pytest.approx(rate, rel=0.02)


@given(SIZES, st.floats(1e5, 1e7), st.floats(0.5, 4.0))
def test_an_edge_slower_than_the_link_does_not_spoil_the_rate(sizes: list[int], rate: float, pause: float) -> None:
    """What is not timed is left out."""
    longest = max(sizes) / rate
    ready = [n * (1 + pause) * longest for n in range(len(sizes))]
    train = received(sizes, ready, 1e-3 * min(sizes) / rate, rate)
    assert train.idle_s == pytest.approx(train.received_s - sum(sizes) / rate, rel=0.02)
    if train.timed_bytes:
        assert train.timed_bytes / train.timed_s == pytest.approx(rate, rel=0.02)
    assert (train.timed_bytes > 0) == (max(sizes) > BURST_BYTES)


@given(SIZES, st.floats(1e5, 1e7), st.floats(0.0, 3.0), st.lists(st.floats(0.0, 3.0), min_size=8, max_size=8))
def test_whoever_is_slow_the_rate_is_hardly_ever_far_off(
    sizes: list[int], rate: float, decode: float, pauses: list[float]
) -> None:
    mean_s = sum(sizes) / rate / len(sizes)
    ready = [sum(pauses[:n]) * mean_s for n in range(len(sizes))]
    train = received(sizes, ready, decode * mean_s, rate)
    assert 0 <= train.idle_s <= train.received_s + 1e-9
    if train.timed_bytes:
        assert 0.74 <= train.timed_bytes / train.timed_s / rate <= 1.02
