"""Reading CPU limits as Docker and Kubernetes set them, and what work takes under them."""

from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgecloud.predictor.quota import Quota
from edgecloud.utils.cpu_limit import CpuLimit, cpu_limit


def system(root: Path, membership: str, **files: str) -> Path:
    """A made-up /proc/self/cgroup, and files under /sys/fs/cgroup with `__` for `/` and `_` for `.` in their keys."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(membership)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def version_1(folder: str, quota: int, period: int) -> dict[str, str]:
    """The files of a group's quota, in microseconds."""
    return {f"{folder}__cpu.cfs_quota_us": f"{quota}\n", f"{folder}__cpu.cfs_period_us": f"{period}\n"}


def test_version_2_in_a_pod(tmp_path: Path) -> None:
    root = system(
        tmp_path, "0::/kube/pod7\n", **{"kube__pod7__cpu.max": "60000 100000\n", "kube__cpu.max": "max 100000\n"}
    )
    assert cpu_limit(root) == CpuLimit(0.6, 0.1)


def test_version_2_in_a_container_that_sees_only_its_own_group(tmp_path: Path) -> None:
    assert cpu_limit(system(tmp_path, "0::/\n", **{"cpu.max": "150000 100000\n"})) == CpuLimit(1.5, 0.1)


def test_version_1(tmp_path: Path) -> None:
    files = version_1("cpu,cpuacct__lab__edge", 1500, 5000) | version_1("cpu,cpuacct__lab", -1, 100000)
    root = system(tmp_path, "9:name=systemd:/x\n4:cpu,cpuacct:/lab/edge\n0::/\n", **files)
    assert cpu_limit(root) == CpuLimit(0.3, 0.005)


def test_version_1_in_docker_where_the_path_is_that_of_the_host(tmp_path: Path) -> None:
    root = system(tmp_path, "4:cpu,cpuacct:/docker/0123abc\n", **version_1("cpu", 50000, 100000))
    assert cpu_limit(root) == CpuLimit(0.5, 0.1)


def test_the_tightest_of_enclosing_groups_counts(tmp_path: Path) -> None:
    limits = {"a__b__cpu.max": "80000 100000", "a__cpu.max": "20000 50000"}
    assert cpu_limit(system(tmp_path, "0::/a/b\n", **limits)) == CpuLimit(0.4, 0.05)


@pytest.mark.parametrize("text", ["max 100000", "", "0 0", "nonsense", "1 2 3", "30000 0", "inf 1", "-1 100000"])
def test_what_is_no_limit(tmp_path: Path, text: str) -> None:
    assert cpu_limit(system(tmp_path, "0::/\n", **{"cpu.max": text})) is None


def test_other_controllers_and_other_systems_have_none(tmp_path: Path) -> None:
    assert cpu_limit(tmp_path) is None
    root = system(tmp_path, "3:cpuset:/x\n2:cpuacct:/x\n", **{"cpuset__x__cpu.max": "1000 100000"})
    assert cpu_limit(root) is None


# --- what work takes


def simulated_s(quota: Quota, work_s: float, left_s: float, step_s: float) -> float:
    """Step by step: work runs while the period's budget lasts, which is full at first and with each new period."""
    budget, done, now = quota.share * quota.period_s, 0.0, 0.0
    next_period = left_s
    while done < work_s - 1e-12:
        if now >= next_period - 1e-12:
            budget, next_period = quota.share * quota.period_s, next_period + quota.period_s
        run = min(step_s, work_s - done, next_period - now)
        if budget > 1e-12:
            run = min(run, budget)
            done, budget = done + run, budget - run
        now += run
    return now


@settings(deadline=None, max_examples=40)
@given(st.floats(0.2, 0.9), st.sampled_from([0.005, 0.1]), st.floats(0.05, 4))
def test_elapsed_is_the_mean_over_where_in_the_period_work_begins(
    share: float, period_s: float, periods: float
) -> None:
    assume(abs(periods - round(periods)) > 0.01)  # there the time jumps: one more instruction waits for the next period
    quota = Quota(share, period_s)
    work_s = periods * share * period_s
    places = [(step + 0.5) / 16 * period_s for step in range(16)]
    expected = sum(simulated_s(quota, work_s, left_s, period_s / 50) for left_s in places) / len(places)
    found = sum(quota.from_s(work_s, left_s) for left_s in places) / len(places)
    assert found == pytest.approx(expected, rel=0.02)


def test_short_work_is_not_slowed_down_and_long_work_is_by_the_share() -> None:
    quota = Quota(0.3, 0.1)
    assert quota.elapsed_s(0.0005) == pytest.approx(0.0005, rel=0.02)
    assert quota.elapsed_s(30.0) == pytest.approx(100 - 0.05, rel=0.001)
    assert Quota(0.1, 0.01).elapsed_s(0.0011) < 0.003, "a little too much is overdrawn, not waited for"


@given(st.lists(st.floats(0, 0.05), min_size=1, max_size=30))
def test_layers_add_up_to_the_head_that_they_make(work_s: list[float]) -> None:
    quota = Quota(0.5, 0.005)
    layers = quota.layers_s(work_s)
    assert min(layers) >= -1e-12
    for end in range(1, len(work_s) + 1):
        assert sum(layers[:end]) == pytest.approx(quota.elapsed_s(sum(work_s[:end])), abs=1e-9)
