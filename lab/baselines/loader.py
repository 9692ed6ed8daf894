"""Loads what the baselines need to know of a network: its graph, and its saved times or fitted regressions.

The network is built, never run. Saved times are profiles that both sides have cached (deployment.py profile -t MODEL,
or an earlier run of the programs); regressions are fitted here to a survey (deployment.py profile).
"""

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from edgecloud.lab.baselines.inputs import BaselineInputs, CellInfo, Needs, Sides
from edgecloud.models.graph import INPUT
from edgecloud.predictor import store
from edgecloud.predictor.store import StoredProfile
from edgecloud.utils.errors import MismatchError, UsageError

if TYPE_CHECKING:
    from edgecloud.models.graph import LayerGraph
    from edgecloud.predictor.features import Described
    from edgecloud.predictor.latency import Predictors


@dataclass(frozen=True)
class Sources:
    """Where the numbers of a model come from. Folders of a survey are as deployment.py profile --role writes them."""

    cache_dir: Path
    edge_survey: Path
    cloud_survey: Path
    """That of the edge serves where it does not exist: then the cloud is a machine like the edge."""
    edge_times: Path | None = None
    """A kept profile; None is the newest that fits."""
    cloud_times: Path | None = None
    weights: str = "default"


@dataclass
class InputLoader:
    """What baselines need to know of networks. Networks and fitted regressions are kept."""

    sources: Sources
    _layers: "dict[str, tuple[LayerGraph, tuple[Described, ...]]]" = field(default_factory=dict)
    _digests: dict[str, str] = field(default_factory=dict)
    """Of the weights of these networks."""
    _fits: "dict[Path, Predictors]" = field(default_factory=dict)

    def load(
        self,
        model: str,
        up_bytes_per_s: float,
        needs: Collection[Needs],
        cpu_share: float | None = None,
        load: float = 1.0,
        accuracy_budget: float = 0.0,
    ) -> BaselineInputs:
        """The inputs of baselines with these needs. `cpu_share` is the share of a core that the edge has; None is all
        of it. `load` is how many times slower than idle the cloud is. Lossy codecs may change `accuracy_budget` of the
        answers.

        Raises UsageError where times or a survey are missing, MismatchError where given times are another network's.
        """
        graph, layers = self.network(model)
        measured = self._measured(model, graph, cpu_share) if Needs.MEASURED in needs else None
        regressed = self._regressed(layers, cpu_share or 1.0) if Needs.REGRESSED in needs else None
        of_input = self._of_input(model, graph, accuracy_budget) if Needs.CALIBRATED in needs else frozenset()
        return BaselineInputs(graph, up_bytes_per_s, measured, regressed, load, of_input)

    def network(self, model: str) -> "tuple[LayerGraph, tuple[Described, ...]]":
        """The layers of a network: as a graph, and as regressions see them."""
        if model not in self._layers:
            from edgecloud.engine.times import described
            from edgecloud.models import registry

            network = registry.resolve_trusted(model).network(self.sources.weights)
            self._layers[model] = network.graph, described(network)
            self._digests[model] = network.weights.digest
        return self._layers[model]

    def _of_input(self, model: str, graph: "LayerGraph", budget: float) -> frozenset[str]:
        """The lossy codecs that a kept calibration finds within a budget for the input; none without one."""
        if budget <= 0:
            return frozenset()
        from edgecloud.engine import calibration

        kept = calibration.find_of(self.sources.cache_dir, graph.name, graph.digest, self._digests[model])
        return frozenset(() if kept is None else kept.within(budget).get(graph.layers[INPUT].id, ()))

    def _measured(self, model: str, graph: "LayerGraph", cpu_share: float | None) -> Sides:
        sources = self.sources
        clock = "wall" if cpu_share is None else "work"  # what an edge with a share of a core measures by
        profiles = [each for each in _readable(sources.cache_dir, graph.name) if each.profile.key.graph == graph.digest]
        edge = _file(sources.edge_times) or next((each for each in profiles if each.profile.key.clock == clock), None)
        edge = edge or next(iter(profiles), None)
        cloud = _file(sources.cloud_times) or next((each for each in profiles if each.profile.tails), None)
        cloud = cloud or next((each for each in profiles if each.profile.key.clock == "wall"), None)
        if edge is None or cloud is None:
            raise UsageError(
                f"no saved times of {model} in {sources.cache_dir}: run deployment.py profile -t {model}, or "
                "edge_api.py --times measured"
            )
        if {edge.profile.key.graph, cloud.profile.key.graph} != {graph.digest}:
            raise MismatchError(f"a given profile is for another network than {model}")
        return Sides([seconds / (cpu_share or 1.0) for seconds in edge.profile.seconds], cloud.profile.seconds)

    def _regressed(self, layers: "Sequence[Described]", share: float) -> Sides:
        sources = self.sources
        other = sources.cloud_survey if sources.cloud_survey.exists() else sources.edge_survey
        edge_s, cloud_s = (self._fit(folder).layers(layers)[0].tolist() for folder in (sources.edge_survey, other))
        return Sides([0.0, *(seconds / share for seconds in edge_s)], [0.0, *cloud_s])

    def _fit(self, folder: Path) -> "Predictors":
        """Neurosurgeon's regressions of a survey: for each kind the better of its two forms."""
        if folder not in self._fits:
            from edgecloud.predictor import dataset
            from edgecloud.predictor.latency import combine
            from edgecloud.predictor.regressors import AS_PUBLISHED
            from edgecloud.predictor.train import fit_all

            if not folder.exists():
                raise UsageError(f"no survey {folder}: run deployment.py profile")
            survey = dataset.read(folder)
            self._fits[folder] = combine(fit_all(survey, forms=AS_PUBLISHED), survey.machine, ())
        return self._fits[folder]


def _readable(cache_dir: Path, model: str) -> list[StoredProfile]:
    """Profiles that can be read, the newest first; older versions of the program leave some that cannot."""
    profiles = []
    for path in store.profile_paths(cache_dir, model):
        with contextlib.suppress(UsageError):
            profiles.append(store.read(path))
    return profiles


def _file(path: Path | None) -> StoredProfile | None:
    return None if path is None else store.read(path)


@cache
def _loader(cache_dir: Path) -> InputLoader:
    """One for all cells of an experiment: networks are built, and regressions fitted, once."""
    from edgecloud.tools.survey import datasets, one_thread_survey

    return InputLoader(Sources(cache_dir, one_thread_survey(), datasets() / "cloud"))


def of_cell(cell: CellInfo, needs: Collection[Needs]) -> BaselineInputs:
    """The inputs in a cell of an experiment; raises what InputLoader.load does."""
    load = _loader(cell.cache_dir).load
    return load(cell.model, cell.up_bytes_per_s, needs, cell.cpu, accuracy_budget=cell.accuracy_budget)
