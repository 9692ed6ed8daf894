"""python -m lab run: every cell of an experiment with the real programs, each measurement saved at once."""

import argparse
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecloud.cli import arguments, script
from edgecloud.lab import cell as measuring
from edgecloud.lab import doctor
from edgecloud.lab import spec as specs
from edgecloud.lab.baselines import registry as baselines
from edgecloud.lab.baselines.inputs import Needs
from edgecloud.lab.baselines.registry import CONTENDERS
from edgecloud.lab.environment import environment
from edgecloud.lab.grid import Key, Place, Want, groups, key_of, missing, places, summary, wants
from edgecloud.lab.modes import MODES
from edgecloud.lab.programs import Program, ProgramError, address_of, program
from edgecloud.lab.pruning import next_contender
from edgecloud.lab.reaper import Reaper, open_reaper
from edgecloud.lab.records import LOGS, SPEC, CellRecord, Writer, open_records, read, write_environment
from edgecloud.lab.show import cell_line, cell_text, table, who_table
from edgecloud.lab.spec import Spec
from edgecloud.lab.testbed import Mode, Testbed, choose, cores
from edgecloud.lab.texts import now, say
from edgecloud.utils.errors import AppError, UsageError
from edgecloud.utils.extras import require
from edgecloud.utils.files import write_atomically

if TYPE_CHECKING:
    from edgecloud.utils.progress import Show

HELP = "run an experiment: measure every cell with the real programs"
CLOUD_START_S = 120.0
FAILURES_IN_A_ROW = 3
CONTEND = 4
"""One of so many points is likely to be a contender."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Those of `lab run`."""
    parser.add_argument(
        "spec",
        nargs="?",
        type=Path,
        metavar="SPEC.toml",
        help="experiment specification (instead of --model, --link, ...)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="output directory; an existing directory is resumed")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="resume the experiment in DIR")
    parser.add_argument("--model", type=arguments.names, metavar="NAMES", help="networks, separated by commas")
    parser.add_argument(
        "--cpu",
        type=arguments.names,
        metavar="SHARES",
        help="edge CPU shares of one core, such as 0.3,0.5; none: unlimited",
    )
    parser.add_argument(
        "--link",
        metavar="LINKS",
        help='links, such as 5mbit,7mbit, or with round-trip times "5mbit,20ms;7mbit,20ms,30mbit"',
    )
    parser.add_argument(
        "--points",
        metavar="LIST",
        help="all, contenders (those that can be optimal), 0,8,13 or 0-22, optionally with a codec (0:pixels)",
    )
    parser.add_argument("--repeat", metavar="N", help="measured inferences per cut point (default: 3)")
    parser.add_argument("--codec", metavar="NAME", help="codec of the cut points (default: raw); auto chooses its own")
    parser.add_argument(
        "--codec-file",
        action="append",
        dest="codec_files",
        metavar="FILE",
        help="learned codec, made by deployment.py bottleneck, for the edge and the cloud; repeatable",
    )
    parser.add_argument(
        "--accuracy-budget",
        type=arguments.percent,
        metavar="SHARE",
        help="share of answers that lossy codecs of auto may change, such as 1%% (default: 0%%)",
    )
    parser.add_argument(
        "--objective", type=arguments.names, metavar="NAMES", help="objectives: latency, energy or both"
    )
    parser.add_argument(
        "--baselines", type=arguments.names, metavar="NAMES", help="baselines: auto,all-edge,all-cloud,..."
    )
    parser.add_argument(
        "--trace", type=arguments.names, metavar="FILES", help="replay these bandwidth traces instead of the link rates"
    )
    parser.add_argument("--mode", metavar="MODE", help="testbed: auto, hosts (root on Linux) or emulated")


LISTS = {"model": "models", "objective": "objectives", "baselines": "baselines", "trace": "traces", "cpu": "cpu"}


def spec_of(options: argparse.Namespace) -> Spec:
    """The experiment that is asked for. Raises UsageError."""
    if options.resume is not None:
        return specs.read(options.resume / SPEC)
    settings: dict[str, Any] = {
        key: list(value) for name, key in LISTS.items() if (value := getattr(options, name)) is not None
    }
    if options.link is not None:
        settings["links"] = options.link.split(";") if ";" in options.link else [options.link]
    if options.repeat is not None:
        settings["repeat"] = int(options.repeat) if options.repeat.isdecimal() else options.repeat
    names = ("points", "codec", "codec_files", "mode", "accuracy_budget")
    settings |= {key: value for key in names if (value := getattr(options, key)) is not None}
    links = settings.pop("links", None)
    if options.spec is None and ("models" not in settings or links is None):
        raise UsageError("nothing to run: use SPEC.toml, --model and --link, or --resume DIR")
    base = {} if options.spec is None else {each: getattr(specs.read(options.spec), each) for each in specs.READ}
    values = {name: specs.READ[name](name, value, Path()) for name, value in settings.items()}
    if links is not None:
        values["links"] = tuple(link for text in links for link in specs.links_of(text))
    return Spec(**(base | values))


def main(options: argparse.Namespace) -> int:
    """Measure; 0 where everything is there at the end, 1 where some cells failed."""
    if options.resume is not None and (options.spec is not None or options.out is not None):
        raise UsageError("--resume cannot be combined with SPEC.toml or --out")
    folder = options.resume or options.out
    if folder is None:
        raise UsageError("--out DIR is required")
    spec = spec_of(options)
    check_models(spec)
    mode, why = choose(spec.mode, MODES)
    script.complain(say("mode", name=mode.name, why=now().translated(why)))
    make_folder(folder, spec)
    findings = doctor.warnings(mode.name, folder)
    for each in findings:
        script.complain(say("lab_warning", line=doctor.warning_line(each)))
    from edgecloud.utils.progress import on_terminal

    with stopping_in_order(), on_terminal() as progress:
        failures = ExperimentRun(spec, folder, mode, why, progress, findings).everything()
    _, records = read(folder)
    bests = summary(records, is_exhaustive=spec.points == CONTENDERS and not failures)
    script.show(lambda console: console.print(table(bests) if bests else who_table(records)))
    script.say(say("records_at", path=folder / "records.jsonl", folder=folder))
    for failure in failures:
        script.complain(say("failed", failure=now().translated(failure)))
    if failures:
        script.complain(say("try_again"))
    return 1 if failures else 0


def check_models(spec: Spec) -> None:
    """Refuse networks, power profiles and codecs that there are not, before anything starts."""
    from edgecloud.client.power import PowerChoice
    from edgecloud.engine import learned
    from edgecloud.models import registry
    from edgecloud.net.codec import LEARNED, NAMES, is_name

    if Needs.REGRESSED in baselines.needs(spec.baselines):
        require("sklearn", extra="lab")
    for name in spec.models:
        registry.lookup(name)
    for link in spec.links:
        PowerChoice.of(spec.power, link.radio)
    if spec.codec != "auto" and not is_name(spec.codec):
        raise UsageError(f"no codec {spec.codec[:40]!r}: choose auto, {', '.join(NAMES)}")
    codecs = [each.name for each in learned.read_all(map(Path, spec.codec_files))]
    if spec.codec.startswith(f"{LEARNED}:") and spec.codec not in codecs:
        raise UsageError(f"{spec.codec[:40]} is in none of the files: give its file with --codec-file")


def make_folder(folder: Path, spec: Spec) -> None:
    """See to it that records can be written. Raises UsageError where they cannot."""
    try:
        (folder / LOGS).mkdir(parents=True, exist_ok=True)
        write_atomically(folder / SPEC, spec.to_toml())
    except OSError as error:
        raise AppError(f"cannot write to {folder}: {error.strerror or error}") from None


@contextmanager
def stopping_in_order() -> Iterator[None]:
    """SIGTERM ends it as Ctrl-C does: what was started is stopped, what was made is removed."""

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass
class ExperimentRun:
    """One run of an experiment."""

    spec: Spec
    folder: Path
    mode: Mode
    why: str
    progress: "Show"
    warnings: Sequence[doctor.Finding] = ()
    """What makes the numbers worse than they could be."""
    _done: dict[Key, list[CellRecord]] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)
    """Points of each network, once it is known."""
    _start_s: float = field(default_factory=time.monotonic)
    _ended: set[str] = field(default_factory=set)
    """Keys of cells of which nothing is missing."""
    _measured: int = 0
    """Groups that were measured in this run."""
    _failures: list[str] = field(default_factory=list)

    def everything(self) -> list[str]:
        """Measure what is missing; returns what failed."""
        with ExitStack() as stack:
            reaper = stack.enter_context(open_reaper())
            testbed = stack.enter_context(self.mode.open(reaper))
            threads = self.spec.cloud_threads or len(cores().cloud) or os.cpu_count() or 1
            warnings = [{"name": each.name, "found": each.found, "to_do": each.to_do} for each in self.warnings]
            env = environment(self.mode.name, self.why, testbed.cpu_period_s, threads, warnings)
            write_environment(self.folder, env)
            writer = stack.enter_context(open_records(self.folder))
            self._done = groups(read(self.folder)[1])
            cloud = Cloud(testbed, reaper, self.folder, threads, cloud_flags(self.spec))
            stack.callback(cloud.stop)
            return self._cells(testbed, reaper, cloud, writer, env.key)

    def _cells(self, testbed: Testbed, reaper: Reaper, cloud: "Cloud", writer: Writer, key: str) -> list[str]:
        failures, in_a_row = self._failures, 0
        todo = places(self.spec)
        for number, place in enumerate(todo, start=1):
            if self._is_there(place):
                self._ended.add(place.cell.key)
                continue
            start_s = time.monotonic()
            try:
                self._cell(place, testbed, reaper, cloud, writer, key)
            except (ProgramError, Unanswered) as error:
                failures.append(f"{cell_text(place.cell)}: {error}")
                in_a_row += 1
                cloud.stop()  # whichever of them it was, both begin anew
                if in_a_row == FAILURES_IN_A_ROW:
                    return [*failures, f"{FAILURES_IN_A_ROW} cells in a row: the rest was not tried"]
                continue
            in_a_row = 0
            self._ended.add(place.cell.key)
            line, left = self._line(place, time.monotonic() - start_s), self._left()
            script.complain(say("cell_done", number=number, all=len(todo), line=line, left=left))
        return failures

    def _is_there(self, place: Place) -> bool:
        """Whether nothing of a cell is missing; only known once the network's points are."""
        group = next((group for (cell, _, _), group in self._done.items() if cell == place.cell.key and group), None)
        if group is None:
            return False
        points = self._counts.get(place.cell.model) or int(group[0].plan.get("points", 0))
        if not points:
            return False
        self._counts[place.cell.model] = points
        return next(self._missing(place), None) is None

    def _missing(self, place: Place) -> Iterator[Want]:
        """What is still to be measured in a cell: asked anew after each measurement, which may rule others out."""
        candidates = wants(self.spec, self._counts[place.cell.model], place.cell.objective)
        yield from missing(place, candidates, self._done, self.spec.repeat)
        if self.spec.points == CONTENDERS:
            while (want := next_contender(place, self.spec, self._done)) is not None:
                yield want

    def _cell(self, place: Place, testbed: Testbed, reaper: Reaper, cloud: "Cloud", writer: Writer, key: str) -> None:
        self._tell(place, say("starting"))
        log = self.folder / LOGS / f"{place.cell.slug}.link.log"
        with (
            unanswered(),
            testbed.link(place.link, cloud.address(), log) as address,
            measuring.edge(place, self.spec, testbed, address, self.folder, reaper) as cell_edge,
        ):
            self._counts[place.cell.model] = cell_edge.points
            for want in self._missing(place):
                self._tell(place, want.asked or want.who)
                group_key = key_of(place.cell, want.who, want.asked)
                keep = answered(writer.append)
                try:
                    self._done[group_key] = measuring.measure(cell_edge, want, self._done.get(group_key, []), key, keep)
                except measuring.NoChoice as error:
                    self._failures.append(f"{cell_text(place.cell)}: {error}")
                    continue
                self._measured += 1

    # --- what is told meanwhile

    def _tell(self, place: Place, what: str) -> None:
        done, all_of_them = self._share()
        cell = place.cell
        text = say("where", model=cell.model, cpu=cell.cpu or say("whole"), link=cell.link_name)
        from edgecloud.utils.progress import DETAIL

        self.progress(f"{say('measuring')}{DETAIL}{text}: {what}", done / all_of_them)

    def _share(self) -> tuple[int, int]:
        """How many groups are there, and how many there are to be, as far as is known."""
        there = Counter(cell for cell, _, _ in self._done)
        total = sum(self._groups_of(place, there[place.cell.key]) for place in places(self.spec))
        return min(len(self._done), total - 1) if total > 1 else 0, max(total, 1)

    def _groups_of(self, place: Place, there: int) -> int:
        """How many groups a cell has at its end: those that are there, if it has ended, else what is likely."""
        cell = place.cell
        if cell.key in self._ended:
            return there
        points = self._counts.get(cell.model, max(self._counts.values(), default=20))
        is_searched = self.spec.points == CONTENDERS and cell.objective == self.spec.objectives[0]
        likely = len(wants(self.spec, points, cell.objective)) + (points // CONTEND if is_searched else 0)
        return max(there, likely)

    def _left(self) -> str:
        done, total = self._share()
        if not self._measured or done >= total - 1:
            return ""
        left_s = (time.monotonic() - self._start_s) / self._measured * (total - done)
        return say("minutes_left", n=round(left_s / 60)) if left_s > 90 else say("seconds_left", n=round(left_s))

    def _line(self, place: Place, took_s: float) -> str:
        records = [record for (cell, _, _), group in self._done.items() if cell == place.cell.key for record in group]
        return cell_line(place, records, took_s)


class Unanswered(AppError):
    """Something of one cell failed; others may do."""


class _Fatal(Exception):
    """Carries what no other cell would survive either through `unanswered`."""


@contextmanager
def unanswered() -> Iterator[None]:
    """Tell what only one cell suffers from, a program that fails or is silent, from what ends the run."""
    try:
        yield
    except ProgramError:
        raise
    except _Fatal as fatal:
        raise fatal.args[0] from None
    except AppError as error:
        raise Unanswered(str(error)) from error


def answered(append: Any) -> Any:
    """The disk's errors end the run."""

    def keep(record: CellRecord) -> None:
        try:
            append(record)
        except AppError as error:
            raise _Fatal(error) from None

    return keep


def cloud_flags(spec: Spec) -> tuple[str, ...]:
    """What the cloud has to be told so that everything of an experiment can be measured."""
    from edgecloud.client.subprocesses import codec_flags

    flags = dict.fromkeys([*codec_flags(spec.codec, spec.points), *baselines.cloud_flags(spec.baselines)])
    return (*flags, *spec.codec_file_flags())


@dataclass
class Cloud:
    """The cloud of a run: started when it is needed, again where it has ended."""

    testbed: Testbed
    reaper: Reaper
    folder: Path
    threads: int
    flags: tuple[str, ...]
    _stack: ExitStack = field(default_factory=ExitStack)
    _program: Program | None = None
    _address: tuple[str, int] = ("", 0)

    def address(self) -> tuple[str, int]:
        """Where it listens. Raises AppError where it does not start."""
        if self._program is not None and self._program.is_running:
            return self._address
        self.stop()
        testbed = self.testbed
        command = [
            *("cloud_api.py", "-i", testbed.cloud_host, "-p", "0", "--insecure", "--quiet", "--exit-on-stdin-eof"),
            *("--threads", str(self.threads), "--cache-dir", str(self.folder / "cache"), "--times", "measured"),
            *("--models", "all"),
            *self.flags,
        ]
        log = self.folder / LOGS / "cloud.log"
        context = program(command, log, self.reaper, prefix=testbed.on_cloud, cores=cores().cloud, threads=self.threads)
        self._program = self._stack.enter_context(context)
        testbed.prefer(self._program.pid)
        self._address = address_of(self._program, CLOUD_START_S)
        return self._address

    def stop(self) -> None:
        """End it."""
        self._program = None
        self._stack.close()
