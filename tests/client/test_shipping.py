"""How many pieces are on their way: enough for the link, and no queue that others would wait behind."""

import heapq

import pytest

from edgecloud.client.progress import Progress
from edgecloud.client.shipping import _Flow, _Pieces
from edgecloud.utils.errors import ProtocolError


@pytest.mark.parametrize("mbit", [1, 5, 20, 100, 1000])
@pytest.mark.parametrize("rtt_s", [0.0005, 0.02, 0.1])
def test_a_link_is_kept_busy_without_a_queue(mbit: float, rtt_s: float) -> None:
    """A link that sends one piece after the other, and answers half a round trip after the last byte."""
    flow, rate = _Flow(), mbit * 1e6 / 8
    now, free_at, queued = 0.0, 0.0, []
    answers: list[float] = []
    done, began = 0, None
    longest_s = min(60.0, max(3.0, 4000 * 65536 / rate))
    while now < longest_s:
        while flow.has_room:
            size = flow.piece_bytes
            flow.sent(size, now)
            start = max(now, free_at)
            queued.append(start - now)
            free_at = start + size / rate
            heapq.heappush(answers, free_at + rtt_s)
            if now > longest_s / 2:
                began = now if began is None else began
                done += size
        now = heapq.heappop(answers)
        flow.answered(now)
    assert began is not None
    assert done / (longest_s - began) > 0.93 * rate
    piece_s = 65536 / rate
    late = queued[len(queued) // 2 :]
    assert max(late) <= max(3 * piece_s, 0.2), max(late)


def test_pieces_are_what_is_wanted_in_order_and_nothing_else() -> None:
    pieces = _Pieces([[0, 10], [64, 65]], 100)
    assert [pieces.next(4) for _ in range(5)] == [(0, 4), (4, 8), (8, 10), (64, 65), None]
    pieces.add([[90, 100]])
    assert pieces.next(64) == (90, 100)
    with pytest.raises(ProtocolError):
        pieces.add([[90, 101]])


def test_progress_is_told_in_words() -> None:
    sending = Progress("net", 244_000_000, 122_000_000, 24_400_000, 10.0, "sending")
    assert sending.left_s == pytest.approx(50)
    assert sending.text() == "net is being sent to the cloud: 50 % of 244 MB, 50 s left"
    assert Progress("net").left_s is None
    assert "made ready" in Progress("net").text()
    assert Progress("net", state="refused", why="it is large").text() == "the cloud does not take net: it is large"
