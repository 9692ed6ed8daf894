"""Imports torchvision even if its compiled operators cannot load (a CUDA wheel with a CPU torch).

PyPI's torchvision for x86-64 Linux is a CUDA build. Beside a CPU torch its import fails on two registrations that
nothing guards. The models and the preprocessing need neither, so on exactly that error the two schemas are declared
and the import is repeated. Beside a matching torch nothing happens here.

It takes as long to import as torch itself, most of it for a compiler that nothing here uses: only who needs one of its
networks waits for that.
"""

import importlib
import logging
import threading
from types import ModuleType

import torch

log = logging.getLogger(__name__)

_declared: list[torch.library.Library] = []  # a schema lives as long as its Library object
_lock = threading.Lock()  # a schema can be declared once


def torchvision() -> ModuleType:
    """The library, imported by the first call."""
    with _lock:
        return _load()


def _load() -> ModuleType:
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:  # "operator torchvision::nms does not exist"
        if "torchvision::" not in str(error):
            raise
    log.info("torchvision's compiled operators do not match this torch; classification networks do not need them")
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    _declared.append(library)
    return importlib.import_module("torchvision")


def is_patched() -> bool:
    """Whether torchvision's compiled operators do not match this torch, and were declared here instead."""
    torchvision()
    return bool(_declared)
