#!/usr/bin/env python3
"""The cloud: keeps networks ready and runs the requested layers for each edge."""

import os
import sys

if __name__ == "__main__":  # before what takes longer: also with python -I, and with Ctrl-C at any moment
    if not __package__:  # as a file; with -m, python has found the package
        sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120  pathlib takes its time
    from edgecloud.cli import start

    start.begin()

from collections.abc import Sequence

from edgecloud.cli import serve
from edgecloud.utils import defaults

DESCRIPTION = "Serve the cloud side of neural networks over TCP until SIGTERM or Ctrl-C."


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and serve; returns the exit code."""
    return serve.main("cloud_api.py", DESCRIPTION, argv, defaults.Server.BATCH)


if __name__ == "__main__":
    start.end(main())
