"""Which codecs are allowed: pixels that come back bit for bit, roundings that were tried on pictures."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgecloud import deployment
from edgecloud.engine import calibration, packing
from edgecloud.engine.calibration import Calibration, Tried
from edgecloud.engine.packing import CodecCosts, CodecPolicy
from edgecloud.models import inputs, registry
from edgecloud.models.graph import INPUT
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.net import codec
from edgecloud.net.pixels import Pixels
from edgecloud.net.tensors import RAW
from edgecloud.utils.errors import ProtocolError, UsageError
from tests.models.test_graph import chain as make_chain

TRIED = Tried("l1", "int8", 200, 1, None, None, 0.01)


@pytest.mark.parametrize("name", ["le_net", "alex_net", "torchvision:inception_v3", "torchvision:vit_b_16"])
def test_the_pixels_of_a_picture_are_a_quarter_and_lose_no_bit(name: str) -> None:
    entry = registry.lookup(name)
    x = np.asarray(inputs.sample(entry.sample, entry.preprocess).tensor)
    for each in ("pixels", "pixels+zstd"):
        packed = codec.encode(x, each)
        assert packed.nbytes < x.nbytes / 3.9
        assert codec.decode(packed).tobytes() == x.tobytes()


def test_what_is_no_picture_has_no_pixels() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (1, 3, 8, 8)).astype(np.float32) / 255
    assert codec.decode(codec.encode(picture, "pixels")).tobytes() == picture.tobytes()
    wrong = picture.copy()
    wrong[0, 1, 2, 3] += 1e-6
    signed = picture.copy()
    signed[picture == 0] = -0.0
    assert np.signbit(signed).any()
    with pytest.raises(codec.CodecError):
        codec.encode(signed, "pixels")
    odd = (
        wrong,
        picture[0],
        picture.astype(np.float64),
        picture * 300,
        np.full_like(picture, np.nan),
        picture[:, :, :0],
    )
    for each in odd:
        with pytest.raises(codec.CodecError):
            codec.encode(np.asarray(each), "pixels")


@pytest.mark.parametrize(
    ("parameters", "shape"),
    [
        ([np.nan, 1.0], (1, 1, 2, 2)),
        ([0.0, 0.0], (1, 1, 2, 2)),
        ([0.0, -1.0], (1, 1, 2, 2)),
        ([3e38, 1e-38], (1, 1, 2, 2)),
        ([0.0, 1.0], (2, 1, 1, 2)),
        ([0.0, 1.0], (4,)),
        ([0.0] * 5 + [1.0] * 5, (1, 5, 1, 1)),
    ],
)
def test_pixels_of_a_stranger_are_checked(parameters: list[float], shape: tuple[int, ...]) -> None:
    buffer = memoryview(np.array(parameters, "<f4").tobytes())
    with pytest.raises(ProtocolError):
        Pixels().decode(buffer, memoryview(bytes(4)), "float32", shape)
    with pytest.raises(ProtocolError):
        Pixels().decode(memoryview(bytes(8)), memoryview(bytes(4)), "int32", (1, 1, 2, 2))


def test_points_worth_sending_are_smaller_than_all_before() -> None:
    found = calibration.points_worth_sending(make_chain([50, 80, 40, 40, 60, 7, 3]))
    assert [point.layer for point in found] == [0, 2, 5]


def test_a_rounding_is_within_the_budget_or_is_not() -> None:
    assert TRIED.loss == 0.005
    labelled = replace(TRIED, wrong=5, wrong_whole=3)
    assert labelled.loss == 0.01
    assert replace(labelled, wrong=2).loss == 0
    found = Calibration("m", "g", "w", "s", (TRIED, replace(TRIED, codec="int4", changed=9)))
    assert found.within(0.005) == {"l1": ["int8"]}
    assert found.within(0.0049) == {}
    assert found.within(0.05) == {"l1": ["int8", "int4"]}


def test_only_lossless_codecs_without_a_calibration_or_a_budget() -> None:
    found = Calibration("m", "g", "w", "s", (TRIED,))
    graph = make_chain([50, 40, 3])
    for wanted in (CodecPolicy.of("auto", None, 0.5), CodecPolicy.of("auto", found, 0.0)):
        assert wanted.lossy(graph, 1) == ()
        assert all(codec.CODECS[name].is_lossless for layer in range(3) for name in wanted.lossless(layer))
    assert CodecPolicy.of("auto", found, 0.005).lossy(graph, 1) == ("int8", "int8+zstd")
    assert CodecPolicy.of("auto", found, 0.005).lossy(graph, 2) == ()
    assert CodecPolicy.of("int4", None, 0.0).lossless(1) == ("int4",)


@pytest.mark.parametrize(
    ("takes", "remedy"), [("picture", "run deployment.py calibrate -t alex_net"), ("speech", "only")]
)
def test_a_budget_without_a_calibration_is_told_with_what_helps(
    takes: str, remedy: str, network: Callable[[str], TorchNetwork], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is to be calibrated where a network takes no pictures."""
    assert packing.codec_policy_of(network("alex_net"), takes, "auto", 0.01, tmp_path).roundings == {}
    (line,) = caplog.messages
    assert remedy in line
    assert ("calibrate -t" in line) == (takes == "picture")


def test_what_a_codec_does_not_take_travels_raw() -> None:
    graph = make_chain([50, 40, 3])
    found = CodecCosts({(1, "int8"): 10}, {"int8": (1e-3, 2e-3)})
    allowed = CodecPolicy.of("int8", None, 0.0).allowed(graph, found, 0.5)
    assert [[each.codec for each in ways] for ways in allowed.lossless] == [[RAW], ["int8"], [RAW]]
    (way,) = allowed.lossless[1]
    assert way.bytes == 10
    assert (way.encode_s, way.decode_s) == pytest.approx((0.08, 0.08))


def test_packing_is_measured_on_what_the_layers_make(network: Callable[[str], TorchNetwork], tmp_path: Path) -> None:
    subject = network("le_net")
    graph, wanted = subject.traced.graph, CodecPolicy.of("auto", None, 0.0)
    found = packing.packing_of(subject, wanted, tmp_path)
    raw = graph.layers[INPUT].out_bytes
    assert found.sizes[INPUT, "pixels"] == raw // 4 + 8
    assert all((n, "zstd") in found.sizes for n in range(len(graph.layers)))
    assert all(rate >= 0 for pair in found.rates.values() for rate in pair)
    assert packing.packing_of(subject, wanted, tmp_path).sizes == found.sizes
    (path,) = (tmp_path / "packing").iterdir()
    kept = path.read_text()
    for text in ("", "{", "[]", json.dumps({"sizes": [[0, "zstd", -1]], "rates": {}, "tried": []})):
        path.write_text(text)
        assert packing.packing_of(subject, wanted, tmp_path).sizes == found.sizes
    path.write_text(kept)
    noise = torch.rand(subject.example.tensor.shape).numpy()
    other = packing.packing_of(replace(subject, example=replace(subject.example, fed=noise)), wanted, tmp_path)
    assert (INPUT, "pixels") not in other.sizes  # what is no picture has none, whatever was kept of another input
    before, after = json.loads(kept), json.loads(path.read_text())
    assert {name: after[name] for name in ("sizes", "rates", "tried")} == {
        name: before[name] for name in ("sizes", "rates", "tried")
    }
    assert [name for _, name, _ in after["input"]["sizes"]] == ["zstd"], "for those who plan: what was run last"
    packing.packing_of(subject, CodecPolicy.of("raw", None, 0.0), tmp_path)
    assert json.loads(path.read_text()) == after
    packing.packing_of(subject, CodecPolicy.of("int8", None, 0.0), tmp_path)
    assert (1, "zstd") in packing.packing_of(subject, wanted, tmp_path).sizes


def test_calibrating_on_digits_finds_what_changes(
    network: Callable[[str], TorchNetwork], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "digits"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(18):
        Image.fromarray(rng.integers(0, 256, (28, 28), dtype=np.uint8)).save(folder / f"{number}.png")
    arguments = ["calibrate", "-t", "le_net", "--image-dir", str(folder), "--cache-dir", str(tmp_path), "--json"]
    assert deployment.main(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert {row["codec"] for row in document["tried"]} >= {"fp16", "int8"}
    assert all(row["pictures"] == 12 and 0 <= row["changed"] <= 12 for row in document["tried"])
    kept = calibration.find(tmp_path, network("le_net"))
    assert kept is not None
    assert kept.source == str(folder)
    assert len(kept.tried) == len(document["tried"])


def test_the_published_digits_have_labels() -> None:
    samples = calibration.read_samples(registry.lookup("le_net"), None)
    assert samples.labels is not None
    assert len(samples.tensors) == len(samples.labels) == 450
    crops = calibration.read_samples(registry.lookup("alex_net"), None)
    assert len(crops.tensors) == 100
    assert crops.labels is None


def test_a_damaged_calibration_is_not_used(
    network: Callable[[str], TorchNetwork], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    subject = network("le_net")
    graph = subject.traced.graph
    path = calibration.keep(tmp_path, Calibration(graph.name, graph.digest, subject.loaded.digest, "s", (TRIED,)))
    text = path.read_text()
    assert calibration.find(tmp_path, subject) is not None
    for damaged in (
        "",
        "{",
        "[]",
        text.replace("200", "0"),
        text.replace("int8", "int99"),
        text.replace("0.01", "NaN"),
    ):
        path.write_text(damaged)
        caplog.clear()
        coming_along = calibration.find(tmp_path, subject)
        assert coming_along is None or coming_along.source != "s", damaged[:80]
        assert "damaged" in caplog.text


@pytest.mark.parametrize("what", ["missing", "empty", "no picture"])
def test_a_folder_without_pictures_is_refused(what: str, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    if what != "missing":
        folder.mkdir()
    if what == "no picture":
        (folder / "a.png").write_text("x")
    with pytest.raises(UsageError, match=r"picture|folder"):
        calibration.read_samples(registry.lookup("le_net"), folder)
