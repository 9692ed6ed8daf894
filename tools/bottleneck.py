"""`deployment.py bottleneck`: train a learned codec around a cut, and measure it on pictures set aside."""

import hashlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from edgecloud.models import inputs, registry, split
from edgecloud.models.graph import LayerGraph, Point
from edgecloud.models.inputs import Numbers
from edgecloud.models.network import DEFAULT
from edgecloud.models.specs import UnknownLayerError
from edgecloud.models.torch_network import TorchNetwork
from edgecloud.net import learned_file
from edgecloud.net.encodings import Shape
from edgecloud.net.learned_file import About, LearnedCodec
from edgecloud.tools import distill, views
from edgecloud.tools.autoencoder import Autoencoder, Design
from edgecloud.tools.distill import Material, Settings, State, Tail, Training
from edgecloud.tools.views import Views
from edgecloud.utils.errors import UsageError
from edgecloud.utils.files import replaced, writing
from edgecloud.utils.inference_utils import set_threads
from edgecloud.utils.progress import Show

SUFFIX = ".codec"
CHECKPOINT = ".checkpoint"
MAX_HELD_BYTES = 1 << 30
"""Of the tensors at the cut of all views."""
MAP_BATCH = 16
"""Of tensors that are maps: the rest of their network takes long."""
SAFETY = 0.5
"""Of the budget, while it is trained: pictures that choose make it look better than it is."""
HEAD = 0.5
"""Of the network's work that is on the edge at most, unless a cut is named."""


@dataclass(frozen=True)
class BottleneckConfig:
    """What is to be trained."""

    model: str
    output: Path
    weights: str = DEFAULT
    pictures: Path | None = None
    point: int | None = None
    budget: float = 0.01
    max_rounds: int = Settings.max_rounds
    seed: int = 0
    threads: int | None = None
    """None: one. The products are small, and more threads wait for each other."""


@dataclass(frozen=True)
class Trained:
    """A codec that was trained and written."""

    path: Path
    codec: LearnedCodec
    rounds: int
    seconds: float
    resumed_at: int
    raw_bytes: int
    labels: "Labelled | None" = None


@dataclass(frozen=True)
class Labelled:
    """How many answers are wrong where labels are known."""

    wrong: int
    wrong_whole: int


def bottleneck(config: BottleneckConfig, progress: Show) -> Trained:
    """Train, measure and write a learned codec, going on from a checkpoint beside it where there is one.

    Raises UsageError for a network, a cut or pictures that do not serve.
    """
    began = time.perf_counter()
    name = _name(config.output)
    progress("loading the network", 0.0)
    entry = registry.resolve_trusted(config.model)
    if entry.takes != inputs.PICTURE:
        raise UsageError(f"{entry.name} does not take images: codecs are only learned for image networks")
    set_threads(config.threads or 1)
    network = entry.network(config.weights)
    if not isinstance(network, TorchNetwork):
        raise UsageError(f"{config.model} is a bundle: codecs are learned on the network that it was made of")
    point = chosen_point(network, config.point)
    cut = Cut.of(network, point)
    shown = views.read(entry, config.pictures, config.seed, lambda done: progress("reading the images", done))
    learned = Learning(cut, shown, config, progress)
    state = learned.train()
    content = learned.measured(name)
    path = config.output
    with writing(path), replaced(path) as temporary:
        temporary.write_bytes(content)
    learned.checkpoint.unlink(missing_ok=True)
    codec = learned_file.read(content)
    spent = time.perf_counter() - began
    raw = network.graph.layers[point.layer].out_bytes
    return Trained(path, codec, state.round, spent, learned.resumed_at, raw, learned.labelled)


def _name(path: Path) -> str:
    """Of the codec, from its file. Raises UsageError."""
    if path.suffix != SUFFIX or not learned_file.NAME.fullmatch(path.stem):
        raise UsageError(
            f"{path}: the file of a learned codec is called NAME{SUFFIX}, NAME of at most 40 letters, digits, _ . and -"
        )
    if not path.parent.is_dir():
        raise UsageError(f"no directory {path.parent}")
    return path.stem


def chosen_point(network: TorchNetwork, number: int | None) -> Point:
    """The cut that was named; else, of those with at most half of the work on the edge, the one with the smallest
    tensor. Raises UsageError for a cut that cannot have a codec."""
    graph = network.graph
    if number is not None:
        graph.head_at(number)  # raises for a point that there is not
        point = graph.points[number]
        _check(graph, point)
        return point
    work = _work(network)
    total = sum(work)
    points = [
        point for point in graph.points[1:-1] if _serves(graph, point) and sum(work[: point.layer]) <= HEAD * total
    ]
    if not points:
        raise UsageError(f"{graph.name} has no cut that a learned codec is worth trying at: name one with --at")
    return min(points, key=lambda point: graph.layers[point.layer].out_bytes)


def _work(network: TorchNetwork) -> list[float]:
    """Of every layer but the input."""
    try:
        return [max(1.0, float(spec.macs)) for spec in network.specs()]
    except UnknownLayerError:
        return [1.0] * (len(network.graph.layers) - 1)


def _serves(graph: LayerGraph, point: Point) -> bool:
    try:
        _check(graph, point)
    except UsageError:
        return False
    return True


def _check(graph: LayerGraph, point: Point) -> None:
    layer = graph.layers[point.layer]
    if point.number == 0:
        raise UsageError("point 0 sends the input: learned codecs are for the tensors behind it (jpeg is for images)")
    if point.number == len(graph.points) - 1:
        raise UsageError(f"point {point.number} runs everything on the edge: nothing is sent")
    try:
        Design.of(layer.out_shape)
    except ValueError as error:
        raise UsageError(f"point {point.number} of {graph.name} cannot have a learned codec: {error}") from None
    if layer.out_dtype != "float32":
        raise UsageError(f"point {point.number} of {graph.name} has a tensor of {layer.out_dtype}, not of float32")


@dataclass(frozen=True)
class Cut:
    """A network in two, in torch."""

    network: TorchNetwork
    point: Point
    head: split.Segment
    rest: split.Segment

    @classmethod
    def of(cls, network: TorchNetwork, point: Point) -> "Cut":
        """At a point."""
        return cls(network, point, *split.split(network.traced, network.graph.head_at(point.number)))

    @property
    def shape(self) -> Shape:
        """Of the tensor."""
        return self.network.graph.layers[self.point.layer].out_shape

    def before(self, view: Numbers) -> torch.Tensor:
        """The tensor at the cut, shape (1, ...)."""
        with torch.inference_mode():
            made: torch.Tensor = self.head.module(torch.from_numpy(view).clone())[0]
        return made.clone()

    def after(self, tensors: torch.Tensor) -> torch.Tensor:
        """The answers to tensors of shape (n, ...), shape (n, answers); gradients go through."""
        made = self.rest.module(tensors.clone())  # layers may write into what they get
        answer: torch.Tensor = made[self.rest.outputs.index(self.network.graph.outputs[0])]
        return answer.reshape(len(tensors), -1)

    def tail(self, example: torch.Tensor) -> Tail:
        """What answers several at once, if the network does that in the same way. Raises UsageError where gradients do
        not go through."""
        with torch.enable_grad():
            given = example.clone().requires_grad_(True)
            if not self.after(given).requires_grad:
                raise UsageError(f"{self.network.graph.name} cannot be learned from: it has no gradients after the cut")
        with torch.no_grad():
            alone = torch.cat([self.after(one[None]) for one in example])
            try:
                is_same = torch.allclose(self.after(example), alone, rtol=1e-3, atol=1e-4)
            except RuntimeError:  # such as a shape that is written in the code
                is_same = False
        return self.after if is_same else lambda tensors: torch.cat([self.after(one[None]) for one in tensors])


class Learning:
    """One codec for one cut on one set of views."""

    def __init__(self, cut: Cut, shown: Views, config: BottleneckConfig, progress: Show) -> None:
        self._cut, self._shown, self._config, self._progress = cut, shown, config, progress
        self.checkpoint = config.output.with_name(config.output.name + CHECKPOINT)
        self.resumed_at = 0
        self.labelled: Labelled | None = None
        self._train, self._choose = self._material("train"), self._material("choose")
        self._tail = cut.tail(self._train.tensors[:2])
        self._codec = self._new()

    def _material(self, name: str) -> Material:
        shown = getattr(self._shown, name)
        size = 4 * int(torch.Size(self._cut.shape).numel())
        shown = shown[: max(2, MAX_HELD_BYTES // size)]
        tensors, answers = [], []
        for number, view in enumerate(shown):
            self._progress(f"running the network on {len(shown)} views", number / len(shown))
            tensors.append(self._cut.before(view))
            with torch.no_grad():
                answers.append(self._cut.after(tensors[-1]))
        return Material(torch.cat(tensors), torch.cat(answers))

    def _new(self) -> Autoencoder:
        matters = distill.importance(self._tail, self._train, MAP_BATCH, self._config.seed)
        return Autoencoder(Design.of(self._cut.shape), self._train.tensors, matters)

    def _key(self, settings: Settings) -> str:
        """Of all that a training depends on."""
        graph, weights = self._cut.network.graph, self._cut.network.weights
        about = (graph.digest, weights.digest, self._cut.point.number, self._shown.digest, self._codec.design, settings)
        return hashlib.sha256(repr(about).encode()).hexdigest()

    def train(self) -> State:
        """To the end, from the last checkpoint where there is one of just this."""
        batch = 64 if self._codec.design.is_flat else MAP_BATCH
        config = self._config
        settings = Settings(SAFETY * config.budget, batch, config.max_rounds, seed=config.seed)
        key = self._key(settings)
        state = distill.find(self.checkpoint, key)
        self.resumed_at = 0 if state is None else state.round
        training = Training(self._codec, self._tail, self._train, self._choose, settings, state)
        for now in training.rounds():
            distill.keep(self.checkpoint, key, now)
            self._progress(self._told(now), now.round / settings.max_rounds)
        training.take_best()
        return training.state

    def _told(self, state: State) -> str:
        agrees = 1 - state.changed / len(self._choose.tensors)
        return f"training: {state.bits / 8:.3g} bytes, {agrees:.1%} of answers unchanged"

    def measured(self, name: str) -> bytes:
        """The file, with what was measured on the pictures set aside: what travels is what an edge would send."""
        shown = self._shown
        about = self._about(name, len(shown.measure), 0, 0)
        arrays = self._codec.arrays(self._train.tensors)
        codec = learned_file.read(learned_file.write(about, arrays))
        changed, sizes, wrong, wrong_whole = 0, [], 0, 0
        for number, view in enumerate(shown.measure):
            self._progress("measuring on the images set aside", number / len(shown.measure))
            whole, got, size = self._answers(codec, view)
            changed += got != whole
            sizes.append(size)
            if shown.labels is not None:
                wrong += got != shown.labels[number]
                wrong_whole += whole != shown.labels[number]
        self.labelled = None if shown.labels is None else Labelled(wrong, wrong_whole)
        about = self._about(name, len(shown.measure), changed, round(mean(sizes)))
        return learned_file.write(about, arrays)

    def _answers(self, codec: LearnedCodec, view: Numbers) -> tuple[int, int, int]:
        """The top of the whole network and of what went through the codec, and the bytes that travelled."""
        with torch.no_grad():
            tensor = self._cut.before(view)
            packed = codec.encode(tensor.numpy())
            came = codec.decode("float32", self._cut.shape, memoryview(packed))
            got = self._cut.after(torch.from_numpy(came))
            return int(self._cut.after(tensor).argmax()), int(got.argmax()), len(packed)

    def _about(self, name: str, pictures: int, changed: int, size: int) -> About:
        graph, weights, design = self._cut.network.graph, self._cut.network.weights, self._codec.design
        return About(
            name=name,
            model=graph.name,
            graph=graph.digest,
            weights=weights.digest,
            layer=graph.layers[self._cut.point.layer].id,
            point=self._cut.point.number,
            shape=design.shape,
            is_flat=design.is_flat,
            limit=design.limit,
            encoder=(design.encoder[0],),
            decoder=(design.decoder[0],),
            pictures=pictures,
            changed=changed,
            bytes=size,
            trained_on=len(self._train.tensors),
            source=self._shown.source[: learned_file.MAX_TEXT],
            seed=self._config.seed,
        )


def to_json(trained: Trained) -> dict[str, Any]:
    """What `--json` prints."""
    about = asdict(trained.codec.about)
    names = ("model", "weights", "graph", "point", "layer", "shape", "pictures", "changed", "bytes", "trained_on")
    labels = {} if trained.labels is None else asdict(trained.labels)
    return {
        "codec": trained.codec.name,
        "file": str(trained.path),
        "digest": f"sha256:{trained.codec.side.digest}",
        **{name: about[name] for name in (*names, "source", "seed")},
        **labels,
        "loss": trained.codec.about.loss,
        "raw_bytes": trained.raw_bytes,
        "rounds": trained.rounds,
        "resumed_at": trained.resumed_at,
        "seconds": round(trained.seconds, 3),
    }


def to_lines(trained: Trained, budget: float) -> list[str]:
    """What is printed otherwise."""
    about = trained.codec.about
    resumed = f", resumed after {trained.resumed_at}" if trained.resumed_at else ""
    smaller = trained.raw_bytes / max(1, about.bytes)
    lines = [
        f"{trained.codec.name}: point {about.point} of {about.model}, after {about.layer}",
        f"bytes:   {about.bytes} in the mean, raw {trained.raw_bytes} ({smaller:.3g} x)",
        f"answers: {about.changed} of {about.pictures} changed ({about.loss:.2%}) on images set aside ({about.source})",
        f"trained: on {about.trained_on} views, {trained.rounds} rounds{resumed}, {trained.seconds:.1f} s",
        f"saved:   {trained.path}",
    ]
    if trained.labels is not None:
        right, whole = (1 - wrong / about.pictures for wrong in (trained.labels.wrong, trained.labels.wrong_whole))
        lines.insert(3, f"labels:  {right:.2%} right, {whole:.2%} by the full model")
    if about.loss > budget:
        lines.append(f"warning: more answers changed than --accuracy-budget {budget:.3g}: train on more images")
    lines.append(f"use:     --codec-file {trained.path} on the edge and the cloud, with --accuracy-budget")
    return lines
