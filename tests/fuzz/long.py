"""The invariants of tests.fuzz.targets and tests.fuzz.live hold for as long as one cares to look.

    python -m tests.fuzz.long header --seconds 60
    python -m tests.fuzz.long session --executions 100000

Pure targets are driven by atheris where that is installed and --atheris is given, else by a plain random loop. Ends
with the figures, or with the bytes that broke an invariant.
"""

import argparse
import gc
import importlib
import logging
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FunctionType

from tests.fuzz.corpus import SEEDS
from tests.fuzz.live import live_cloud
from tests.fuzz.targets import TARGETS, mutate

Source = Callable[[random.Random], bytes]
SAID_EVERY = 10_000


def rss_mb() -> float:
    """Memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def loop(name: str, make: Source, target: Callable[[bytes], bool], options: argparse.Namespace) -> None:
    """Run until the time or the number is over, and print what came of it."""
    rng = random.Random(options.seed)
    began, before, worst_s, done, accepted = time.monotonic(), rss_mb(), 0.0, 0, 0
    while done < options.executions and time.monotonic() - began < options.seconds:
        data = make(rng)
        started = time.perf_counter()
        try:
            accepted += target(data)
        except BaseException:
            print(f"{name}: broken by {data.hex()} (seed {options.seed}, execution {done})", flush=True)
            raise
        worst_s = max(worst_s, time.perf_counter() - started)
        done += 1
        if done % SAID_EVERY == 0:
            print(f"{name}: {done}, {rss_mb():.0f} MB", file=sys.stderr, flush=True)
    took_s = time.monotonic() - began
    print(
        f"{name}: {done} executions in {took_s:.0f} s, {accepted} accepted, {done - accepted} refused, 0 broken; "
        f"worst {worst_s * 1e3:.1f} ms; RSS {before:.0f} -> {rss_mb():.0f} MB",
        flush=True,
    )


def session(options: argparse.Namespace) -> None:
    """A live cloud: random frames, then flipped ones, then broken conversations."""
    logging.disable(logging.CRITICAL)
    with ExitStack() as stack:
        live = stack.enter_context(live_cloud(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
        for name, make in (
            ("random frames", live.random_frame),
            ("flipped frames", live.flipped_frame),
            ("broken conversations", live.broken_session),
            ("broken chunks", live.broken_chunks),
        ):
            loop(name, make, live.attack, options)
            live.assert_serves()
        print(f"the cloud said: {dict(live.said)}")


def with_atheris(name: str, options: argparse.Namespace) -> None:
    """Guided by the coverage of net/, from the good examples on; ends the process."""
    atheris = importlib.import_module("atheris")
    for found in gc.get_objects():
        if isinstance(found, FunctionType) and str(found.__module__).startswith("net."):
            atheris.instrument_func(found)
    folder = Path(tempfile.mkdtemp())
    for number, seed in enumerate(SEEDS[name]):
        (folder / str(number)).write_bytes(seed)
    atheris.Setup([sys.argv[0], f"-max_total_time={options.seconds:.0f}", str(folder)], TARGETS[name])
    atheris.Fuzz()


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.long", description="Look for what breaks the wire.")
    parser.add_argument("target", choices=(*TARGETS, "session"))
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--executions", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--atheris", action="store_true")
    options = parser.parse_args(argv)
    if options.target == "session":
        session(options)
    elif options.atheris:
        with_atheris(options.target, options)
    else:
        seeds = SEEDS[options.target]
        loop(options.target, lambda rng: mutate(rng, seeds), TARGETS[options.target], options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
