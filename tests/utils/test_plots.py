"""The waterfall of many tasks: every stage is seen, and each row says where its task was cut."""

from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgecloud.utils.plots import STAGE_COLOURS, Bar, Strip, seen, waterfall

BARS = st.lists(
    st.builds(Bar, st.sampled_from(sorted(STAGE_COLOURS)), st.floats(0, 100), st.floats(0, 10)), min_size=1, max_size=4
).map(lambda bars: sorted(bars, key=lambda bar: bar.begin_s))
LEAST_S = 0.05


@given(BARS)
def test_no_stage_is_too_short_to_be_seen_and_none_hides_another(bars: list[Bar]) -> None:
    drawn = seen(bars, LEAST_S)
    assert [bar.stage for bar in drawn] == [bar.stage for bar in bars]
    for was, now in zip(bars, drawn, strict=True):
        assert now.length_s >= LEAST_S
        assert now.begin_s >= was.begin_s
        assert now.begin_s + now.length_s >= was.begin_s + was.length_s - 1e-9
    for before, after in pairwise(drawn):
        assert after.begin_s - before.begin_s >= LEAST_S * (1 - 1e-9)


@given(BARS)
def test_stages_that_are_long_enough_stay_as_they_were(bars: list[Bar]) -> None:
    apart = [Bar(bar.stage, 20.0 * place, LEAST_S + bar.length_s) for place, bar in enumerate(bars)]
    assert seen(apart, LEAST_S) == apart


def test_a_network_of_a_millisecond_is_seen_beside_one_of_seconds(tmp_path: Path) -> None:
    slow, fast = Bar("edge", 0.0, 4.0), [Bar("edge", 4.0, 1e-4), Bar("link", 4.0001, 1e-4), Bar("cloud", 4.0002, 1e-4)]
    strips = [Strip("1 vgg_net", [slow], "all on the edge, 4 s"), Strip("2 le_net", fast, "point 3: 3.14 kB, 300 us")]
    waterfall(tmp_path / "tasks.png", strips, "2 tasks")
    with Image.open(tmp_path / "tasks.png") as picture:
        below = picture.convert("RGB").crop((0, picture.height // 3, picture.width, picture.height))
        found = {colour: count for count, colour in below.getcolors(1 << 20) or ()}
    for stage in ("edge", "link", "cloud"):
        assert found.get(rgb(STAGE_COLOURS[stage]), 0) > 30, stage


def rgb(name: str) -> tuple[int, ...]:
    from matplotlib.colors import to_rgb

    return tuple(round(255 * part) for part in to_rgb(name))


def test_names_are_shown_as_they_are_and_stages_of_nothing_are_drawn(tmp_path: Path) -> None:
    waterfall(tmp_path / "t.svg", [Strip("1 a$b$c", [Bar("edge", 0.0, 0.0)], "point 1: 5 B, 0 us")], "1 task")
    text = (tmp_path / "t.svg").read_text(encoding="utf-8")
    assert "<!-- point 1: 5 B, 0 us -->" in text
    assert "a\\$b\\$c" in text or "a$b$c" in text
    waterfall(tmp_path / "none.svg", [], "no tasks")
