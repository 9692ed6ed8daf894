"""Processes and threads that compute behind others."""

import os

STEPS_BACK = 10
"""Of niceness: a tenth of a processor is left where others want all of it, so what is behind comes to an end."""


def put_behind(number: int) -> None:
    """Let a process, or one thread of one, compute behind this process. Raises OSError, also where it has ended."""
    os.setpriority(os.PRIO_PROCESS, number, min(19, os.getpriority(os.PRIO_PROCESS, 0) + STEPS_BACK))
