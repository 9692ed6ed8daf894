"""Imports torchvision even if its compiled operators cannot load (a CUDA wheel with a CPU torch).

PyPI's torchvision for x86-64 Linux is a CUDA build. Beside a CPU torch its import fails on two registrations that
nothing guards. The models and the preprocessing need neither, so on exactly that error the two schemas are declared
and the import is repeated. Beside a matching torch nothing happens here.

Of torch's compiler it takes one function, for which all of that would be imported: 2.2 s, 70 MB and a thousand modules,
several times what torchvision itself takes. In our own programs the function is put off until somebody calls it, and
then is torch's own. In a program that only imports `edgecloud` nothing is put off: torchvision is the user's there.
"""

import contextlib
import importlib
import logging
import sys
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgecloud.utils.extras import require_torch

if TYPE_CHECKING:
    import torch

from edgecloud.utils.environment import Process

log = logging.getLogger(__name__)

_declared: "list[torch.library.Library]" = []  # a schema lives as long as its Library object
_lock = threading.Lock()  # a schema can be declared once

COMPILER = "torch._dynamo.utils"


def torchvision() -> ModuleType:
    """The library, imported by the first call. Raises MissingTorchError where it is not installed."""
    require_torch()
    importlib.import_module("torch")  # where torch is broken, the error is about torch
    with _lock, _compiler_put_off():
        return _load()


class _PutOff(ModuleType):
    """Stands where torch's compiler will; any other access loads the compiler now."""

    @staticmethod
    def is_compile_supported(device_type: Any) -> Any:
        return _compiler().is_compile_supported(device_type)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by the import itself
            raise AttributeError(name)
        return getattr(_compiler(), name)


def _compiler() -> Any:
    if isinstance(sys.modules.get(COMPILER), _PutOff):
        del sys.modules[COMPILER]
    return importlib.import_module(COMPILER)


@contextlib.contextmanager
def _compiler_put_off() -> Iterator[None]:
    """While a program of ours imports torchvision for the first time. Nothing of torch is changed, and nothing of this
    stays in `sys.modules`. torchvision keeps our function that calls torch's, so a process of somebody else's pays."""
    if not Process.is_program or {"torchvision", COMPILER} & sys.modules.keys():
        yield
        return
    stand_in = sys.modules[COMPILER] = _PutOff(COMPILER)
    try:
        yield
    finally:
        if sys.modules.get(COMPILER) is stand_in:
            del sys.modules[COMPILER]


def _load() -> ModuleType:
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:  # "operator torchvision::nms does not exist"
        if "torchvision::" not in str(error):
            raise
    import torch

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
