#!/usr/bin/env python3
"""Deployment: measure this device, fit and evaluate predictors of layer times, and plan."""

import os
import sys

if __name__ == "__main__":  # before what takes longer: also with python -I, and with Ctrl-C at any moment
    if not __package__:  # as a file; with -m, python has found the package
        sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120  pathlib takes its time
    from edgecloud.cli import start

    start.begin()

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgecloud.cli import arguments, flags, script
from edgecloud.partition.objectives import OBJECTIVES
from edgecloud.utils import extras
from edgecloud.utils.units import parse_rate

if TYPE_CHECKING:
    from edgecloud.tools.evaluation import Evaluation
    from edgecloud.tools.measure import MeasuredNetwork
    from edgecloud.tools.survey import Survey
    from edgecloud.tools.whatif import Planned
    from edgecloud.utils.progress import Show

BUDGET = "100s"
ROLES = ("edge", "cloud")
ROWS = "directory of the measured layers (default: predictor/dataset/ROLE, or in the cache directory if installed)"
DATASET = "directory of .csv files, or an .xlsx or .xls file (default: the survey of the role)"


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = script.Parser(
        "deployment.py",
        "Measure this device, fit latency predictors for its layers, and evaluate them. "
        "Without a command it does all three, in less than three minutes.",
    )
    _common(parser)
    _survey_flags(parser)
    _force_flag(parser)
    parser.set_defaults(work=everything, is_fresh=False)
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    what = "Measure single layers in many shapes, to fit predictors; or, with -t, every layer of one network in place."
    profile_flags = commands.add_parser("profile", help="measure layers or one network", description=what)
    profile_flags.add_argument("-t", "--type", "--model", dest="type", metavar="MODEL", help=flags.MODELS)
    profile_flags.add_argument("--weights", default="default", metavar="SOURCE", help=flags.WEIGHTS)
    profile_flags.add_argument("--fresh", action="store_true", help="measure again even if times are cached")
    profile_flags.add_argument("--csv", type=Path, metavar="FILE", help="with -t: write the table as CSV")
    profile_flags.add_argument("--excel", type=Path, metavar="FILE.xlsx", help="write a workbook with a chart")
    _common(profile_flags)
    _survey_flags(profile_flags)
    profile_flags.set_defaults(work=profile)
    what = "Fit one regression per layer kind; cross-validation chooses the model."
    fit_flags = commands.add_parser("fit", help="fit predictors to measured layers", description=what)
    _common(fit_flags)
    _dataset_flags(fit_flags)
    fit_flags.add_argument(
        "--predictors", type=Path, metavar="FILE", help="output file (default: where edge_api.py looks for it)"
    )
    _force_flag(fit_flags)
    fit_flags.set_defaults(work=fit)
    what = "Report prediction errors for layers of held-out networks, and for real networks measured on this machine."
    evaluate_flags = commands.add_parser("evaluate", help="report the accuracy of predictors", description=what)
    _common(evaluate_flags)
    _dataset_flags(evaluate_flags)
    evaluate_flags.add_argument(
        "--networks",
        type=arguments.names,
        default="some",
        metavar="A,B",
        help="networks to measure: some, many, none, or names",
    )
    evaluate_flags.add_argument("--plots", type=Path, metavar="DIR", help="draw a scatter plot per layer kind")
    evaluate_flags.set_defaults(work=evaluate)
    what = "Measure how often the answer changes when the tensor at a cut is rounded to fewer bits."
    calibrate_flags = commands.add_parser(
        "calibrate", help="measure the accuracy of lossy codecs on images", description=what
    )
    _calibrate_flags(calibrate_flags)
    calibrate_flags.set_defaults(work=calibrate)
    _add_plan(commands)
    _add_export(commands)
    _add_bottleneck(commands)
    return parser


def _add_plan(commands: "argparse._SubParsersAction[script.Parser]") -> None:
    what = (
        "Compute the best cut of a network for any link and load from saved measurements, without connecting to a "
        "cloud. Packed tensor sizes are measured once if no edge has measured them."
    )
    plan_flags = commands.add_parser("plan", help="compute where a network would be cut", description=what)
    _plan_flags(plan_flags)
    plan_flags.set_defaults(work=plan)


def _add_bottleneck(commands: "argparse._SubParsersAction[script.Parser]") -> None:
    what = (
        "Train a small encoder and decoder for the tensor at one cut, by distillation from the network itself on "
        "unlabelled images, and measure on images set aside how many answers change. Interrupted, it goes on from its "
        "last checkpoint when it is called again."
    )
    parser = commands.add_parser("bottleneck", help="train a learned codec for one cut", description=what)
    parser.set_defaults(work=bottleneck)
    parser.add_argument("-t", "--type", "--model", dest="type", required=True, metavar="MODEL", help=flags.MODELS)
    parser.add_argument("--weights", default="default", metavar="SOURCE", help=flags.WEIGHTS)
    parser.add_argument(
        "--image-dir",
        type=Path,
        metavar="DIR",
        help="directory of images such as the edge will see (default: digits, or sample photographs)",
    )
    parser.add_argument(
        "--at",
        type=arguments.count,
        metavar="POINT",
        help="cut point (default: the smallest tensor of those that leave most of the work to the cloud)",
    )
    parser.add_argument(
        *("-o", "--output"),
        type=Path,
        required=True,
        metavar="NAME.codec",
        help="output file; the codec is called learned:NAME",
    )
    parser.add_argument(
        "--accuracy-budget",
        type=arguments.percent,
        default="1%",
        metavar="SHARE",
        help="share of answers that may change (default: %(default)s)",
    )
    parser.add_argument(
        "--max-rounds",
        type=arguments.positive_int,
        default=150,
        metavar="N",
        help="stop after N rounds, if not before (default: %(default)s)",
    )
    parser.add_argument("--seed", type=arguments.count, default=0, metavar="N", help="seed (default: 0)")
    parser.add_argument("--threads", type=arguments.positive_int, metavar="N", help="threads of one layer (default: 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def _add_export(commands: "argparse._SubParsersAction[script.Parser]") -> None:
    what = (
        "Write a network as one file that an edge or a cloud without torch can use: -t FILE.bundle. "
        "Every cut is compared with the full model in torch first."
    )
    parser = commands.add_parser("export", help="write a network as a bundle, to run without torch", description=what)
    parser.set_defaults(work=export_bundle)
    parser.add_argument("-t", "--type", "--model", dest="type", required=True, metavar="MODEL", help=flags.MODELS)
    parser.add_argument("--weights", default="default", metavar="SOURCE", help=flags.WEIGHTS)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE.bundle",
        help="output file (default: in the cache, where --backend auto finds it for -t MODEL)",
    )
    flags.add_cache_flag(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def _calibrate_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-t", "--type", "--model", dest="type", required=True, metavar="MODEL", help=flags.MODELS)
    parser.add_argument("--weights", default="default", metavar="SOURCE", help=flags.WEIGHTS)
    parser.add_argument(
        "--image-dir",
        type=Path,
        metavar="DIR",
        help="directory of images (default: held-out digits, or crops of photographs)",
    )
    flags.add_device_flags(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def _plan_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    network = parser.add_argument_group("Network and layer times")
    network.add_argument("-t", "--type", "--model", dest="type", metavar="MODEL", help=flags.MODELS)
    network.add_argument(
        "--graph", type=Path, metavar="FILE.json", help="graph with custom layer times instead (docs/planning.md)"
    )
    network.add_argument(
        "--edge-times",
        type=Path,
        metavar="FILE",
        help="saved profile of the edge (default: the newest of this machine)",
    )
    network.add_argument(
        "--cloud-times",
        type=Path,
        metavar="FILE",
        help="saved profile of the cloud (default: the newest of this machine)",
    )
    network.add_argument(
        "--emulate-cpu",
        type=arguments.share,
        default=1.0,
        metavar="SHARE",
        help="scale the edge's times to this share of a core",
    )
    network.add_argument(
        "--codec",
        default="auto",
        metavar="NAME",
        help="tensor encoding: raw, a codec, or auto, the best lossless one (default: auto)",
    )
    network.add_argument(
        "--accuracy-budget",
        type=arguments.percent,
        default="0%",
        metavar="SHARE",
        help="share of answers that lossy codecs may change, such as 1%%; requires a calibration",
    )
    flags.add_overlap_flag(network)
    network.add_argument("--allow-jpeg", action="store_true", help="the cloud takes JPEG (cloud_api.py --allow-jpeg)")
    flags.add_codec_file_flag(network)
    network.add_argument(
        "--cache-dir",
        type=Path,
        metavar="DIR",
        help="cache of saved profiles and packed sizes (default: the XDG cache directory)",
    )
    link = parser.add_argument_group("Link and cloud load")
    rate = arguments.checked(parse_rate)
    link.add_argument(
        "--bandwidth",
        type=rate,
        required=True,
        metavar="RATE",
        help="upload rate, such as 5mbit (units: docs/units.md)",
    )
    link.add_argument("--download", type=rate, metavar="RATE", help="download rate (default: same as upload)")
    link.add_argument("--rtt", type=arguments.wait, default="0ms", metavar="TIME", help="round-trip time, such as 20ms")
    link.add_argument(
        "--load",
        type=arguments.above_zero,
        default=1.0,
        metavar="X",
        help="load of the cloud: slowdown relative to an idle cloud",
    )
    link.add_argument("--queue", type=arguments.wait, default="0ms", metavar="TIME", help="queueing time on the cloud")
    goal = parser.add_argument_group("Objective")
    flags.add_goal_flags(goal, OBJECTIVES)
    flags.add_power_flags(goal)
    output = parser.add_argument_group("Output")
    output.add_argument(
        "--map", type=Path, metavar="FILE.png", help="draw the best cut by bandwidth and load (.png or .svg)"
    )
    output.add_argument(
        "--plots",
        type=Path,
        metavar="DIR",
        help="draw the map, where a cut pays, the layers, the cut graph and the Pareto front",
    )
    output.add_argument("--export", type=Path, metavar="FILE.json", help="write a --graph file to edit and plan from")


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--role", choices=ROLES, default="edge", help="role of this machine")
    flags.add_device_flags(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def _survey_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--budget",
        type=arguments.duration,
        default=BUDGET,
        metavar="TIME",
        help="total time for measuring layers, over all runs (default: %(default)s)",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help=ROWS)


def _force_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="install predictors even if they are too inaccurate")


def _dataset_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", type=Path, metavar="PATH", help=DATASET)


def profile(options: argparse.Namespace, progress: "Show") -> int:
    """Measure one network, or layers of many shapes."""
    if options.excel is not None:
        from edgecloud.utils import excel_utils

        excel_utils.check_name(options.excel)  # before minutes of measuring
    if options.type is not None:
        return profile_network(options, progress)
    surveys = measure_layers(options, progress, is_fresh=options.fresh)
    if options.excel is not None:
        from edgecloud.predictor import dataset
        from edgecloud.tools.survey import write_excel

        write_excel(dataset.read(surveys[0].folder), options.excel)
    show_surveys(surveys, as_json=options.json)
    return 0


def profile_network(options: argparse.Namespace, progress: "Show") -> int:
    """Measure, print, export."""
    import edgecloud as ec
    from edgecloud.tools.measure import described
    from edgecloud.utils.inference_utils import check_device

    check_device(options.device)  # before what takes longer
    progress("loading the network", 0.0)
    net = ec.load(options.type, weights=options.weights)
    layer_profile = ec.profile(
        net,
        options.device,
        options.threads,
        tails=False,
        is_fresh=options.fresh,
        cache_dir=options.cache_dir,
        backend=options.backend,
        progress=lambda done: progress("measuring the layers", done),
    )
    network = described(net.made, layer_profile)
    export(network, options.csv, options.excel)
    show_network(network, as_json=options.json)
    return 0


def measure_layers(options: argparse.Namespace, progress: "Show", *, is_fresh: bool) -> "tuple[Survey, ...]":
    """Fill the data sets of this machine, one for each number of threads; they share the budget."""
    from edgecloud.tools.survey import SurveyConfig, folder_of, survey, thread_counts

    backend = backend_of(options)
    counts = thread_counts(options.role, options.device, options.threads)
    surveys = []
    for threads in counts:
        folder = options.output or folder_of(options.role, threads, backend)
        if options.output is not None and threads != counts[0]:
            folder = folder.with_name(f"{folder.name}-{threads}t")
        budget_s = options.budget / len(counts)
        config = SurveyConfig(options.role, options.device, threads, budget_s, folder, is_fresh, backend)
        surveys.append(survey(config, progress))
    return tuple(surveys)


def backend_of(options: argparse.Namespace) -> str:
    """Whose predictors are meant: those of torch, or of ONNX Runtime where torch is not installed, unless it is said.

    Raises UsageError for a back-end that has none.
    """
    from edgecloud.engine.executor import AUTO, ONNXRUNTIME, TORCH
    from edgecloud.engine.times import UNITS
    from edgecloud.utils.errors import UsageError

    if options.backend == AUTO:
        return TORCH if extras.is_there(*extras.TORCH) else ONNXRUNTIME
    if options.backend not in UNITS:
        raise UsageError(
            f"there are no predictors for --backend {options.backend}: "
            "its networks are measured, in seconds (deployment.py profile -t FILE.bundle)"
        )
    backend: str = options.backend
    return backend


def fit(options: argparse.Namespace, progress: "Show") -> int:
    """Fit and install what is fit for use; 1 where something is not."""
    extras.require("sklearn", "skops")
    evaluations = [fitted(options, folder, progress) for folder in datasets_of(options)]
    installed = [install(each, path_of(options, each), is_forced=options.force) for each in evaluations]
    show_evaluations(evaluations, installed, as_json=options.json)
    return 0 if all(installed) else 1


def fitted(options: argparse.Namespace, folder: Path, progress: "Show") -> "Evaluation":
    """Fit a data set. Raises UsageError where it is of another back-end than the one that was asked for."""
    from edgecloud.engine.executor import AUTO
    from edgecloud.tools import evaluation
    from edgecloud.utils.errors import UsageError

    result = evaluation.fit(folder, progress)
    machine = result.dataset.machine
    if machine is not None and options.backend not in (AUTO, machine.backend):
        raise UsageError(f"the layers in {folder} are of {machine.backend}, not of {options.backend}")
    return result


def install(result: "Evaluation", path: Path, *, is_forced: bool) -> Path | None:
    """Save predictors where they are of use, or are wanted all the same; None where an older file stays as it was."""
    from edgecloud.tools import evaluation

    why = result.fitness.why_not
    if not why or is_forced:
        evaluation.keep(result, path)
        return path
    stays = f"{path} is unchanged" if path.is_file() else "nothing is installed"
    script.complain(
        f"deployment.py: predictors for {result.dataset.machine} are too inaccurate: {why}; {stays}. "
        "Measure again on an idle machine (deployment.py profile --fresh), or install them with --force"
    )
    return None


def evaluate(options: argparse.Namespace, progress: "Show") -> int:
    """Test on layers and on networks."""
    extras.require("sklearn")
    if options.plots is not None:
        extras.require("matplotlib")
    from edgecloud.tools import evaluation

    result = fitted(options, datasets_of(options)[0], progress)
    result = with_networks(result, options, options.networks, progress)
    pictures = [] if options.plots is None else evaluation.draw(result, options.plots)
    lines = [f"plots: {len(pictures)} plots in {options.plots}"] if pictures else []
    show_evaluation(result, as_json=options.json, lines=lines)
    return 0


def everything(options: argparse.Namespace, progress: "Show") -> int:
    """Profile, fit, and evaluate with what serves most people."""
    extras.require("sklearn", "skops")
    from edgecloud.tools import evaluation

    surveys = measure_layers(options, progress, is_fresh=False)
    evaluations = [evaluation.fit(each.folder, progress) for each in surveys]
    installed = [install(each, path_of(options, each), is_forced=options.force) for each in evaluations]
    evaluations[0] = with_networks(evaluations[0], options, ("some",), progress)
    folder = predictors_of(options).parent / f"{options.role}-plots"
    lines = [draw_if_possible(evaluations[0], folder), *missing_lines(surveys)]
    show_evaluations(evaluations, installed, as_json=options.json, lines=lines)
    return 0 if all(installed) else 1


def draw_if_possible(result: "Evaluation", folder: Path) -> str:
    """Draw what nobody has asked for; returns what became of it."""
    from edgecloud.tools import evaluation

    try:
        extras.require("matplotlib")
    except extras.MissingLibraryError as error:
        return f"plots: none drawn: {error}"
    return f"plots: {len(evaluation.draw(result, folder))} plots in {folder}"


def calibrate(options: argparse.Namespace, progress: "Show") -> int:
    """Try, keep, show."""
    from edgecloud.engine import calibration
    from edgecloud.predictor.store import default_folder

    where = (options.device, options.threads, options.image_dir)
    result = calibration.calibrate(options.type, options.weights, *where, progress, options.backend)
    path = calibration.keep(options.cache_dir or default_folder(), result)
    if options.json:
        script.say(json.dumps(calibration.to_json(result)))
        return 0
    script.show(lambda console: console.print(calibration.to_table(result)))
    script.say(f"saved: {path}")
    return 0


def export_bundle(options: argparse.Namespace, progress: "Show") -> int:
    """Export, compare, show."""
    from edgecloud.predictor.store import default_folder
    from edgecloud.tools import export

    path = options.output or export.kept_path(options.type, options.cache_dir or default_folder())
    written = export.export(options.type, options.weights, path, progress)
    script.say(json.dumps(export.to_json(written)) if options.json else "\n".join(export.to_lines(written)))
    return 0


def bottleneck(options: argparse.Namespace, progress: "Show") -> int:
    """Train, measure, show."""
    from edgecloud.utils.extras import require_torch

    require_torch(options.type)
    from edgecloud.tools import bottleneck as learning

    config = learning.BottleneckConfig(
        model=options.type,
        output=options.output,
        weights=options.weights,
        pictures=options.image_dir,
        point=options.at,
        budget=options.accuracy_budget,
        max_rounds=options.max_rounds,
        seed=options.seed,
        threads=options.threads,
    )
    trained = learning.bottleneck(config, progress)
    script.say(
        json.dumps(learning.to_json(trained))
        if options.json
        else "\n".join(learning.to_lines(trained, options.accuracy_budget))
    )
    return 0


def plan(options: argparse.Namespace, progress: "Show") -> int:
    """Decide, show, draw."""
    if options.map is not None or options.plots is not None:
        extras.require("matplotlib")
    from edgecloud.cli.goals import goal_of
    from edgecloud.predictor.store import default_folder
    from edgecloud.tools.whatif import PlanConfig, export
    from edgecloud.tools.whatif import plan as make_plan

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
        accuracy_budget=options.accuracy_budget,
        has_jpeg=options.allow_jpeg,
        codec_files=tuple(options.codec_file),
        overlap=options.overlap,
    )
    planned = make_plan(config, progress)
    if options.export is not None:
        export(planned, options.export)
    pictures = draw_plan(planned, options.map, options.plots, progress)
    show_plan(planned, as_json=options.json, lines=[f"drawn: {path}" for path in pictures])
    return 0


def draw_plan(planned: "Planned", map_path: Path | None, folder: Path | None, progress: "Show") -> list[Path]:
    """The pictures that were asked for."""
    if map_path is None and folder is None:
        return []
    from edgecloud.tools import pictures

    progress("drawing", 0.0)
    drawn = [] if folder is None else pictures.draw_all(planned, folder)
    if map_path is not None:
        pictures.map_picture(planned, map_path)
        drawn.append(map_path)
    return drawn


def datasets_of(options: argparse.Namespace) -> list[Path]:
    """The data set that was named, or the role's own, one for each number of threads. Raises UsageError for none."""
    from edgecloud.engine.executor import TORCH
    from edgecloud.tools.survey import folder_of, thread_counts
    from edgecloud.utils.errors import UsageError

    backend = backend_of(options)
    if options.dataset is not None:
        paths = [options.dataset]
    else:
        counts = thread_counts(options.role, options.device, options.threads)
        paths = [folder_of(options.role, threads, backend) for threads in counts]
    folders = [path for path in paths if path.exists()]
    if not folders:
        flag = "" if backend == TORCH else f" --backend {backend}"
        raise UsageError(f"no data set {paths[0]}: run deployment.py profile --role {options.role}{flag}")
    return folders


def path_of(options: argparse.Namespace, evaluation: "Evaluation") -> Path:
    """Where predictors go: to the file that was named or is usual, or beside it where they are of fewer threads."""
    from edgecloud.engine.executor import TORCH
    from edgecloud.engine.times import for_backend, for_threads
    from edgecloud.tools.survey import is_beside

    user_path = getattr(options, "predictors", None)
    machine = evaluation.dataset.machine
    backend = TORCH if machine is None else machine.backend
    path: Path = user_path or for_backend(predictors_of(options), backend)
    is_named = getattr(options, "dataset", None) is not None
    if is_named or machine is None or not is_beside(options.role, machine.threads):
        return path
    return user_path if user_path is not None and options.threads is not None else for_threads(path, machine.threads)


def predictors_of(options: argparse.Namespace) -> Path:
    """Where edge_api.py and cloud_api.py look for predictors."""
    from edgecloud.engine.times import predictors_path
    from edgecloud.predictor.store import default_folder

    return predictors_path(options.cache_dir or default_folder(), options.role)


def with_networks(
    evaluation: "Evaluation", options: argparse.Namespace, names: Sequence[str], progress: "Show"
) -> "Evaluation":
    """Real networks too; `some` and `many` are lists of ours."""
    from edgecloud.predictor.store import default_folder
    from edgecloud.tools.evaluation import MANY_NETWORKS, NETWORKS, evaluate_networks, without_networks

    lists: dict[tuple[str, ...], tuple[str, ...]] = {("some",): NETWORKS, ("many",): MANY_NETWORKS, ("none",): ()}
    networks = lists.get(tuple(names), tuple(names))
    if networks and tuple(names) in lists and not extras.is_there(*extras.TORCH):
        return without_networks(evaluation, "only bundles, without torch: name them with --networks")
    cache_dir = options.cache_dir or default_folder()
    return (
        evaluate_networks(evaluation, networks, options.device, options.threads, cache_dir, progress)
        if networks
        else evaluation
    )


def export(network: "MeasuredNetwork", csv: Path | None, excel: Path | None) -> None:
    """Write the files that were asked for."""
    from edgecloud.tools import measure

    if csv is not None:
        measure.write_csv(network, csv)
    if excel is not None:
        measure.write_excel(network, excel)


def show_network(network: "MeasuredNetwork", *, as_json: bool) -> None:
    """The table, to stdout."""
    from edgecloud.tools import measure

    if as_json:
        script.say(json.dumps(measure.to_json(network)))
    else:
        script.show(lambda console: console.print(measure.to_table(network)))


def show_surveys(surveys: "Sequence[Survey]", *, as_json: bool) -> None:
    """What was measured, to stdout."""
    from edgecloud.tools import survey

    if as_json:
        documents = [survey.to_json(each, survey.budget_s(surveys)) for each in surveys]
        script.say(json.dumps(documents[0] | {"also": documents[1:]}))
        return
    for each in surveys:
        script.say(f"{sum(each.kinds.values())} layers of {each.collected.networks} networks in {each.folder}")
        script.say(f"on {each.machine}, {each.collected.spent_s:.0f} s")
        script.say(", ".join(f"{kind} {rows}" for kind, rows in each.kinds.items()))
        if each.noise_text:
            script.say(each.noise_text)
    for line in missing_lines(surveys):
        script.say(line)


def missing_lines(surveys: "Sequence[Survey]") -> list[str]:
    """Kinds that no regression can be fitted for yet, and the budget that would do."""
    from edgecloud.tools.survey import budget_s

    lines = []
    for each in surveys:
        if each.missing:
            kinds = ", ".join(f"{kind} {rows}" for kind, rows in each.missing.items())
            lines.append(f"too few samples to predict with {each.threads}: {kinds}; such networks are measured instead")
    budget = budget_s(surveys)
    return lines if budget is None else [*lines, f"budget used up: --budget {budget:.0f}s would be enough"]


def show_evaluations(
    evaluations: "Sequence[Evaluation]", installed: Sequence[Path | None], *, as_json: bool, lines: Sequence[str] = ()
) -> None:
    """All that were fitted, with where they are installed."""
    from edgecloud.tools import evaluation

    paths = [None if path is None else str(path) for path in installed]
    if as_json:
        documents = [
            evaluation.to_json(each) | {"installed": path} for each, path in zip(evaluations, paths, strict=True)
        ]
        script.say(json.dumps(documents[0] | {"also": documents[1:]}))
        return
    for number, (each, path) in enumerate(zip(evaluations, paths, strict=True)):
        saved = f"not saved: {each.fitness.why_not}" if path is None else f"saved: {path}, fitted in {each.fit_s:.1f} s"
        is_last = number == len(evaluations) - 1
        show_evaluation(each, as_json=False, lines=[saved, *(lines if is_last else ("",))])


def show_evaluation(result: "Evaluation", *, as_json: bool, lines: Sequence[str]) -> None:
    """Tables, to stdout."""
    from edgecloud.tools import evaluation

    if as_json:
        script.say(json.dumps(evaluation.to_json(result)))
        return
    script.show(lambda console: console.print(evaluation.kinds_table(result), "", evaluation.forms_table(result)))
    if result.networks:
        script.show(lambda console: console.print(evaluation.networks_table(result)))
    else:
        script.say(f"\nnetworks: {result.why_no_networks}")
    script.say("\n".join([*evaluation.gap_lines(result), *evaluation.fitness_lines(result), *lines]))


def show_plan(planned: "Planned", *, as_json: bool, lines: Sequence[str]) -> None:
    """The plan, to stdout."""
    from edgecloud.cli import plan_report

    if as_json:
        script.say(json.dumps(plan_report.to_json(planned)))
        return
    script.show(lambda console: plan_report.show(planned, console))
    if lines:
        script.say("\n".join(["", *lines]))


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run; returns the exit code."""
    options = build_parser().parse_args(argv)
    return script.run("deployment.py", lambda: with_progress(options.work, options), options)


def with_progress(work: Callable[[argparse.Namespace, "Show"], int], options: argparse.Namespace) -> int:
    """Show on the terminal how far it is."""
    from edgecloud.utils.progress import on_terminal

    with on_terminal() as progress:
        return work(options, progress)


if __name__ == "__main__":
    start.end(main())
