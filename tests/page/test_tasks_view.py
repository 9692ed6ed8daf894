"""The page of many tasks: each task's stages lie where they were, and add up to it."""

import pytest

from edgecloud.page.tasks import TasksView
from edgecloud.page.trace import trace
from edgecloud.partition.cost import StageTimes
from edgecloud.partition.throughput import Stages
from edgecloud.tasks.pipeline import TaskRecord
from edgecloud.tasks.planner import TaskPlan
from edgecloud.tasks.task_runner import TasksRun
from edgecloud.tasks.tasks import Task
from tests.page.test_trace import check_format

PLAN = TaskPlan(3, 5, "zstd", Stages(0.1, 0.2, 0.05), "latency")


def record(number: int, began_s: float, *, is_local: bool = False) -> TaskRecord:
    """A head of 0.1 s, 0.01 s of packing, a wait of 0.04 s for the link, 0.2 s on it, a queue, and a tail."""
    times = StageTimes(edge_s=0.1, encode_s=0.01, queue_s=0.02, cloud_s=0.06, raw_bytes=100, payload_bytes=40)
    if is_local:
        times = StageTimes(edge_s=0.3)
        done_s = began_s + 0.3
        return TaskRecord(Task(number, "net"), PLAN, began_s, done_s, 0.0, done_s, times, completed_by="edge")
    moments = (began_s, began_s + 0.1, began_s + 0.15, began_s + 0.43)
    return TaskRecord(Task(number, "net"), PLAN, *moments, times, codec="zstd", completed_by="split")


def test_stages_are_where_they_were_and_add_up() -> None:
    view, call = TasksView(), TasksRun(total=2)
    view.on_record(call, record(1, 0.0))
    view.on_record(call, record(2, 0.1))
    first, second = view.rows(0, 50)
    assert [stage.name for stage in first.stages] == ["edge", "encode", "wait", "transfer", "queue", "cloud"]
    assert [stage.seconds for stage in first.stages] == pytest.approx([0.1, 0.01, 0.04, 0.2, 0.02, 0.06])
    assert sum(stage.seconds for stage in second.stages) == pytest.approx(second.total_s)
    assert second.began_s < first.began_s + first.total_s, "they overlap"
    document = trace("tasks", [first, second])
    check_format(document)
    lines = {event["tid"] for event in document["traceEvents"] if event["ph"] == "X"}
    assert len(lines) == 2, "so each has a line of its own"
    assert view.state()["completed_by"] == {"split": 2}
    assert view.state()["bytes"] == {"raw": 200, "sent": 80}


def test_a_task_on_the_edge_has_one_stage_and_a_failed_one_a_banner() -> None:
    view, call = TasksView(), TasksRun(total=2)
    view.on_record(call, record(1, 0.0, is_local=True))
    view.on_record(call, TaskRecord(Task(2, "net"), error="the input cannot be read"))
    whole, failed = view.rows(0, 50)
    assert [stage.name for stage in whole.stages] == ["edge"]
    assert whole.stages[0].seconds == pytest.approx(0.3)
    assert failed.stages == ()
    (banner,) = view.state()["banners"]
    assert banner == {"code": "task_failed", "count": 1, "why": "the input cannot be read"}
