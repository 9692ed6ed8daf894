"""Libraries of others that are imported when something of them is first used. Most inferences use none of these.

if TYPE_CHECKING:
    from PIL import Image
else:
    Image = later("PIL.Image")
"""

from importlib import import_module
from typing import Any


class later:  # noqa: N801  stands for a module
    """A module by its name. Only what is asked of it imports it; then it is asked once for each name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, what: str) -> Any:
        value = getattr(import_module(self._name), what)
        setattr(self, what, value)
        return value
