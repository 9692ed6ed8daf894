"""What the page of many tasks shows: every task with its stages as they were in time, so that overlap is seen."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from edgecloud.page.record import Record
from edgecloud.page.rows import Mark, Row, Stage, in_turn
from edgecloud.tasks.pipeline import TaskRecord
from edgecloud.tasks.task_runner import TasksRun

NO_LINK = {"up_bytes_per_s": None, "down_bytes_per_s": None, "rtt_s": None, "source": "none"}


class TasksView:
    """Is told of every task that has ended, with `on_record`."""

    program = "tasks"

    def __init__(self) -> None:
        self._records: Record[TaskRecord] = Record()
        self._links: Record[Mark] = Record(200)
        self._call: TasksRun | None = None
        self._completed: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._looked_at = float("-inf")
        self.actions: Mapping[str, Callable[[Any], None]] = {}

    def on_record(self, call: TasksRun, record: TaskRecord) -> None:
        """A task has ended."""
        self._call = call
        self._records.add(record)
        self._completed[record.completed_by] += 1
        self._bytes["raw"] += record.times.raw_bytes
        self._bytes["sent"] += record.times.payload_bytes
        if not record.completed_by:
            self._failed[record.error] += 1
        if time.monotonic() - self._looked_at > 1.0:
            self._looked_at = time.monotonic()
            self._links.add(Mark(record.done_s, "link", "link", self._link()))

    def rows(self, after: int, most: int) -> Sequence[Row]:
        """The last tasks after a number."""
        return [_row(number, record) for number, record in self._records.since(after, most)]

    def marks(self) -> Sequence[Mark]:
        """The link as it was."""
        return [mark for _, mark in self._links.since(0)]

    def picture(self) -> bytes | None:
        """There is none."""
        return None

    def state(self) -> dict[str, Any]:
        """Everything else."""
        call = self._call
        cloud = None if call is None else call.cloud
        about = {"place": "", "device": "", "why": "", "is_connected": False}
        if cloud is not None:
            about |= {"is_connected": cloud.is_connected and not cloud.is_left_alone, "why": cloud.why}
        banners: list[dict[str, Any]] = []
        if cloud is not None and not about["is_connected"]:
            banners.append({"code": "no_cloud", "place": "", "why": cloud.why})
        if self._failed:
            why, _ = self._failed.most_common(1)[0]
            banners.append({"code": "task_failed", "count": sum(self._failed.values()), "why": why})
        return {
            "program": self.program,
            "name": "",
            "done": 0 if call is None else call.done,
            "total": 0 if call is None else call.total,
            "completed_by": dict(self._completed),
            "bytes": {"raw": self._bytes["raw"], "sent": self._bytes["sent"]},
            "link": self._link(),
            "cloud": None if cloud is None else about,
            "banners": banners,
        }

    def _link(self) -> dict[str, Any]:
        cloud = None if self._call is None else self._call.cloud
        link = None if cloud is None else cloud.conditions().link
        return dict(NO_LINK) if link is None else asdict(link)


def _row(number: int, record: TaskRecord) -> Row:
    """Its stages where they were: it waits for the link, and for its turn, in between."""
    times, choice = record.times, record.choice
    total_s = max(0.0, record.total_s)
    head_s = max(0.0, record.head_done_s - record.started_s)
    stages = list(in_turn((("edge", head_s), ("encode", times.encode_s))))
    if record.sent_s:
        begin_s = max(sum(stage.seconds for stage in stages), record.sent_s - record.started_s)
        ends = (("queue", times.queue_s), ("cloud", times.cloud_s + times.decode_s))
        link_s = max(0.0, total_s - begin_s - sum(seconds for _, seconds in ends))
        rest = in_turn((("transfer", link_s), *ends))
        waited_s = begin_s - sum(stage.seconds for stage in stages)
        if waited_s > 0:
            stages.append(Stage("wait", begin_s - waited_s, waited_s))
        stages += [Stage(each.name, begin_s + each.begin_s, each.seconds) for each in rest]
    about = {
        "point": None if choice is None else choice.point,
        "completed_by": record.completed_by,
        "codec": record.codec,
        "raw_bytes": times.raw_bytes,
        "payload_bytes": times.payload_bytes,
        "task": record.task.id,
        "input": record.task.input,
        "why": record.error,
    }
    predicted: tuple[tuple[str, float], ...] = ()
    if choice is not None:
        expected = choice.stages
        predicted = (("edge", expected.edge_s), ("transfer", expected.link_s), ("cloud", expected.cloud_s))
    return Row(number, record.task.model, max(0.0, record.started_s), total_s, tuple(stages), in_turn(predicted), about)
