"""Libraries of others that are imported when something of them is first used. Most inferences use none of these.

if TYPE_CHECKING:
    from PIL import Image
else:
    Image = later("PIL.Image")
"""

from importlib import import_module
from typing import Any


class later:  # noqa: N801  stands for a module
    """A module by its name, or what it calls `what`. Only using it imports it; it is asked once for each name."""

    def __init__(self, name: str, what: str = "") -> None:
        self._name, self._what = name, what

    def __getattr__(self, name: str) -> Any:
        module = import_module(self._name)
        value = getattr(getattr(module, self._what) if self._what else module, name)
        setattr(self, name, value)
        return value

    def __call__(self, *given: Any, **named: Any) -> Any:
        """Call it, or make one of it."""
        return getattr(import_module(self._name), self._what)(*given, **named)
