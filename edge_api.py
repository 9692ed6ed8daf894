#!/usr/bin/env python3
"""The edge: run one network together with a cloud, cut where the total time is lowest, and print the answer."""

import os
import sys

if __name__ == "__main__":  # before what takes longer: also with python -I, and with Ctrl-C at any moment
    if not __package__:  # as a file; with -m, python has found the package
        sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120  pathlib takes its time
    from edgecloud.cli import start

    start.begin()

import argparse
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from edgecloud.cli import arguments, flags, live, script
from edgecloud.partition.objectives import OBJECTIVES
from edgecloud.utils import defaults
from edgecloud.utils.errors import AppError, UsageError
from edgecloud.utils.units import parse_rate

if TYPE_CHECKING:
    from edgecloud.client.config import EdgeConfig
    from edgecloud.client.outcome import Outcome
    from edgecloud.library.edge import Edge
    from edgecloud.page.edge import EdgeView


LISTENS_S = 600.0
"""How long `--points -` waits for another line."""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = script.Parser(
        "edge_api.py", "Run one network, its head on the edge and its tail on the cloud, and print the answer."
    )
    flags.add_place_flags(parser, flags.EDGE_HOST, listens=False)
    parser.add_argument("-t", "--type", metavar="MODEL", required=True, help=flags.MODELS)
    what = parser.add_argument_group("Input")
    what.add_argument("--image", type=Path, metavar="FILE", help="image file (default: a sample)")
    what.add_argument("--audio", type=Path, metavar="FILE.wav", help="16-bit PCM recording, for kaldi")
    what.add_argument(
        "--text", type=arguments.sentence, metavar="SENTENCE", help="sentence, for senna_pos, senna_ner, senna_chk"
    )
    what.add_argument(
        "--input", type=Path, metavar="FILE", help="preprocessed input: FILE.npy, or FILE.npz with each input by name"
    )
    what.add_argument(
        "--watch", type=Path, metavar="DIR", help="answer every new picture in this directory, the newest first"
    )
    what.add_argument(
        "--video",
        metavar="FILE|N",
        help="answer the newest frame of a video file, or of camera N (needs opencv-python-headless)",
    )
    what.add_argument(
        "--frames", type=arguments.positive_int, metavar="N", help="with --watch or --video: stop after N answers"
    )
    what.add_argument("--weights", default=defaults.Edge.WEIGHTS, metavar="SOURCE", help=flags.WEIGHTS)
    where = parser.add_argument_group("Partitioning")
    where.add_argument(
        "--point", type=arguments.count, metavar="K", help="cut point; 0: all on the cloud, the last: all on the edge"
    )
    where.add_argument(
        "--points",
        metavar="LIST",
        help="measure several cuts in one call, one line each: all, auto, 0,8,13 or 0-22,auto, optionally with a codec "
        "such as 0:pixels; - reads lists from standard input",
    )
    where.add_argument(
        "--bandwidth",
        type=arguments.checked(parse_rate),
        metavar="RATE",
        help="upload rate, such as 5mbit, instead of probing the link (units: docs/units.md)",
    )
    flags.add_codec_flags(where)
    flags.add_overlap_flag(where)
    flags.add_times_flags(where)
    goal = parser.add_argument_group("Objective")
    flags.add_goal_flags(goal, OBJECTIVES)
    flags.add_power_flags(goal)
    runs = parser.add_argument_group("Execution and output")
    runs.add_argument(
        "--repeat",
        type=arguments.positive_int,
        default=defaults.Edge.REPEAT,
        metavar="N",
        help="number of measured inferences",
    )
    runs.add_argument(
        "--warm-up",
        type=arguments.count,
        default=defaults.Edge.WARM_UP,
        metavar="N",
        help="number of warm-up inferences, not measured",
    )
    runs.add_argument("--verify", action="store_true", help="also run the full model locally and compare the answers")
    runs.add_argument(
        "--compare",
        action="store_true",
        help="also measure all on the cloud, all on the edge and, with a budget, the best lossless plan",
    )
    runs.add_argument(
        "--json", action="store_true", help="print one JSON document; with --watch or --video one line per answer"
    )
    flags.add_output_flag(runs, "FILE.npz, FILE.npy or FILE.json")
    flags.add_record_flag(runs)
    flags.add_timeout_flags(runs, "inference")
    flags.add_fallback_flag(runs)
    flags.add_edge_tls_flags(parser)
    flags.add_emulation_flags(parser)
    live.add_page_flags(parser)
    return parser


def build_config(options: argparse.Namespace) -> "EdgeConfig":
    """The arguments as a frozen configuration. Raises UsageError for those that contradict each other."""
    from edgecloud.cli.goals import goal_of
    from edgecloud.client.config import EdgeConfig
    from edgecloud.client.subprocesses import own_cloud_flags
    from edgecloud.models import custom_model

    check(options)
    device = flags.device_of(options)
    is_name = options.weights in ("default", "imagenet")
    place = custom_model.where(options.type)
    name = options.type if place is None else place.name
    weights = options.weights if is_name else f"{name}={Path(options.weights).resolve()}"
    return EdgeConfig(
        model=options.type,
        device=device,
        cloud=flags.cloud_of(
            options,
            own_cloud_flags(options, device.cache_dir, weights, [options.type], [options.codec, options.points]),
        ),
        link=flags.link_of(options),
        codec=flags.codec_of(options),
        weights=options.weights,
        cpu_share=options.emulate_cpu,
        image=options.image,
        audio=options.audio,
        text=options.text,
        array=options.input,
        point=options.point,
        goal=goal_of(options),
        repeat=options.repeat,
        warm_up=options.warm_up,
        verify=options.verify,
        compare=options.compare,
        overlap=options.overlap,
        power=options.power,
        radio=options.radio,
    )


def check(options: argparse.Namespace) -> None:
    """Refuse combinations that contradict each other. Raises UsageError."""
    if sum(getattr(options, name) is not None for name in ("image", "audio", "text", "input")) > 1:
        raise UsageError("--image, --audio, --text and --input cannot be combined: give one")
    from edgecloud.engine.packing import check_codec

    check_codec(options.codec)
    if options.output is not None:
        from edgecloud.cli import answer_file

        answer_file.check_name(options.output)
    if options.points is not None and options.output is not None:
        raise UsageError("--points cannot be combined with --output")
    check_frames(options)
    if options.page is not None and (options.points is not None or (options.repeat == 1 and not has_frames(options))):
        raise UsageError("--page requires --repeat N, --watch or --video, and cannot be combined with --points")
    wishes = (options.objective != "latency", options.method != "auto", options.max_cost is not None)
    if options.points is not None and (options.point is not None or options.compare or options.max_cost is not None):
        raise UsageError("--points cannot be combined with --point, --compare or --max-cost")
    if options.point is not None and any(wishes):
        raise UsageError("--point cannot be combined with --objective, --method or --max-cost")


def has_frames(options: argparse.Namespace) -> bool:
    """Whether pictures keep coming."""
    return options.watch is not None or options.video is not None


def check_frames(options: argparse.Namespace) -> None:
    """Refuse what does not go with pictures that keep coming. Raises UsageError."""
    if not has_frames(options):
        if options.frames is not None:
            raise UsageError("--frames requires --watch or --video")
        return
    if options.watch is not None and options.video is not None:
        raise UsageError("--watch cannot be combined with --video")
    name = "--watch" if options.video is None else "--video"
    others = ("image", "audio", "text", "input", "points", "output", "verify", "compare")
    given = next((f"--{each}" for each in others if getattr(options, each)), "--repeat" if options.repeat > 1 else "")
    if given:
        raise UsageError(f"{name} cannot be combined with {given}")


def infer(options: argparse.Namespace) -> int:
    """Do it and print it; 1 where --verify finds a difference."""
    from edgecloud.utils.progress import on_terminal

    if options.points is not None:
        return infer_points(options)
    if has_frames(options):
        return infer_frames(options)
    with on_terminal() as progress:
        from edgecloud.cli import answer_file
        from edgecloud.client.inference import measure
        from edgecloud.library.edge import Edge

        config = build_config(options)
        with Edge.of(config, progress) as edge, live.shown(options, lambda: view_of(edge)):
            prepared = edge.client.prepared
            if options.output is not None:
                answer_file.check_count(options.output, len(prepared.edge.graph.outputs))
            outcome = measure(prepared, edge.client.runner, config, progress)
    failed: AppError | None = None
    try:
        if options.output is not None:
            about = {"model": outcome.graph.name, "input": outcome.source}
            answer_file.write(options.output, about, outcome.outputs, outcome.output_names)
    except AppError as error:  # the figures are worth more than the file
        failed = error
    print_outcome(outcome, as_json=options.json)
    if failed is not None:
        script.complain(f"edge_api.py: {failed}")  # on stdout there is one document
        return failed.exit_code
    return 0 if outcome.verified is None or outcome.verified.matches else 1


def infer_frames(options: argparse.Namespace) -> int:
    """Answer pictures as they come, each printed at once, until there are no more, or Ctrl-C."""
    from edgecloud.cli import frame_report
    from edgecloud.client import frames
    from edgecloud.library.edge import Edge
    from edgecloud.models import inputs
    from edgecloud.utils.progress import on_terminal

    config = build_config(options)
    source: frames.Frames = frames.Video(options.video) if options.watch is None else frames.Folder(options.watch)
    with ExitStack() as stack:
        stack.callback(source.close)
        with on_terminal() as progress:
            edge = stack.enter_context(Edge.of(config, progress))
        entry = edge.client.prepared.edge.entry
        if entry.takes != inputs.PICTURE:
            raise UsageError(f"--watch and --video require a network that takes images, and {entry.name} does not")
        view = stack.enter_context(live.shown(options, lambda: view_of(edge)))
        for shown in frames.inputs_of(source, entry.preprocess, options.frames):
            if view is not None:
                view.show(shown)
            answered = edge.client.infer(shown.what.array)
            script.say(frame_report.line(edge, shown, answered, as_json=options.json))
    return 0


def view_of(edge: "Edge") -> "EdgeView":
    """What the page shows of an edge."""
    from edgecloud.page.edge import EdgeView

    return EdgeView(edge.client)


def infer_points(options: argparse.Namespace) -> int:
    """Cut after cut, each printed as soon as it is measured; 1 where --verify finds a difference."""
    from edgecloud.utils.progress import on_terminal

    is_listening, are_right = options.points == "-", True
    with on_terminal() as progress, ExitStack() as stack:
        from edgecloud.cli import report
        from edgecloud.client import points
        from edgecloud.library.edge import Edge

        config = build_config(options)
        edge = stack.enter_context(Edge.of(config, progress, ready_s=config.cloud.ready_s))
        session = points.PointsSession(edge.client.entered, config, progress)
        if not is_listening:
            points.parse(options.points, session.graph)  # what is wrong with it is said before anything is measured
        elif options.json:
            script.say(json.dumps({"ready": session.graph.name, "points": len(session.graph.points)}))
        for line in script.lines_of_stdin(LISTENS_S) if is_listening else [options.points]:
            for request in points.parse(line, session.graph):
                outcome = session.measure(request)
                are_right &= outcome.verified is None or outcome.verified.matches
                script.say(report.point_line(request.text, outcome, as_json=options.json))
    return 0 if are_right else 1


def print_outcome(outcome: "Outcome", *, as_json: bool) -> None:
    """The answer, to stdout."""
    from edgecloud.cli import report

    if as_json:
        script.say(json.dumps(report.to_json(outcome)))
    else:
        script.show(lambda console: report.show(outcome, console))


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run; returns the exit code."""
    options = build_parser().parse_args(argv)
    return script.run("edge_api.py", lambda: infer(options), options)


if __name__ == "__main__":
    start.end(main())
