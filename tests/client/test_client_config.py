"""What both scripts are told: the same flags make the same configuration, and each default is written in one place."""

import ast
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from edgecloud import cloud_api, edge_api, tasks_cloud_api, tasks_edge_api
from edgecloud.cli import cloud_flags, flags
from edgecloud.cli.serve import build_config as cloud_config
from edgecloud.client.config import ClientConfig, CloudConfig, DeviceConfig, EdgeConfig
from edgecloud.server import cloud_config as server
from edgecloud.tasks.tasks_config import TasksConfig

PLACE = ("-i", "127.0.0.1")
FLAGS = (
    *(
        "-i",
        "10.0.0.2,10.0.0.3:7000",
        "-p",
        "7000",
        "-d",
        "cuda",
        "--threads",
        "3",
        "--timeout",
        "7s",
        "--ready-timeout",
        "9s",
        "--transport",
        "grpc",
    ),
    *("--fallback", "always", "--codec", "zstd", "--accuracy-budget", "1%", "--times", "measured"),
    *("--emulate-link", "5mbit,20ms", "--bandwidth", "5mbit", "--weights", "imagenet", "--backend", "torch"),
    *("--ship", "wait"),
)


def configs(*flags: str) -> tuple[EdgeConfig, TasksConfig]:
    one = edge_api.build_config(edge_api.build_parser().parse_args(["-t", "le_net", *flags]))
    many = tasks_edge_api.build_config(tasks_edge_api.build_parser().parse_args(list(flags)))
    return one, many


def shared(config: ClientConfig) -> dict[str, object]:
    """By `group.name`, without what only one of the scripts is told."""
    values: dict[str, object] = {}
    for group in fields(ClientConfig):
        value = getattr(config, group.name)
        inner = fields(value) if hasattr(value, "__dataclass_fields__") else ()
        values |= {f"{group.name}.{each.name}": getattr(value, each.name) for each in inner} or {group.name: value}
    return values


def test_without_flags_the_configuration_is_the_default_one(tmp_path: Path) -> None:
    folder = ("--cache-dir", str(tmp_path))
    device = DeviceConfig(cache_dir=tmp_path)
    assert configs(*PLACE, *folder) == (EdgeConfig("le_net", device=device), TasksConfig(device=device))
    options = cloud_flags.build_parser("cloud_api.py", "", server.CloudConfig.max_batch).parse_args(folder)
    assert cloud_config(options) == server.CloudConfig(device=device, network_store=tmp_path / "sent")


def written(path: Path) -> Iterator[str]:
    """The defaults that are written where a flag is."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for keyword in node.keywords if isinstance(node, ast.Call) else ():
            if keyword.arg == "default" and not isinstance(keyword.value, ast.Attribute | ast.Name | ast.Call):
                yield ast.unparse(keyword.value)


def test_no_flag_has_a_default_of_its_own() -> None:
    """They are those of the configuration; none, and an empty list, say that there is none."""
    modules = (flags, cloud_flags, edge_api, cloud_api, tasks_edge_api, tasks_cloud_api)
    found = {text for module in modules for text in written(Path(str(module.__file__)))}
    allowed = {"defaults.HOST if listens else None", "f'{defaults.Codec.ACCURACY_BUDGET:.0%}'", "[]", "()"}
    assert found <= allowed


def test_the_same_flags_make_the_same_configuration(tmp_path: Path) -> None:
    one, many = (shared(config) for config in configs(*FLAGS, "--cache-dir", str(tmp_path)))
    assert one == many
    left = {name for name, value in shared(ClientConfig()).items() if one[name] == value}
    not_given = {"cpu_share", "device.predictors", "cloud.token", "cloud.tls", "cloud.own", "link.given", "link.record"}
    not_given |= {"codec.files"}
    assert left == not_given


@pytest.mark.parametrize(
    ("config", "seconds"),
    [
        (CloudConfig(ready_s=300.0, timeout_s=60.0), 60.0),
        (CloudConfig(ready_s=30.0, timeout_s=60.0), 30.0),
        (CloudConfig(ready_s=300.0, timeout_s=60.0, fallback="off"), 300.0),
        (CloudConfig(ready_s=300.0, timeout_s=60.0, own=("-t", "le_net")), 300.0),
    ],
)
def test_a_first_greeting_takes_no_longer_than_an_inference_unless_it_is_wanted(
    config: CloudConfig, seconds: float
) -> None:
    assert config.first_s == seconds
