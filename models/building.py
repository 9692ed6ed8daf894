"""Runs a user's build() reproducibly.

Nothing of it is changed or intercepted: the generators of torch, numpy and random are seeded before it and put back
after it, and that is all. Memory that it takes and never writes would come out differently each time, or all zeros by
chance: so what lies in fresh memory is made different from one build to the next.
"""

import contextlib
import ctypes
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

_M_PERTURB = -6  # of glibc's mallopt: with which byte fresh memory is filled
_FIRST, _LATER = 0x5A, 0xA5


@contextmanager
def seeded(seed: int = 0) -> Iterator[Callable[[], bool]]:
    """Seed the generators of torch, numpy and random, and put them back afterwards.

    Gives a function that says whether anything was drawn from them so far.
    """
    before = _states()
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    begun = _texts(_states())
    try:
        yield lambda: _texts(_states()) != begun
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])


def _states() -> tuple[torch.Tensor, Any, Any]:
    return torch.get_rng_state(), np.random.get_state(), random.getstate()


def _texts(states: tuple[torch.Tensor, Any, Any]) -> tuple[bytes, bytes, str]:
    drawn = states[1]
    return states[0].numpy().tobytes(), bytes(drawn[1]) + repr(drawn[2:]).encode(), repr(states[2])


@contextmanager
def other_memory(*, is_first: bool) -> Iterator[None]:
    """Let fresh memory hold something else in the first build than in later ones; the first one's is never used.

    Where the C library is glibc that holds for all memory, elsewhere for that of torch in the first build.
    """
    perturb = _mallopt() if sys.platform == "linux" else None
    if perturb is not None:
        perturb(_M_PERTURB, _FIRST if is_first else _LATER)
    was = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        if is_first and not was[0]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that operations are not deterministic: they need not be
                torch.use_deterministic_algorithms(True, warn_only=True)  # with it torch.empty makes NaN
                yield
        else:
            yield
    finally:
        if is_first:
            torch.use_deterministic_algorithms(was[0], warn_only=was[1])
        if perturb is not None:
            perturb(_M_PERTURB, 0)


def _mallopt() -> Callable[[int, int], int] | None:
    mallopt: Callable[[int, int], int] | None = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt


def in_eval_mode(model: nn.Module) -> nn.Module:
    """The same, in eval mode. What torch.export has made has no modes."""
    with contextlib.suppress(NotImplementedError):
        model.eval()
    return model


def unwrapped(model: Any, *, is_deep: bool = True) -> tuple[Any, str]:
    """The network inside of what DataParallel or torch.compile made of it, and what was taken off, or "".

    Where it `is_deep`, wrappers are taken off the modules in it, too, which changes it.
    """
    taken: dict[str, None] = {}
    while isinstance(model, nn.Module) and (inner := _inside(model)) is not None:
        taken[_WRAPPERS[type(model).__name__]] = None
        model = inner
    if is_deep and isinstance(model, nn.Module) and not isinstance(model, torch.jit.ScriptModule):
        for module in list(model.modules()):
            for key, child in list(module._modules.items()):
                while child is not None and (inner := _inside(child)) is not None:
                    taken[_WRAPPERS[type(child).__name__]] = None
                    module._modules[key] = child = inner
            if getattr(module, "_compiled_call_impl", None) is not None:  # module.compile()
                taken[_WRAPPERS["OptimizedModule"]] = None
                module._compiled_call_impl = None
    return model, " and ".join(taken)


def why_no_network(made: Any) -> str:
    """Why what somebody made is no network that can be cut, and what to do; "" where it is one."""
    if isinstance(made, torch.jit.ScriptModule | torch.jit.ScriptFunction):
        return "returns TorchScript, which cannot be cut: return the original module"
    if isinstance(made, torch.export.ExportedProgram):
        return "returns an ExportedProgram: return its module()"
    named = ("model", "module", "net")
    inner = next((key for key in named if isinstance(getattr(made, key, None), nn.Module)), "")
    if not isinstance(made, nn.Module):
        hint = f", such as its .{inner}" if inner else ""
        return f"must return a torch.nn.Module{hint}, not {type(made).__name__}"
    if type(made).forward is nn.Module.forward and "forward" not in vars(made):
        hint = f": return its .{inner}" if inner else ""
        return f"returns {type(made).__name__}, which has no forward(){hint}"
    return ""


_WRAPPERS = {
    "DataParallel": "DataParallel",
    "DistributedDataParallel": "DistributedDataParallel",
    "OptimizedModule": "torch.compile",
}


def _inside(module: nn.Module) -> nn.Module | None:
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner: nn.Module = module.module
        return inner
    if type(module).__name__ != "OptimizedModule":  # of torch._dynamo, which takes long to import
        return None
    original = module._orig_mod
    return original if isinstance(original, nn.Module) else None


def in_type_of(model: nn.Module, noise: torch.Tensor) -> torch.Tensor:
    """Noise of the type that a network computes in, where it takes no other."""
    types = {tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()}
    if len(types) != 1 or types <= {noise.dtype}:
        return noise
    try:
        with torch.no_grad():
            model(noise.clone())
    except Exception:  # noqa: BLE001  whatever the network's own code raises
        (only,) = types
        return noise.to(dtype=only)
    return noise


def is_unfinished(model: nn.Module) -> bool:
    """Whether a lazy layer waits for its first input to know its size."""
    return any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers()))
