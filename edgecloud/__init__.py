"""Run one neural network together on a weak edge device and a cloud server.

>>> import edgecloud as ec
>>> net = ec.load("le_net")
>>> with ec.Cloud(networks=[net]) as cloud, ec.Edge(net, cloud=cloud.address) as edge:
...     answer = edge(net.sample)
>>> answer.outputs[0].argmax()
np.int64(2)

Names are loaded when they are first used: to import this takes no torch and no numpy. docs/library.md shows all of it.
"""

import os.path

TYPE_CHECKING = False  # `typing` takes its time
if TYPE_CHECKING:
    from edgecloud.library.cloud import Cloud
    from edgecloud.library.edge import Answer, Edge
    from edgecloud.library.frames import Frames
    from edgecloud.library.network import Network, load
    from edgecloud.library.planning import Goal, Link, Plan, StageTimes, plan
    from edgecloud.library.profiling import Profile, profile
    from edgecloud.utils.errors import (
        ConnectError,
        DeadlineError,
        EdgeCloudError,
        MismatchError,
        ProtocolError,
        UsageError,
    )

__version__ = "0.1.0"
"""The one place of it: the wheel and `--version` take it from here."""

# In a checkout the packages lie beside this folder, at the top level; installed, they lie inside it.
_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120  pathlib takes its time
if not os.path.isfile(os.path.join(_HERE, "edge_api.py")):  # noqa: PTH113, PTH118
    __path__.append(os.path.dirname(_HERE))  # noqa: PTH120

__all__ = [
    "Answer",
    "Cloud",
    "ConnectError",
    "DeadlineError",
    "Edge",
    "EdgeCloudError",
    "Frames",
    "Goal",
    "Link",
    "MismatchError",
    "Network",
    "Plan",
    "Profile",
    "ProtocolError",
    "StageTimes",
    "UsageError",
    "load",
    "plan",
    "profile",
]

_HOMES = {
    "library.cloud": ("Cloud",),
    "library.edge": ("Answer", "Edge"),
    "library.frames": ("Frames",),
    "library.network": ("Network", "load"),
    "library.planning": ("Goal", "Link", "Plan", "StageTimes", "plan"),
    "library.profiling": ("Profile", "profile"),
    "utils.errors": (
        "ConnectError",
        "DeadlineError",
        "EdgeCloudError",
        "MismatchError",
        "ProtocolError",
        "UsageError",
    ),
}
"""Where each name is defined."""


def __getattr__(name: str) -> object:
    """Load what defines a public name, the first time that it is used."""
    home = next((module for module, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found: object = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
