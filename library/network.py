"""Networks as the library hands them about: `load`, and the `Network` that it returns."""

import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from edgecloud.library.tensors import Array, Given, Tensors, as_given, resized_specs
from edgecloud.models import inputs, network, registry
from edgecloud.models.graph import Layer, LayerGraph
from edgecloud.models.inputs import InputSpec
from edgecloud.models.network import DEFAULT
from edgecloud.utils.errors import UsageError
from edgecloud.utils.extras import require_torch
from edgecloud.utils.inference_utils import CPU, check_device

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgecloud.tools.plan_bytes import Counted
    from edgecloud.tools.whatif import PlanConfig

Loadable: TypeAlias = "str | Path | tuple[nn.Module, Any] | Network"
"""A name, a file, a module with an example of its inputs, or a network that is loaded."""

_CAPTURING = threading.Lock()
"""To capture a graph changes torch's own classes while it lasts."""


@dataclass(frozen=True, eq=False)
class Network:
    """A network that is ready to be cut: made by `load`, used by `Edge`, `Cloud`, `profile` and `plan`.

    Call it to run the whole network here, in one piece: what every answer of an `Edge` is to equal. Any number of
    threads may use one, and several edges and clouds may share it: nothing of it changes.

    >>> import edgecloud as ec
    >>> net = ec.load("le_net")
    >>> net.name, net.input_shape, len(net.layers)
    ('le_net', (1, 1, 28, 28), 12)
    >>> [output.shape for output in net(net.sample)]
    [(1, 10)]
    """

    _entry: registry.Entry = field(repr=False)
    _network: network.Network = field(repr=False)
    name: str
    """What both sides call it."""
    is_module: bool = False
    """Whether it was given as (module, example_input)."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of an input, with the batch axis. Raises UsageError for a network of several: `inputs` has each."""
        if len(self.inputs) > 1:
            raise UsageError(f"{self.name} has {len(self.inputs)} inputs: net.inputs has the shape of each")
        return self.inputs[0].shape

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """What it takes: `name`, `shape` and `dtype` of every input, in order."""
        return self._entry.input_specs

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers in program order, without the inputs: `id`, `kind`, `out_shape`, `out_bytes` of each."""
        return self.graph.layers[len(self.graph.inputs) :]

    @property
    def graph(self) -> LayerGraph:
        """The layers, the inputs first, and how they are joined."""
        return self._network.graph

    @property
    def labels(self) -> tuple[str, ...]:
        """What the classes of the answer are called; empty where nobody knows."""
        return self._entry.labels

    @property
    def is_trained(self) -> bool:
        """Whether its weights were learnt; False for those that are drawn from a seed."""
        return self._network.weights.trained

    @property
    def sample(self) -> Any:
        """An input to try it with, new each time: an array of `input_shape`, or for a network that takes something else
        what it takes by name: `edge(**net.sample)`."""
        return self._given([array.copy() for array in self._network.example.arrays])

    def _given(self, arrays: Sequence[Array]) -> Any:
        call = self._entry.call
        return arrays[0] if call.is_one else call.form.build(arrays)

    @property
    def made(self) -> network.Network:
        """What the packages below take: the module, its graph, and an input."""
        return self._network

    def made_for(self, device: str) -> network.Network:
        """The network for an executor on a device. Not on the processor it is a copy, since it is moved there."""
        check_device(device)
        if device == CPU:
            return self._network
        with _CAPTURING:
            return self._network.copied()

    def counted(self, config: "PlanConfig") -> "Counted":
        """How its tensors may travel, for a plan: tried on the sample the first time. Raises UsageError."""
        from edgecloud.engine.packing import check_codec, packing_of
        from edgecloud.tools.plan_bytes import Counted, policy_for

        check_codec(config.codec)
        names = (self.graph.name, self.graph.digest, self._network.weights.digest)
        policy = policy_for(*names, config.cache_dir, config.packing)
        costs = packing_of(self._network, policy, config.cache_dir)
        return Counted("measured", "", policy.allowed(self.graph, costs, config.cpu_share))

    @property
    def entry(self) -> registry.Entry:
        """How it is built and fed."""
        return self._entry

    def read(self, what: str | Path) -> Any:
        """A picture, a .wav, .npy or .npz file, or for networks that take one a sentence, as `sample` is.

        It goes through the network's own preprocessing. Raises UsageError for a file that does not serve.
        """
        entry, path = self._entry, Path(what)
        if entry.takes == inputs.SENTENCE and path.suffix not in (".npy", ".npz"):
            sample = inputs.from_text(str(what), entry.preprocess)
        elif path.suffix in (".npy", ".npz"):
            sample = inputs.from_array(path, entry.input_sources)
        else:
            kind = inputs.SPEECH if path.suffix.lower() == ".wav" else inputs.PICTURE
            sample = inputs.read(self.name, entry.takes, kind, path, entry.preprocess)
        return self._given(sample.arrays)

    @overload
    def __call__(self, *args: "torch.Tensor", **kwargs: "torch.Tensor") -> "tuple[torch.Tensor, ...]": ...
    @overload
    def __call__(self, *args: Array, **kwargs: Array) -> tuple[Array, ...]: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Tensors:
        """The whole network's answer to its inputs, by position or by name: one array (or tensor, as they are) for each
        output.

        Inputs may have other sizes than those that it was captured for. Raises UsageError where it does not take them,
        for an input of another dtype, and for one with NaN or infinity.
        """
        specs = self.resized_specs(args, kwargs)
        given = self.given(args, kwargs, specs)
        try:
            return as_given(self._network.whole(given.fed), given)
        except RuntimeError as error:  # torch, of sizes that do not fit
            if specs is None:
                raise
            raise _does_not_fit(self.name, specs, error) from None

    def given(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], specs: tuple[InputSpec, ...] | None = None
    ) -> Given:
        """What a caller gave, as the network takes it, or as one of other `specs` does. Raises UsageError."""
        return Given.of(args, kwargs, self._entry if specs is None else replace(self._entry, own_inputs=specs))

    def resized_specs(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[InputSpec, ...] | None:
        """What it would have to take for inputs of other sizes than it was captured for; None where it need not be
        another, or where it is data that cannot be captured again."""
        return None if self._entry.bundle is not None else resized_specs(args, kwargs, self._entry)

    def resized(self, given: Given) -> "Network":
        """The same network, with the same parameters, captured for inputs of other sizes, with these as the example.

        Raises UsageError where it does not take them, or cannot be captured with them.
        """
        from edgecloud.models import building
        from edgecloud.models.torch_network import TorchNetwork, prepare

        made = self._network
        assert isinstance(made, TorchNetwork)  # only data is something else
        arrays = tuple(array.copy() for array in inputs.arrays_of(given.fed))
        example = inputs.Input(arrays if len(arrays) > 1 else arrays[0], "example")
        with _CAPTURING, building.seeded():
            network = prepare(made.loaded, example, made.graph.name, made.call)
        return replace(self, _entry=self._entry.resized(example), _network=network)

    @property
    def output_names(self) -> tuple[str, ...]:
        """What every output is called: the keys, names or numbers that lead to it in the answer, with dots between
        them; nothing for one that stands alone."""
        return self._network.answer.names

    def value(self, outputs: Tensors) -> Any:
        """Outputs in the structure that the network itself answers: its tuples, dicts and dataclasses."""
        return self._network.answer.build(outputs)


def _does_not_fit(name: str, specs: Sequence[InputSpec], error: Exception) -> UsageError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    sizes = ", ".join(str(spec.shape) for spec in specs)
    return UsageError(f"{name} does not take inputs of {sizes}: {reason}")


def load(
    what: "Loadable | nn.Module",
    example: Any = None,
    *,
    weights: str | Path = DEFAULT,
    name: str | None = None,
) -> Network:
    """Load a network and find its layers.

    `what` is a name of the registry (`alex_net`, `mobile_net`, `le_net`, ..., `torchvision:resnet18`), a FILE.py with
    one function (docs/networks.md), which is run, a FILE.onnx[:SIZES] or a FILE.bundle, which are data, or a torch
    module of your own with an example of its inputs: `(module, x)`, or the two as arguments. `x` is a tensor or an
    array, a tuple of what it takes by position, or a dict of what it takes by name. The module is copied, so yours is
    left as it is; it is run in eval mode on inputs of the shapes and dtypes of `x`. `name` is what both sides call such
    a network; else its class is.

    `weights` are `default` (trained where there are such, else drawn from a seed, the same on every machine),
    `imagenet`, or a file of weights for a network of the registry or a FILE.py.

    Loads wait for each other. While one lasts no other thread should run torch modules: torch changes its classes to
    follow what a network does.

    Raises UsageError for a name or a file that there is not, for a network that cannot be captured as a graph of
    layers, and for settings that do not go together; MismatchError for weights of another network.

    >>> import edgecloud as ec, torch
    >>> net = ec.load((torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU()), torch.zeros(1, 8)), name="tiny")
    >>> [layer.kind for layer in net.layers]
    ['Linear', 'ReLU']
    """
    if isinstance(what, Network):
        return what
    if example is not None:
        return _of_module((what, example), str(weights), name)
    if isinstance(what, tuple):
        return _of_module(what, str(weights), name)
    if name is not None:
        raise UsageError("a name is given to (module, example_input) only: others have one")
    if isinstance(what, str | Path):
        return _named(str(what), str(weights))
    kind = type(what).__name__
    raise UsageError(f"a network is a name, FILE.py or (module, example_input), not {kind}")


def _named(what: str, source: str) -> Network:
    with _CAPTURING, nullcontext() if registry.file_of_data(what) else _seeded(what):
        entry = registry.resolve_trusted(what)
        return Network(entry, entry.network(source), entry.name)


def _seeded(what: str) -> AbstractContextManager[object]:
    """What is drawn meanwhile is not the caller's. Raises MissingTorchError where torch is not installed."""
    require_torch(what)
    from edgecloud.models import building

    return building.seeded()


def _of_module(what: Sequence[Any], source: str, name: str | None) -> Network:
    from edgecloud.models import building, given_module
    from edgecloud.models.torch_network import prepare

    if len(what) != 2:
        raise UsageError(f"a network of your own is (module, example_input): two things, not {len(what)}")
    if source != DEFAULT:
        raise UsageError("the module holds its weights: load them into it, and leave `weights` out")
    with _CAPTURING, building.seeded():
        entry, loaded = given_module.read(what[0], what[1], name)
        example = entry.default_input()
        return Network(entry, prepare(loaded, example, entry.name, entry.call), entry.name, is_module=True)


def all_loaded(networks: Sequence[Loadable]) -> list[Network]:
    """Each of them loaded, once. Raises what `load` raises, and UsageError for two of one name."""
    if isinstance(networks, str | Path | Network) or not networks:
        raise UsageError("networks is a list of networks, with at least one in it")
    loaded = [load(each) for each in networks]
    names = [each.name for each in loaded]
    for one in names:
        if names.count(one) > 1:
            raise UsageError(f"two networks are called {one}: give ec.load(...) another name")
    return loaded
