"""Libraries that only some uses need, by the extra of the package that brings them, and a line for one that is missing.

    pip install 'edge-cloud-inference[plots]'

An edge that only infers needs none of them. They are imported where they are used; `require` says so before work begins
that would be lost.
"""

import re
from pathlib import Path

from edgecloud.utils.errors import AppError
from edgecloud.utils.names import is_installed

PROJECT = "edge-cloud-inference"
EXTRAS = {
    "onnx": "export",
    "onnxscript": "export",
    "onnx_ir": "export",
    "sklearn": "predictors",
    "skops": "predictors",
    "matplotlib": "plots",
    "openpyxl": "spreadsheets",
    "xlrd": "spreadsheets",
    "defusedxml": "spreadsheets",
    "prometheus_client": "metrics",
    "jinja2": "lab",
    "ray": "ray",
    "h2": "grpc",
}
"""By the name that is imported: the extra in pyproject.toml."""
PACKAGES = {"sklearn": "scikit-learn", "PIL": "pillow", "yaml": "pyyaml"}
"""What installs a library, where that is called otherwise."""
TORCH = ("torch", "torchvision")
"""What networks that are no bundles are built with."""
IN_CHECKOUT = "make .venv/.ready installs what the project needs, and .venv/bin/python runs it"


class MissingLibraryError(AppError):
    """A library that an extra brings, or the project itself, is not installed."""

    def __init__(self, library: str, extra: str = "") -> None:
        self.library, self.extra = library, extra or EXTRAS.get(library, "")
        super().__init__(f"needs {package_of(library)}: {installs(library, self.extra)}")


class MissingTorchError(AppError):
    """What was asked for is computed, or built, by torch, which is not installed. `instead` is how to get on without,
    which usually is a bundle."""

    def __init__(self, what: str = "", instead: str = "") -> None:
        instead = instead or (
            "use -t FILE.bundle, made by deployment.py export -t MODEL -o FILE.bundle on a machine with torch"
        )
        super().__init__(
            f"{what} needs torch, which is not installed: {instead}, or install it: {installs('torch')}".lstrip()
        )


def require_torch(what: str = "", instead: str = "") -> None:
    """Raise MissingTorchError, which says what needs it and how to get on without it, where torch is not installed."""
    if not is_there(*TORCH):
        raise MissingTorchError(what, instead)


def is_there(*libraries: str) -> bool:
    """Whether all of these are installed. Imports none of them."""
    from importlib.util import find_spec

    try:
        return all(find_spec(library) is not None for library in libraries)
    except ImportError:
        return False


def version_of(package: str) -> str:
    """Of a package as it is installed, without importing it; "" where there is none.

    The name of the folder that pip leaves beside it says it too, and importlib.metadata takes 20 ms to import.
    """
    from importlib.util import find_spec

    spec = find_spec(package)
    places = spec.submodule_search_locations if spec is not None else None
    left = [folder for place in places or () for folder in Path(place).parent.glob(f"{package}-*.dist-info")]
    if len(left) == 1:
        return left[0].name.removeprefix(f"{package}-").removesuffix(".dist-info")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def require(*libraries: str, extra: str = "") -> None:
    """Raise MissingLibraryError for the first of these that is not installed; `extra` is one that brings them all.

    KeyError where no extra is given, and none of ours brings it.
    """
    for library in libraries:
        if not is_there(library):
            raise MissingLibraryError(library, extra)


def package_of(library: str) -> str:
    """As it is called where packages come from."""
    return PACKAGES.get(library, library)


def installs(library: str, extra: str = "") -> str:
    """What to do about one that is missing or broken: here, in a checkout or in an installation."""
    if not is_installed():
        return IN_CHECKOUT
    if extra := extra or EXTRAS.get(library, ""):
        return f"pip install '{PROJECT}[{extra}]'"
    return f"pip install --force-reinstall '{_requirement(package_of(library))}'"


def _requirement(package: str) -> str:
    """With the versions that the project takes, where it names it."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        requirements = requires(PROJECT) or []
    except PackageNotFoundError:  # of a wheel that was only unpacked
        requirements = []
    return next((each for each in requirements if re.match(rf"{re.escape(package)}(?![\w-])[^;]*$", each)), package)
