#!/usr/bin/env python3
"""The cloud: keeps networks ready and runs for each edge the layers that it asks for."""

import sys
from collections.abc import Sequence

from runtime import serve

DESCRIPTION = "Serve the cloud's share of neural networks over TCP until SIGTERM or Ctrl-C."
MAX_BATCH = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and serve; returns the exit code."""
    return serve.main("cloud_api.py", DESCRIPTION, argv, MAX_BATCH)


if __name__ == "__main__":
    sys.exit(main())
