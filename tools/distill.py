"""Training a learned codec: the network itself says what the rest of it should answer. The network stays as it is.

What is minimised is the difference of the answers, that of the tensors, and the bits of the whole numbers. How much the
bits weigh grows as long as few enough answers change on pictures that are not trained on, and shrinks where more do;
the smallest codec that kept to the budget there is taken.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from edgecloud.tools.autoencoder import Autoencoder
from edgecloud.utils.errors import UsageError
from edgecloud.utils.files import replaced, writing

RATE, FAST_RATE = 2e-3, 2e-2
"""Of learning ..."""
DROPS = 2
"""... which falls so often ..."""
DROP = 0.3
"""... to so much of it where nothing gets better."""
BITS_WEIGHT, FIRST_GROWTH, GROWTH, SHRINK = 0.02, 1.4, 1.2, 0.7
"""Of the bits, as a share of those at the beginning, and how it changes after a round: at first it grows fast, until it
is too much."""
TENSOR_WEIGHT = 0.1
AVERAGED = 0.98
"""Of the parameters that are tried, a running mean."""
BETTER = 0.99
"""Of the bits so far: less counts as progress."""
STEPS, MAP_STEPS = 60, 20
"""Of a round at most, for columns and for maps."""
GAINS = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0)
"""How finely the components are told at the beginning: the coarsest that keeps to the budget. Logarithms."""
LOOKED_AT = 128
"""Views from which it is told how much the numbers of a tensor matter."""
CLIP = 1.0

Tail = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Material:
    """Tensors at the cut, shape (n, ...), and what the network answers, shape (n, answers)."""

    tensors: torch.Tensor
    answers: torch.Tensor


@dataclass(frozen=True)
class Settings:
    """How it is trained."""

    budget: float
    """Share of answers that may change."""
    batch: int = 64
    max_rounds: int = 150
    patience: int = 6
    """Rounds without progress until the rate of learning falls."""
    seed: int = 0


@dataclass
class State:
    """Where the training is: all of it is in a checkpoint."""

    round: int = 0
    steps: int = 0
    bits_weight: float = BITS_WEIGHT
    first_bits: float = 0.0
    has_exceeded: bool = False
    """Whether the bits have weighed too much once, for the budget."""
    drops: int = 0
    stale: int = 0
    """Rounds without progress."""
    bits: float = math.inf
    """Of one tensor, the best so far ..."""
    changed: int = 0
    """... which changed so many answers of those that choose."""
    is_within: bool = False
    """Whether that keeps to the budget."""
    parameters: dict[str, torch.Tensor] = field(default_factory=dict)
    averages: dict[str, torch.Tensor] = field(default_factory=dict)
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    optimiser: dict[str, Any] = field(default_factory=dict)
    is_done: bool = False


class Training:
    """One training, round after round."""

    def __init__(
        self,
        codec: Autoencoder,
        tail: Tail,
        train: Material,
        choose: Material,
        settings: Settings,
        state: State | None = None,
    ) -> None:
        """Begins, or goes on from a state."""
        self._codec, self._tail, self._settings = codec, tail, settings
        self._train, self._choose = train, choose
        groups = [
            {"params": codec.learned(is_fast=is_fast), "lr": rate}
            for is_fast, rate in zip((False, True), (RATE, FAST_RATE), strict=True)
        ]
        self._optimiser = torch.optim.Adam(groups)
        self.state = state or State()
        if state is None:
            self.state.averages = {name: each.detach().clone() for name, each in codec.parameters.items()}
        else:
            _fill(codec.parameters, state.parameters)
            self._optimiser.load_state_dict(state.optimiser)

    def rounds(self) -> Iterator[State]:
        """Train until nothing gets better; what comes after each round can be kept."""
        while not self.state.is_done:
            self._round()
            yield self.state

    def _round(self) -> None:
        state, settings = self.state, self._settings
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + state.round)
        order = torch.randperm(len(self._train.tensors), generator=generator)
        if not state.round:
            self._begin()
        for batch in order.split(settings.batch)[: STEPS if self._codec.design.is_flat else MAP_STEPS]:  # type: ignore[no-untyped-call]
            self._step(batch, generator)
        state.round += 1
        state.parameters = {name: each.detach().clone() for name, each in self._codec.parameters.items()}
        self._judge()
        state.optimiser = self._optimiser.state_dict()

    def _begin(self) -> None:
        """As coarse as the budget allows, before anything is learned."""
        state, parameters = self.state, self._codec.parameters
        for gain in GAINS:
            with torch.no_grad():
                parameters["prior.scale"] += gain - parameters["gain"]
                parameters["gain"].fill_(gain)
            changed, bits = self._tried()
            if changed <= self._settings.budget * len(self._choose.tensors):
                break
        state.first_bits = max(1.0, bits)
        state.averages = {name: each.detach().clone() for name, each in parameters.items()}
        self._note(changed, bits)

    def _step(self, batch: torch.Tensor, generator: torch.Generator) -> None:
        tensors, answers = self._train.tensors[batch], self._train.answers[batch]
        latent = self._codec.whole(tensors)
        noise = torch.rand(latent.shape, generator=generator) - 0.5
        bits = self._codec.bits(latent + noise)
        made = self._codec.tensor(self._codec.rounded(latent))
        difference = self._codec.difference(made, tensors)
        share = bits.sum() / len(batch) / self.state.first_bits
        loss = distance(self._tail(made), answers) + TENSOR_WEIGHT * difference + self.state.bits_weight * share
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._codec.learned(is_fast=False), CLIP)
        self._optimiser.step()
        self.state.steps += 1
        kept = min(AVERAGED, self.state.steps / (self.state.steps + 10))  # less of where it began
        with torch.no_grad():
            for name, each in self._codec.parameters.items():
                self.state.averages[name].lerp_(each, 1 - kept)

    def _judge(self) -> None:
        """Try the running mean on the pictures that choose, and steer."""
        state, count = self.state, len(self._choose.tensors)
        _fill(self._codec.parameters, state.averages)
        changed, bits = self._tried()
        _fill(self._codec.parameters, state.parameters)
        is_within = changed <= self._settings.budget * count
        state.has_exceeded |= state.is_within and not is_within
        growth = GROWTH if state.has_exceeded else FIRST_GROWTH
        state.bits_weight *= growth if is_within else SHRINK
        if not self._note(changed, bits) and (state.has_exceeded or not is_within):
            state.stale += 1
        self._drop_rate()

    def _note(self, changed: int, bits: float) -> bool:
        """Keep the running mean where it is the best so far; returns whether it is."""
        state = self.state
        is_within = changed <= self._settings.budget * len(self._choose.tensors)
        if is_within:
            is_better = not state.is_within or bits < BETTER * state.bits
        else:
            is_better = not state.is_within and (changed < state.changed or not state.best)
        if is_better:
            state.bits, state.changed, state.is_within, state.stale = bits, changed, is_within, 0
            state.best = {name: each.clone() for name, each in state.averages.items()}
        return is_better

    def _drop_rate(self) -> None:
        state = self.state
        if state.stale >= self._settings.patience:
            state.stale, state.drops = 0, state.drops + 1
            for group in self._optimiser.param_groups:
                group["lr"] *= DROP
        state.is_done = state.drops > DROPS or state.round >= self._settings.max_rounds

    def _tried(self) -> tuple[int, float]:
        """How many answers change, and the bits of one tensor in the mean."""
        changed, bits = 0, 0.0
        with torch.inference_mode():
            for batch in torch.arange(len(self._choose.tensors)).split(self._settings.batch):  # type: ignore[no-untyped-call]
                latent = self._codec.rounded(self._codec.whole(self._choose.tensors[batch]))
                bits += float(self._codec.bits(latent).sum())
                answers = self._tail(self._codec.tensor(latent))
                changed += int((answers.argmax(1) != self._choose.answers[batch].argmax(1)).sum())
        return changed, bits / len(self._choose.tensors)

    def take_best(self) -> None:
        """The codec becomes the best that was tried."""
        _fill(self._codec.parameters, self.state.best)


def importance(tail: Tail, material: Material, batch: int, seed: int) -> torch.Tensor:
    """How much answers depend on each number of a tensor, relative to the mean, shape (1, ...): the Fisher information
    of classes that are drawn from what the network answers."""
    given = material.tensors[:LOOKED_AT].clone().requires_grad_(True)
    shares = functional.softmax(logits(material.answers[:LOOKED_AT]), 1)
    drawn = torch.multinomial(shares, 1, generator=torch.Generator().manual_seed(seed))[:, 0]
    with torch.enable_grad():
        parts = zip(given.split(batch), drawn.split(batch), strict=True)  # type: ignore[no-untyped-call]
        loss = torch.stack([functional.cross_entropy(logits(tail(x)), y, reduction="sum") for x, y in parts]).sum()
        (gradient,) = torch.autograd.grad(loss, given)
    energy = gradient.square().mean(0, keepdim=True)
    return energy / energy.mean().clamp_min(1e-30)


def distance(made: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """How far answers are from those of the network, as distributions over them, and whether the top is the same."""
    wanted = logits(answers)
    got = logits(made)
    return functional.kl_div(
        functional.log_softmax(got, 1), functional.log_softmax(wanted, 1), reduction="batchmean", log_target=True
    ) + functional.cross_entropy(got, answers.argmax(1))


def logits(answers: torch.Tensor) -> torch.Tensor:
    """Of answers that are shares of one already, their logarithm."""
    is_share = bool((answers >= 0).all()) and bool(((answers.sum(1) - 1).abs() < 1e-3).all())
    return answers.clamp_min(1e-12).log() if is_share else answers


def _fill(parameters: dict[str, torch.Tensor], values: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, each in parameters.items():
            each.copy_(values[name])


# --- checkpoints


def keep(path: Path, key: str, state: State) -> None:
    """Write a checkpoint. Raises UsageError where it cannot be written."""
    with writing(path), replaced(path) as temporary:
        torch.save({"key": key} | vars(state), temporary)


def find(path: Path, key: str) -> State | None:
    """The checkpoint of the same training, None where there is none. Raises UsageError for another file."""
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content.pop("key") != key or set(content) != set(vars(State())):
            return None
        return State(**content)
    except Exception:  # noqa: BLE001  torch.load has no error type of its own
        raise UsageError(f"{path} is no checkpoint, or damaged: remove it to begin anew") from None
