"""Custom models: a Python file with one function. See docs/networks.md.

Loading one runs its code, so only names from our own command line get here, never one that came over the network.
"""

import hashlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from edgecloud.utils.commands import ROOT
from edgecloud.utils.errors import UsageError
from edgecloud.utils.extras import require_torch
from edgecloud.utils.files import require_file
from edgecloud.utils.names import is_checkout

if TYPE_CHECKING:
    from torch import nn

    from edgecloud.models.example import Example
    from edgecloud.models.fingerprint import Held
    from edgecloud.models.inputs import Fed, InputSpec

FUNCTION = "build"
_NAME = re.compile(r"(?P<file>.*?(?P<stem>[^/\\]+)\.py)(:(?P<function>\w+))?", re.DOTALL)
MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True)
class Where:
    """A file and the function in it that builds the network."""

    path: Path
    function: str

    @property
    def name(self) -> str:
        """What both sides call the network, wherever its file lies: FILE.py, or FILE.py:FUNCTION for another one."""
        return self.path.name if self.function == FUNCTION else f"{self.path.name}:{self.function}"

    @property
    def flag(self) -> str:
        """The same with its whole path, for another program on this machine."""
        return f"{self.path.resolve()}:{self.function}"


def where(name: str) -> Where | None:
    """Split FILE.py[:FUNCTION]; None for every other name. Opens nothing."""
    match = _NAME.fullmatch(name)
    return None if match is None else Where(Path(match["file"]), match["function"] or FUNCTION)


@dataclass(frozen=True)
class Built:
    """What a file's function made the first time, as digests: what it makes later has to be the same."""

    path: Path
    held: tuple["Held", ...]
    is_drawn: bool
    """Whether a parameter depends on the seed, and so was not learnt."""
    unwrapped: str = ""
    """What was taken off the network, such as torch.compile."""

    def check(self, held: Iterable["Held"], given: Iterable[str] = ()) -> None:
        """Raises UsageError for the first thing that a later build, but for what was `given` by a file, has not."""
        known, given = {each.name: each for each in self.held}, set(given)
        for each in held:
            first = known.pop(each.name, None)
            if each.name in given or (first is not None and first.digest == each.digest):
                continue
            never = first is not None and first.has_nan and not each.has_nan
            fault = "is never initialized by build()" if never else "changes each time build() runs"
            cure = "set it" if never else "set it, or seed its random numbers,"
            saved = first is not None and first.is_saved
            raise UsageError(
                f"{self.path}: {each.name} {fault}: {cure} in the file"
                + (", or use --weights FILE" if saved and not given else "")
            )
        if missing := sorted(known.keys() - given):
            raise UsageError(
                f"{self.path}: build() creates {missing[0][:60]} only sometimes: it must always return the same network"
            )


@dataclass(frozen=True)
class Own:
    """What a file says of its network."""

    place: Where
    build: Callable[[], "nn.Module"]
    """The network as the file makes it from seed 0. Raises UsageError where the file's function fails."""
    built: "Built"
    example: "Example"
    """What it is given."""
    parameter_bytes: int
    code: str
    """SHA-256 of the file."""
    labels: tuple[str, ...] = ()
    preprocess: Callable[[Any], Any] | None = None
    """From a PIL picture to an input, where the file has such a function."""

    @property
    def inputs(self) -> "tuple[InputSpec, ...]":
        """What it takes."""
        return self.example.inputs

    def fed(self, picture: Any) -> "Fed":
        """The input that a picture makes, in the example's shape; of None, the example.

        Raises UsageError where the file's function fails or makes something else.
        """
        if picture is None or self.preprocess is None:
            return self.example.fed
        preprocess, what = self.preprocess, "preprocess(picture)"
        names = tuple(key for key, _ in self.example.call.form.spec["dict"])
        made = _input(self.place, what, lambda: preprocess(picture), names)
        if made.inputs != self.example.inputs:
            shapes = f"{_told(made)} but the example has {_told(self.example)}"
            raise UsageError(f"{self.place.path}: {what} returns a tensor of shape {shapes}")
        return made.fed


def _told(example: "Example") -> str:
    """The shape of one tensor of float32, else all that there is to say."""
    if len(example.inputs) == 1 and example.inputs[0].dtype == "float32":
        return str(example.inputs[0].shape)
    return ", ".join(f"{each.name}: {each.dtype} {each.shape}" for each in example.inputs)


def load(place: Where) -> Own:
    """Run a file, build its network to see what it makes, and look at what it says.

    Raises UsageError for all that is wrong in it.
    """
    require_file(place.path)
    if place.path.stat().st_size > MAX_FILE_BYTES:
        raise UsageError(f"{place.path} is larger than {MAX_FILE_BYTES >> 20} MiB, the limit for a model file")
    require_torch(place.name)
    code = place.path.read_bytes()
    module = _run(place)
    function = getattr(module, place.function, None)
    if not callable(function):
        raise UsageError(f"{place.path} has no function {place.function}(): it must return the network")
    given = _given(place, module)
    built, example = _first(place, function, given, is_noise=not callable(getattr(module, "example", None)))
    network = Own(
        place=place,
        build=partial(_again, place, function, given),
        built=built,
        example=example,
        parameter_bytes=sum(each.bytes for each in built.held),
        code="sha256:" + hashlib.sha256(code).hexdigest(),
        labels=tuple(map(str, getattr(module, "LABELS", ()))),
    )
    preprocess = getattr(module, "preprocess", None)
    return replace(network, preprocess=preprocess) if callable(preprocess) else network


class _Neighbours:
    """Finds what lies beside users' files before what a checkout has of the same name: its folders are on the path."""

    folders: ClassVar[list[str]] = []

    @classmethod
    def find_spec(cls, name: str, path: Sequence[str] | None = None, _target: ModuleType | None = None) -> Any:
        """Asked by Python for every module that is not loaded yet."""
        if path is not None or not ((ROOT / name).is_dir() or (ROOT / f"{name}.py").is_file()):
            return None
        return PathFinder.find_spec(name, cls.folders)


class _Source(SourceFileLoader):
    """Reads the source itself: compiled code that Python keeps beside it is taken for that of a file which was edited
    within the same second, and would be written into the user's folder."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


def _run(place: Where) -> ModuleType:
    from edgecloud.models import building, vision  # and with it torch

    vision.torchvision()  # a file that imports it, itself or through something else, finds it fit for this torch
    folder = str(place.path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # what lies beside it can be imported, but hides no library
    if is_checkout() and folder not in _Neighbours.folders:
        _Neighbours.folders.append(folder)
        if _Neighbours not in sys.meta_path:
            sys.meta_path.insert(0, _Neighbours)
    name = f"own_{place.path.stem}"
    loader = _Source(name, str(place.path))
    spec = importlib.util.spec_from_file_location(name, place.path, loader=loader)
    if spec is None:
        raise UsageError(f"{place.path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles of the file look themselves up there
    with building.seeded():
        _called(place, "", lambda: loader.exec_module(module))
    return module


def _called(place: Where, what: str, call: Callable[[], Any]) -> Any:
    """Call what a user wrote; what it raises becomes one line."""
    try:
        return call()
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        text = (str(error).strip().splitlines() or [""])[0]
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename) in (place.path, place.path.resolve())]
        last = getattr(error, "lineno", None) or (lines[-1] if lines else None)
        spot = f"{place.path}, line {last}" if last else str(place.path)
        raised = f"{what} raises {type(error).__name__}" if what else type(error).__name__
        raise UsageError(f"{spot}: {raised}: {text}") from error


def _first(place: Where, function: Callable[[], Any], given: Any, *, is_noise: bool) -> "tuple[Built, Example]":
    """Build a network once, keep its digests and let it go; once more from another seed if anything was drawn."""
    from edgecloud.models import building
    from edgecloud.models.example import parameters_of
    from edgecloud.models.fingerprint import held_by

    def once() -> "tuple[tuple[Held, ...], tuple[str, ...], str, Any]":
        network, taken = _built(place, function, given)
        held = tuple(_named(place, lambda: held_by(network)))
        return held, parameters_of(network), taken, building.in_type_of(network, given) if is_noise else given

    with building.other_memory(is_first=True), building.seeded() as is_drawn:
        held, parameters, taken, fitting = once()
        drawn = is_drawn()
    example = _input(place, "example()", lambda: fitting, parameters)
    if drawn:
        with building.seeded(1):
            others = _named(place, lambda: held_by(_built(place, function, given)[0]))
            drawn = any(one.is_saved and one.digest != other.digest for one, other in zip(held, others, strict=False))
    return Built(place.path, held, drawn, taken), example


def _named(place: Where, look: Callable[[], Iterable["Held"]]) -> Iterable["Held"]:
    try:
        yield from look()
    except UsageError as error:
        known = str(error).startswith(str(place.path))
        raise error if known else UsageError(f"{place.path}: {error}") from None


def _again(place: Where, function: Callable[[], Any], given: Any) -> "nn.Module":
    from edgecloud.models import building

    with building.other_memory(is_first=False), building.seeded():
        return _built(place, function, given)[0]


def _built(place: Where, function: Callable[[], Any], given: Any) -> tuple["nn.Module", str]:
    """Call what makes the network; lazy layers get their size from the example, as they would from any input.

    Gives what was taken off it, too.
    """
    import torch

    from edgecloud.models import building

    what = f"{place.function}()"
    network, taken = building.unwrapped(_called(place, what, function))
    if reason := building.why_no_network(network):
        raise UsageError(f"{place.path}: {what} {reason}")
    _called(place, f"eval() of the result of {what}", lambda: building.in_eval_mode(network))
    if building.is_unfinished(network):
        from edgecloud.models.example import parameters_of

        example = _input(place, "example()", lambda: given, parameters_of(network))
        with torch.no_grad():
            _called(place, f"the network, called with its example, {example.told},", lambda: example.answer(network))
    return network, taken


def _given(place: Where, module: ModuleType) -> Any:
    """What `example()` returns, else noise of INPUT_SHAPE, the same on every machine."""
    import numpy as np
    import torch

    from edgecloud.models import building

    if callable(getattr(module, "example", None)):
        with building.seeded():
            return _called(place, "example()", module.example)
    shape = getattr(module, "INPUT_SHAPE", None)
    if not isinstance(shape, tuple | list) or not shape or not all(type(side) is int and side > 0 for side in shape):
        raise UsageError(
            f"{place.path}: define the input, for example INPUT_SHAPE = (3, 32, 32), or a function example()"
        )
    noise = np.random.Generator(np.random.PCG64(0)).random((1, *shape), dtype=np.float32)
    return torch.from_numpy(noise)


def _input(place: Where, what: str, make: Callable[[], Any], parameters: Sequence[str]) -> "Example":
    """Call a function that makes what the network is given, and look at it."""
    from edgecloud.models.example import example_of
    from edgecloud.models.form import FormError

    given = _called(place, what, make)
    try:
        return example_of(given, parameters)
    except FormError as error:
        raise UsageError(f"{place.path}: {what} returns what is no input: {error}") from None
