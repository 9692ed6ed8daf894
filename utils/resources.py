"""Files that come with the program, in a checkout or in an installation; nothing is written beside them."""

from pathlib import Path

FOLDERS = ("lab/specs", "lab/links")
"""What documents call files by that anybody may name on a command line."""


def shipped(package: str, *names: str) -> Path:
    """A file or folder inside one of our packages, such as ("models.zoo", "digit.png")."""
    from importlib.resources import files

    return Path(str(files(f"edgecloud.{package}").joinpath(*names)))


def or_shipped(path: Path, name: str = "") -> Path:
    """A file of the user's; where there is none, ours of that name, such as lab/specs/student.toml."""
    relative_path = Path(name or path)
    if path.exists() or relative_path.parent.as_posix() not in FOLDERS:
        return path
    file = shipped("lab", relative_path.parent.name, relative_path.name)
    return file if file.is_file() else path
