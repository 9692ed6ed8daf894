"""The flags that several programs have, in groups: each function adds one of them to a parser."""

import argparse
from collections.abc import Iterable
from pathlib import Path

from edgecloud.cli import arguments
from edgecloud.partition.objectives import METHODS
from edgecloud.utils import addresses, environment
from edgecloud.utils.errors import UsageError

DEFAULT_PORT = 9999
LOCAL = "127.0.0.1"
NETWORKS = (
    *("alex_net", "vgg_net", "mobile_net", "le_net", "deepface", "mnist", "kaldi", "senna_pos", "senna_ner"),
    *("senna_chk", "cifar_alexnet", "cifar_vgg16"),
)
MODELS = f"{', '.join(NETWORKS)}, torchvision:NAME such as torchvision:resnet18, or your own FILE.py (docs/networks.md)"
EDGE_HOST = "the cloud's address; without -i and -p a cloud is started on this machine for this call"
WEIGHTS = "default (trained where there are such, else seeded), imagenet, or a .safetensors, .pt, .bin or .ckpt file"


def add_place_flags(parser: argparse.ArgumentParser, host_help: str, *, listens: bool) -> None:
    """-i, -p, -d and what else both sides have; `place_of` reads the first two."""
    parser.add_argument(
        "-i",
        "--ip",
        type=arguments.place if listens else arguments.place_there,
        metavar="HOST[:PORT]",
        default=LOCAL if listens else None,
        help=host_help,
    )
    parser.add_argument(
        "-p",
        "--port",
        type=arguments.port if listens else arguments.port_there,
        metavar="PORT",
        help=f"TCP port of the cloud{', 0 lets the system choose' if listens else ''} (default: {DEFAULT_PORT})",
    )
    add_device_flags(parser)
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help=f"shared secret (default: ${environment.SECRET}, else none)"
    )


def place_of(options: argparse.Namespace) -> tuple[str, int]:
    """Host and port that -i and -p say together. Raises UsageError where they name two ports."""
    place = addresses.parse(LOCAL if options.ip is None else options.ip)
    if place.port is None:
        return place.host, DEFAULT_PORT if options.port is None else options.port
    if options.port not in (None, place.port):
        raise UsageError(f"-i {options.ip} and -p {options.port} name two ports: leave one of them away")
    return place.host, place.port


def add_tls_flags(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """A certificate of one's own."""
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="own certificate, PEM; goes with --tls-key")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key, PEM, without a password")


def add_edge_tls_flags(parser: argparse.ArgumentParser) -> None:
    """Whom an edge trusts, and who it is itself."""
    group = parser.add_argument_group("TLS")
    group.add_argument(
        "--tls-ca",
        type=Path,
        metavar="FILE",
        help="speak TLS with a cloud whose certificate this one has signed, or is, and that bears the name of -i",
    )
    add_tls_flags(group)


def add_device_flags(parser: argparse.ArgumentParser) -> None:
    """What everything has that computes."""
    parser.add_argument("-d", "--device", default="cpu", help="cpu, cuda, cuda:1 or mps")
    parser.add_argument(
        "--threads", type=arguments.positive_int, metavar="N", help="threads for one layer (default: all cores)"
    )
    parser.add_argument(
        "--cache-dir", type=Path, metavar="DIR", help="for measured times (default: the XDG cache folder)"
    )


def add_times_flags(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Where the times of layers come from."""
    parser.add_argument(
        "--times",
        choices=("auto", "measured", "predicted"),
        default="auto",
        help="of layers: measured here once, predicted without running the network, or what there is (auto)",
    )
    parser.add_argument(
        "--predictors", type=Path, metavar="FILE", help="what deployment.py fit wrote (default: where it puts it)"
    )


def add_codec_flags(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """How tensors may be packed for the link."""
    parser.add_argument(
        "--codec", default="auto", metavar="NAME", help="how tensors travel: auto, raw, zstd, int8+zstd, ..."
    )
    parser.add_argument(
        "--accuracy-budget",
        type=arguments.percent,
        default="0%",
        metavar="SHARE",
        help="answers that lossy codecs may change, such as 0.5%%, where deployment.py calibrate has tried",
    )


def add_timeout_flags(parser: argparse._ArgumentGroup, unit: str) -> None:
    """How long an edge waits for its cloud; `unit` is what one wait is for."""
    parser.add_argument(
        "--timeout",
        type=arguments.duration,
        default="60s",
        metavar="TIME",
        help=f"longest wait for the cloud in one {unit}",
    )
    parser.add_argument(
        "--ready-timeout",
        type=arguments.duration,
        default="5min",
        metavar="TIME",
        help="for the cloud to load and measure",
    )


def add_fallback_flag(parser: argparse._ArgumentGroup) -> None:
    """What becomes of inferences that the cloud does not answer."""
    parser.add_argument(
        "--fallback",
        choices=("on", "off", "always"),
        default="on",
        help="finish here what the cloud does not answer in time; off: that is an error; always: also where no cloud "
        "is there at the start, and use it once it comes",
    )


def add_emulation_flags(parser: argparse.ArgumentParser) -> None:
    """A slower link and a slower edge."""
    group = parser.add_argument_group("emulation, without root")
    group.add_argument(
        "--emulate-link",
        type=arguments.link,
        metavar="UP[,RTT[,DOWN]]",
        help="put a slow link in between, such as 5mbit,20ms (units: docs/units.md)",
    )
    group.add_argument(
        "--emulate-cpu", type=arguments.share, metavar="SHARE", help="slow the edge down to this much of a core"
    )


def add_record_flag(parser: argparse._ArgumentGroup) -> None:
    """A trace of the link."""
    parser.add_argument(
        "--record", type=Path, metavar="FILE.csv", help="write down the upload over time, as a trace for the lab"
    )


def check_emulation(options: argparse.Namespace) -> None:
    """Refuse what --emulate-cpu does not go with. Raises UsageError."""
    if options.emulate_cpu is not None and (options.threads or 1) != 1:
        raise UsageError("--emulate-cpu emulates a share of one core: leave --threads away")
    if options.emulate_cpu is not None and options.device != "cpu":
        raise UsageError("--emulate-cpu needs -d cpu")


def add_goal_flags(parser: argparse._ArgumentGroup, objectives: Iterable[str]) -> None:
    """What is minimised, one of `objectives`, and how the best cut is found."""
    parser.add_argument(
        "--objective",
        choices=tuple(objectives),
        default="latency",
        help="what is least: time, joules here, both weighted, the longest stage, or what --rate needs (auto)",
    )
    parser.add_argument(
        "--method",
        choices=METHODS,
        default="auto",
        help="search cuts of one tensor (chain) or all cuts (mincut); dsh is DADS's search for throughput",
    )
    parser.add_argument(
        "--rate", type=arguments.above_zero, metavar="Q", help="inferences a second that should be kept up with"
    )
    parser.add_argument(
        "--seconds-per-joule",
        type=arguments.at_least_zero,
        metavar="S",
        help="with weighted: seconds that a joule is worth",
    )
    parser.add_argument(
        "--max-cost",
        type=arguments.number,
        metavar="C",
        help="limit of the cloud's cost for one inference; may go back and forth",
    )
    parser.add_argument(
        "--cloud-price", type=arguments.at_least_zero, metavar="P", help="cost of one second of the cloud's work"
    )


def add_power_flags(parser: argparse._ArgumentGroup) -> None:
    """The watts that energy is modelled with."""
    parser.add_argument(
        "--power", default="raspberry_pi_4", metavar="PROFILE", help="raspberry_pi_4, jetson_tk1, or your own .yaml"
    )
    parser.add_argument("--radio", default="wifi", help="of the power profile: 3g, 4g or wifi")
