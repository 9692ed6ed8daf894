"""The edge's probe of the link to a running cloud, next to iperf3 if available.

    python -m lab link 192.168.1.20:9999 --token-file token.txt

Each repetition is a whole probe, as edge_api.py makes it before it decides. iperf3 has to be installed here and to run
as `iperf3 -s` beside the cloud; without it there is one line that says so, and that is no failure.
"""

import argparse
import json
import math
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from edgecloud.cli import arguments, flags, script
from edgecloud.lab.texts import now, padded, say
from edgecloud.utils import addresses
from edgecloud.utils.units import format_rate, format_seconds, printable

if TYPE_CHECKING:
    from edgecloud.net.link import LinkEstimate

IPERF, IPERF_PORT, IPERF_CONNECT_MS = "iperf3", 5201, 2000
IPERF_SPARE_S = 10.0  # beyond the seconds that it sends for
MOST_JSON_BYTES = 4 << 20
MOST_TOLD = 200  # characters of what iperf3 says of an error
MOST_BITS_PER_S = 1e15


@dataclass(frozen=True)
class Iperf:
    """What iperf3 measured: bytes per second that arrived, and its mean round trip under load, in seconds."""

    up_bytes_per_s: float
    down_bytes_per_s: float
    rtt_s: float | None


class IperfError(Exception):
    """iperf3 says nothing that could be shown; the message says why, in one line."""


def measure(options: argparse.Namespace) -> "list[LinkEstimate]":
    """Connect to the cloud and probe the link, as often as asked. Raises AppError."""
    from edgecloud.client.connection_manager import ConnectionConfig
    from edgecloud.client.edge import Edge, EdgeConfig, read_input
    from edgecloud.models import registry
    from edgecloud.net.security import read_token
    from edgecloud.net.tls import client_tls

    host, port = options.address
    tls = client_tls(options.tls_ca, options.tls_cert, options.tls_key, host)
    token = read_token(options.token_file)
    entry = registry.resolve_trusted(options.type)
    config = EdgeConfig(model=options.type, host=host, port=port, weights=options.weights, tls=tls)
    edge = Edge.build(config, entry, read_input(config, entry))
    settings = ConnectionConfig((host, port), ready_s=options.ready_timeout, timeout_s=options.timeout, tls=tls)
    try:
        manager = edge.use(settings, token)
        manager.connect()
        return [manager.measure() for _ in range(options.repeat)]
    finally:
        edge.close()


# --- iperf3


def iperf(host: str, port: int, seconds: int) -> Iperf:
    """Let iperf3 send for so many seconds each way. Raises IperfError."""
    if shutil.which(IPERF) is None:
        raise IperfError("iperf3 is not installed here")
    up, rtt_s = parse(_run(host, port, seconds))
    down, _ = parse(_run(host, port, seconds, "-R"))
    return Iperf(up, down, rtt_s)


def _run(host: str, port: int, seconds: int, *more: str) -> bytes:
    """Its output, cut off where it is far too long."""
    command = [IPERF, "-J", "-c", host, "-p", str(port), "-t", str(seconds), *more]
    command += ["--connect-timeout", str(IPERF_CONNECT_MS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        timer = threading.Timer(seconds + IPERF_SPARE_S, process.kill)
        timer.daemon = True  # Ctrl-C may come before it can be cancelled
        timer.start()
        try:
            assert process.stdout is not None  # asked for above
            return process.stdout.read(MOST_JSON_BYTES + 1)
        finally:
            timer.cancel()
            process.kill()


def parse(output: bytes) -> tuple[float, float | None]:
    """Bytes per second that arrived and the mean round trip in seconds, of one `iperf3 -J`. Raises IperfError."""
    if len(output) > MOST_JSON_BYTES:
        raise IperfError("the iperf3 output is too long")
    try:
        document = json.loads(output)
        if isinstance(document, dict) and "error" in document:
            raise IperfError(f"iperf3: {printable(str(document['error']), MOST_TOLD)}")
        end = document["end"]
        rate = _number(end["sum_received"]["bits_per_second"], MOST_BITS_PER_S) / 8
        rtt_us = end["streams"][0].get("sender", {}).get("mean_rtt")  # a receiver has none
        return rate, _number(rtt_us, 1e9) / 1e6 if rtt_us else None
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise IperfError("unexpected iperf3 output, or iperf3 timed out") from None


def _number(value: object, most: float) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or not 0 < value < most
    ):
        raise ValueError("not a plausible number")
    return float(value)


# --- what is shown


def summary(values: Sequence[float]) -> dict[str, float]:
    """The middle, the ends, and how far they are apart, as a share of the middle."""
    middle, least, most = median(values), min(values), max(values)
    return {"median": middle, "least": least, "most": most, "spread": (most - least) / middle if middle else 0.0}


NAMES: dict[str, tuple[str, Callable[[float], str]]] = {
    "up_bytes_per_s": ("upload", format_rate),
    "down_bytes_per_s": ("download", format_rate),
    "rtt_s": ("round_trip", format_seconds),
}
"""Each with the key of its word, and how it is told."""
BESIDE = {"up_bytes_per_s": "beside_rate", "down_bytes_per_s": "beside_rate", "rtt_s": "beside_rtt"}


def to_json(
    address: tuple[str, int], probes: "Sequence[LinkEstimate]", other: Iperf | None, why: str
) -> dict[str, Any]:
    """The document of --json."""
    summaries = {name: summary([getattr(probe, name) for probe in probes]) for name in NAMES}
    each = [{name: getattr(probe, name) for name in NAMES} for probe in probes]
    iperf3 = None if other is None else asdict(other)
    return {"address": addresses.show(*address), **summaries, "probes": each, "iperf3": iperf3, "iperf3_missing": why}


def lines_of(document: dict[str, Any]) -> list[str]:
    """The same for people."""
    other, count = document["iperf3"], len(document["probes"])
    lines = [say("probes", address=document["address"], n=count)]
    for name, (word, form) in NAMES.items():
        middle, least, most = (form(document[name][each]) for each in ("median", "least", "most"))
        spread = say("spread", middle=middle, least=least, most=most)
        beside = "" if other is None or other[name] is None else f"   {say(BESIDE[name], value=form(other[name]))}"
        lines.append(f"{padded(say(word), 11)}{spread}{beside}")
    if document["iperf3_missing"]:
        lines.append(f"iperf3     {now().translated(document['iperf3_missing'])}")
    return lines


# --- the command


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Those of `python -m lab link`."""
    parser.add_argument("address", type=arguments.address, metavar="IP:PORT", help="address of a running cloud")
    parser.add_argument("-t", "--type", metavar="MODEL", default="le_net", help="network named in the handshake")
    parser.add_argument("--weights", default="default", metavar="SOURCE", help=flags.WEIGHTS)
    parser.add_argument("--repeat", type=arguments.positive_int, default=5, metavar="N", help="number of probes")
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="file with the shared secret (default: $EDGE_CLOUD_TOKEN, otherwise none)",
    )
    parser.add_argument(
        "--iperf-port",
        type=arguments.port,
        default=IPERF_PORT,
        metavar="PORT",
        help="port of iperf3 -s on the cloud host",
    )
    parser.add_argument(
        "--iperf-for",
        type=arguments.positive_int,
        default=3,
        metavar="S",
        help="iperf3 duration in seconds per direction",
    )
    parser.add_argument("--no-iperf", action="store_true", help="do not run iperf3")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    flags.add_timeout_flags(parser.add_argument_group("Timeouts"), "probe")
    flags.add_edge_tls_flags(parser)


def main(options: argparse.Namespace) -> int:
    """Probe, compare, print."""
    probes = measure(options)
    other, why = None, "was left out"
    if not options.no_iperf:
        try:
            other, why = iperf(options.address[0], options.iperf_port, options.iperf_for), ""
        except (IperfError, OSError) as error:
            why = str(error)
    document = to_json(options.address, probes, other, why)
    for line in [json.dumps(document)] if options.json else lines_of(document):
        script.say(line)
    return 0
