"""Timing a network on this machine, without any cloud: what `deployment.py profile` does."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgecloud.library.settings import cache_of
from edgecloud.predictor.profile import Profile, Progress

if TYPE_CHECKING:
    from edgecloud.library.network import Loadable

__all__ = ["Profile", "profile"]


def profile(
    net: "Loadable",
    device: str = "cpu",
    threads: int | None = 1,
    *,
    tails: bool = True,
    is_fresh: bool = False,
    cache_dir: str | Path | None = None,
    backend: str = "auto",
    progress: Progress = lambda _: None,
) -> Profile:
    """Measure the seconds of every layer of a network on a device, in place, or take them from the cache.

    `net` is what `load` takes. `device` is `cpu`, `cuda`, `cuda:1` or `mps`; `threads` compute one layer (None: all
    cores), and only as long as this lasts. With `tails` it is also measured what a cloud takes to begin in the middle,
    which a plan wants of `cloud_times`. What was measured before on this machine is taken again unless `is_fresh`.
    `cache_dir` is the cache of all programs unless it is given. `backend` is `torch`, `onnxruntime`, which runs
    bundles, or `auto`. `progress` is told the share that is done, 0 to 1.

    It takes seconds, and its figures are those of a machine that does nothing else. One at a time: torch has one number
    of threads for a whole process.

    Raises UsageError for a device that is absent, and what `load` raises.

    >>> import edgecloud as ec
    >>> measured = ec.profile("le_net")
    >>> len(measured.seconds), measured.seconds[0], measured.key.threads
    (13, 0.0, 1)
    """
    from edgecloud.library.network import load
    from edgecloud.tools.measure import measured
    from edgecloud.utils.inference_utils import check_device

    folder = cache_of(cache_dir)
    check_device(device)  # before what takes longer
    made = load(net).made_for(device)
    with threads_kept():
        return measured(made, device, threads, folder, progress, tails=tails, is_fresh=is_fresh, backend=backend)


@contextmanager
def threads_kept() -> Iterator[None]:
    """The number of threads is afterwards what it was before."""
    from edgecloud.utils.extras import TORCH, is_there
    from edgecloud.utils.inference_utils import set_threads, tell_torch, threads_in_force

    if is_there(*TORCH):
        tell_torch()  # it has a number of its own, which is taken note of before
    before = threads_in_force()
    try:
        yield
    finally:
        set_threads(before)
