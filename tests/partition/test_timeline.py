"""Stages as they are drawn: as long as they were, and to the end of the inference."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecloud.partition.cost import StageTimes, pipelined
from edgecloud.partition.timeline import spans

SECONDS = st.floats(0, 100)


@given(st.lists(st.tuples(SECONDS, SECONDS, SECONDS, SECONDS, SECONDS), min_size=1, max_size=6), SECONDS)
def test_stages_that_overlap_end_with_the_inference(chunks: list[tuple[float, ...]], rest_s: float) -> None:
    sums = [sum(chunk[stage] for chunk in chunks) for stage in range(5)]
    done_s = pipelined([(a, b, c, d, e) for a, b, c, d, e in chunks], max, is_by_rows=True) + rest_s
    times = StageTimes(sums[0], sums[2], 0.0, 0.0, sums[4] + rest_s, 0.0, sums[1], sums[3])
    times = times.lasting(done_s)
    drawn = spans(times)
    told = times.to_json()
    assert {span.name: span.seconds for span in drawn} == {
        name: pytest.approx(min(told[f"{name}_s"], times.total_s))
        for name in ("edge", "encode", "transfer", "queue", "cloud")
        if told[f"{name}_s"] > 0
    }
    assert all(span.begin_s >= 0 for span in drawn)
    if drawn:
        assert drawn[-1].begin_s + drawn[-1].seconds == pytest.approx(times.total_s)


def test_packing_is_drawn_above_the_link_that_hides_it() -> None:
    times = StageTimes(edge_s=0.1, encode_s=0.04, upload_s=0.16, cloud_s=0.03, rtt_s=0.02, hidden_s=0.06)
    assert [(span.name, round(span.begin_s, 3)) for span in spans(times)] == [
        ("edge", 0.0),
        ("encode", 0.1),
        ("transfer", 0.1),
        ("cloud", 0.26),
    ]
    in_turn = StageTimes(edge_s=0.1, encode_s=0.04, upload_s=0.16)
    assert [round(span.begin_s, 3) for span in spans(in_turn)] == [0.0, 0.1, 0.14]
