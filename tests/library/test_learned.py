"""A learned codec between ec.Edge and ec.Cloud, through real sockets: used where both have the file, else not."""

import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import edgecloud as ec
from edgecloud import cloud_api, edge_api
from edgecloud.engine import learned
from edgecloud.engine.identity import hello_of
from edgecloud.models.network import Network
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.net import learned_file
from edgecloud.net.codec import Encoded
from edgecloud.net.connection import Frame, connect
from edgecloud.net.frames import FrameType
from edgecloud.net.learned_file import About
from edgecloud.net.messages import Error, Infer, Ready, from_header
from edgecloud.tools.autoencoder import Autoencoder, Design
from edgecloud.tools.bottleneck import Cut
from edgecloud.utils.deadline import Deadline
from tests.conftest import LONG_S, call

POINT = 3
NAME = "learned:tiny"


@pytest.fixture(scope="module")
def le_net() -> ec.Network:
    return ec.load("le_net")


@pytest.fixture(scope="module")
def file(le_net: ec.Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Principal components of a few inputs, which carry these well."""
    return write(le_net, tmp_path_factory.mktemp("codecs") / "tiny.codec", changed=1)


def write(net: ec.Network, path: Path, changed: int) -> Path:
    """A codec that was tried on 200 pictures, it says."""
    network = net.made
    assert isinstance(network, TorchNetwork)
    cut = Cut.of(network, network.graph.points[POINT])
    tensors = torch.cat([cut.before(np.roll(net.sample, shift, 3)) for shift in range(6)])
    design = Design.of(cut.shape)
    codec = Autoencoder(design, tensors, torch.ones_like(tensors[:1]))
    encoder, decoder = ((each[0],) for each in (design.encoder, design.decoder))
    graph = network.graph
    texts = ("tiny", graph.name, graph.digest, network.weights.digest, graph.layers[cut.point.layer].id, POINT)
    about = About(*texts, design.shape, design.is_flat, design.limit, encoder, decoder, 200, changed, 9, 6, "here")
    path.write_bytes(learned_file.write(about, codec.arrays(tensors)))
    return path


@pytest.fixture(scope="module")
def cloud(le_net: ec.Network, file: Path) -> Iterator[ec.Cloud]:
    with ec.Cloud(networks=[le_net], codec_files=[file]) as served:
        yield served


@pytest.mark.parametrize("wanted", [{"codec": NAME}, {"accuracy_budget": 0.005}])
def test_both_have_it_and_few_bytes_travel(
    le_net: ec.Network, file: Path, cloud: ec.Cloud, wanted: dict[str, object], cache: Path
) -> None:
    """By its name, and within the budget because it takes least; the answer has the same top."""
    settings = {"codec_files": [file], "point": POINT, "link": ec.Link("0.2mbit"), "cache_dir": cache}
    with ec.Edge(le_net, cloud.address, **settings, **wanted) as edge:  # type: ignore[arg-type]
        answer = edge(le_net.sample)
    assert list(answer.plan.codecs.values()) == [NAME]
    assert 0 < answer.times.payload_bytes < 60
    assert answer.completed_by == "split"
    assert answer.outputs[0].argmax() == le_net(le_net.sample)[0].argmax()
    network = le_net.made
    assert isinstance(network, TorchNetwork)
    tensor = Cut.of(network, network.graph.points[POINT]).before(le_net.sample)
    assert answer.times.payload_bytes == len(learned.read(file).encode(tensor.numpy()))


def test_a_cloud_without_it_gets_something_else(
    le_net: ec.Network, file: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The edge plans without it, and says so in one line; asked for by its name it is a mismatch."""
    learned.tell.cache_clear()
    settings = {"codec_files": [file], "point": POINT, "cache_dir": cache}
    with ec.Cloud(networks=[le_net]) as bare:
        with ec.Edge(le_net, bare.address, accuracy_budget=0.005, **settings) as edge:  # type: ignore[arg-type]
            answer = edge(le_net.sample)
        with pytest.raises(ec.MismatchError, match="does not have the codec learned:tiny"):
            ec.Edge(le_net, bare.address, codec=NAME, **settings)  # type: ignore[arg-type]
    assert NAME not in answer.plan.codecs.values()
    np.testing.assert_allclose(answer.outputs[0], le_net(le_net.sample)[0], rtol=1e-4, atol=1e-4)
    assert [r.getMessage() for r in caplog.records if NAME in r.getMessage()] == [
        "the cloud does not have the codec learned:tiny: planning without it (cloud_api.py --codec-file)"
    ]


def test_the_budget_decides_whether_it_is_used(
    le_net: ec.Network, tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Three of 200 changed answers are more than half a percent."""
    learned.tell.cache_clear()
    path = write(le_net, tmp_path / "tiny.codec", changed=3)
    settings = {"codec_files": [path], "point": POINT, "cache_dir": cache, "accuracy_budget": 0.005}
    with ec.Cloud(networks=[le_net], codec_files=[path]) as cloud, ec.Edge(le_net, cloud.address, **settings) as edge:  # type: ignore[arg-type]
        answer = edge(le_net.sample)
    assert NAME not in answer.plan.codecs.values()
    assert "learned:tiny changed 3 of 200 answers (1.50%): not used with --accuracy-budget 0.50%" in caplog.text


def test_without_a_budget_answers_stay_exact(
    le_net: ec.Network, cloud: ec.Cloud, tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also by a codec that changed none where it was tried."""
    learned.tell.cache_clear()
    path = write(le_net, tmp_path / "tiny.codec", changed=0)
    with ec.Edge(le_net, cloud.address, codec_files=[path], point=POINT, cache_dir=cache) as edge:
        assert NAME not in edge(le_net.sample).plan.codecs.values()
    assert "learned:tiny may change answers: not used without --accuracy-budget" in caplog.text


def test_a_name_without_a_file_is_refused(le_net: ec.Network, cloud: ec.Cloud) -> None:
    """With what to do."""
    with pytest.raises(ec.UsageError, match="learned:other is not there for le_net"):
        ec.Edge(le_net, cloud.address, codec="learned:other", point=POINT)


def test_payloads_that_are_not_of_the_file_are_refused(le_net: ec.Network, file: Path, cloud: ec.Cloud) -> None:
    """Empty, too long, of codes that there are not, or for a file that the cloud does not have; it goes on serving."""
    codec, network = learned.read(file), le_net.made
    shape = codec.about.shape
    good = codec.encode(np.zeros(shape, np.float32))
    other = replace(codec, side=replace(codec.side, data=b"another file"))
    for data, sided in ((b"", codec), (good + bytes(5000), codec), (b"\0" * len(good), codec), (good, other)):
        frame = answer_to(cloud, network, Encoded("float32", shape, NAME, (memoryview(data),), sided))
        assert from_header(Error, frame.header).code == "PROTOCOL"
    frame = answer_to(cloud, network, Encoded("float32", shape, NAME, (memoryview(good),), codec))
    assert frame.kind is FrameType.RESULT
    assert frame.arrays()[0].shape == (1, 10)


def answer_to(cloud: ec.Cloud, network: Network, boundary: Encoded) -> Frame:
    """What the cloud sends back on a connection of its own."""
    host, _, port = cloud.address.rpartition(":")
    deadline = Deadline.after(LONG_S, "no answer")
    with closing(connect(host, int(port), LONG_S)) as connection:
        connection.send(hello_of(network), deadline)
        assert boundary.sided is not None
        announced = connection.receive(deadline).read(Ready).codecs
        assert [name for name in announced if name.startswith("learned")] == [learned_wire_name(announced)]
        connection.send(Infer(1, [[POINT + 1, len(network.graph.layers)]], LONG_S), deadline, [boundary])
        return connection.receive(deadline)


def learned_wire_name(announced: list[str]) -> str:
    """Of the one file that the cloud has."""
    return next(name for name in announced if re.fullmatch("learned@[0-9a-f]{16}", name))


@pytest.mark.parametrize("main", [cloud_api.main, edge_api.main])
def test_a_bad_file_ends_a_program_in_one_line(
    main: object, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, before anything starts."""
    path = tmp_path / "bad.codec"
    for content in (b"", file.read_bytes()[:-1], b"\xff" * 64):
        path.write_bytes(content)
        words = ["--codec-file", str(path), "-p", "0"] if main is cloud_api.main else ["--codec-file", str(path)]
        done = call(main, words if main is cloud_api.main else [*words, "-t", "le_net"], capsys)  # type: ignore[arg-type]
        assert done.code == 2
        assert len(done.stderr.strip().splitlines()) == 1
        assert "bad.codec cannot be used as a learned codec" in done.stderr
    missing = call(main, ["--codec-file", str(tmp_path / "none"), "-t", "le_net"], capsys)  # type: ignore[arg-type]
    assert (missing.code, "no file" in missing.stderr) == (2, True)
