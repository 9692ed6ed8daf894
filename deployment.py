#!/usr/bin/env python3
"""Deployment: measure this device, fit predictors of what layers cost on it, say how good they are, and plan."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from partition.objectives import OBJECTIVES
from utils import arguments, cli, flags
from utils.units import parse_rate

if TYPE_CHECKING:
    from runtime.evaluation import Evaluation
    from runtime.measure import MeasuredNetwork
    from runtime.survey import Survey
    from runtime.whatif import Planned
    from utils.progress import Show

BUDGET = "90s"
ROLES = ("edge", "cloud")
DATASET = "a folder of .csv, an .xlsx or an .xls (default: what profile measured for the role)"


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = cli.Parser(
        "deployment.py",
        "Measure this device, fit predictors of what layers cost on it, and say how good they are. "
        "Without a command it does all three, in less than three minutes.",
    )
    _common(parser)
    _survey_flags(parser)
    parser.set_defaults(work=everything, is_fresh=False)
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    what = "Time single layers over many shapes, for predictors; or, with -t, every layer of one network in place."
    profile_flags = commands.add_parser("profile", help="measure layers, or one network", description=what)
    profile_flags.add_argument("-t", "--type", "--model", dest="type", metavar="MODEL", help=flags.MODELS)
    profile_flags.add_argument("--weights", default="default", metavar="SOURCE", help=flags.WEIGHTS)
    profile_flags.add_argument("--fresh", action="store_true", help="measure again even where times are known")
    profile_flags.add_argument("--csv", type=Path, metavar="FILE", help="with -t: write the table as CSV")
    profile_flags.add_argument("--excel", type=Path, metavar="FILE.xlsx", help="write a workbook with a chart")
    _common(profile_flags)
    _survey_flags(profile_flags)
    profile_flags.set_defaults(work=profile)
    what = "Fit one regression for each kind of layer, the best of several forms by cross-validation."
    fit_flags = commands.add_parser("fit", help="fit predictors to what was measured", description=what)
    _common(fit_flags)
    _dataset_flags(fit_flags)
    fit_flags.add_argument("--predictors", type=Path, metavar="FILE", help="where to (default: where edge_api looks)")
    fit_flags.set_defaults(work=fit)
    what = "How far predictions are off: for layers of networks set aside, and for real networks, measured here."
    evaluate_flags = commands.add_parser("evaluate", help="say how good predictors are", description=what)
    _common(evaluate_flags)
    _dataset_flags(evaluate_flags)
    evaluate_flags.add_argument(
        "--networks",
        type=arguments.names,
        default=("some",),
        metavar="A,B",
        help="some, many, none, or names of networks",
    )
    evaluate_flags.add_argument("--plots", type=Path, metavar="DIR", help="draw a scatter plot for each kind")
    evaluate_flags.set_defaults(work=evaluate)
    what = "Try how often the answer stays the same when the tensor at a cut is rounded to fewer bits."
    calibrate_flags = commands.add_parser("calibrate", help="try lossy codecs on pictures", description=what)
    _calibrate_flags(calibrate_flags)
    calibrate_flags.set_defaults(work=calibrate)
    what = (
        "Say where a network would be cut, for any link and load, from what was measured before. Nothing is connected "
        "to; how the network's tensors pack is tried once where an edge never did."
    )
    plan_flags = commands.add_parser("plan", help="say where a network would be cut", description=what)
    _plan_flags(plan_flags)
    plan_flags.set_defaults(work=plan)
    return parser


def _calibrate_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-t", "--type", "--model", dest="type", required=True, metavar="MODEL", help=flags.MODELS)
    parser.add_argument("--weights", default="default", metavar="SOURCE", help=flags.WEIGHTS)
    parser.add_argument(
        "--image-dir",
        type=Path,
        metavar="DIR",
        help="pictures (default: held-out digits, or crops of photographs)",
    )
    flags.add_device_flags(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def _plan_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    network = parser.add_argument_group("the network and its times")
    network.add_argument("-t", "--type", "--model", dest="type", metavar="MODEL", help=flags.MODELS)
    network.add_argument("--graph", type=Path, metavar="FILE.json", help="your own numbers instead: docs/planning.md")
    network.add_argument(
        "--edge-times",
        type=Path,
        metavar="FILE",
        help="a kept profile of the edge (default: the newest of this machine)",
    )
    network.add_argument("--cloud-times", type=Path, metavar="FILE", help="the same of the cloud")
    network.add_argument(
        "--emulate-cpu", type=arguments.share, default=1.0, metavar="SHARE", help="of the edge's times"
    )
    network.add_argument(
        "--codec",
        default="auto",
        metavar="NAME",
        help="how tensors are packed, as on the edge: raw, a codec, or auto, the best lossless one (default)",
    )
    network.add_argument("--cache-dir", type=Path, metavar="DIR", help="of kept profiles and packed sizes")
    link = parser.add_argument_group("the link and the cloud")
    rate = arguments.checked(parse_rate)
    link.add_argument("--bandwidth", type=rate, required=True, metavar="RATE", help="upload, such as 5mbit")
    link.add_argument("--download", type=rate, metavar="RATE", help="(default: the same as the upload)")
    link.add_argument("--rtt", type=arguments.wait, default="0ms", metavar="TIME", help="round trip, such as 20ms")
    link.add_argument(
        "--load", type=arguments.above_zero, default=1.0, metavar="X", help="times slower than an idle cloud"
    )
    link.add_argument(
        "--queue", type=arguments.wait, default="0ms", metavar="TIME", help="wait before the cloud begins"
    )
    goal = parser.add_argument_group("what is wanted")
    flags.add_goal_flags(goal, OBJECTIVES)
    flags.add_power_flags(goal)
    output = parser.add_argument_group("what is written")
    output.add_argument(
        "--map", type=Path, metavar="FILE.png", help="draw the best cut over bandwidth and load (or .svg)"
    )
    output.add_argument(
        "--plots", type=Path, metavar="DIR", help="draw that, the layers, the graph with its cut, the front"
    )
    output.add_argument(
        "--export", type=Path, metavar="FILE.json", help="write a file for --graph, to change and plan again"
    )


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--role", choices=ROLES, default="edge", help="which side this machine is")
    flags.add_device_flags(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def _survey_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--budget", type=arguments.duration, default=BUDGET, metavar="TIME", help="for measuring layers"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="for the rows (default: predictor/dataset/ROLE)")


def _dataset_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", type=Path, metavar="PATH", help=DATASET)


def profile(options: argparse.Namespace, progress: "Show") -> int:
    """Measure one network, or layers of many shapes."""
    if options.excel is not None:
        from utils import excel_utils

        excel_utils.check_name(options.excel)  # before minutes of measuring
    if options.type is not None:
        return profile_network(options, progress)
    found = measure_layers(options, progress, is_fresh=options.fresh)
    if options.excel is not None:
        from predictor import dataset
        from runtime.survey import write_excel

        write_excel(dataset.read(found.folder), options.excel)
    show_survey(found, as_json=options.json)
    return 0


def profile_network(options: argparse.Namespace, progress: "Show") -> int:
    """Measure, print, export."""
    from predictor.store import default_folder
    from runtime.measure import measure_network

    cache_dir = options.cache_dir or default_folder()
    where = (options.device, options.threads, cache_dir)
    measured = measure_network(options.type, options.weights, *where, progress, is_fresh=options.fresh)
    export(measured, options.csv, options.excel)
    show_network(measured, as_json=options.json)
    return 0


def measure_layers(options: argparse.Namespace, progress: "Show", *, is_fresh: bool) -> "Survey":
    """Fill the data set of this machine."""
    from runtime.survey import DATASETS, SurveyConfig, survey

    folder = options.output or DATASETS / options.role
    return survey(
        SurveyConfig(options.role, options.device, options.threads, options.budget, folder, is_fresh), progress
    )


def fit(options: argparse.Namespace, progress: "Show") -> int:
    """Fit and save."""
    from runtime import evaluation

    found = evaluation.fit(dataset_of(options), progress)
    path = options.predictors or predictors_of(options)
    evaluation.keep(found, path)
    show_evaluation(found, as_json=options.json, lines=[f"saved  {path}, fitted in {found.fit_s:.1f} s"])
    return 0


def evaluate(options: argparse.Namespace, progress: "Show") -> int:
    """Test on layers and on networks."""
    from runtime import evaluation

    found = evaluation.fit(dataset_of(options), progress)
    found = with_networks(found, options, options.networks, progress)
    pictures = [] if options.plots is None else evaluation.draw(found, options.plots)
    lines = [f"plots  {len(pictures)} pictures in {options.plots}"] if pictures else []
    show_evaluation(found, as_json=options.json, lines=lines)
    return 0


def everything(options: argparse.Namespace, progress: "Show") -> int:
    """Profile, fit, and evaluate with what serves most people."""
    from runtime import evaluation

    surveyed = measure_layers(options, progress, is_fresh=False)
    found = evaluation.fit(surveyed.folder, progress)
    path = predictors_of(options)
    evaluation.keep(found, path)
    found = with_networks(found, options, ("some",), progress)
    pictures = evaluation.draw(found, path.parent / f"{options.role}-plots")
    lines = [f"saved  {path}", f"plots  {len(pictures)} pictures in {pictures[0].parent}"]
    show_evaluation(found, as_json=options.json, lines=lines)
    return 0


def calibrate(options: argparse.Namespace, progress: "Show") -> int:
    """Try, keep, show."""
    from predictor.store import default_folder
    from runtime import calibration

    where = (options.device, options.threads, options.image_dir)
    found = calibration.calibrate(options.type, options.weights, *where, progress)
    path = calibration.keep(options.cache_dir or default_folder(), found)
    if options.json:
        print(json.dumps(calibration.to_json(found)))
        return 0
    cli.show(lambda console: console.print(calibration.to_table(found)))
    print(f"saved  {path}")
    return 0


def plan(options: argparse.Namespace, progress: "Show") -> int:
    """Decide, show, draw."""
    from partition.decide import goal_of
    from predictor.store import default_folder
    from runtime.whatif import PlanConfig, export
    from runtime.whatif import plan as make_plan

    config = PlanConfig(
        model=options.type,
        graph_file=options.graph,
        cache_dir=options.cache_dir or default_folder(),
        up_bytes_per_s=options.bandwidth,
        down_bytes_per_s=options.download,
        rtt_s=options.rtt,
        load=options.load,
        queue_s=options.queue,
        edge_times=options.edge_times,
        cloud_times=options.cloud_times,
        cpu_share=options.emulate_cpu,
        goal=goal_of(options),
        power=options.power,
        radio=options.radio,
        codec=options.codec,
    )
    planned = make_plan(config, progress)
    if options.export is not None:
        export(planned, options.export)
    pictures = draw_plan(planned, options.map, options.plots, progress)
    show_plan(planned, as_json=options.json, lines=[f"drawn  {path}" for path in pictures])
    return 0


def draw_plan(planned: "Planned", map_path: Path | None, folder: Path | None, progress: "Show") -> list[Path]:
    """The pictures that were asked for."""
    if map_path is None and folder is None:
        return []
    from runtime import pictures

    progress("drawing", 0.0)
    drawn = [] if folder is None else pictures.draw_all(planned, folder)
    if map_path is not None:
        pictures.map_picture(planned, map_path)
        drawn.append(map_path)
    return drawn


def dataset_of(options: argparse.Namespace) -> Path:
    """The data set that was named, or the role's own. Raises UsageError where there is none."""
    from runtime.survey import DATASETS
    from utils.errors import UsageError

    path: Path = options.dataset or DATASETS / options.role
    if not path.exists():
        raise UsageError(f"there is no data set {path}: deployment.py profile --role {options.role} makes one")
    return path


def predictors_of(options: argparse.Namespace) -> Path:
    """Where edge_api.py and cloud_api.py look for predictors."""
    from predictor.store import default_folder
    from runtime.times import predictors_path

    return predictors_path(options.cache_dir or default_folder(), options.role)


def with_networks(
    found: "Evaluation", options: argparse.Namespace, names: Sequence[str], progress: "Show"
) -> "Evaluation":
    """Real networks too; `some` and `many` are lists of ours."""
    from predictor.store import default_folder
    from runtime.evaluation import MANY_NETWORKS, NETWORKS, evaluate_networks

    lists: dict[tuple[str, ...], tuple[str, ...]] = {("some",): NETWORKS, ("many",): MANY_NETWORKS, ("none",): ()}
    wanted = lists.get(tuple(names), tuple(names))
    cache_dir = options.cache_dir or default_folder()
    return evaluate_networks(found, wanted, options.device, options.threads, cache_dir, progress) if wanted else found


def export(measured: "MeasuredNetwork", csv: Path | None, excel: Path | None) -> None:
    """Write the files that were asked for."""
    from runtime import measure

    if csv is not None:
        measure.write_csv(measured, csv)
    if excel is not None:
        measure.write_excel(measured, excel)


def show_network(measured: "MeasuredNetwork", *, as_json: bool) -> None:
    """The table, to stdout."""
    from runtime import measure

    if as_json:
        print(json.dumps(measure.to_json(measured)))
    else:
        cli.show(lambda console: console.print(measure.to_table(measured)))


def show_survey(found: "Survey", *, as_json: bool) -> None:
    """What was measured, to stdout."""
    from runtime import survey

    document = survey.to_json(found)
    if as_json:
        print(json.dumps(document))
        return
    print(f"{sum(document['kinds'].values())} layers of {document['networks']} networks in {found.folder}")
    print(f"on {found.machine}, {document['spent_s']:.0f} s spent")
    print(", ".join(f"{kind} {rows}" for kind, rows in document["kinds"].items()))


def show_evaluation(found: "Evaluation", *, as_json: bool, lines: Sequence[str]) -> None:
    """Tables, to stdout."""
    from runtime import evaluation

    if as_json:
        print(json.dumps(evaluation.to_json(found)))
        return
    cli.show(lambda console: console.print(evaluation.kinds_table(found), "", evaluation.forms_table(found)))
    if found.networks:
        cli.show(lambda console: console.print(evaluation.networks_table(found)))
    else:
        print(f"\nnetworks: {found.why_no_networks}")
    print("\n".join([*evaluation.gap_lines(found), *lines]))


def show_plan(planned: "Planned", *, as_json: bool, lines: Sequence[str]) -> None:
    """The plan, to stdout."""
    from runtime import plan_report

    if as_json:
        print(json.dumps(plan_report.to_json(planned)))
        return
    cli.show(lambda console: plan_report.show(planned, console))
    if lines:
        print("\n".join(["", *lines]))


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run; returns the exit code."""
    options = build_parser().parse_args(argv)
    return cli.run("deployment.py", lambda: with_progress(options.work, options), options)


def with_progress(work: Callable[[argparse.Namespace, "Show"], int], options: argparse.Namespace) -> int:
    """Show on the terminal how far it is."""
    from utils.progress import on_terminal

    with on_terminal() as progress:
        return work(options, progress)


if __name__ == "__main__":
    sys.exit(main())
