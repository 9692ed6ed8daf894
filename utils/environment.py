"""Environment variables of this project: one per flag, and one for the secret."""

from collections.abc import Mapping

PREFIX = "EDGE_CLOUD_"
SECRET = "EDGE_CLOUD_TOKEN"
"""The one variable that is no flag's: a secret has no flag, or `ps` would show it."""


class Process:
    """This process."""

    is_program: bool = False
    """Whether it is one of our programs, and not somebody's own that imports `edgecloud`."""


def without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for a program that this one starts: our settings are not its settings, but the secret is."""
    return {name: text for name, text in environment.items() if not name.startswith(PREFIX) or name == SECRET}
