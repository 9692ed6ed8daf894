"""One rule for all measuring: what was held up is run again."""

import pytest

from edgecloud.predictor.gauge import Gauge
from edgecloud.predictor.pace import Pace
from edgecloud.predictor.watch import Watch


class _Scripted:
    """A reference work that takes what it is told to: the last value again and again."""

    def __init__(self, *seconds: float) -> None:
        self._left = list(seconds)

    def read(self, _times: int = 1) -> Pace:
        s = self._left.pop(0) if len(self._left) > 1 else self._left[0]
        return Pace(s, s)

    def read_for(self, _seconds: float) -> list[Pace]:
        return [self.read()]


@pytest.mark.parametrize(
    ("readings", "runs", "kept"),
    [
        ((1.0,), 1, 1.0),  # nothing has moved
        ((1.0, 1.1), 1, 1.0),  # hardly
        ((1.0, 1.5, 1.5), 2, 2.0),  # it became slower around the first run
        ((1.0, 1.5, 1.0, 1.02), 3, 3.0),
        ((1.0, 2.0, 1.0, 1.5, 3.0), 4, 3.0),  # it never stays: the run around which it moved least
    ],
)
def test_a_run_around_which_the_speed_moved_is_run_again(readings: tuple[float, ...], runs: int, kept: float) -> None:
    watch = Watch(Gauge(lambda: 0.0, is_elapsed=False, reference=_Scripted(*readings)), is_behind=False)  # type: ignore[arg-type]
    done: list[float] = []

    def run() -> float:
        done.append(len(done) + 1.0)
        return done[-1]

    assert watch.run(run, lambda seconds: (seconds,), 0.0).seconds == (kept,)
    assert len(done) == runs
