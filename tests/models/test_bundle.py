import hashlib
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecloud.models import bundle, registry
from edgecloud.models.inputs import arrays_of
from edgecloud.models.preprocessing import Square
from edgecloud.utils.errors import UsageError
from tests import bundles

PREFIX = 64


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundles") / "chain.bundle"
    bundles.write(path, *bundles.traced_of(bundles.Chain(), (1, 3, 8, 8)))
    return path


def _use(path: Path) -> list[np.ndarray[Any, Any]]:
    """All that can be read of a bundle."""
    opened = bundle.read(path)
    arrays = [opened.weight(name) for name in opened.onnx.weights]
    parts = [opened.part(range(number, len(opened.graph.layers))) for number in range(len(opened.graph.layers))]
    return [*arrays, *arrays_of(opened.fed), *(np.frombuffer(part.model, np.uint8) for part in parts)]


def _refused(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        _use(path)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    assert caught.value.exit_code == 2
    return text


def test_what_is_written_is_read(made: Path) -> None:
    traced, x = bundles.traced_of(bundles.Chain(), (1, 3, 8, 8))
    opened = bundle.read(made)
    assert opened.graph == traced.graph
    assert opened.graph.digest == traced.graph.digest
    assert np.array_equal(opened.fed, x.numpy())
    assert opened.content.input.labels == ("a", "b")
    assert opened.content.specs is not None
    assert [spec.kind for spec in opened.content.specs[:2]] == ["conv", "batchnorm"]
    weight = traced.module.get_parameter("layers.0.weight").detach().numpy()
    assert np.array_equal(opened.weight("layers.0.weight"), weight)
    assert not opened.weight("layers.0.weight").flags.writeable


def test_a_head_names_only_its_own_weights(made: Path) -> None:
    opened = bundle.read(made)
    assert opened.part(range(2)).weights == ("layers.0.weight",)
    assert "layers.0.weight" not in opened.part(range(2, len(opened.graph.layers))).weights


def test_a_file_that_is_cut_off_is_refused(made: Path, tmp_path: Path) -> None:
    whole = made.read_bytes()
    path = tmp_path / "short.bundle"
    for offset in sorted({*range(80), *(len(whole) * n // 100 for n in range(100)), len(whole) - 1}):
        path.write_bytes(whole[:offset])
        _refused(path)
    path.write_bytes(whole + b"\0")
    _refused(path)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_is_found_or_changes_nothing(made: Path, data: st.DataObject) -> None:
    whole = made.read_bytes()
    places = st.one_of(st.integers(0, 2 * PREFIX), st.integers(0, len(whole) - 1))
    damaged = bytearray(whole)
    for place in data.draw(st.lists(places, min_size=1, max_size=3)):
        damaged[place] ^= data.draw(st.integers(1, 255))
    path = made.with_name("damaged.bundle")
    path.write_bytes(damaged)
    try:
        arrays = _use(path)
    except UsageError as error:
        text = str(error)
    else:
        text = ""
        assert all(np.array_equal(a, b) for a, b in zip(arrays, _use(made), strict=True))
    assert "\n" not in text


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield (*path, key)
        yield from _paths(each, (*path, key))


def _with_header(made: Path, path: Path, document: Any) -> None:
    """The same blobs behind another header, whose digest is right."""
    whole = made.read_bytes()
    length = struct.unpack_from("<Q", whole, 16)[0]
    blobs = whole[-(-(PREFIX + length) // 64) * 64 :]
    raw = json.dumps(document).encode()
    prefix = struct.pack("<8sI4xQ32s8x", b"ECBUNDLE", 1, len(raw), hashlib.sha256(raw).digest())
    path.write_bytes((prefix + raw).ljust(-(-(PREFIX + len(raw)) // 64) * 64, b"\0") + blobs)


def _header(made: Path) -> Any:
    whole = made.read_bytes()
    return json.loads(whole[PREFIX : PREFIX + struct.unpack_from("<Q", whole, 16)[0]])


STRANGE: st.SearchStrategy[Any] = st.sampled_from(
    [*(None, True, -1, 0, 1, 63, 1 << 40, 1 << 70, 1.5, 1e308, float("nan")), *("", "x", "float64", [], [1], {}, [[]])]
)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_header_that_lies_raises_nothing_but_usage_errors(made: Path, data: st.DataObject) -> None:
    document = _header(made)
    for _ in range(data.draw(st.integers(1, 2))):
        *parents, last = data.draw(st.sampled_from(list(_paths(document))))
        target = document
        for key in parents:
            target = target[key]
        if isinstance(target, dict) and data.draw(st.booleans()):
            del target[last]
        else:
            target[last] = data.draw(STRANGE)
    path = made.with_name("lies.bundle")
    _with_header(made, path, document)
    text = ""
    try:
        _use(path)
    except UsageError as error:
        text = str(error)
    assert "\n" not in text


def _array(document: Any, name: str) -> Any:
    return next(row for row in document["arrays"] if row["name"] == name)


@pytest.mark.parametrize("offset", [1 << 61, 64 << 20, 32, -64])
def test_a_weight_outside_of_the_file_is_refused(made: Path, tmp_path: Path, offset: int) -> None:
    document = _header(made)
    _array(document, "layers.0.weight")["offset"] = offset
    path = tmp_path / "lies.bundle"
    _with_header(made, path, document)
    _refused(path)


@pytest.mark.parametrize("shape", [[8, 3, 3, 4], [1 << 31, 1 << 31], [8, 3, 9, 1], [216]])
def test_a_weight_of_another_shape_is_refused(made: Path, tmp_path: Path, shape: list[int]) -> None:
    document = _header(made)
    _array(document, "layers.0.weight")["shape"] = shape
    path = tmp_path / "lies.bundle"
    _with_header(made, path, document)
    _refused(path)


def test_another_network_under_the_same_digest_is_refused(made: Path, tmp_path: Path) -> None:
    document = _header(made)
    document["graph"]["layers"][1]["kind"] = "Linear"
    path = tmp_path / "other.bundle"
    _with_header(made, path, document)
    assert "not the one that it names" in _refused(path)


def test_numbers_that_changed_are_refused_when_they_are_used(made: Path, tmp_path: Path) -> None:
    whole = bytearray(made.read_bytes())
    document = _header(made)
    start = -(-(PREFIX + struct.unpack_from("<Q", whole, 16)[0]) // 64) * 64
    whole[start + _array(document, "layers.9.weight")["offset"]] ^= 1
    path = tmp_path / "changed.bundle"
    path.write_bytes(whole)
    opened = bundle.read(path)
    opened.weight("layers.0.weight")
    with pytest.raises(UsageError, match=r"damaged: the numbers of layers\.9\.weight have changed"):
        opened.weight("layers.9.weight")


def test_newer_older_and_other_files_are_told_apart(made: Path, tmp_path: Path) -> None:
    whole = bytearray(made.read_bytes())
    path = tmp_path / "odd.bundle"
    whole[8] = 3
    path.write_bytes(whole)
    assert "update this program" in _refused(path)
    whole[8] = 0
    path.write_bytes(whole)
    assert "export it again" in _refused(path)
    for raw, expected in [
        (b"\x08\x0a\x12\x07pytorch", "ONNX model"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"", "does not begin as one"),
        (b"hello", "does not begin as one"),
    ]:
        path.write_bytes(raw)
        assert expected in _refused(path)


def test_no_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert "no file" in _refused(tmp_path / "none.bundle")
    assert "not a file" in _refused(tmp_path)


def test_a_bundle_that_cannot_be_written_leaves_the_old_one(made: Path, tmp_path: Path) -> None:
    _, x = bundles.traced_of(bundles.Chain(), (1, 3, 8, 8))
    opened = bundle.read(made)
    missing = tmp_path / "folder" / "x.bundle"
    with pytest.raises(UsageError, match="cannot write"):
        bundle.write(missing, opened.content, b"", {}, x.numpy())
    path = tmp_path / "old.bundle"
    path.write_bytes(made.read_bytes())
    with pytest.raises(AttributeError):
        bundle.write(path, opened.content, b"", {"w": None}, x.numpy())  # type: ignore[dict-item]
    assert path.read_bytes() == made.read_bytes()
    assert list(tmp_path.iterdir()) == [path]


FED = {"takes": "picture", "sample": "photo", "preprocess": {"kind": "square", "side": 8}}


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Bundles of one network that say how it is fed."""
    folder = tmp_path_factory.mktemp("fed")
    traced, x = bundles.traced_of(bundles.Chain(), (1, 3, 8, 8), "fed")
    exported = bundles.write(folder / "plain.bundle", traced, x)
    content = bundle.read(folder / "plain.bundle").content

    def make(**changed: Any) -> Path:
        other = replace(content, input=replace(content.input, **(FED | changed)))
        bundle.write(folder / "fed.bundle", other, exported.model, exported.weights, np.asarray(x))
        return folder / "fed.bundle"

    return make


def test_a_bundle_is_fed_by_the_preprocessing_in_it(fed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_OWN", {})
    entry = registry.resolve_trusted(str(fed()))
    assert (entry.takes, entry.sample, entry.preprocess) == ("picture", "photo", Square(8))
    assert entry.network().example.array.shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"preprocess": {"kind": "shell"}}, "no such preprocessing"),
        ({"preprocess": {"kind": "square", "side": 8, "more": 1}}, "other settings"),
        ({"preprocess": {"kind": "square", "side": 9}}, "another input"),
        ({"preprocess": {"kind": "speech"}}, "another input"),
        ({"takes": "recording"}, "another input"),
        ({"sample": "speech"}, "sample"),
        ({"sample": "/etc/passwd"}, "sample"),
    ],
)
def test_a_bundle_that_cannot_be_fed_is_refused(
    fed: Callable[..., Path], changed: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_OWN", {})
    with pytest.raises(UsageError, match=rf"damaged, or of a newer version: .*{says}"):
        registry.resolve_trusted(str(fed(**changed)))
