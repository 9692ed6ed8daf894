"""The commands of an installation, `edgecloud-edge` and its like: each prepares the process, then runs a script."""

from edgecloud.cli import start


def edge() -> int:
    """edgecloud-edge."""
    return _run("edge_api")


def cloud() -> int:
    """edgecloud-cloud."""
    return _run("cloud_api")


def tasks_edge() -> int:
    """edgecloud-tasks-edge."""
    return _run("tasks_edge_api")


def tasks_cloud() -> int:
    """edgecloud-tasks-cloud."""
    return _run("tasks_cloud_api")


def deployment() -> int:
    """edgecloud-deployment."""
    return _run("deployment")


def lab() -> int:
    """edgecloud-lab."""
    return _run("lab.__main__")


def _run(name: str) -> int:
    start.begin()  # before what takes longer is imported
    from importlib import import_module

    code: int = import_module(f"edgecloud.{name}").main()
    return code
