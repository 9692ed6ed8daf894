"""Forms: taking values apart and building them again, as they are and as data."""

import json
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecloud.models import form
from edgecloud.models.form import ALONE, Call, Form, FormError, call_of, take_apart


@dataclass(frozen=True)
class Leaf:
    """Stands for a tensor."""

    number: int


@dataclass
class Scores:
    logits: Any
    hidden: Any = None
    kind: str = "scores"


class Pair(NamedTuple):
    left: Any
    right: Any


class Cache:
    def __init__(self, keys: Any, step: int) -> None:
        self.keys, self.step, self.made_of = keys, step, Leaf

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cache) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


class Made(OrderedDict[str, Any]):
    """As ModelOutput is one: a dict with a class."""


@dataclass
class Strict:
    """Cannot be made of its parts."""

    x: Any
    y: Any = field(init=False, default=0)


def is_leaf(value: Any) -> bool:
    return isinstance(value, Leaf)


LEAVES = st.integers(0, 99).map(Leaf)
PLAIN = st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab", max_size=3) | st.sampled_from([0.5, -1.0])
KEYS = st.text("abc", min_size=1, max_size=2) | st.integers(0, 5)


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=3),
        st.builds(Scores, inner, inner),
        st.builds(Pair, inner, inner),
        st.dictionaries(st.text("xyz", min_size=1, max_size=2), inner, max_size=2).map(Made),
    )


VALUES = st.recursive(LEAVES | PLAIN, nested, max_leaves=12).map(lambda value: [Leaf(0), value])


@given(VALUES)
def test_a_value_is_built_again_as_it_was(value: Any) -> None:
    found, leaves = take_apart(value, is_leaf)
    assert found.build(leaves) == value
    assert found.leaves(value, lambda _: False) == (leaves, [])
    assert len(found.names) == len(leaves)
    others = [Leaf(100 + number) for number in range(len(leaves))]
    assert found.leaves(found.build(others), lambda _: False)[0] == others


@given(VALUES)
def test_it_travels_as_data(value: Any) -> None:
    found, leaves = take_apart(value, is_leaf)
    read = form.read(json.loads(json.dumps(form.form_document(found))), len(leaves))
    assert read.names == found.names
    assert form.form_document(read) == form.form_document(found)
    built = read.build(leaves)
    assert type(built) is list
    assert take_apart(built, is_leaf)[1] == leaves


def test_classes_come_back_where_this_process_has_them_and_else_as_dicts() -> None:
    value = {"out": Scores(Leaf(0), Pair(Leaf(1), None)), "more": Made(a=Leaf(2)), "cache": Cache(Leaf(3), 4)}
    found, leaves = take_apart(value, is_leaf)
    assert found.build(leaves) == value
    assert found.names == ("out.logits", "out.hidden.left", "more.a", "cache.keys")
    read = form.read(form.form_document(found), 4).build(leaves)
    assert read["out"] == value["out"]
    assert read["more"] == {"a": Leaf(2)}, "a class of its own could do anything when it is made"
    assert read["cache"]["keys"] == Leaf(3)
    document = json.loads(json.dumps(form.form_document(found)).replace("test_form.Scores", "test_form.Nothing"))
    assert form.read(document, 4).build(leaves)["out"]["logits"] == Leaf(0)


def test_no_class_is_taken_that_is_made_of_other_parts_or_was_never_loaded() -> None:
    for name in (
        "os.system",
        "subprocess.Popen",
        "tempfile.TemporaryDirectory",
        "antigravity.fly",
        "builtins.dict",
        "x",
    ):
        spec = {"dict": [["args", 0]], "class": name}
        assert form.read(spec, 1).build([Leaf(0)]) == {"args": Leaf(0)}
    parts = {"dict": [["logits", 0], ["other", {"constant": 1}]], "class": f"{__name__}.Scores"}
    assert form.read(parts, 1).build([Leaf(0)]) == {"logits": Leaf(0), "other": 1}
    found, leaves = take_apart(Strict(Leaf(1)), is_leaf)
    assert found.build(leaves) == {"x": Leaf(1), "y": 0}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "no tensor in it"),
        ({"a": [1, 2]}, "no tensor in it"),
        ({(1, 2): Leaf(0)}, "the key"),
    ],
)
def test_what_is_no_answer_is_told(value: Any, words: str) -> None:
    with pytest.raises(FormError, match=words):
        take_apart(value, is_leaf)


def test_what_is_nested_without_end_is_told() -> None:
    value: list[Any] = [Leaf(0)]
    value.append(value)
    with pytest.raises(FormError, match="nested more than"):
        take_apart(value, is_leaf)


def test_another_structure_is_told() -> None:
    found, _ = take_apart({"a": Leaf(0), "b": [Leaf(1)]}, is_leaf)
    for other in ({"a": Leaf(0)}, {"a": Leaf(0), "b": [Leaf(1), Leaf(2)]}, {"a": Leaf(0), "b": None}):
        with pytest.raises(FormError, match="changes from one input to the next"):
            found.leaves(other, lambda _: False)


@pytest.mark.parametrize(
    "document",
    [
        *(
            1,
            -1,
            True,
            "0",
            None,
            [],
            {},
            {"list": 0},
            {"dict": [[0]]},
            {"dict": [[None, 0]]},
            {"list": [0], "tuple": [0]},
        ),
        *({"constant": [1]}, {"list": []}, {"constant": 1}, {"constant": "x" * 2000}, {"list": [0] * 20_000}),
        {"dict": [["a", 0]], "class": "x" * 2000},
    ],
)
def test_a_damaged_form_is_refused(document: Any) -> None:
    with pytest.raises(ValueError, match=r"form|tensor"):
        form.read(document, 1)


def test_a_deep_form_is_refused() -> None:
    document: Any = 0
    for _ in range(40):
        document = {"list": [document]}
    with pytest.raises(ValueError, match="nested too deeply"):
        form.read(document, 1)


# --- calls

FORWARD = ("ids", "mask", "scale")


@pytest.mark.parametrize(
    ("given", "names", "args", "kwargs"),
    [
        (Leaf(0), ("ids",), [Leaf(0)], {}),
        ((Leaf(0), Leaf(1)), ("ids", "mask"), [Leaf(0), Leaf(1)], {}),
        ((Leaf(0), None, 0.5), ("ids",), [Leaf(0), None, 0.5], {}),
        ({"mask": Leaf(1), "ids": Leaf(0)}, ("ids", "mask"), [], {"ids": Leaf(0), "mask": Leaf(1)}),
        ({"ids": {"a": Leaf(0), "b": [Leaf(1)]}}, ("ids.a", "ids.b.0"), [], {"ids": {"a": Leaf(0), "b": [Leaf(1)]}}),
        (tuple(map(Leaf, range(4))), ("ids", "mask", "scale", "scale_1"), list(map(Leaf, range(4))), {}),
    ],
)
def test_an_example_says_how_a_network_is_called(given: Any, names: Any, args: Any, kwargs: Any) -> None:
    call, leaves = call_of(given, FORWARD, is_leaf)
    assert call.names == names
    assert call.arguments(leaves) == (args, kwargs)
    again = form.read_call(json.loads(json.dumps(form.call_document(call))), len(leaves))
    assert (again, again.names) == (call, names)
    assert again.tensors_of(args, kwargs, is_leaf) == leaves


def test_a_caller_may_use_positions_and_names() -> None:
    call, _ = call_of({"mask": Leaf(1), "ids": Leaf(0)}, FORWARD, is_leaf)
    for args, kwargs in (
        ((Leaf(5), Leaf(6)), {}),
        ((Leaf(5),), {"mask": Leaf(6)}),
        ((), {"mask": Leaf(6), "ids": Leaf(5)}),
    ):
        assert call.tensors_of(args, kwargs, is_leaf) == [Leaf(5), Leaf(6)]
    behind, _ = call_of({"scale": Leaf(1), "ids": Leaf(0)}, FORWARD, is_leaf)
    with pytest.raises(FormError, match="by name; 2 were given by position"):
        behind.tensors_of((Leaf(0), Leaf(1)), {}, is_leaf)
    assert behind.tensors_of((Leaf(5),), {"scale": Leaf(6)}, is_leaf) == [Leaf(5), Leaf(6)]


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((), {}, "ids is missing: it takes ids, mask"),
        ((Leaf(0),), {}, "mask is missing"),
        ((Leaf(0), 3), {}, "mask is a numpy array or a torch tensor, not int"),
        ((Leaf(0), Leaf(1)), {"ids": Leaf(2)}, "by position and by name"),
        ((Leaf(0), Leaf(1)), {"other": Leaf(2)}, "captured without 'other'"),
        ((Leaf(0), Leaf(1), 2.0), {}, "with scale = 0.5, not '2.0'"),
    ],
)
def test_a_wrong_call_is_told(args: Any, kwargs: Any, words: str) -> None:
    call, _ = call_of((Leaf(0), Leaf(1), 0.5), FORWARD, is_leaf)
    with pytest.raises(FormError, match=words):
        call.tensors_of(args, kwargs, is_leaf)


def test_a_call_by_names_takes_positions_too() -> None:
    call = form.by_name(("x:0", "mask"))
    assert (call.names, call.arguments([1, 2])) == (("x:0", "mask"), ([], {"x:0": 1, "mask": 2}))
    assert call.tensors_of((Leaf(1),), {"mask": Leaf(2)}, is_leaf) == [Leaf(1), Leaf(2)]
    assert form.read_call(form.call_document(call), 2) == call


def test_one_tensor_is_one_tensor() -> None:
    assert Call(Form({"dict": [["input", 0]]})) == form.ONE
    assert form.ONE.is_one
    assert not call_of({"ids": Leaf(0)}, FORWARD, is_leaf)[0].is_one
    assert ALONE.build([Leaf(0)]) == Leaf(0)
    assert ALONE.names == ("",)
