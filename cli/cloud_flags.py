"""The flags of cloud_api.py and tasks_cloud_api.py, which differ only in batching."""

import argparse
from pathlib import Path

from edgecloud.cli import arguments, flags, live, script
from edgecloud.utils import defaults
from edgecloud.utils.defaults import Server
from edgecloud.utils.errors import UsageError
from edgecloud.utils.units import format_duration, format_size


def build_parser(prog: str, description: str, max_batch: int) -> argparse.ArgumentParser:
    """The command line; `max_batch` is the default of its flag."""
    parser = script.Parser(prog, description)
    where = "address to listen on, :: for IPv6 and IPv4; non-loopback addresses require a token, TLS or --insecure"
    flags.add_place_flags(parser, where, listens=True)
    parser.add_argument(
        "--grpc-port",
        type=arguments.port,
        metavar="PORT",
        help="also take frames in streams of gRPC (--transport grpc of an edge) on this port; 0 lets the system choose",
    )
    parser.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="[MODEL=]SOURCE",
        help="weights: imagenet, or a file (.safetensors, .pt, .bin or .ckpt), for one network or for all; repeatable "
        "(default: the bundled trained weights, otherwise seeded ones). The edge needs the same weights",
    )
    flags.add_times_flags(parser)
    parser.add_argument(
        "--models",
        type=arguments.names,
        default=(),
        metavar="A,B",
        help="networks to serve; all: every torchvision:NAME too (default: the built-in networks)",
    )
    parser.add_argument(
        *("-t", "--network"),
        action="append",
        default=[],
        metavar="FILE",
        help="also serve a custom model, FILE.py[:FUNCTION], FILE.onnx[:SIZES], or a FILE.bundle; repeatable",
    )
    parser.add_argument(
        "--allow-jpeg",
        action="store_true",
        help="accept JPEG images (--codec jpeg); untrusted input then reaches libjpeg",
    )
    flags.add_codec_file_flag(parser)
    parser.add_argument(
        "--quiet", action="store_true", help="do not report connections, requests and loaded networks on stderr"
    )
    stops = parser.add_argument("--exit-on-stdin-eof", action="store_true", help="also stop at end of standard input")
    flags.add_old_name(parser, stops, "--until-stdin-closes")
    add_door_flags(parser)
    add_network_flags(parser)
    add_time_flags(parser)
    add_size_flags(parser)
    add_number_flags(parser, max_batch)
    add_worker_flags(parser)
    add_emulation_flag(parser)
    add_health_flags(parser)
    group = parser.add_argument_group("Prometheus metrics")
    group.add_argument(
        "--metrics-port",
        metavar="N",
        type=arguments.port,
        help="port of the metrics endpoint; 0 lets the system choose",
    )
    group.add_argument(
        "--metrics-host",
        metavar="HOST",
        type=arguments.host,
        default=defaults.HOST,
        help="address of the metrics endpoint; it has no authentication",
    )
    live.add_page_flags(parser)
    return parser


def add_door_flags(parser: argparse.ArgumentParser) -> None:
    """Who may talk to this cloud, and in secret."""
    group = parser.add_argument_group("Access control")
    group.add_argument("--insecure", action="store_true", help="listen on any address without a token or TLS")
    flags.add_tls_flags(group)
    group.add_argument(
        "--tls-client-ca", type=Path, metavar="FILE", help="require client certificates signed by one of these CAs"
    )
    group.add_argument(
        "--max-per-source",
        metavar="N",
        type=arguments.positive_int,
        default=Server.CONNECTIONS_PER_SOURCE,
        help="maximum connections per IPv4 address or IPv6 /64; loopback is exempt",
    )
    group.add_argument(
        "--max-penalty",
        metavar="TIME",
        type=arguments.wait,
        default=format_duration(Server.PENALTY_S),
        help="maximum time a source is blocked after wrong tokens, invalid data or silence; 0s: never block",
    )
    group.add_argument("--penalise-loopback", action="store_true", help="apply the limits per source to loopback too")


def add_network_flags(parser: argparse.ArgumentParser) -> None:
    """Networks that edges bring along."""
    group = parser.add_argument_group("Networks of edges")
    group.add_argument(
        "--accept-networks",
        action="store_true",
        help="take a network that this cloud does not have from an edge with the token or a client certificate, or on "
        "loopback; it runs in a process of its own (SECURITY.md)",
    )
    group.add_argument(
        "--network-store",
        metavar="DIR",
        type=Path,
        help="where such networks are kept (default: sent, in the cache folder); none: until the cloud ends",
    )
    group.add_argument(
        "--max-store",
        metavar="SIZE",
        type=arguments.size,
        default=format_size(Server.STORE_BYTES),
        help="maximum size of all such networks together; those not used for longest are removed",
    )


def add_time_flags(parser: argparse.ArgumentParser) -> None:
    """How long things may take."""
    group = parser.add_argument_group("Timeouts")
    for flag, default, text in (
        ("--timeout", Server.REQUEST_S, "maximum time for one request"),
        (
            "--hello-timeout",
            Server.HELLO_S,
            "maximum time for a new connection to send HELLO, including the TLS handshake",
        ),
        ("--idle-timeout", Server.IDLE_S, "maximum time between two requests"),
        (
            "--drain-timeout",
            Server.DRAIN_S,
            "time to finish pending requests after SIGTERM; a second SIGTERM exits at once",
        ),
    ):
        group.add_argument(flag, metavar="TIME", type=arguments.duration, default=format_duration(default), help=text)
    group.add_argument(
        "--max-connection-age",
        metavar="TIME",
        type=arguments.wait,
        default=format_duration(Server.CONNECTION_AGE_S),
        help="ask an edge to choose its cloud again after this time, a fifth more or less, for several clouds behind "
        "one name or list; 0s: never",
    )
    group.add_argument(
        "--min-rate",
        metavar="SIZE",
        type=arguments.size,
        default=format_size(Server.MIN_BYTES_PER_S),
        help="minimum transfer rate of a frame in bytes per second, after 5 s",
    )


def add_size_flags(parser: argparse.ArgumentParser) -> None:
    """How large things may be."""
    group = parser.add_argument_group("Size limits")
    group.add_argument(
        "--max-payload",
        metavar="SIZE",
        type=arguments.payload_size,
        default=format_size(Server.PAYLOAD_BYTES),
        help="maximum payload of a frame",
    )
    group.add_argument(
        "--max-header",
        metavar="SIZE",
        type=arguments.header_size,
        default=format_size(Server.HEADER_BYTES),
        help="maximum header of a frame; most message types have a lower limit",
    )
    group.add_argument(
        "--max-tensors",
        metavar="N",
        type=arguments.positive_int,
        default=Server.TENSORS,
        help="tensors per frame",
    )
    group.add_argument(
        "--max-network-bytes",
        metavar="SIZE",
        type=arguments.size,
        default=format_size(Server.NETWORK_BYTES),
        help="maximum size of the network parameters kept in memory",
    )


def add_number_flags(parser: argparse.ArgumentParser, max_batch: int) -> None:
    """How many there may be at once."""
    group = parser.add_argument_group("Concurrency and limits")
    for flag, default, text in (
        ("--max-connections", Server.CONNECTIONS, "maximum connections; further ones are refused with BUSY"),
        ("--max-queue", Server.QUEUE, "maximum queued requests; further ones are refused with BUSY"),
        ("--max-batch", max_batch, "maximum requests with the same network and cut that run as one batch"),
    ):
        group.add_argument(flag, metavar="N", type=arguments.positive_int, default=default, help=text)
    rate = group.add_argument(
        "--max-control-rate",
        metavar="N",
        type=arguments.positive_int,
        default=Server.SMALL_PER_S,
        help="STATUS and invalid requests per second and source, burst 2 s; further ones are delayed. HELLO: the same "
        "rate, PROBE: 4 times, connections: 10 times",
    )
    flags.add_old_name(group, rate, "--max-small-rate")
    group.add_argument(
        "--load-budget",
        metavar="TIME",
        type=arguments.duration,
        default=format_duration(Server.LOAD_BUDGET_S),
        help="maximum time per hour spent loading and measuring networks for one source; loopback is exempt",
    )
    wait = "how long an idle processor waits to fill a batch"
    group.add_argument(
        "--batch-wait", metavar="TIME", type=arguments.wait, default=format_duration(Server.BATCH_WAIT_S), help=wait
    )


RAY_FLAGS = {
    "ray-address": (
        "HOST:PORT",
        "the cluster to join, auto for that of this machine, or local for one of its own (default: that of this "
        "machine, or else its own)",
    ),
    "ray-cpus": ("N", "cores of each worker, also parts of one (default: --threads, or 1)"),
    "ray-gpus": ("N", "GPUs of each worker, also parts of one (default: 1 with -d cuda, otherwise 0)"),
}
"""Of one placement; they arrive there as they were written."""


def add_worker_flags(parser: argparse.ArgumentParser) -> None:
    """A gateway, and its workers."""
    group = parser.add_argument_group("Gateway and workers")
    group.add_argument(
        "--workers",
        type=arguments.workers,
        metavar="WHAT",
        help="be a gateway, and let workers compute: N child processes, ray or ray:N for actors that Ray places, or "
        "addresses HOST:PORT,HOST:PORT or dns:NAME:PORT of workers that run already (docs/scaling.md)",
    )
    for name, (metavar, text) in RAY_FLAGS.items():
        group.add_argument(f"--{name}", metavar=metavar, help=f"with --workers ray: {text}")
    group.add_argument(
        "--worker-token-file",
        type=Path,
        metavar="FILE",
        help="file with the secret of workers that run already; not that of clients",
    )
    group.add_argument(
        "--worker",
        action="store_true",
        help="be a worker, whose clients are gateways: requires a token, or -i unix:PATH in a folder with mode 0700",
    )


def add_emulation_flag(parser: argparse.ArgumentParser) -> None:
    """A slower cloud."""
    group = parser.add_argument_group("Emulation")
    group.add_argument(
        "--emulate-cpu",
        type=arguments.share,
        metavar="SHARE",
        help="slow the computing of layers down to this share of a core (docs/emulation.md)",
    )


def share_of(options: argparse.Namespace) -> float | None:
    """The emulated share of a core. Raises UsageError for what it does not go with."""
    if options.emulate_cpu is not None and (options.device != "cpu" or options.threads != 1):
        raise UsageError("--emulate-cpu requires -d cpu and --threads 1: it emulates a share of one core")
    return float(options.emulate_cpu) if options.emulate_cpu is not None else None


def add_health_flags(parser: argparse.ArgumentParser) -> None:
    """Ask a running cloud instead of being one."""
    group = parser.add_argument_group("Health check")
    group.add_argument(
        "--health",
        metavar="HOST:PORT",
        type=arguments.address,
        help="check a running cloud and exit: 0 healthy, 1 unhealthy or stopping, 3 cannot connect",
    )
    group.add_argument("--tls-ca", type=Path, metavar="FILE", help="with --health: CA of the cloud's certificate")
    group.add_argument("--json", action="store_true", help="with --health: print one JSON document")
    flags.add_transport_flag(group, "with --health: ")
