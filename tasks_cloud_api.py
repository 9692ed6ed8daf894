#!/usr/bin/env python3
"""The cloud for many tasks: as cloud_api.py, and requests that go together are computed together."""

import sys
from collections.abc import Sequence

from runtime import serve

DESCRIPTION = "Serve the cloud's share of many tasks over TCP until SIGTERM or Ctrl-C."
MAX_BATCH = 8


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and serve; returns the exit code."""
    return serve.main("tasks_cloud_api.py", DESCRIPTION, argv, MAX_BATCH)


if __name__ == "__main__":
    sys.exit(main())
