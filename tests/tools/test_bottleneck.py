"""deployment.py bottleneck: a codec is trained, goes on where it was interrupted, and says what was measured."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from edgecloud import deployment
from edgecloud.engine import learned
from edgecloud.models import registry
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.net import learned_file
from edgecloud.tools import bottleneck, distill, views
from edgecloud.tools.autoencoder import Autoencoder, Design
from edgecloud.tools.bottleneck import BottleneckConfig, Cut
from edgecloud.tools.distill import Material, Settings, Training
from edgecloud.utils.errors import UsageError


@pytest.fixture(scope="module")
def network() -> TorchNetwork:
    """A small one, with its trained weights."""
    made = registry.lookup("le_net").network()
    assert isinstance(made, TorchNetwork)
    return made


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of drawings."""
    folder = tmp_path_factory.mktemp("drawings")
    for number in range(20):
        picture = Image.new("L", (28, 28))
        ImageDraw.Draw(picture).text((8 + number % 3, 6), str(number % 10), fill=255, font_size=14 + number // 10 * 3)
        picture.save(folder / f"{number}.png")
    return folder


def made_training(rounds: int = 4, state: distill.State | None = None) -> Training:
    """Of tensors with four numbers in them, of which two count, and a network after them that is one matrix."""
    generator = torch.Generator().manual_seed(0)
    few = torch.randn(300, 4, generator=generator)
    directions = torch.linalg.qr(torch.randn(32, 4, generator=generator))[0]
    tensors = few @ directions.T
    matrix = directions[:, :2] @ torch.randn(2, 5, generator=generator)
    train, choose = (Material(part, part @ matrix) for part in (tensors[:200], tensors[200:]))
    codec = Autoencoder(Design.of((1, 32)), train.tensors, torch.ones(1, 32))
    settings = Settings(0.05, 16, patience=15, max_rounds=rounds)
    return Training(codec, lambda x: x @ matrix, train, choose, settings, state)


def test_training_makes_it_smaller_within_the_budget() -> None:
    """It finds out that half of the numbers do not count, and few answers change."""
    training = made_training(32)
    bits = [float(state.bits) for state in training.rounds()]
    assert bits[-1] < 0.85 * bits[0]
    assert training.state.is_within
    assert training.state.changed <= 5


def test_a_map_is_learned_too() -> None:
    """A tensor of more numbers than a column may have: its codec is smaller in height and width, and as large again."""
    generator = torch.Generator().manual_seed(0)
    tensors = torch.randn(24, 9, 22, 25, generator=generator).cumsum(2).cumsum(3) / 20
    matrix = torch.randn(9, 5, generator=generator)
    material = Material(tensors, tensors.mean((2, 3)) @ matrix)
    codec = Autoencoder(Design.of((1, 9, 22, 25)), tensors, torch.ones(1, 9, 22, 25))
    tail = lambda x: x.mean((2, 3)) @ matrix  # noqa: E731
    training = Training(codec, tail, material, material, Settings(0.5, 8, max_rounds=2))
    list(training.rounds())
    training.take_best()
    with torch.no_grad():
        latent = codec.rounded(codec.whole(tensors))
        error = (codec.tensor(latent) - tensors).square().mean() / tensors.var()
    assert latent.shape == (24, 64, 6, 7)
    assert error < 0.5
    assert codec.frequencies(tensors).sum(1).tolist() == [65536] * 64


def test_an_interrupted_training_ends_as_one_that_was_not(tmp_path: Path) -> None:
    """Bit for bit, from the checkpoint."""
    whole = made_training()
    list(whole.rounds())
    first = made_training()
    state = list(islice(first.rounds(), 2))[-1]
    distill.keep(tmp_path / "c", "key", state)
    found = distill.find(tmp_path / "c", "key")
    assert found is not None
    assert found.round == 2
    second = made_training(state=found)
    list(second.rounds())
    assert second.state.round == whole.state.round
    for name, each in whole.state.best.items():
        assert torch.equal(each, second.state.best[name]), name


def test_a_checkpoint_of_another_training_is_not_gone_on_with(tmp_path: Path) -> None:
    """And a file that is none is named."""
    distill.keep(tmp_path / "c", "key", distill.State())
    assert distill.find(tmp_path / "c", "other") is None
    assert distill.find(tmp_path / "none", "key") is None
    (tmp_path / "c").write_bytes(b"PK\3\4 no")
    with pytest.raises(UsageError, match="no checkpoint"):
        distill.find(tmp_path / "c", "key")


def test_it_learns_from_a_folder_and_nothing_of_the_network_changes(
    network: TorchNetwork, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the command line to the file, whose figures are those of pictures set aside."""
    before = {name: each.clone() for name, each in network.loaded.model.state_dict().items()}
    path = tmp_path / "mine.codec"
    words = ["bottleneck", "-t", "le_net", "--image-dir", str(pictures), "-o", str(path), "--max-rounds", "2", "--json"]
    assert deployment.main(words) == 0
    document = json.loads(capsys.readouterr().out)
    codec = learned.read(path)
    assert document["codec"] == codec.name == "learned:mine"
    assert document["digest"] == f"sha256:{codec.side.digest}"
    assert document["pictures"] == 4  # a fifth of twenty
    assert document["bytes"] == codec.about.bytes < document["raw_bytes"] / 20
    assert document["rounds"] == 2
    assert not list(tmp_path.glob("*.checkpoint"))
    assert codec.about.layer == "features.2"
    other = replace(codec, about=replace(codec.about, weights="others"))
    assert learned.serving(network, [codec, other]) == (codec,)
    assert all(torch.equal(each, before[name]) for name, each in network.loaded.model.state_dict().items())
    assert codec.about == learned_file.read(path.read_bytes()).about


def test_ctrl_c_loses_at_most_a_round(pictures: Path, tmp_path: Path) -> None:
    """The same call again continues, and writes the very file that it would have written."""

    def interrupt(what: str, done: float) -> None:
        if what.startswith("training") and done > 1 / 3:
            raise KeyboardInterrupt

    config = BottleneckConfig("le_net", tmp_path / "a.codec", pictures=pictures, max_rounds=3)
    with pytest.raises(KeyboardInterrupt):
        bottleneck.bottleneck(config, interrupt)
    assert not config.output.exists()
    trained = bottleneck.bottleneck(config, lambda _what, _done: None)
    assert (trained.resumed_at, trained.rounds) == (2, 3)
    assert "resumed after 2" in "\n".join(bottleneck.to_lines(trained, 0.01))
    (tmp_path / "b").mkdir()
    whole = replace(config, output=tmp_path / "b" / "a.codec")
    bottleneck.bottleneck(whole, lambda _what, _done: None)
    assert whole.output.read_bytes() == config.output.read_bytes()


def test_the_codec_of_a_file_computes_what_was_trained(network: TorchNetwork) -> None:
    """numpy on the edge and the cloud, torch in training: the same codes, and nearly the same tensor."""
    point = bottleneck.chosen_point(network, None)
    cut = Cut.of(network, point)
    tensors = torch.cat([cut.before(network.example.array + np.float32(0.01 * n)) for n in range(8)])
    codec = Autoencoder(Design.of(cut.shape), tensors, torch.ones_like(tensors[:1]))
    about = bottleneck_about(cut, codec.design)
    file = learned_file.read(learned_file.write(about, codec.arrays(tensors)))
    with torch.no_grad():
        whole = codec.rounded(codec.whole(tensors[:1]))
        expected = codec.tensor(whole).numpy()
    packed = file.encode(tensors[:1].numpy())
    made = file.decode("float32", cut.shape, memoryview(packed))
    np.testing.assert_allclose(made, expected, rtol=1e-3, atol=1e-3)


def bottleneck_about(cut: Cut, design: Design) -> learned_file.About:
    """As a training writes it."""
    graph, layer = cut.network.graph, cut.network.graph.layers[cut.point.layer]
    encoder, decoder = (design.encoder[0],), (design.decoder[0],)
    texts = ("x", graph.name, graph.digest, cut.network.weights.digest, layer.id, cut.point.number)
    return learned_file.About(*texts, design.shape, design.is_flat, design.limit, encoder, decoder, 1, 0, 1, 1, "here")


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (BottleneckConfig("kaldi", Path("x.codec")), "does not take images"),
        (BottleneckConfig("le_net", Path("x.bin")), "is called NAME.codec"),
        (BottleneckConfig("le_net", Path("no such.codec")), "is called NAME.codec"),
        (BottleneckConfig("le_net", Path("nowhere/x.codec")), "no directory nowhere"),
        (BottleneckConfig("le_net", Path("x.codec"), point=99), "99"),
        (BottleneckConfig("le_net", Path("x.codec"), pictures=Path("nowhere")), "no directory nowhere"),
        (BottleneckConfig("le_net", Path("x.codec"), point=12), "nothing is sent"),
    ],
)
def test_what_does_not_serve_is_refused(config: BottleneckConfig, why: str) -> None:
    """In one line that names it."""
    with pytest.raises(UsageError, match=why):
        bottleneck.bottleneck(config, lambda _what, _done: None)


def test_no_picture_is_in_two_sets(pictures: Path) -> None:
    """What is measured was never seen, nor chosen with."""
    entry = registry.lookup("le_net")
    shown = views.read(entry, pictures, 0, lambda _: None)
    sets = [{view.tobytes() for view in part} for part in (shown.train, shown.choose, shown.measure)]
    counts = list(map(len, sets))
    assert counts[2] == 4
    assert counts[1] == 3 * views.MOVED
    assert len(set.union(*sets)) == sum(counts)
    assert views.read(entry, pictures, 0, lambda _: None).digest == shown.digest
    assert views.read(entry, pictures, 1, lambda _: None).digest != shown.digest


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths of the cases are none that exist."""
    monkeypatch.chdir(tmp_path)
