"""Settings as a caller gives them, and as the packages below take them."""

from pathlib import Path

from edgecloud.net.security import check_token, read_token
from edgecloud.predictor import store


def token_of(token: str | None) -> str:
    """The secret; that of the environment where none is given, else "". Raises UsageError for a bad one."""
    return read_token(None) if token is None else check_token(token)


def path_of(path: str | Path | None) -> Path | None:
    """A path, where one was given."""
    return None if path is None else Path(path)


def cache_of(folder: str | Path | None) -> Path:
    """The cache folder; that of all programs where none is given. Raises UsageError for a user who has no home."""
    return store.default_folder() if folder is None else Path(folder)
