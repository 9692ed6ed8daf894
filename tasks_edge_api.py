#!/usr/bin/env python3
"""The edge for many tasks: a queue of mixed networks, each cut for the current link, pipelined."""

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
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from edgecloud.cli import arguments, flags, live, script
from edgecloud.utils import defaults
from edgecloud.utils.errors import EXIT_INTERRUPTED, EXIT_OK, AppError, UsageError
from edgecloud.utils.units import format_duration, parse_rate

if TYPE_CHECKING:
    from edgecloud.page.tasks import TasksView
    from edgecloud.tasks.pipeline import TaskRecord
    from edgecloud.tasks.task_runner import OnRecord, TasksOutcome, TasksRun
    from edgecloud.tasks.tasks_config import TasksConfig
    from edgecloud.utils.progress import Show


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = script.Parser(
        "tasks_edge_api.py", "Run many inferences of mixed networks as a pipeline between the edge and the cloud."
    )
    flags.add_place_flags(parser, flags.EDGE_HOST, listens=False)
    parser.add_argument(
        "-t",
        "--type",
        type=arguments.names,
        metavar="A,B",
        default=defaults.Tasks.MODELS,
        help="networks of the random mix, or custom models FILE.py (default: alex_net,vgg_net,mobile_net,le_net)",
    )
    what = parser.add_argument_group("Tasks")
    what.add_argument(
        "--tasks", type=arguments.positive_int, default=defaults.Tasks.COUNT, metavar="N", help="number of random tasks"
    )
    what.add_argument(
        "--seed",
        type=arguments.count,
        default=defaults.Tasks.SEED,
        metavar="S",
        help="random seed of the tasks and arrivals",
    )
    what.add_argument(
        "--tasks-file",
        type=Path,
        metavar="FILE",
        help="task list, .csv, .xlsx or .jsonl, with model, input, priority, deadline_ms",
    )
    what.add_argument(
        "--resume", action="store_true", help="skip tasks completed by an earlier run of the same --tasks-file"
    )
    what.add_argument(
        "--image-dir", type=Path, metavar="DIR", help="directory of images for random tasks (default: samples)"
    )
    what.add_argument(
        "--rate",
        type=arguments.arrivals,
        metavar="N/s",
        help="random arrivals at this mean rate (default: all at the start)",
    )
    what.add_argument("--weights", default=defaults.Edge.WEIGHTS, metavar="SOURCE", help="weights: default or imagenet")
    how = parser.add_argument_group("Execution")
    how.add_argument("--serial", action="store_true", help="run tasks one after another, for comparison")
    how.add_argument(
        "--interval",
        type=arguments.duration,
        default=format_duration(defaults.Tasks.INTERVAL_S),
        metavar="TIME",
        help="how often the link is measured",
    )
    how.add_argument(
        "--bandwidth",
        type=arguments.checked(parse_rate),
        metavar="RATE",
        help="initial upload rate, such as 5mbit (units: docs/units.md)",
    )
    flags.add_codec_flags(how)
    flags.add_times_flags(how)
    flags.add_timeout_flags(how, "task")
    flags.add_fallback_flag(how)
    shown = parser.add_argument_group("Output")
    shown.add_argument("--verify", action="store_true", help="afterwards, compare every answer with the full model")
    shown.add_argument("--json", action="store_true", help="print one JSON document")
    shown.add_argument("--csv", type=Path, metavar="FILE", help="write one line per task")
    shown.add_argument("--excel", type=Path, metavar="FILE.xlsx", help="write the same table as a workbook")
    shown.add_argument("--plot", type=Path, metavar="FILE.png", help="draw a waterfall chart of the first tasks")
    flags.add_output_flag(shown, "FILE.npz or FILE.json, all of them in one file")
    flags.add_record_flag(shown)
    flags.add_edge_tls_flags(parser)
    flags.add_emulation_flags(parser)
    live.add_page_flags(parser)
    return parser


def build_config(options: argparse.Namespace) -> "TasksConfig":
    """The arguments as a frozen configuration. Raises UsageError for those that contradict each other."""
    from edgecloud.client.subprocesses import own_cloud_flags
    from edgecloud.tasks.tasks_config import TasksConfig

    check(options)
    device = flags.device_of(options)
    own = own_cloud_flags(options, device.cache_dir, options.weights, options.type, [options.codec])
    return TasksConfig(
        device=device,
        cloud=flags.cloud_of(options, own),
        link=flags.link_of(options),
        codec=flags.codec_of(options),
        cpu_share=options.emulate_cpu,
        weights=options.weights,
        models=options.type,
        tasks=options.tasks,
        seed=options.seed,
        tasks_file=options.tasks_file,
        is_resumed=options.resume,
        image_dir=options.image_dir,
        rate_per_s=options.rate,
        is_serial=options.serial,
        interval_s=options.interval,
        verify=options.verify,
    )


def check(options: argparse.Namespace) -> None:
    """Refuse combinations that contradict each other. Raises UsageError."""
    if options.weights not in ("default", "imagenet"):
        raise UsageError("--weights must be default or imagenet: a weights file fits only one network")
    if options.tasks_file is not None and options.image_dir is not None:
        raise UsageError("--tasks-file cannot be combined with --image-dir")
    if options.resume and options.tasks_file is None:
        raise UsageError("--resume requires --tasks-file")
    check_names(options.excel, options.plot)
    if options.output is not None:
        from edgecloud.cli import answer_file

        answer_file.check_name(options.output, answer_file.SEVERAL)
        if options.resume and options.output.exists():
            raise UsageError(f"--resume: {options.output} holds the answers of an earlier run: give another --output")
    from edgecloud.engine.packing import check_codec

    check_codec(options.codec)


def check_names(excel: Path | None, plot: Path | None) -> None:
    """Refuse a name that would only fail when all tasks are done. Raises UsageError."""
    if excel is not None:
        from edgecloud.utils import excel_utils

        excel_utils.check_name(excel)
    if plot is not None:
        from edgecloud.utils import plots

        plots.check_name(plot)


def infer(options: argparse.Namespace) -> int:
    """Do it, write it, print it."""
    from edgecloud.utils.progress import on_terminal

    with ExitStack() as files:
        with on_terminal() as progress:
            from edgecloud.tasks.task_runner import TasksRun, run

            config, call = build_config(options), TasksRun()
            if options.output is not None:
                call.on_answer = answer_writer(options.output, files)
            on_record = teller(options, progress)
            view = files.enter_context(live.shown(options, view_of))
            if view is not None:
                on_record = both(view.on_record, on_record)
            with script.interrupt_stops(call.stop, "finishing the tasks in flight; press Ctrl-C again to stop at once"):
                outcome = run(config, progress, on_record, call)
        return finish(outcome, options, files)


def view_of() -> "TasksView":
    """What the page shows."""
    from edgecloud.page.tasks import TasksView

    return TasksView()


def both(one: "OnRecord", other: "OnRecord") -> "OnRecord":
    """Both are told."""

    def on_record(call: "TasksRun", record: "TaskRecord") -> None:
        one(call, record)
        other(call, record)

    return on_record


def answer_writer(path: Path, files: ExitStack) -> Callable[["TaskRecord"], None]:
    """What writes every answer to a file, which is there once `files` are closed. Raises UsageError."""
    from edgecloud.cli import answer_file

    answers = files.enter_context(answer_file.answers_to(path))

    def on_answer(record: "TaskRecord") -> None:
        about = {"model": record.task.model, "input": record.task.input}
        answers.add(record.task.id, about, record.outputs, record.names)

    return on_answer


def teller(options: argparse.Namespace, progress: "Show") -> Callable[["TasksRun", "TaskRecord"], None]:
    """What is told of every task as it ends."""
    from edgecloud.cli.task_report import line, progress_line

    def on_record(call: "TasksRun", record: "TaskRecord") -> None:
        progress(progress_line(call, record), call.done / max(1, call.total))
        if not options.json:
            script.say(line(record, script.columns()))

    return on_record


def finish(outcome: "TasksOutcome", options: argparse.Namespace, files: ExitStack) -> int:
    """Write and print what was found; returns the exit code. Raises UsageError, last, for a file."""
    from edgecloud.cli import task_report as report

    failed: AppError | None = None
    try:
        files.close()  # with the answers
        report.write_files(outcome, options.csv, options.excel, options.plot)
    except AppError as error:  # the figures are worth more than the file
        failed = error
    for text in report.problem_lines(outcome):
        script.complain(f"tasks_edge_api.py: refused: {text}")
    if options.json:
        script.say(json.dumps(report.to_json(outcome)))
    else:
        script.say("")
        script.show(lambda console: console.print(report.summary_table(outcome)))
    if failed is not None:
        if not options.json:
            raise failed
        script.complain(f"tasks_edge_api.py: {failed}")  # the figures are the one document on stdout
        return failed.exit_code
    if outcome.is_interrupted:
        return EXIT_INTERRUPTED
    return EXIT_OK if report.is_good(outcome) else AppError.exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run; returns the exit code."""
    options = build_parser().parse_args(argv)
    return script.run("tasks_edge_api.py", lambda: infer(options), options)


if __name__ == "__main__":
    start.end(main())
