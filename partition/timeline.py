"""When each stage of an inference ran, as far as its times say: for pictures. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from edgecloud.partition.cost import StageTimes


class Span(NamedTuple):
    """One stage, in seconds from the beginning of the inference."""

    name: str
    begin_s: float
    seconds: float


STAGES = ("edge", "encode", "transfer", "queue", "cloud")
"""In the order of the JSON documents, where the cloud unpacks within its seconds."""
NEIGHBOURS = ((1, 2), (2, 3), (2, 4), (3, 4), (0, 1))
"""Which stages overlap: packing and sending first, then sending and what the cloud does, then computing by rows."""


def spans(times: StageTimes) -> tuple[Span, ...]:
    """The stages of some length, each in one piece and as long as it was, the last one to the end of the inference.
    A cloud whose unpacking and computing overlapped is as long as the whole at most.

    Where nothing is hidden they follow each other. Else each begins as much earlier as it may have overlapped with the
    one before it: so a stage that was interrupted, as packing may be, is shown without its gaps. Where a measured time
    on the link lies is not known: all of it is before the cloud's.
    """
    told = (times.edge_s, times.encode_s, times.transfer_s, times.queue_s, times.tail_s)
    lengths = [(name, seconds) for name, seconds in zip(STAGES, told, strict=True) if seconds > 0]
    if times.hidden_s <= 0:
        return _in_turn(lengths)
    number_of = {name: number for number, (name, _) in enumerate(lengths)}
    left_s, earlier = times.hidden_s, [0.0] * (len(lengths) + 1)
    for before, after in ((STAGES[a], STAGES[b]) for a, b in NEIGHBOURS):
        if before in number_of and number_of.get(after) == number_of[before] + 1:
            number = number_of[after]
            most_s = min(lengths[number - 1][1], lengths[number][1]) - earlier[number]
            earlier[number] += min(left_s, max(0.0, most_s))
            left_s = max(0.0, left_s - max(0.0, most_s))
    found, at_s = [], 0.0
    for number, (name, seconds) in enumerate(lengths):
        at_s, seconds = max(0.0, at_s - earlier[number]), min(seconds, times.total_s)
        at_s = times.total_s - seconds if number == len(lengths) - 1 else min(at_s, times.total_s - seconds)
        found.append(Span(name, at_s, seconds))
        at_s += seconds
    return tuple(found)


def _in_turn(lengths: Sequence[tuple[str, float]]) -> tuple[Span, ...]:
    found, at_s = [], 0.0
    for name, seconds in lengths:
        found.append(Span(name, at_s, seconds))
        at_s += seconds
    return tuple(found)
