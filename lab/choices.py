"""Names of the ways to choose a cut, as in the records; lab.rules implements them. Pure.

A new baseline is a row in `FIXED`; or a function in lab/baselines.py, and its name in `PUBLISHED`.
"""

from edgecloud.utils.errors import UsageError

POINT, AUTO, AUTO_RAW = "point", "auto", "auto-raw"
OF_THE_OBJECTIVE = (AUTO, AUTO_RAW)
"""Who chooses by the objective; what all others do is the same under each, and measured once."""
CONTENDERS = "contenders"
"""In place of `all` points: those that can be the best (lab.pruning)."""
RAW, PIXELS, JPEG = "raw", "pixels", "jpeg"
ALL_EDGE, ALL_CLOUD = "all-edge", "all-cloud"
FIXED = {
    ALL_EDGE: (-1, RAW),
    ALL_CLOUD: (0, RAW),
    "all-cloud-8bit": (0, PIXELS),
    "all-cloud-jpeg": (0, JPEG),
}
"""The same point everywhere, -1 being the last one, and its codec."""
PUBLISHED = ("neurosurgeon", "dads")
"""Rules of lab.baselines that need the times of both sides."""
CLOUD_FLAGS = {"all-cloud-jpeg": "--allow-jpeg"}
"""What the lab's cloud has to be told where one of them is asked for."""


def check(names: tuple[str, ...]) -> None:
    """Raises UsageError for a name that nobody answers to."""
    known = (AUTO, AUTO_RAW, *FIXED, *PUBLISHED)
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        raise UsageError(f"no baseline {unknown[:40]!r}: choose {', '.join(known)}")
