"""A network that the caller has built: a torch module and an example of its inputs. The caller's own stays as it is."""

import copy
import re
from typing import Any

import torch
from torch import nn

from edgecloud.models import building, inputs
from edgecloud.models.example import example_of, in_words, parameters_of
from edgecloud.models.fingerprint import held_by, of_held
from edgecloud.models.network import GIVEN
from edgecloud.models.registry import Entry
from edgecloud.models.weights import Loaded
from edgecloud.utils.errors import UsageError

CODE = "a module"
"""In place of the digest of a file. Both sides name it, so that they hold the same kind of network."""
ORIGIN = "as given"


def read(module: Any, example: Any, name: str | None) -> tuple[Entry, Loaded]:
    """A copy of a module in eval mode, and how it is fed. `example` is what it is given: a tensor or an array, a tuple
    of what is given by position, or a dict of what is given by name.

    Raises UsageError for what is no module, cannot be copied, or takes something else.
    """
    module, wrapper = building.unwrapped(module, is_deep=False)
    called = _name(module, name)
    model, inner = _copied(module, called)
    origin = f"{ORIGIN} (taken out of {wrapper or inner})" if wrapper or inner else ORIGIN
    with in_words(f"{called}: the example input"):
        given = example_of(example, parameters_of(model))
    if building.is_unfinished(model):
        with torch.no_grad():
            given.answer(model)
    model.requires_grad_(False)
    held = list(held_by(model))
    fingerprint = of_held(held, CODE)
    entry = Entry(
        name=called,
        build=lambda: _copied(module, called)[0],
        input_shape=given.inputs[0].shape[1:],
        preprocess=lambda _: given.fed,
        labels=(),
        parameter_bytes=sum(each.bytes for each in held),
        sample="example",
        takes=inputs.TENSOR,
        code=CODE,
        own_inputs=given.inputs,
        call=given.call,
    )
    about = (CODE, fingerprint.names, fingerprint.marks)
    return entry, Loaded(fingerprint.digest, origin, True, *about, model=model)


def _name(module: Any, name: str | None) -> str:
    if isinstance(module, torch.jit.ScriptModule):
        raise UsageError("TorchScript cannot be cut: give the module that it was made from")
    if isinstance(module, torch.export.ExportedProgram):
        raise UsageError("an ExportedProgram is no module: give its module()")
    if not isinstance(module, nn.Module):
        raise UsageError(f"a network is a torch.nn.Module, not {type(module).__name__}")
    called = type(module).__name__ if name is None else name
    if not re.fullmatch(r"[\w.-]{1,100}", called, re.ASCII):
        raise UsageError(f"{called[:100]!r} is no name for a network: letters, digits, _ . and - are")
    return GIVEN + called


def _copied(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """On the CPU, in eval mode, and what was taken off. What the caller does with its own later does not reach it."""
    try:
        copied, taken = building.unwrapped(copy.deepcopy(module))
        return building.in_eval_mode(copied.cpu()), taken
    except Exception as error:  # whatever the module's own code raises
        reason = (str(error).splitlines() or [""])[0][:160]
        raise UsageError(f"{name} cannot be copied (copy.deepcopy: {type(error).__name__}: {reason})") from error
