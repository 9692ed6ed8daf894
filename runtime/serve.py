"""The command line of a cloud, for cloud_api.py and tasks_cloud_api.py: they differ in what they batch."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from utils import cli
from utils.errors import UsageError


def build_parser(prog: str, description: str, max_batch: int) -> argparse.ArgumentParser:
    """The command line; `max_batch` is the default of its flag."""
    parser = cli.Parser(prog, description)
    cli.add_place_flags(
        parser,
        "address to listen on; other than loopback: needs a token, TLS or --insecure",
        "127.0.0.1",
        cli.DEFAULT_PORT,
    )
    parser.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="[MODEL=]SOURCE",
        help="imagenet, or a .safetensors or .pt file, for one network or for all; may be repeated "
        "(default: trained weights where the project has them, else seeded ones; the edge must be given the same)",
    )
    cli.add_times_flags(parser)
    parser.add_argument("--models", type=cli.names, default=(), metavar="A,B", help="serve only these networks")
    parser.add_argument("--insecure", action="store_true", help="listen on any address without a token or TLS")
    cli.add_tls_flags(parser)
    parser.add_argument(
        "--tls-client-ca", type=Path, metavar="FILE", help="every edge needs a certificate that one of these has signed"
    )
    parser.add_argument(
        "--timeout", metavar="TIME", type=cli.duration, default="120s", help="longest time for one request"
    )
    parser.add_argument(
        "--hello-timeout", metavar="TIME", type=cli.duration, default="10s", help="for a new connection to speak"
    )
    parser.add_argument(
        "--idle-timeout", metavar="TIME", type=cli.duration, default="10min", help="between two requests"
    )
    parser.add_argument(
        "--max-connections", metavar="N", type=cli.positive_int, default=64, help="further ones are told BUSY"
    )
    parser.add_argument(
        "--max-queue", metavar="N", type=cli.positive_int, default=32, help="requests in line; further ones: BUSY"
    )
    parser.add_argument(
        "--max-batch",
        metavar="N",
        type=cli.positive_int,
        default=max_batch,
        help="requests of one network and cut that are computed together",
    )
    parser.add_argument(
        "--batch-wait",
        metavar="TIME",
        type=cli.wait,
        default="0ms",
        help="how long an idle processor waits for more of them",
    )
    parser.add_argument(
        "--max-payload", metavar="SIZE", type=cli.payload_size, default="64MiB", help="largest frame that is accepted"
    )
    parser.add_argument(
        "--max-network-bytes", metavar="SIZE", type=cli.size, default="4GiB", help="parameters kept in memory"
    )
    parser.add_argument("--until-stdin-closes", action="store_true", help="also stop when standard input ends")
    return parser


def parse_weights(given: Sequence[str]) -> dict[str, str]:
    """Read the --weights: the source of each network, and under "" that of all others."""
    sources: dict[str, str] = {}
    for text in given:
        model, separator, source = text.partition("=")
        if not separator or not re.fullmatch(r"(torchvision:)?\w*", model):
            model, source = "", text  # a file whose name holds a = sign
        if not source or text.startswith("="):
            raise UsageError(f"--weights {text!r}: give SOURCE or MODEL=SOURCE")
        sources[model] = source
    return sources


def serve(options: argparse.Namespace) -> int:
    """Listen, say where, and serve until stopped."""
    from net.frames import Limits
    from net.security import check_binding, read_token
    from net.tls import server_context

    if options.until_stdin_closes:
        cli.exit_at_end_of_stdin()
    token = read_token(options.token_file)
    tls = server_context(options.tls_cert, options.tls_key, options.tls_client_ca)
    check_binding(options.ip, token, has_tls=tls is not None, insecure=options.insecure)
    if tls is not None and not token and options.tls_client_ca is None:
        cli.complain("TLS alone keeps nobody out: give a token too (--token-file), or --tls-client-ca")

    from predictor.store import default_folder
    from runtime.cloud import Cloud, CloudConfig

    cloud = Cloud(
        CloudConfig(
            host=options.ip,
            port=options.port,
            device=options.device,
            threads=options.threads,
            weights=parse_weights(options.weights),
            models=options.models,
            cache_dir=options.cache_dir or default_folder(),
            times=options.times,
            predictors=options.predictors,
            token=token,
            tls=tls,
            limits=Limits(payload_bytes=options.max_payload),
            max_connections=options.max_connections,
            max_queue=options.max_queue,
            max_batch=options.max_batch,
            batch_wait_s=options.batch_wait,
            max_network_bytes=options.max_network_bytes,
            hello_s=options.hello_timeout,
            idle_s=options.idle_timeout,
            request_s=options.timeout,
        )
    )
    cloud.check_weights()
    host, port = cloud.server.open()
    cli.on_stop_signals(cloud.server.stop)
    cli.say(f"listening on {f'[{host}]' if ':' in host else host}:{port}")
    cloud.server.serve()
    cloud.close()
    return 0


def main(prog: str, description: str, argv: Sequence[str] | None, max_batch: int) -> int:
    """Parse and serve; returns the exit code."""
    options = build_parser(prog, description, max_batch).parse_args(argv)
    return cli.run(prog, lambda: serve(options), options)
