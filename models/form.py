"""The structure of what a network takes and answers, apart from the tensors in it. Pure: no torch.

A *form* says how flat tensors become the value that the user's own code takes or gives: nested tuples, lists, dicts,
dataclasses and such. It is plain data, so that a file can hold it:

    3                                 the fourth of the tensors
    {"constant": 0.5}                 None, a flag, a number, a text
    {"list": [...]}, {"tuple": [...]}
    {"dict": [[key, ...], ...]}       with "class": "MODULE.NAME" something else with named parts

A class is taken where this process has loaded it, and nothing is ever imported for it; else its parts are in a dict.
"""

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from types import ModuleType
from typing import Any, TypeAlias

from edgecloud.utils.errors import UsageError

Spec: TypeAlias = Any
"""One place in a form, as above."""
Test: TypeAlias = Callable[[Any], bool]
MAX_DEPTH, MAX_PLACES, MAX_TEXT = 32, 10_000, 1000
_PLAIN = (bool, int, float, str)


class FormError(UsageError):
    """A value that is not made of tensors and plain data, or that has another structure than one before."""


@dataclass(frozen=True)
class Form:
    """The structure of a value that holds tensors; `count` of them, each at one place or more."""

    spec: Spec
    kept: tuple[Any, ...] = field(default=(), compare=False, repr=False)
    """Classes and other constants that are no data, known to this process alone."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Form, (self.spec,)

    @property
    def names(self) -> tuple[str, ...]:
        """What each tensor is called: the keys, names or numbers that lead to it, with dots between them; nothing for
        one that stands alone."""
        names: dict[int, str] = {}
        for path, number in _places(self.spec, ()):
            names.setdefault(number, ".".join(path))
        return tuple(names[number] for number in sorted(names))

    @property
    def is_flat(self) -> bool:
        """Whether it is one tensor, or a tuple or a list of tensors."""
        if isinstance(self.spec, int):
            return True
        places = self.spec.get("tuple") or self.spec.get("list") or [None]
        return "class" not in self.spec and all(isinstance(each, int) for each in places)

    @property
    def constants(self) -> tuple[Any, ...]:
        """What is in it beside tensors."""
        return tuple(_constants(self.spec, self.kept))

    def build(self, tensors: Sequence[Any]) -> Any:
        """The value with these tensors in their places."""
        return _built(self.spec, tensors, self.kept)

    def leaves(self, value: Any, is_stand_in: Test) -> tuple[list[Any], list[Any]]:
        """The tensors of another value of this structure, in order; and what is there in place of constants.

        What stands in for something unknown, while a network is followed, is taken for whatever is expected there.
        Raises FormError where the structure is another one.
        """
        found: dict[int, Any] = {}
        numbers: list[Any] = []
        _compare(self.spec, value, is_stand_in, found, numbers)
        return [found[number] for number in sorted(found)], numbers


ALONE = Form(0)
"""One tensor, and nothing around it."""


def take_apart(value: Any, is_tensor: Test) -> tuple[Form, list[Any]]:
    """The form of a value, and the tensors in it. Raises FormError for a value that has none, or holds what is neither
    a tensor nor made of tensors and plain data."""
    apart = _Apart(is_tensor)
    spec = apart.spec_of(value, 0)
    if not apart.tensors:
        raise FormError(f"there is no tensor in it ({_kind(value)})")
    return Form(spec, tuple(apart.kept)), apart.tensors


@dataclass
class _Apart:
    is_tensor: Test
    tensors: list[Any] = field(default_factory=list)
    kept: list[Any] = field(default_factory=list)
    count: int = 0

    def spec_of(self, value: Any, depth: int) -> Spec:
        self.count += 1
        if depth > MAX_DEPTH or self.count > MAX_PLACES:
            raise FormError(f"it is nested more than {MAX_DEPTH} deep, or has more than {MAX_PLACES} parts")
        if self.is_tensor(value):
            self.tensors.append(value)
            return len(self.tensors) - 1
        if value is None or type(value) in _PLAIN:
            return {"constant": _told(value)}
        if type(value) in (list, tuple):
            return {type(value).__name__: [self.spec_of(each, depth + 1) for each in value]}
        parts = _parts(value)
        if parts is None:
            return self._constant(value)
        before = len(self.tensors)
        inner = [[key, self.spec_of(each, depth + 1)] for key, each in parts]
        if type(value) is dict:
            return {"dict": inner}
        if len(self.tensors) == before and not isinstance(value, Mapping | tuple) and not is_dataclass(value):
            return self._constant(value)
        return {"dict": inner, "class": _name(type(value)), "kept": self._keep(type(value))}

    def _constant(self, value: Any) -> Spec:
        return {"constant": str(value)[:MAX_TEXT], "kept": self._keep(value)}

    def _keep(self, value: Any) -> int:
        self.kept.append(value)
        return len(self.kept) - 1


def _told(value: Any) -> Any:
    """A constant as JSON has it."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _kind(value: Any) -> str:
    return "None" if value is None else type(value).__name__


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _parts(value: Any) -> list[tuple[Any, Any]] | None:
    """The named parts of something; None for what has none."""
    if isinstance(value, Mapping):
        for key in value:
            if type(key) not in (str, int, bool):
                raise FormError(f"it has a dict with the key {str(key)[:60]!r}: texts and numbers are taken")
        return list(value.items())
    if isinstance(value, tuple):
        names = getattr(value, "_fields", range(len(value)))
        return list(zip(names, value, strict=True))
    if is_dataclass(value) and not isinstance(value, type):
        return [(each.name, getattr(value, each.name)) for each in fields(value) if hasattr(value, each.name)]
    is_object = hasattr(value, "__dict__") and not isinstance(value, type) and not callable(value)
    return list(vars(value).items()) if is_object else None


def _places(spec: Spec, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    if isinstance(spec, int):
        yield path, spec
        return
    for key, each in _inner(spec):
        yield from _places(each, (*path, str(key)))


def _constants(spec: Spec, kept: Sequence[Any]) -> Iterator[Any]:
    if isinstance(spec, int):
        return
    if "constant" in spec:
        yield kept[spec["kept"]] if "kept" in spec and kept else spec["constant"]
    for _, each in _inner(spec):
        yield from _constants(each, kept)


def _inner(spec: Mapping[str, Any]) -> list[tuple[Any, Spec]]:
    if "dict" in spec:
        return [(key, each) for key, each in spec["dict"]]
    return list(enumerate(spec.get("list", spec.get("tuple", ()))))


def _compare(spec: Spec, value: Any, is_stand_in: Test, found: dict[int, Any], numbers: list[Any]) -> None:
    if isinstance(spec, int):
        found.setdefault(spec, value)
        return
    inner = _inner(spec)
    if "constant" in spec:
        if is_stand_in(value):
            numbers.append(value)
        return
    if is_stand_in(value):
        for key, each in inner:
            _compare(each, value[key], is_stand_in, found, numbers)
        return
    parts = list(enumerate(value)) if type(value) in (list, tuple) else _parts(value)
    if parts is None or [key for key, _ in parts] != [key for key, _ in inner]:
        raise FormError(f"its structure changes from one input to the next ({_kind(value)})")
    for (_, each), (_, part) in zip(inner, parts, strict=True):
        _compare(each, part, is_stand_in, found, numbers)


# --- putting together


def _built(spec: Spec, tensors: Sequence[Any], kept: Sequence[Any]) -> Any:
    if isinstance(spec, int):
        return tensors[spec]
    if "constant" in spec:
        return kept[spec["kept"]] if "kept" in spec and kept else spec["constant"]
    if "dict" not in spec:
        values = [_built(each, tensors, kept) for each in spec.get("list", spec.get("tuple", ()))]
        return values if "list" in spec else tuple(values)
    parts = {key: _built(each, tensors, kept) for key, each in spec["dict"]}
    if "class" not in spec:
        return parts
    kind = kept[spec["kept"]] if kept else _loaded(spec["class"], parts)
    return parts if kind is None else _made(kind, parts)


def _loaded(name: str, parts: Mapping[Any, Any]) -> type | None:
    """A class that this process has loaded and that is made of just such parts: named tuples, dataclasses, dicts. The
    name may come from a file, so other classes, which could do anything when they are made, are left alone."""
    module = name
    found: Any = None
    while found is None and "." in module:
        module = module.rpartition(".")[0]
        found = sys.modules.get(module)
    for each in name[len(module) + 1 :].split("."):
        found = vars(found).get(each) if isinstance(found, ModuleType | type) else None
    if not isinstance(found, type) or hasattr(found, "__del__"):
        return None
    if is_dataclass(found):
        return found if set(parts) <= {each.name for each in fields(found) if each.init} else None
    is_named = issubclass(found, tuple) and getattr(found, "_fields", None) == tuple(parts)
    return found if is_named or name == "collections.OrderedDict" else None


def _made(kind: type, parts: Mapping[Any, Any]) -> Any:
    """An object of a class; a dict of its parts where it cannot be made of them."""
    try:
        if is_dataclass(kind) or (issubclass(kind, tuple) and hasattr(kind, "_fields")):
            return kind(**parts)
        if issubclass(kind, tuple | list):
            return kind(parts.values())
        if issubclass(kind, Mapping):
            return kind(parts)  # type: ignore[call-arg]
        made = kind.__new__(kind)
        vars(made).update(parts)
    except Exception:  # noqa: BLE001  whatever the class asks for that it has not been given
        return dict(parts)
    return made


# --- as data


def read(document: Any, count: int) -> Form:
    """A form that a file holds. Raises ValueError where it is none of `count` tensors."""
    seen: set[int] = set()
    _check(document, count, seen, [0], 0)
    if seen != set(range(count)):
        raise ValueError(f"a form has to hold {count} tensors, this one holds {len(seen)}")
    return Form(_cleaned(document))


def _check(spec: Any, count: int, seen: set[int], places: list[int], depth: int) -> None:
    places[0] += 1
    if depth > MAX_DEPTH or places[0] > MAX_PLACES:
        raise ValueError("a form is nested too deeply, or too large")
    if type(spec) is int:
        if not 0 <= spec < count:
            raise ValueError("a form names a tensor that there is not")
        seen.add(spec)
        return
    if not isinstance(spec, dict) or len(spec.keys() & {"constant", "list", "tuple", "dict"}) != 1:
        raise ValueError("a form is made of tensors, constants, lists, tuples and dicts")
    if "constant" in spec:
        _check_constant(spec["constant"])
        return
    inner = next(spec[name] for name in ("list", "tuple", "dict") if name in spec)
    if not isinstance(inner, list) or len(str(spec.get("class", ""))) > MAX_TEXT:
        raise ValueError("a form has no list where one belongs")
    for each in inner:
        _check(_value_of(each) if "dict" in spec else each, count, seen, places, depth + 1)


def _check_constant(value: Any) -> None:
    if value is not None and (type(value) not in _PLAIN or len(str(value)) > MAX_TEXT):
        raise ValueError("a constant of a form is a short text, a number, a flag or null")


def _value_of(pair: Any) -> Any:
    if not isinstance(pair, list) or len(pair) != 2 or type(pair[0]) not in (str, int, bool):
        raise ValueError("a dict of a form is a list of keys and what belongs to them")
    return pair[1]


def _cleaned(spec: Spec) -> Spec:
    """Without places of things that another process kept."""
    if not isinstance(spec, dict):
        return spec
    if "constant" in spec:
        return {"constant": spec["constant"]}
    if "dict" in spec:
        named = {"class": str(spec["class"])} if "class" in spec else {}
        return {"dict": [[key, _cleaned(each)] for key, each in spec["dict"]], **named}
    name = "list" if "list" in spec else "tuple"
    return {name: [_cleaned(each) for each in spec[name]]}


# --- how a network is called


@dataclass(frozen=True)
class Call:
    """How a network takes its inputs: `form` is of a dict, from the names of its arguments to what each is given."""

    form: Form
    positional: int = 1
    """So many of them, the first ones, are given by position."""
    ordered: int = 1
    """So many are the first parameters of the network in their order: a caller may give those by position too."""

    @property
    def names(self) -> tuple[str, ...]:
        """What each input is called: the name of an argument, or for nested ones what leads to it."""
        return self.form.names

    @property
    def is_one(self) -> bool:
        """Whether it is one tensor, given by position, and nothing else."""
        return self.positional == 1 and [each for _, each in self.form.spec["dict"]] == [0]

    def arguments(self, tensors: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """What is given by position and by name, with these tensors in their places."""
        given = list(self.form.build(tensors).items())
        return [value for _, value in given[: self.positional]], dict(given[self.positional :])

    def tensors_of(self, args: Sequence[Any], kwargs: Mapping[str, Any], is_tensor: Test) -> list[Any]:
        """The inputs in a call of the user's own, in order. Raises FormError where it is no such call."""
        names = [key for key, _ in self.form.spec["dict"]]
        if len(args) > self.ordered:
            raise FormError(f"it takes {self._told()}, by name; {len(args)} were given by position")
        given = dict(zip(names, args, strict=False))
        if twice := given.keys() & kwargs.keys():
            raise FormError(f"{min(twice)} is given by position and by name")
        given |= kwargs
        if unknown := given.keys() - set(names):
            raise FormError(f"it was captured without {min(unknown)[:60]!r}: it takes {self._told()}")
        found: dict[int, Any] = {}
        for name, spec in self.form.spec["dict"]:
            if name in given:
                _fill(spec, given[name], name, is_tensor, found)
            elif _holds_tensor(spec):
                raise FormError(f"{name} is missing: it takes {self._told()}")
        return [found[number] for number in sorted(found)]

    def _told(self) -> str:
        return ", ".join(key for key, spec in self.form.spec["dict"] if _holds_tensor(spec))


def _holds_tensor(spec: Spec) -> bool:
    return any(True for _ in _places(spec, ()))


def _fill(spec: Spec, value: Any, name: str, is_tensor: Test, found: dict[int, Any]) -> None:
    if isinstance(spec, int):
        if not is_tensor(value):
            raise FormError(f"{name} is a numpy array or a torch tensor, not {type(value).__name__}")
        found[spec] = value
        return
    if "constant" in spec:
        if "kept" not in spec and _told(value) != spec["constant"]:
            raise FormError(f"it was captured with {name} = {spec['constant']!r}, not {str(value)[:60]!r}")
        return
    inner = _inner(spec)
    parts = list(enumerate(value)) if type(value) in (list, tuple) else _parts(value)
    if is_tensor(value) or parts is None or [key for key, _ in parts] != [key for key, _ in inner]:
        kind = spec.get("class", "dict") if "dict" in spec else next(iter(spec))
        raise FormError(f"{name} is a {kind} of {len(inner)} parts as in the example")
    for (_, each), (key, part) in zip(inner, parts, strict=True):
        _fill(each, part, f"{name}.{key}", is_tensor, found)


ONE = Call(Form({"dict": [["input", 0]]}))
"""One tensor, given by position."""


def by_name(names: Sequence[str]) -> Call:
    """One tensor for each name, given by name; a caller may give them by position too."""
    return Call(Form({"dict": [[name, number] for number, name in enumerate(names)]}), 0, len(names))


def call_of(given: Any, parameters: Sequence[str], is_tensor: Test) -> tuple[Call, list[Any]]:
    """How the example of an input is given, and the tensors in it.

    `given` is a tensor, a tuple of what is given by position, or a dict by name; `parameters` are the names of the
    network's in their order. Raises FormError for what is neither, and for an example without a tensor.
    """
    if not (is_tensor(given) or isinstance(given, tuple | list | Mapping)):
        kinds = "a tensor or an array, a tuple of what is given by position, or a dict of what is given by name"
        raise FormError(f"an input is {kinds}, not {_kind(given)}")
    args: Sequence[Any] = ()
    kwargs: Mapping[Any, Any] = {}
    if isinstance(given, Mapping):
        kwargs = given
        if not all(isinstance(name, str) for name in given):
            raise FormError("the names in a dict of inputs are those of the arguments of forward()")
    else:
        args = given if type(given) in (tuple, list) else (given,)
    more = [f"{parameters[-1] if parameters else 'input'}_{number}" for number in range(1, 1 + len(args))]
    names = [*parameters, *more][: len(args)]
    places = {name: place for place, name in enumerate(parameters)}
    named = dict(zip(names, args, strict=True))
    if twice := named.keys() & kwargs.keys():
        raise FormError(f"{min(twice)} is given by position and by name")
    named |= {name: kwargs[name] for name in sorted(kwargs, key=lambda name: places.get(name, len(places)))}
    form, tensors = take_apart(named, is_tensor)
    in_order = next((n for n, (a, b) in enumerate(zip(named, parameters, strict=False)) if a != b), len(named))
    return Call(form, len(args), max(len(args), min(in_order, len(parameters)))), tensors


def call_document(call: Call) -> dict[str, Any]:
    """What `read_call` reads."""
    return {"form": _cleaned(call.form.spec), "positional": call.positional, "ordered": call.ordered}


def read_call(document: Any, count: int) -> Call:
    """A call that a file holds. Raises ValueError and KeyError where it is none of `count` tensors."""
    form = read(document["form"], count)
    numbers = document["positional"], document["ordered"]
    if "dict" not in form.spec or "class" in form.spec or not all(type(key) is str for key, _ in form.spec["dict"]):
        raise ValueError("a call is a dict from names to what is given")
    if not all(type(number) is int and 0 <= number <= len(form.spec["dict"]) for number in numbers):
        raise ValueError("a call names more arguments than it has")
    return Call(form, *numbers)


def form_document(form: Form) -> Any:
    """What `read` reads."""
    return _cleaned(form.spec)
