"""Calibrations: tables found with other pictures than those of the trial, and those that come along."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from edgecloud.engine import calibration, packing, tables
from edgecloud.engine.calibration import SHIPPED
from edgecloud.engine.executor import make_executor
from edgecloud.models import registry
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.net import codec, entropy
from edgecloud.net.encodings import Array
from edgecloud.utils.errors import UsageError
from tests.conftest import CallEdge, CloudProcess, at
from tests.net.test_entropy import features

MOST_BYTES = 200_000  # of a calibration that comes along


def test_tables_are_found_with_other_pictures_than_the_trial() -> None:
    for name in ("le_net", "alex_net"):
        samples = calibration.read_samples(registry.lookup(name), None)
        tried = {each.tobytes() for each in samples.tensors}
        assert len(samples.fit) >= calibration.LEAST_FIT
        assert not any(each.tobytes() in tried for each in samples.fit)


def test_few_pictures_find_no_tables(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from PIL import Image

    for number in range(5):
        Image.fromarray(np.full((28, 28), 40 * number, np.uint8)).save(tmp_path / f"{number}.png")
    samples = calibration.read_samples(registry.lookup("le_net"), tmp_path)
    assert len(samples.tensors) == 5
    assert not samples.fit
    assert "too few for entropy coding" in caplog.text


def test_what_is_tried_is_kept_with_its_tables(network: Callable[[str], TorchNetwork], tmp_path: Path) -> None:
    le_net = network("le_net")
    samples = calibration.read_samples(registry.lookup("le_net"), None)
    few = replace(samples, tensors=samples.tensors[:24], labels=None)
    found = calibration.calibrate_on(make_executor(le_net, "cpu"), few, lambda *_: None)
    coded = {(each.layer, each.codec) for each in found.tried if each.codec in entropy.NAMES}
    assert {layer for layer, _ in coded} == {"features.5", "classifier.1", "classifier.3"}
    assert coded == {(each.layer, each.codec) for each in found.sides}
    calibration.keep(tmp_path, found)
    assert calibration.find(tmp_path, le_net) == found

    policy = packing.codec_policy_of(le_net, "picture", "auto", 0.5, tmp_path)
    costs = packing.packing_of(le_net, policy, tmp_path)
    allowed = policy.allowed(le_net.graph, costs, 1.0)
    number = next(n for n, layer in enumerate(le_net.graph.layers) if layer.id == "features.5")
    sizes = {one.codec: one.bytes for one in allowed.alone(number, codec.NAMES)}
    coarse, fine = (name for name in (*reversed(entropy.NAMES), "zstd") if name in sizes and name in ("ec3", "zstd"))
    assert sizes[coarse] < sizes[fine] / 5
    # other tables for the same codec are measured anew
    again = replace(found, sides=tuple(replace(each, data=other(each.data)) for each in found.sides))
    calibration.keep(tmp_path, again)
    policy = packing.codec_policy_of(le_net, "picture", "auto", 0.5, tmp_path)
    assert packing.packing_of(le_net, policy, tmp_path).sizes != costs.sizes


def other(data: bytes) -> bytes:
    """Tables with the ranges of the first channel twice as wide."""
    channels = int.from_bytes(data[4:8], "little")
    at = 8 + 4 * channels
    scales = np.frombuffer(data[at : at + 4 * channels], "<f4") * 2
    return data[:at] + scales.astype("<f4").tobytes() + data[at + 4 * channels :]


def test_a_codec_by_its_name_wants_a_calibration(network: Callable[[str], TorchNetwork], tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"ec6 is not calibrated for alex_net: run deployment.py calibrate -t alex_net"
    ):
        packing.codec_policy_of(network("alex_net"), "picture", "ec6", 0.0, tmp_path)


@pytest.mark.parametrize("name", SHIPPED)
def test_calibrations_come_along(name: str, network: Callable[[str], TorchNetwork], tmp_path: Path) -> None:
    subject = network(name)
    found = calibration.find(tmp_path, subject)
    assert found is not None
    assert (found.graph, found.weights) == (subject.graph.digest, subject.weights.digest)
    within = found.within(0.01)
    coded = {layer for layer, names in within.items() if set(names) & set(entropy.NAMES)}
    assert coded
    assert all((layer, one) in found.sided for layer in coded for one in within[layer] if one in entropy.NAMES)
    assert len(calibration.to_text(found)) < MOST_BYTES
    policy = packing.codec_policy_of(subject, "picture", "auto", 0.01, tmp_path)
    assert any(set(names) & set(entropy.NAMES) for names in policy.roundings.values())


def test_for_other_weights_they_are_refused_with_the_reason(
    network: Callable[[str], TorchNetwork], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entry = registry.lookup("le_net")
    file = tmp_path / "other.safetensors"
    save_file({key: value * 1.01 for key, value in entry.build().state_dict().items()}, file)
    others = entry.network(str(file))
    assert calibration.find(tmp_path, others) is None
    assert packing.codec_policy_of(others, "picture", "auto", 0.01, tmp_path).roundings == {}
    assert "the one that comes along is for other weights: run deployment.py calibrate -t le_net" in caplog.text
    caplog.clear()
    assert packing.codec_policy_of(network("alex_net"), "picture", "auto", 0.01, tmp_path).roundings == {}
    assert "using lossless ones only: run deployment.py calibrate -t alex_net" in caplog.text


def test_steps_of_channels_that_vary_little_are_wider_than_their_range_asks_for() -> None:
    made = features(40)
    found = tables.find(made, 5)
    spread = np.ptp(np.concatenate([each.reshape(6, -1) for each in made], axis=1), axis=1)
    steps = spread / found.scale
    assert steps.max() > 1.5 * steps.min()
    assert steps.max() < 40


def test_finding_tables_takes_any_shape() -> None:
    rng = np.random.default_rng(0)
    shapes: list[tuple[int, ...]] = [(1, 4), (1, 3, 20), (1, 2, 4, 4), (1, 1, 1, 1), (1, 300, 4, 4)]
    for shape in shapes:
        made: list[Array] = [rng.normal(size=shape).astype(np.float32) for _ in range(4)]
        one = entropy.parse(tables.find(made, 4).side)
        assert np.abs(codec.decode(codec.encode(made[0], "ec4", one)) - made[0]).max() < 1


def test_a_budget_works_at_once_over_a_slow_link(edge: CallEdge, cloud: CloudProcess) -> None:
    arguments = ("--point", "6", "--bandwidth", "0.05mbit", "--repeat", "2", "--warm-up", "0")
    done = edge("-t", "le_net", *at(cloud), *arguments, "--accuracy-budget", "1%", "--verify", "--json")
    assert done.code == 0, done.stderr
    plan, measured = done.document["plan"], done.document["measured"]
    assert plan["codec"] in entropy.NAMES
    assert done.document["verify"]["matches"]
    assert all(each["payload_bytes"] < 300 and each["completed_by"] == "split" for each in measured["repeats"])
