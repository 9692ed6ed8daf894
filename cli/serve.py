"""One call of cloud_api.py or tasks_cloud_api.py: listen, and serve until stopped."""

import argparse
import gc
import json
import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from edgecloud.cli import flags, live, script
from edgecloud.cli.cloud_flags import RAY_FLAGS, build_parser, share_of
from edgecloud.utils import addresses, defaults
from edgecloud.utils.errors import AppError, UsageError

if TYPE_CHECKING:
    from edgecloud.library.cloud import Cloud
    from edgecloud.net.metrics import Metrics
    from edgecloud.page.cloud import CloudView
    from edgecloud.server.cloud_config import CloudConfig


def parse_weights(texts: Sequence[str]) -> dict[str, str]:
    """Read the --weights: the source of each network, and under "" that of all others. Raises UsageError."""
    sources: dict[str, str] = {}
    for text in texts:
        model, separator, source = text.partition("=")
        if not separator or not re.fullmatch(r"(torchvision:)?\w*|[\w-]+\.py(:\w+)?", model):
            model, source = "", text  # a file whose name holds a = sign
        if not source or text.startswith("="):
            raise UsageError(f"--weights {text!r}: give SOURCE or MODEL=SOURCE")
        sources[model] = source
    return sources


def build_config(options: argparse.Namespace) -> "CloudConfig":
    """The arguments as a frozen configuration. Raises UsageError for files and texts that do not serve."""
    from dataclasses import replace

    from edgecloud.engine import learned
    from edgecloud.net.codec import OPTIONAL
    from edgecloud.net.frames import Limits
    from edgecloud.net.penalties import Policy
    from edgecloud.net.security import read_token
    from edgecloud.net.tls import server_context
    from edgecloud.server.cloud_config import CloudConfig
    from edgecloud.server.worker_flags import SPARE_CONNECTIONS

    host, port = flags.place_of(options)
    codecs = (name for name, flag in OPTIONAL.items() if getattr(options, flag.strip("-").replace("-", "_")))
    connections = options.max_connections + (SPARE_CONNECTIONS if options.worker else 0)
    limits = Limits(options.max_header, options.max_payload, options.max_tensors, more_codecs=frozenset(codecs))
    return CloudConfig(
        host=host,
        port=port,
        grpc_port=options.grpc_port,
        device=flags.device_of(options),
        cpu_share=share_of(options),
        weights=parse_weights(options.weights),
        models=options.models,
        networks=tuple(options.network),
        token=read_token(options.token_file),
        tls=server_context(options.tls_cert, options.tls_key, options.tls_client_ca),
        limits=replace(limits, learned=learned.by_wire_name(options.codec_file)),
        codec_files=tuple(options.codec_file),
        min_bytes_per_s=options.min_rate,
        small_per_s=options.max_control_rate,
        policy=Policy(
            most_s=options.max_penalty,
            most_connections=connections if options.worker else options.max_per_source,
            spares_loopback=not options.penalise_loopback,
        ),
        max_connections=connections,
        max_queue=options.max_queue,
        max_batch=options.max_batch,
        batch_wait_s=options.batch_wait,
        accepts_networks=options.accept_networks,
        network_store=store_of(options),
        max_store_bytes=options.max_store,
        authenticates=options.tls_client_ca is not None,
        max_network_bytes=options.max_network_bytes,
        load_budget_s=options.load_budget,
        hello_s=options.hello_timeout,
        idle_s=options.idle_timeout,
        request_s=options.timeout,
        drain_s=options.drain_timeout,
        connection_age_s=options.max_connection_age,
        workers=options.workers,
        worker_token="" if options.worker_token_file is None else read_token(options.worker_token_file),
        worker_options=options_of_ray(options),
        is_worker=options.worker,
    )


def options_of_ray(options: argparse.Namespace) -> dict[str, str]:
    """What is for Ray. Raises UsageError where nothing is placed by it."""
    given = {name: getattr(options, name.replace("-", "_")) for name in RAY_FLAGS}
    told = {name: text for name, text in given.items() if text is not None}
    if told and (options.workers is None or options.workers[0] != "ray"):
        raise UsageError(f"--{next(iter(told))} requires --workers ray")
    return told


def store_of(options: argparse.Namespace) -> Path | None:
    """Where networks that edges send are kept; None: until the cloud ends. Raises UsageError."""
    if options.network_store is None:
        return Path(flags.device_of(options).cache_dir) / "sent"
    return None if str(options.network_store) == "none" else Path(options.network_store)


def check_door(config: "CloudConfig", *, insecure: bool, has_client_ca: bool) -> None:
    """Raises UsageError for a port that is open to everybody, unless that is wanted. Warns where only TLS guards it."""
    from edgecloud.net.security import check_binding, is_loopback

    if config.is_worker:
        check_worker(config)
    elif addresses.is_unix(config.host):
        raise UsageError(f"-i {config.host}: only a worker listens on a file (--worker)")
    check_binding(config.host, config.token, has_tls=config.tls is not None, insecure=insecure)
    is_open = not (config.token or has_client_ca or insecure)
    if config.tls is not None and is_open and not is_loopback(config.host):
        script.complain("TLS alone does not authenticate clients: add --token-file or --tls-client-ca")


def check_worker(config: "CloudConfig") -> None:
    """Raises UsageError for a worker that anybody could use who reaches its port."""
    if config.workers is not None:
        raise UsageError("--worker and --workers: a worker has no workers of its own")
    if not config.token and not addresses.is_unix(config.host):
        raise UsageError(
            "--worker requires a token (--token-file FILE) that the gateway has too, or -i unix:PATH on this machine"
        )


def serve(options: argparse.Namespace) -> int:
    """Listen, say where, and serve until stopped; returns the exit code. Raises AppError where it cannot begin."""
    if options.tls_ca is not None or options.json or options.transport != defaults.Cloud.TRANSPORT:
        raise UsageError("--tls-ca, --json and --transport require --health")
    if options.exit_on_stdin_eof:
        script.exit_at_end_of_stdin()
    config = build_config(options)
    check_door(config, insecure=options.insecure, has_client_ca=options.tls_client_ca is not None)
    metrics = listen_for_scrapes(options.metrics_host, options.metrics_port)
    view = None if options.page is None else view_of(config)
    told: list[Metrics] = [each for each in (metrics, view) if each is not None]

    with opened(config, all_of(told), is_quiet=options.quiet) as cloud, ExitStack() as stack:
        if view is not None:
            stack.enter_context(live.shown(options, lambda: view))
        first, *others = cloud.addresses
        script.announce(f"listening on {addresses.show(*first)}")
        for more in others:
            script.say(f"and on {addresses.show(*more)}")
        for more in cloud.grpc_addresses:
            script.announce(f"gRPC on {addresses.show(*more)}")
        gc.freeze()  # what is there now stays: it need not be looked through while requests pass
        cloud.serve()
    return 0


def all_of(told: "list[Metrics]") -> "Metrics | None":
    """One that tells all of them."""
    from edgecloud.net.metrics import Several

    return Several(told) if len(told) > 1 else next(iter(told), None)


def view_of(config: "CloudConfig") -> "CloudView":
    """What the page shows of a cloud that is about to begin."""
    from edgecloud.page.cloud import CloudView

    return CloudView(config.device.name)


def opened(config: "CloudConfig", metrics: "Metrics | None", *, is_quiet: bool) -> "Cloud":
    """A cloud that listens; on a terminal a bar shows how far that is. Raises AppError."""
    from edgecloud.utils.progress import on_terminal

    with on_terminal():
        from edgecloud.library.cloud import Cloud  # and with it torch: what is refused is refused before
        from edgecloud.server import visits

        if not is_quiet:
            import logging

            visits.show(logging.getLogger().level)
        cloud = Cloud.of(config, metrics)
        script.on_stop_signals(cloud.stop)
        return cloud


def listen_for_scrapes(host: str, port: int | None) -> "Metrics | None":
    """Keep figures and show them, where a port is given."""
    if port is None:
        return None
    from edgecloud.server.prometheus import PrometheusMetrics

    metrics = PrometheusMetrics()
    script.complain(f"metrics on http://{addresses.show(host, metrics.listen(host, port))}/metrics")
    return metrics


def ask_health(options: argparse.Namespace) -> int:
    """Ask a running cloud how it is, and print it."""
    from edgecloud.net.security import read_token
    from edgecloud.net.tls import client_tls
    from edgecloud.server import health

    host, port = options.health
    tls = client_tls(options.tls_ca, options.tls_cert, options.tls_key, host)
    answer = health.ask(host, port, read_token(options.token_file), tls, options.transport)
    script.say(json.dumps(health.to_json(answer)) if options.json else health.to_line(answer))
    return 0 if answer.is_healthy else AppError.exit_code


def main(prog: str, description: str, argv: Sequence[str] | None, max_batch: int) -> int:
    """Parse and serve; returns the exit code."""
    options = build_parser(prog, description, max_batch).parse_args(argv)
    return script.run(prog, lambda: (serve if options.health is None else ask_health)(options), options)
