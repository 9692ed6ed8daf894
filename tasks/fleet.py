"""The networks of an edge with many tasks: prepared, with their times and the inputs of the tasks."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np

from edgecloud.client.conditions import Conditions
from edgecloud.client.config import CodecConfig
from edgecloud.engine.backend_choice import choose
from edgecloud.engine.executor import CpuShare, Executor
from edgecloud.engine.identity import hello_of
from edgecloud.engine.packing import codec_policy_of, packing_of
from edgecloud.engine.speed import QUIET, Speed
from edgecloud.engine.times import FoundTimes, Times
from edgecloud.models import inputs, registry
from edgecloud.models.inputs import Input
from edgecloud.models.network import Fed, Network
from edgecloud.models.registry import Entry
from edgecloud.net.messages import Hello
from edgecloud.net.sides import SidedCodec
from edgecloud.net.tensors import Array
from edgecloud.partition.packing import Allowed
from edgecloud.predictor.profile import Progress
from edgecloud.tasks.tasks import RejectedLine, Task
from edgecloud.utils.errors import AppError, UsageError

TENSORS_KEPT = 256
TEXT = "text:"
"""What the input of a task begins with that is a sentence and no file."""
KINDS_OF_FILES = {".npy": inputs.TENSOR, ".npz": inputs.TENSOR, ".wav": inputs.SPEECH}
"""By suffix; every other file is taken for a picture."""
INPUTS_TRIED = 8  # of each network, with every codec for inputs
STEP = 0.05  # of the present speed


@dataclass(frozen=True)
class Member:
    """One network."""

    entry: Entry
    network: Network
    executor: Executor
    timing: FoundTimes
    sided: dict[tuple[int, str], SidedCodec] = field(default_factory=dict)
    """By number of the layer and by name, what codecs with a side pack with; known once it is known what is allowed."""

    def hello(self, token: str) -> Hello:
        """What a cloud is asked for."""
        return hello_of(self.network, token)


class Fleet:
    """Networks by their name in the registry, each built once."""

    def __init__(self, device: str, cpu_share: float | None, times: Times, source: str, backend: str) -> None:
        self._device, self._times, self._source, self._backend = device, times, source, backend
        self._share = None if cpu_share is None else CpuShare(cpu_share)
        self.members: dict[str, Member] = {}
        self._tensors: OrderedDict[tuple[str, str], Input] = OrderedDict()

    def add(self, entry: Entry, progress: Progress) -> None:
        """Build a network, and measure its layers or predict them."""
        if entry.name in self.members:
            return
        network = entry.network(self._source)
        executor = choose(network, self._device, self._share, self._backend, self._times.cache_dir).executor
        timing = self._times.find(executor, progress, tails=False)
        self.members[entry.name] = Member(entry, network, executor, timing)

    @property
    def speed(self) -> Speed:
        """How fast this machine is at present, as far as it is known; nothing is run."""
        return next((member.timing.meter.now() for member in self.members.values()), QUIET)

    def conditions(self, cloud: Conditions) -> Conditions:
        """What a decision depends on, with the present speed of this machine; nothing is run."""
        speed = max(STEP, round(self.speed.value / STEP) * STEP)  # or every task would make a plan anew
        return replace(cloud, edge_speed=speed)

    def look(self) -> None:
        """Look how fast this machine is just now, where no task told that lately."""
        for member in self.members.values():
            member.timing.look()

    def fed(self, task: Task) -> Fed:
        """The input of a task. Raises UsageError where its file does not serve."""
        return self._input(self.members[task.model].entry, task.input).fed

    def _input(self, entry: Entry, source: str) -> Input:
        key = (entry.name, source)
        if key not in self._tensors:
            self._tensors[key] = read_input(entry, source)
            if len(self._tensors) > TENSORS_KEPT:
                self._tensors.popitem(last=False)
        self._tensors.move_to_end(key)
        return self._tensors[key]

    def check(self, tasks: Sequence[Task]) -> list[RejectedLine]:
        """Read every input once; those that do not serve are told by task."""
        problems: list[RejectedLine] = []
        wrong: dict[tuple[str, str], str] = {}
        for task in tasks:
            key = (task.model, task.input)
            if key not in wrong:
                try:
                    self.fed(task)
                    wrong[key] = ""
                except UsageError as error:
                    wrong[key] = str(error)
            if wrong[key]:
                problems.append(RejectedLine(task.id, wrong[key]))
        return problems

    def allowed(self, model: str, tasks: Sequence[Task], codec: CodecConfig, progress: Progress) -> Allowed:
        """How the tensors of a network may travel: sizes of the input are those of some of the tasks' inputs."""
        member = self.members[model]
        sources = dict.fromkeys(task.input for task in tasks if task.model == model)
        given_inputs = [self._input(member.entry, source).fed for source in islice(sources, INPUTS_TRIED)]
        given = (codec.name, codec.accuracy_budget, self._times.cache_dir, codec.files)
        policy = codec_policy_of(member.network, member.entry.takes, *given)
        member.sided.update(policy.sided_by_number(member.network.graph))
        packing = packing_of(member.network, policy, self._times.cache_dir, progress, given_inputs)
        return policy.allowed(member.network.graph, packing, member.executor.share)

    def whole(self, task: Task) -> list[Array]:
        """What the full model answers, run locally."""
        member = self.members[task.model]
        return member.network.whole(self._input(member.entry, task.input).fed)


def read_input(entry: Entry, source: str) -> Input:
    """A picture, .wav, .npy or .npz file, or `text:` and a sentence; "" is the network's sample. Raises UsageError."""
    if not source:
        return entry.default_input()
    path = Path(source)
    kind = KINDS_OF_FILES.get(path.suffix.lower(), inputs.PICTURE)
    try:
        if source.startswith(TEXT):
            return inputs.read(entry.name, entry.takes, inputs.SENTENCE, source.removeprefix(TEXT), entry.preprocess)
        if kind == inputs.TENSOR:
            return inputs.from_array(path, entry.input_sources)
        return inputs.read(entry.name, entry.takes, kind, path, entry.preprocess)
    except (OSError, ValueError) as error:  # a name that is too long, or holds a zero byte
        raise UsageError(f"cannot read {source[:80]!r}: {error}") from None


def known_models(tasks: Sequence[Task]) -> tuple[list[Task], list[RejectedLine]]:
    """The tasks of networks that there are, under their names in the registry; the others are told."""
    names: dict[str, str | UsageError] = {}
    for model in dict.fromkeys(task.model for task in tasks):
        try:
            names[model] = registry.lookup(model).name
        except UsageError as error:
            names[model] = error
    good, problems = [], []
    for task in tasks:
        name = names[task.model]
        if isinstance(name, UsageError):
            problems.append(RejectedLine(task.id, str(name)))
        else:
            good.append(Task(task.id, name, task.input, task.priority, task.deadline_s, task.arrival_s))
    return good, problems


def inputs_for(model: str, pictures: Sequence[str]) -> list[str]:
    """The pictures of the user for a network that takes pictures, else its samples."""
    entry = registry.lookup(model)
    if pictures and entry.takes == inputs.PICTURE:
        return list(pictures)
    return [str(path) for path in inputs.samples(entry.sample)] or [""]


def pictures_in(folder: Path) -> tuple[list[str], list[str]]:
    """The pictures of a folder, and what is none. Raises UsageError if there is none."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a directory")
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in inputs.PICTURES)
    good, bad = [], []
    for path in files:
        try:
            inputs.from_image(path, lambda picture: np.zeros(picture.size and 1, np.float32))
            good.append(str(path))
        except AppError as error:
            bad.append(str(error))
    if not good:
        raise UsageError(f"{folder} contains no image" + (f": {bad[0]}" if bad else ""))
    return good, bad
