"""Where programs keep what they have found out."""

import os
from pathlib import Path

from edgecloud.utils.errors import UsageError


def default_folder() -> Path:
    """The user's cache folder (XDG base directories). Raises UsageError for a user who has no home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-cloud-inference"
    except RuntimeError:
        raise UsageError("no home directory: use --cache-dir DIR") from None
