"""The choices of the baselines from data on this machine: `python -m lab baselines`.

    python -m lab baselines -t alex_net --bandwidth 5mbit --emulate-cpu 0.3

DADS takes the kept profiles of both sides (deployment.py profile -t MODEL, or an earlier run of the programs), and
Neurosurgeon regressions that are fitted here to the survey (deployment.py profile); the network is built, never run.
"""

import argparse
import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from edgecloud.cli import arguments, flags, script
from edgecloud.lab.choices import FIXED, PUBLISHED
from edgecloud.predictor import store
from edgecloud.predictor.store import Kept
from edgecloud.utils.errors import MismatchError, UsageError
from edgecloud.utils.names import typed
from edgecloud.utils.units import format_seconds, parse_rate

if TYPE_CHECKING:
    from edgecloud.lab.baselines import Choice, Sides
    from edgecloud.models.graph import LayerGraph
    from edgecloud.predictor.features import Described
    from edgecloud.predictor.latency import Predictors

NEEDS_TIMES, NEEDS_A_SURVEY = "dads", "neurosurgeon"


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
class Chooser:
    """Given what a model costs on either side, says what baselines do on a link. Networks and fits are kept."""

    sources: Sources
    _layers: "dict[str, tuple[LayerGraph, tuple[Described, ...]]]" = field(default_factory=dict)
    _fits: "dict[Path, Predictors]" = field(default_factory=dict)

    def choose(
        self, names: Sequence[str], model: str, up_bytes_per_s: float, cpu_share: float | None = None, load: float = 1.0
    ) -> "list[Choice]":
        """One choice for each name. `cpu_share` is the share of a core that the edge has; None is all of it.

        Raises UsageError for a name that there is not, or where times or a survey are missing.
        """
        from edgecloud.lab.baselines import BaselineInputs, choose  # and with it numpy and a solver

        graph, layers = self.network(model)
        share = cpu_share or 1.0
        measured = self._measured(model, graph, cpu_share) if NEEDS_TIMES in names else None
        regressed = self._regressed(layers, share) if NEEDS_A_SURVEY in names else None
        inputs = BaselineInputs(graph, up_bytes_per_s, measured, regressed, load)
        return [choose(name, inputs) for name in names]

    def network(self, model: str) -> "tuple[LayerGraph, tuple[Described, ...]]":
        """The layers of a network: as a graph, and as regressions see them."""
        if model not in self._layers:
            from edgecloud.engine.times import described
            from edgecloud.models import registry

            network = registry.resolve_trusted(model).network(self.sources.weights)
            self._layers[model] = network.graph, described(network)
        return self._layers[model]

    def _measured(self, model: str, graph: "LayerGraph", cpu_share: float | None) -> "Sides":
        from edgecloud.lab.baselines import Sides

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

    def _regressed(self, layers: "Sequence[Described]", share: float) -> "Sides":
        from edgecloud.lab.baselines import Sides

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


def _readable(cache_dir: Path, model: str) -> list[Kept]:
    """Profiles that can be read, the newest first; older versions of the program leave some that cannot."""
    profiles = []
    for path in store.kept(cache_dir, model):
        with contextlib.suppress(UsageError):
            profiles.append(store.read(path))
    return profiles


def _file(path: Path | None) -> Kept | None:
    return None if path is None else store.read(path)


@cache
def _chooser(cache_dir: Path) -> Chooser:
    """One for all cells of a lab: networks are built, and regressions fitted, once."""
    from edgecloud.tools.survey import datasets, one_thread_survey

    return Chooser(Sources(cache_dir, one_thread_survey(), datasets() / "cloud"))


def chosen(name: str, model: str, up_bytes_per_s: float, cache_dir: Path, cpu: float | None, load: float = 1.0) -> str:
    """What a baseline chooses in a cell, as `edge_api.py --points` takes it; raises what Chooser.choose does."""
    chooser = _chooser(cache_dir)
    (choice,) = chooser.choose([name], model, up_bytes_per_s, cpu, load)
    return choice.points_text(chooser.network(model)[0])


# --- the command


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Those of `python -m lab baselines`."""
    parser.add_argument("-t", "--type", metavar="MODEL", required=True, help=flags.MODELS)
    parser.add_argument("--weights", default="default", metavar="SOURCE", help=flags.WEIGHTS)
    parser.add_argument(
        "--bandwidth", type=arguments.checked(parse_rate), required=True, metavar="RATE", help="upload rate"
    )
    parser.add_argument("--emulate-cpu", type=arguments.share, metavar="SHARE", help="edge CPU share of one core")
    parser.add_argument(
        "--load", type=arguments.above_zero, default=1.0, metavar="K", help="cloud load: slowdown relative to idle"
    )
    names = (*FIXED, *PUBLISHED)
    parser.add_argument("--names", type=arguments.names, default=names, metavar="A,B", help=", ".join(names))
    parser.add_argument(
        "--edge-survey",
        type=Path,
        metavar="DIR",
        help="survey of the edge (default: what deployment.py profile measured for an edge)",
    )
    parser.add_argument(
        "--cloud-survey",
        type=Path,
        metavar="DIR",
        help="survey of the cloud (default: that of a cloud, otherwise of an edge)",
    )
    parser.add_argument(
        "--edge-times", type=Path, metavar="FILE", help="saved profile of the edge (default: the newest that fits)"
    )
    parser.add_argument(
        "--cloud-times", type=Path, metavar="FILE", help="saved profile of the cloud (default: the newest that fits)"
    )
    parser.add_argument(
        "--cache-dir", type=Path, metavar="DIR", help="cache of saved profiles (default: the XDG cache directory)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def main(options: argparse.Namespace) -> int:
    """Choose and print."""
    from edgecloud.tools.survey import datasets, one_thread_survey

    sources = Sources(
        cache_dir=options.cache_dir or store.default_folder(),
        edge_survey=options.edge_survey or one_thread_survey(),
        cloud_survey=options.cloud_survey or datasets() / "cloud",
        edge_times=options.edge_times,
        cloud_times=options.cloud_times,
        weights=options.weights,
    )
    chooser = Chooser(sources)
    choices = chooser.choose(options.names, options.type, options.bandwidth, options.emulate_cpu, options.load)
    graph, _ = chooser.network(options.type)
    rows = [
        {
            "who": choice.who,
            "point": choice.point,
            "boundary": [graph.layers[number].id for number in graph.boundary(choice.head)],
            "codec": choice.codec,
            "expected_s": choice.expected_s,
            "points": choice.points_text(graph),
        }
        for choice in choices
    ]
    if options.json:
        script.say(json.dumps({"model": graph.name, "baselines": rows}))
        return 0
    for choice, row in zip(choices, rows, strict=True):
        expected = "" if choice.expected_s is None else f", expected {format_seconds(choice.expected_s)}"
        where = f"point {choice.point}" if choice.point is not None else f"{len(choice.head) - 1} layers on the edge"
        script.say(
            f"{choice.who:15} {where}, {choice.codec}{expected}: "
            f"{typed('edge_api.py')} -t {options.type} --points {row['points']}"
        )
    return 0
