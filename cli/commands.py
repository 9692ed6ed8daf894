"""The commands of an installation, `edgecloud-edge` and its like: each prepares the process, then runs a script."""

from typing import NoReturn

from edgecloud.cli import start


def edge() -> NoReturn:
    """edgecloud-edge."""
    _run("edge_api")


def cloud() -> NoReturn:
    """edgecloud-cloud."""
    _run("cloud_api")


def tasks_edge() -> NoReturn:
    """edgecloud-tasks-edge."""
    _run("tasks_edge_api")


def tasks_cloud() -> NoReturn:
    """edgecloud-tasks-cloud."""
    _run("tasks_cloud_api")


def deployment() -> NoReturn:
    """edgecloud-deployment."""
    _run("deployment")


def lab() -> NoReturn:
    """edgecloud-lab."""
    _run("lab.__main__")


def _run(name: str) -> NoReturn:
    start.begin()  # before what takes longer is imported
    from importlib import import_module

    start.end(import_module(f"edgecloud.{name}").main())
