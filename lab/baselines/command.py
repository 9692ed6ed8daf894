"""The choices of the baselines from data on this machine: `python -m lab baselines`.

    python -m lab baselines -t alex_net --bandwidth 5mbit --emulate-cpu 0.3

DADS requires the saved profiles of both sides (deployment.py profile -t MODEL, or an earlier run of the programs), and
Neurosurgeon a survey, to which its regressions are fitted (deployment.py profile); the network is built, never run.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from edgecloud.cli import arguments, flags, script
from edgecloud.lab.baselines.inputs import Choice
from edgecloud.lab.baselines.loader import InputLoader, Sources
from edgecloud.lab.baselines.registry import BASELINES, baseline
from edgecloud.models.graph import LayerGraph
from edgecloud.predictor import store
from edgecloud.utils.names import typed
from edgecloud.utils.units import format_seconds, parse_rate


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
    names = tuple(BASELINES)
    parser.add_argument(
        "--accuracy-budget",
        type=arguments.percent,
        default="0%",
        metavar="SHARE",
        help="share of answers that a JPEG may change, such as 1%%",
    )
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

    baselines = [baseline(name) for name in options.names]
    sources = Sources(
        cache_dir=options.cache_dir or store.default_folder(),
        edge_survey=options.edge_survey or one_thread_survey(),
        cloud_survey=options.cloud_survey or datasets() / "cloud",
        edge_times=options.edge_times,
        cloud_times=options.cloud_times,
        weights=options.weights,
    )
    needs = {one.needs for one in baselines}
    inputs = InputLoader(sources).load(
        options.type,
        options.bandwidth,
        needs,
        cpu_share=options.emulate_cpu,
        load=options.load,
        accuracy_budget=options.accuracy_budget,
    )
    choices = [one.choose(inputs) for one in baselines]
    if options.json:
        rows = [_row(choice, inputs.graph) for choice in choices]
        script.say(json.dumps({"model": inputs.graph.name, "baselines": rows}))
    else:
        for choice in choices:
            script.say(_line(choice, inputs.graph, options.type))
    return 0


def _row(choice: Choice, graph: LayerGraph) -> dict[str, Any]:
    return {
        "who": choice.who,
        "point": choice.point,
        "boundary": [graph.layers[number].id for number in graph.boundary(choice.head)],
        "codec": choice.codec,
        "expected_s": choice.expected_s,
        "points": choice.points_text(graph),
    }


def _line(choice: Choice, graph: LayerGraph, model: str) -> str:
    expected = "" if choice.expected_s is None else f", expected {format_seconds(choice.expected_s)}"
    where = f"point {choice.point}" if choice.point is not None else f"{len(choice.head) - 1} layers on the edge"
    return (
        f"{choice.who:15} {where}, {choice.codec}{expected}: "
        f"{typed('edge_api.py')} -t {model} --points {choice.points_text(graph)}"
    )
