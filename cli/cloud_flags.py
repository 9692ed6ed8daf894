"""The flags of cloud_api.py and tasks_cloud_api.py: they differ in what they batch."""

import argparse
from pathlib import Path

from edgecloud.cli import arguments, flags, script


def build_parser(prog: str, description: str, max_batch: int) -> argparse.ArgumentParser:
    """The command line; `max_batch` is the default of its flag."""
    parser = script.Parser(prog, description)
    where = "address to listen on, :: for IPv6 and IPv4; other than loopback: needs a token, TLS or --insecure"
    flags.add_place_flags(parser, where, listens=True)
    parser.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="[MODEL=]SOURCE",
        help="imagenet, or a .safetensors or .pt file, for one network or for all; may be repeated "
        "(default: trained weights where the project has them, else seeded ones; the edge must be given the same)",
    )
    flags.add_times_flags(parser)
    parser.add_argument(
        "--models",
        type=arguments.names,
        default=(),
        metavar="A,B",
        help="serve only these networks; all: also every torchvision:NAME (default: those with a name of their own)",
    )
    parser.add_argument(
        "--network",
        action="append",
        default=[],
        metavar="FILE.py[:FUNCTION]",
        help="serve the network of a file of your own too; may be repeated",
    )
    parser.add_argument(
        "--allow-jpeg", action="store_true", help="take pictures as JPEG too (--codec jpeg): libjpeg reads what comes"
    )
    parser.add_argument(
        "--quiet", action="store_true", help="no line on stderr for who comes, what was served, which network is loaded"
    )
    parser.add_argument("--until-stdin-closes", action="store_true", help="also stop when standard input ends")
    add_door_flags(parser)
    add_time_flags(parser)
    add_size_flags(parser)
    add_number_flags(parser, max_batch)
    add_health_flags(parser)
    group = parser.add_argument_group("metrics for Prometheus")
    group.add_argument("--metrics-port", metavar="N", type=arguments.port, help="answer scrapes there; 0 chooses one")
    group.add_argument(
        "--metrics-host", metavar="HOST", type=arguments.host, default=flags.LOCAL, help="whoever reaches it can read"
    )
    return parser


def add_door_flags(parser: argparse.ArgumentParser) -> None:
    """Who may talk to this cloud, and in secret."""
    group = parser.add_argument_group("who may come")
    group.add_argument("--insecure", action="store_true", help="listen on any address without a token or TLS")
    flags.add_tls_flags(group)
    group.add_argument(
        "--tls-client-ca", type=Path, metavar="FILE", help="every edge needs a certificate that one of these has signed"
    )
    group.add_argument(
        "--max-per-source",
        metavar="N",
        type=arguments.positive_int,
        default=16,
        help="connections of one IPv4 address or IPv6 /64; loopback is spared",
    )
    group.add_argument(
        "--max-penalty",
        metavar="TIME",
        type=arguments.wait,
        default="10min",
        help="longest time that a source is turned away for after wrong tokens, garbage or silence; 0s: never",
    )
    group.add_argument(
        "--penalise-loopback", action="store_true", help="count failures, connections and loads of it too"
    )


def add_time_flags(parser: argparse.ArgumentParser) -> None:
    """How long things may take."""
    group = parser.add_argument_group("time limits")
    for flag, default, text in (
        ("--timeout", "120s", "longest time for one request"),
        ("--hello-timeout", "10s", "for a new connection to speak, TLS included"),
        ("--idle-timeout", "10min", "between two requests"),
        ("--drain-timeout", "30s", "for requests in hand at SIGTERM; a second SIGTERM ends at once"),
    ):
        group.add_argument(flag, metavar="TIME", type=arguments.duration, default=default, help=text)
    group.add_argument(
        "--min-rate", metavar="SIZE", type=arguments.size, default="1kB", help="bytes a second of a frame, after 5 s"
    )


def add_size_flags(parser: argparse.ArgumentParser) -> None:
    """How large things may be."""
    group = parser.add_argument_group("size limits")
    group.add_argument(
        "--max-payload", metavar="SIZE", type=arguments.payload_size, default="64MiB", help="of one frame"
    )
    group.add_argument(
        "--max-header",
        metavar="SIZE",
        type=arguments.header_size,
        default="64KiB",
        help="of one frame; most have less room",
    )
    group.add_argument("--max-tensors", metavar="N", type=arguments.positive_int, default=64, help="in one frame")
    group.add_argument(
        "--max-network-bytes", metavar="SIZE", type=arguments.size, default="4GiB", help="parameters kept in memory"
    )


def add_number_flags(parser: argparse.ArgumentParser, max_batch: int) -> None:
    """How many there may be at once."""
    group = parser.add_argument_group("numbers")
    for flag, default, text in (
        ("--max-connections", 64, "further ones are told BUSY"),
        ("--max-queue", 32, "requests in line; further ones: BUSY"),
        ("--max-batch", max_batch, "requests of one network and cut that are computed together"),
    ):
        group.add_argument(flag, metavar="N", type=arguments.positive_int, default=default, help=text)
    group.add_argument(
        "--max-small-rate",
        metavar="N",
        type=arguments.positive_int,
        default=50,
        help="STATUS and wrong requests a second of one source, after twice as many at once; further ones wait; as "
        "many HELLOs, 4 times as many PROBEs, 10 times as many connections",
    )
    group.add_argument(
        "--load-budget",
        metavar="TIME",
        type=arguments.duration,
        default="10min",
        help="of loading and measuring networks that one source may cause in an hour; loopback is spared",
    )
    wait = "how long an idle processor waits for more of them"
    group.add_argument("--batch-wait", metavar="TIME", type=arguments.wait, default="0ms", help=wait)


def add_health_flags(parser: argparse.ArgumentParser) -> None:
    """Ask a running cloud instead of being one."""
    group = parser.add_argument_group("health of a running cloud")
    group.add_argument(
        "--health",
        metavar="HOST:PORT",
        type=arguments.address,
        help="ask it and end: 0 healthy, 1 unhealthy or stopping, 3 cannot connect; goes with --token-file and --tls-*",
    )
    group.add_argument(
        "--tls-ca", type=Path, metavar="FILE", help="with --health: what the cloud's certificate rests on"
    )
    group.add_argument("--json", action="store_true", help="with --health: print one JSON document")
