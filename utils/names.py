"""What people type: `edge_api.py` of a checkout is the command `edgecloud-edge` where the project is installed.

Texts are written with the names of the checkout, and `typed` puts the commands in where a text leaves the program.
"""

import os.path
import re
import sys

import edgecloud

COMMANDS = {
    "edge_api.py": "edgecloud-edge",
    "cloud_api.py": "edgecloud-cloud",
    "tasks_edge_api.py": "edgecloud-tasks-edge",
    "tasks_cloud_api.py": "edgecloud-tasks-cloud",
    "deployment.py": "edgecloud-deployment",
    "python -m lab": "edgecloud-lab",
}
"""By what the same is in a checkout."""
_NAMED = rf"(?<![\w./\\-])(?:{'|'.join(map(re.escape, COMMANDS))})(?![\w-]|[.:]\w)"
"""No path that ends so, and no `deployment.py:build`, which is a function in a file of the user's."""

_PAGE = r" \((?:units: )?docs/[\w-]+\.md\)"


def is_checkout() -> bool:
    """Whether the packages lie at the top level of a checkout, and not inside `edgecloud`."""
    return len(edgecloud.__path__) > 1


def is_installed() -> bool:
    """Whether commands are typed: in an installation, and where one in editable mode has made them for a checkout."""
    return not is_checkout() or os.path.basename(sys.argv[0]).startswith("edgecloud-")  # noqa: PTH119  takes its time


def typed(text: str) -> str:
    """A text with the names of our programs as they are typed here. What the user has written himself stays.

    A page of the documentation is named in a checkout only, for none is installed.
    """
    if not is_installed():
        return text
    if not is_checkout():
        text = re.sub(_PAGE, "", text)
    return re.sub(_NAMED, lambda match: match[0] if _is_given(match[0]) else COMMANDS[match[0]], text)


def _is_given(name: str) -> bool:
    """Whether an argument of this call has the name: somebody's own file may be called so."""
    return any(name in word for word in sys.argv[1:])
