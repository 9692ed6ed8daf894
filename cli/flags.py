"""Flags shared by several programs: each function adds a group of them to a parser."""

import argparse
import copy
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from edgecloud.cli import arguments
from edgecloud.partition.objectives import METHOD, METHODS, OBJECTIVE
from edgecloud.utils import addresses, defaults, environment
from edgecloud.utils.errors import UsageError
from edgecloud.utils.units import format_duration

if TYPE_CHECKING:
    from edgecloud.client.config import CloudConfig, CodecConfig, LinkConfig
    from edgecloud.engine.device_config import DeviceConfig
    from edgecloud.net.tls import ClientTls

NETWORKS = (
    *("alex_net", "vgg_net", "mobile_net", "efficientnet_lite0", "le_net", "deepface", "mnist", "kaldi", "senna_pos"),
    *("senna_ner", "senna_chk", "cifar_alexnet", "cifar_vgg16"),
)
MODELS = (
    f"{', '.join(NETWORKS)}, torchvision:NAME such as torchvision:resnet18, a FILE.py or "
    "FILE.onnx (docs/networks.md), or a FILE.bundle (docs/bundle.md)"
)
BACKENDS = ("auto", "torch", "onnxruntime", "openvino")
EDGE_HOST = (
    "address of the cloud, or of several with commas between: the least busy one is used "
    "(default: start a local cloud for this call)"
)
WEIGHTS = "default (trained if available, otherwise seeded), imagenet, or a .safetensors, .pt, .bin or .ckpt file"


def add_place_flags(parser: argparse.ArgumentParser, host_help: str, *, listens: bool) -> None:
    """-i, -p, -d and what else both sides have; `place_of` reads the first two."""
    parser.add_argument(
        "-i",
        "--ip",
        type=arguments.listening_place if listens else arguments.places_there,
        metavar="HOST[:PORT]" if listens else "HOST[:PORT][,...]",
        default=defaults.HOST if listens else None,
        help=host_help,
    )
    parser.add_argument(
        "-p",
        "--port",
        type=arguments.port if listens else arguments.port_there,
        metavar="PORT",
        help=f"port of the cloud{', 0 lets the system choose' if listens else ''} (default: {defaults.PORT})",
    )
    if not listens:
        add_transport_flag(parser)
    add_device_flags(parser)
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"file with the shared secret (default: ${environment.SECRET}, otherwise none)",
    )


def place_of(options: argparse.Namespace) -> tuple[str, int]:
    """Host and port that -i and -p say together. Raises UsageError where they name two ports."""
    if addresses.is_unix(options.ip or ""):
        return options.ip, 0
    return places_of(options)[0]


def places_of(options: argparse.Namespace) -> tuple[tuple[str, int], ...]:
    """The same for a list of hosts: -p is the port of those that name none. Raises UsageError for a place that is there
    twice, too."""
    found = []
    for place in addresses.parse_several(defaults.HOST if options.ip is None else options.ip):
        if place.port is not None and options.port not in (None, place.port):
            raise UsageError(f"-i {options.ip} and -p {options.port} name different ports: give only one")
        usual = defaults.PORT if options.port is None else options.port
        found.append((place.host, usual if place.port is None else place.port))
    if len(set(found)) < len(found):
        raise UsageError(f"-i {options.ip} names an address twice")
    return tuple(found)


def device_of(options: argparse.Namespace) -> "DeviceConfig":
    """What `add_device_flags` and `add_times_flags` say. Raises UsageError for a user who has no home."""
    from edgecloud.engine.device_config import DeviceConfig
    from edgecloud.predictor.store import default_folder

    return DeviceConfig(
        name=options.device,
        threads=options.threads,
        backend=options.backend,
        cache_dir=options.cache_dir or default_folder(),
        times=options.times,
        predictors=options.predictors,
    )


def cloud_of(options: argparse.Namespace, own: tuple[str, ...] | None) -> "CloudConfig":
    """Where the cloud of an edge is, how it is trusted and waited for; `own` starts one for this call.

    Raises UsageError for files and texts that do not serve.
    """
    from edgecloud.client.config import CloudConfig
    from edgecloud.net.security import read_token

    (host, port), *more = places_of(options)
    is_series = getattr(options, "points", None) is not None  # of cuts, which only a cloud can run
    return CloudConfig(
        host=host,
        port=port,
        more=tuple(more),
        token=read_token(options.token_file),
        tls=_tls_of(options, host),
        transport=options.transport,
        own=own,
        fallback=options.fallback,
        ship="wait" if is_series and options.ship == "background" else options.ship,
        timeout_s=options.timeout,
        ready_s=options.ready_timeout,
    )


def link_of(options: argparse.Namespace) -> "LinkConfig":
    """What an edge is told of its link."""
    from edgecloud.client.config import LinkConfig

    return LinkConfig(up_bytes_per_s=options.bandwidth, shape=options.emulate_link, record=options.record)


def codec_of(options: argparse.Namespace) -> "CodecConfig":
    """What `add_codec_flags` says."""
    from edgecloud.client.config import CodecConfig

    if options.codec_file:
        from edgecloud.engine import learned

        learned.read_all(options.codec_file)  # what is wrong with them is said before anything starts
    return CodecConfig(name=options.codec, accuracy_budget=options.accuracy_budget, files=tuple(options.codec_file))


def _tls_of(options: argparse.Namespace, host: str) -> "ClientTls | None":
    """Whom the edge trusts; None, and nothing is imported, without TLS."""
    files = (options.tls_ca, options.tls_cert, options.tls_key)
    if not any(files):
        return None
    from edgecloud.net.tls import client_tls

    return client_tls(*files, host)


def add_tls_flags(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """The program's own certificate."""
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="own certificate, PEM; requires --tls-key")
    parser.add_argument(
        "--tls-key", type=Path, metavar="FILE", help="private key of the certificate, PEM, without a password"
    )


def add_edge_tls_flags(parser: argparse.ArgumentParser) -> None:
    """Whom an edge trusts, and who it is itself."""
    group = parser.add_argument_group("TLS")
    group.add_argument(
        "--tls-ca",
        type=Path,
        metavar="FILE",
        help="use TLS; trust the cloud's certificate if this CA signed it or it is this certificate, and it matches -i",
    )
    add_tls_flags(group)


def add_transport_flag(parser: argparse.ArgumentParser | argparse._ArgumentGroup, more: str = "") -> None:
    """What frames travel in."""
    parser.add_argument(
        "--transport",
        choices=("tcp", "grpc"),
        default=defaults.Cloud.TRANSPORT,
        help=f"{more}what frames travel in: TCP, or a stream of gRPC, to the port of the cloud's --grpc-port",
    )


def add_device_flags(parser: argparse.ArgumentParser) -> None:
    """What everything has that computes."""
    parser.add_argument("-d", "--device", default=defaults.Device.NAME, help="device: cpu, cuda, cuda:1 or mps")
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default=defaults.Device.BACKEND,
        help="what computes the layers: torch, onnxruntime or openvino (need a bundle), or the fastest (auto)",
    )
    parser.add_argument(
        "--threads", type=arguments.positive_int, metavar="N", help="threads per layer (default: all cores)"
    )
    add_cache_flag(parser)


def add_cache_flag(parser: argparse.ArgumentParser) -> None:
    """Where what was found out is kept."""
    parser.add_argument(
        "--cache-dir", type=Path, metavar="DIR", help="cache of measured times (default: the XDG cache directory)"
    )


def add_times_flags(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Where the times of layers come from."""
    parser.add_argument(
        "--times",
        choices=("auto", "measured", "predicted"),
        default=defaults.Device.TIMES,
        help="source of the layer times: measured once on this machine, predicted, or whichever is available (auto)",
    )
    parser.add_argument(
        "--predictors",
        type=Path,
        metavar="FILE",
        help="predictors written by deployment.py fit (default: its output file)",
    )


def add_codec_flags(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """How tensors may be packed for the link."""
    parser.add_argument(
        "--codec", default=defaults.Codec.NAME, metavar="NAME", help="tensor encoding: auto, raw, zstd, int8+zstd, ..."
    )
    parser.add_argument(
        "--accuracy-budget",
        type=arguments.percent,
        default=f"{defaults.Codec.ACCURACY_BUDGET:.0%}",
        metavar="SHARE",
        help="share of answers that lossy codecs may change, such as 0.5%%; as calibrated (docs/codecs.md)",
    )
    add_codec_file_flag(parser)


def add_overlap_flag(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Whether stages of one inference overlap."""
    parser.add_argument(
        "--overlap",
        choices=("auto", "off"),
        default=defaults.Edge.OVERLAP,
        help="send a boundary in chunks while it is packed, where that is predicted to save time (docs/overlap.md)",
    )


def add_codec_file_flag(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Learned codecs, which both sides need."""
    parser.add_argument(
        "--codec-file",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="learned codec, made by deployment.py bottleneck; the edge and the cloud need the same file; repeatable",
    )


def add_old_name(parser: argparse.ArgumentParser | argparse._ArgumentGroup, action: argparse.Action, name: str) -> None:
    """Keep an old name of a flag, also in files and in the environment; --help shows only the new one."""
    old = copy.copy(action)
    old.option_strings, old.help = [name], argparse.SUPPRESS
    parser._add_action(old)


def add_timeout_flags(parser: argparse._ArgumentGroup, unit: str) -> None:
    """How long an edge waits for its cloud; `unit` is what one wait is for."""
    parser.add_argument(
        "--timeout",
        type=arguments.duration,
        default=format_duration(defaults.Cloud.TIMEOUT_S),
        metavar="TIME",
        help=f"maximum wait for the cloud per {unit}",
    )
    parser.add_argument(
        "--ready-timeout",
        type=arguments.duration,
        default=format_duration(defaults.Cloud.READY_S),
        metavar="TIME",
        help="maximum wait until the cloud has loaded and measured the network",
    )


def add_fallback_flag(parser: argparse._ArgumentGroup) -> None:
    """What becomes of inferences that the cloud does not answer."""
    parser.add_argument(
        "--fallback",
        choices=("on", "off", "always"),
        default=defaults.Cloud.FALLBACK,
        help="on: finish on the edge if the cloud does not answer in time; off: fail; always: also run without a cloud "
        "at the start, and use it once it is reachable",
    )
    parser.add_argument(
        "--ship",
        choices=("background", "wait", "off"),
        default=defaults.Cloud.SHIP,
        help="send the network to a cloud that does not have it and was started with --accept-networks: while the edge "
        "answers by itself, before anything runs, or not at all",
    )


def add_emulation_flags(parser: argparse.ArgumentParser) -> None:
    """A slower link and a slower edge."""
    group = parser.add_argument_group("Emulation (no root required)")
    group.add_argument(
        "--emulate-link",
        type=arguments.link,
        metavar="UP[,RTT[,DOWN]]",
        help="emulate a slow link, such as 5mbit,20ms (units: docs/units.md)",
    )
    group.add_argument(
        "--emulate-cpu", type=arguments.share, metavar="SHARE", help="slow the edge down to this share of a core"
    )


def add_record_flag(parser: argparse._ArgumentGroup) -> None:
    """A trace of the link."""
    parser.add_argument(
        "--record", type=Path, metavar="FILE.csv", help="record the upload rate over time as a trace for the lab"
    )


def add_output_flag(parser: argparse._ArgumentGroup, kinds: str) -> None:
    """The answer itself, in a file of one of these kinds."""
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"write the answer to {kinds} (docs/json.md)")


def add_goal_flags(parser: argparse._ArgumentGroup, objectives: Iterable[str]) -> None:
    """What is minimised, one of `objectives`, and how the best cut is found."""
    parser.add_argument(
        "--objective",
        choices=tuple(objectives),
        default=OBJECTIVE,
        help="what to minimize: latency, edge energy, a weighted sum, the bottleneck stage, or as --rate needs (auto)",
    )
    parser.add_argument(
        "--method",
        choices=METHODS,
        default=METHOD,
        help="search method: single-tensor cuts (chain), all cuts (mincut), or DADS's throughput search (dsh)",
    )
    parser.add_argument("--rate", type=arguments.above_zero, metavar="Q", help="inferences per second to sustain")
    parser.add_argument(
        "--seconds-per-joule",
        type=arguments.at_least_zero,
        metavar="S",
        help="weight of energy for --objective weighted",
    )
    parser.add_argument(
        "--max-cost",
        type=arguments.number,
        metavar="C",
        help="maximum cloud cost per inference; may place several parts on the edge",
    )
    parser.add_argument(
        "--cloud-price", type=arguments.at_least_zero, metavar="P", help="cost of one second of cloud compute"
    )


def add_power_flags(parser: argparse._ArgumentGroup) -> None:
    """The watts that energy is modelled with."""
    parser.add_argument(
        "--power",
        default=defaults.Edge.POWER,
        metavar="PROFILE",
        help="power profile: raspberry_pi_4, jetson_tk1, or a .yaml file",
    )
    parser.add_argument("--radio", default=defaults.Edge.RADIO, help="radio of the power profile: 3g, 4g or wifi")
