"""What both scripts are told: the same flags make the same configuration, and leave the same defaults."""

from dataclasses import fields
from pathlib import Path

import pytest

from edgecloud import edge_api, tasks_edge_api
from edgecloud.client.config import ClientConfig

PLACE = ("-i", "127.0.0.1")
FLAGS = (
    *("-i", "10.0.0.2", "-p", "7000", "-d", "cuda", "--threads", "3", "--timeout", "7s", "--ready-timeout", "9s"),
    *("--fallback", "always", "--codec", "zstd", "--accuracy-budget", "1%", "--times", "measured"),
    *("--emulate-link", "5mbit,20ms", "--bandwidth", "5mbit", "--weights", "imagenet"),
)


def configs(*flags: str) -> tuple[ClientConfig, ClientConfig]:
    one = edge_api.build_config(edge_api.build_parser().parse_args(["-t", "le_net", *flags]))
    many = tasks_edge_api.build_config(tasks_edge_api.build_parser().parse_args(list(flags)))
    return one, many


def shared(config: ClientConfig) -> dict[str, object]:
    return {field.name: getattr(config, field.name) for field in fields(ClientConfig)}


def test_flags_have_the_defaults_of_the_configuration(tmp_path: Path) -> None:
    for config in configs(*PLACE, "--cache-dir", str(tmp_path)):
        assert shared(config) == shared(ClientConfig(cache_dir=tmp_path))


def test_the_same_flags_make_the_same_configuration(tmp_path: Path) -> None:
    one, many = (shared(config) for config in configs(*FLAGS, "--cache-dir", str(tmp_path)))
    assert one == many
    left = {name for name, value in shared(ClientConfig()).items() if one[name] == value}
    assert left == {"link", "cpu_share", "predictors", "token", "tls", "own_cloud", "record"}


@pytest.mark.parametrize(
    ("config", "seconds"),
    [
        (ClientConfig(ready_s=300.0, timeout_s=60.0), 60.0),
        (ClientConfig(ready_s=30.0, timeout_s=60.0), 30.0),
        (ClientConfig(ready_s=300.0, timeout_s=60.0, fallback="off"), 300.0),
        (ClientConfig(ready_s=300.0, timeout_s=60.0, own_cloud=("-t", "le_net")), 300.0),
    ],
)
def test_a_first_greeting_takes_no_longer_than_an_inference_unless_it_is_wanted(
    config: ClientConfig, seconds: float
) -> None:
    assert config.first_s == seconds
