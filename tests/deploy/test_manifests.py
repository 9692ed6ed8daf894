"""The files of deploy/: their flags, ports, limits and rights are what the programs take, and checkers are content."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgecloud import deployment, edge_api, tasks_edge_api
from edgecloud.cli import config, script
from edgecloud.cli.cloud_flags import build_parser as cloud_parser
from edgecloud.utils import environment
from edgecloud.utils.units import parse_duration, parse_size
from tests.conftest import LONG_S, ROOT
from tests.manifests import (
    DEPLOY,
    EXAMPLE,
    USER,
    all_containers,
    compose,
    containers_of,
    cores,
    from_compose,
    from_manifest,
    manifests,
    pod_of,
)

SCRIPTS = {
    "cloud_api.py": lambda: cloud_parser("cloud_api.py", "", 1),
    "edge_api.py": edge_api.build_parser,
    "tasks_edge_api.py": tasks_edge_api.build_parser,
    "deployment.py": deployment.build_parser,
}
TOOLS = str(Path(sys.executable).parent)
NO_NAMESPACE = ("Namespace", "Kustomization")


@pytest.mark.parametrize("index", range(4))
def test_every_setting_is_one_of_the_programs(
    index: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    container = all_containers()[index]
    for name in [name for name in os.environ if name.startswith(environment.PREFIX)]:
        monkeypatch.delenv(name)
    assert set(container.environment) - set(container.settings) <= {"LINK_RATE", "LINK_DELAY"}
    for name, text in container.settings.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setenv("EDGE_CLOUD_CONFIG", str(EXAMPLE))
    script, *arguments = container.arguments
    options = SCRIPTS[script]().parse_args(arguments)
    assert capsys.readouterr().err == ""
    assert options.ip == ("0.0.0.0" if container.name == "cloud" else "cloud")
    assert options.port == 9999
    assert str(options.cache_dir) == "/cache"
    assert any(str(options.token_file).startswith(path) for path in container.files), "where the secret is mounted"
    assert any(container.environment["EDGE_CLOUD_CONFIG"].startswith(path) for path in container.files)


def test_every_section_of_the_examples_is_for_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(environment.PREFIX)]:
        monkeypatch.delenv(name)
    document = config.read(EXAMPLE)
    assert set(document) == {"cloud_api", "edge_api", "tasks_edge_api", "deployment"}
    for name in set(document) - {"deployment"}:
        options = SCRIPTS[f"{name}.py"]().parse_args(["--config", str(EXAMPLE)])
        assert options.port == 9999
    plan = deployment.build_parser().parse_args(["plan", "--config", str(EXAMPLE)])
    assert plan.type == "alex_net"
    flat = edge_api.build_parser().parse_args(["--config", str(DEPLOY / "examples" / "edge.yaml")])
    assert (flat.emulate_cpu, flat.fallback, flat.verify) == (0.1, "off", True)


def test_the_config_map_is_the_example() -> None:
    assert manifests()["ConfigMap"]["data"] == {"deploy.toml": EXAMPLE.read_text()}


def test_ports_and_names_agree() -> None:
    found, cloud = manifests(), config.read(EXAMPLE)["cloud_api"]
    [container] = pod_of(found["Deployment"])["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"inference": cloud["port"], "metrics": cloud["metrics-port"]}
    [service_port] = found["Service"]["spec"]["ports"]
    assert (service_port["port"], service_port["targetPort"]) == (cloud["port"], "inference")
    assert found["Service"]["metadata"]["name"] == config.read(EXAMPLE)["edge_api"]["ip"] == "cloud"
    assert "cloud" in compose()["services"]
    template = found["Deployment"]["spec"]["template"]
    assert found["Service"]["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    assert template["metadata"]["annotations"]["prometheus.io/port"] == str(ports["metrics"])
    dockerfile = (DEPLOY / "Dockerfile.cloud").read_text()
    assert re.findall(r"^EXPOSE (.*)$", dockerfile, re.M) == [f"{ports['inference']} {ports['metrics']}"]
    probes = [container[f"{kind}Probe"]["exec"]["command"] for kind in ("startup", "readiness", "liveness")]
    for text in (*(" ".join(command) for command in probes), dockerfile.replace('", "', " ")):
        assert f"cloud_api.py --health 127.0.0.1:{ports['inference']}" in text
    names = {document["metadata"]["namespace"] for document in found.values() if document["kind"] not in NO_NAMESPACE}
    assert names == {found["Namespace"]["metadata"]["name"]}


def test_the_secret_is_made_by_hand_and_is_nowhere_in_the_files() -> None:
    found = manifests()
    assert "Secret" not in found
    for kind in ("Deployment", "Job"):
        volumes = {volume["name"]: volume for volume in pod_of(found[kind])["volumes"]}
        assert volumes["token"]["secret"]["secretName"] == "edge-cloud-token"
        assert volumes["config"]["configMap"]["name"] == found["ConfigMap"]["metadata"]["name"]
        for given in containers_of(found[kind]):
            assert {mount["name"] for mount in given.get("volumeMounts", [])} <= set(volumes)
    for container in all_containers():
        assert environment.SECRET not in container.environment


def test_versions_and_requirements_agree() -> None:
    given = {container.image for container in all_containers()}
    assert given == {f"edge-cloud-inference/{side}:{script.VERSION}" for side in ("cloud", "edge")}
    bases = set()
    for side in ("cloud", "edge"):
        text = (DEPLOY / f"Dockerfile.{side}").read_text()
        assert f"-t edge-cloud-inference/{side}:{script.VERSION} ." in text
        assert "-r requirements.txt" in text or "ARG REQUIREMENTS=requirements.txt\n" in text
        assert not re.search(r"pip install[^\n]*==", text), "versions stand in requirements.txt only"
        bases |= set(re.findall(r"^FROM (\S+)$", text, re.M))
        assert f"USER {USER}:{USER}" in text
        assert f"--uid {USER} " in text
    assert bases == {"python:3.11-slim-bookworm"}
    assert f"--reuid={USER} --regid={USER}" in (DEPLOY / "edge-entrypoint.sh").read_text()


def test_a_drain_is_given_its_time() -> None:
    drain_s = parse_duration(config.read(EXAMPLE)["cloud_api"]["drain-timeout"])
    assert pod_of(manifests()["Deployment"])["terminationGracePeriodSeconds"] > drain_s
    assert parse_duration(compose()["services"]["cloud"]["stop_grace_period"]) > drain_s


def test_networks_fit_into_the_memory_that_there_is() -> None:
    kept = parse_size(config.read(EXAMPLE)["cloud_api"]["max-network-bytes"])
    [container] = pod_of(manifests()["Deployment"])["containers"]
    for limit in (container["resources"]["limits"]["memory"], compose()["services"]["cloud"]["mem_limit"]):
        assert parse_size(re.sub(r"[gG]i?$", "GiB", limit)) >= 2 * kept


def test_the_edge_has_its_share_of_a_core_and_no_more() -> None:
    """The published manifests lost this limit to a typo, `resource:`; the schemas below would refuse it."""
    for given in containers_of(manifests()["Job"]):
        resources = given["resources"]
        assert resources["limits"] == resources["requests"]
        assert cores(resources["limits"]["cpu"]) == 0.5
    assert compose()["services"]["edge"]["cpus"] == "${EDGE_CPUS:-0.5}"
    for container in (from_manifest(manifests()["Job"]), from_compose("edge")):
        assert container.environment["EDGE_CLOUD_THREADS"] == "1"


def test_the_link_that_is_shaped_lies_between_the_two() -> None:
    """The published manifests had both in one Pod, whose traffic never crosses the shaped device."""
    job = manifests()["Job"]
    assert {container["name"] for container in containers_of(job)} == {"shape-link", "edge"}
    [term] = pod_of(job)["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    labels = manifests()["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert term["podAffinityTerm"]["labelSelector"]["matchLabels"].items() <= labels.items()
    services = compose()["services"]
    assert services["edge"]["networks"] == services["cloud"]["networks"]
    assert not any("network_mode" in service for service in services.values())


def test_rights() -> None:
    """Nobody is root but what shapes the link, and nobody has a right that is not named here."""
    found = manifests()
    for kind in ("Deployment", "Job"):
        pod = pod_of(found[kind])
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == USER
        assert pod["enableServiceLinks"] is pod["automountServiceAccountToken"] is False
        for container in containers_of(found[kind]):
            rights = container["securityContext"]
            assert rights["capabilities"]["drop"] == ["ALL"]
            assert rights["readOnlyRootFilesystem"] is True
            assert rights["allowPrivilegeEscalation"] is False
            is_shaper = container["name"] == "shape-link"
            assert rights["capabilities"].get("add", []) == (["NET_ADMIN"] if is_shaper else [])
            assert ("runAsUser" in rights) == is_shaper
    for name, added in (("cloud", None), ("edge", ["NET_ADMIN", "SETUID", "SETGID"])):
        service = compose()["services"][name]
        assert service["cap_drop"] == ["ALL"]
        assert service.get("cap_add") == added
        assert service["read_only"] is True
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in service


# What tools say


def tool(name: str, *arguments: str | Path) -> None:
    """Run a checker, if it is installed, and expect nothing to say."""
    found = shutil.which(name, path=f"{TOOLS}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name} is not installed: pip install -r deploy/requirements-lint.txt")
    done = subprocess.run([found, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=LONG_S)
    assert done.returncode == 0, done.stdout + done.stderr


def test_manifests_fit_the_schemas_of_kubernetes(tmp_path: Path) -> None:
    paths = [path for path in (DEPLOY / "kubernetes").glob("*.yaml") if path.stem != "kustomization"]
    assert len(paths) == 4
    tool("kubernetes-validate", "--strict", *paths)
    wrong = tmp_path / "edge.yaml"  # the published typo: a check that lets it through would be worth nothing
    wrong.write_text((DEPLOY / "kubernetes" / "edge.yaml").read_text().replace("resources:", "resource:"))
    with pytest.raises(AssertionError, match="resource"):
        tool("kubernetes-validate", "--strict", wrong)


def test_kustomize_puts_them_together() -> None:
    tool("kubectl", "kustomize", DEPLOY / "kubernetes")


def test_compose_fits_its_schema() -> None:
    tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml")


def test_dockerfiles_pass_hadolint() -> None:
    tool("hadolint", *DEPLOY.glob("Dockerfile.*"))


def test_scripts_pass_shellcheck() -> None:
    tool("shellcheck", *DEPLOY.glob("*.sh"))


# --- systemd

UNITS = {"edge-cloud-cloud.service": "cloud_api.py", "edge-cloud-tasks.service": "tasks_edge_api.py"}
HARDENING = {
    "DynamicUser": "yes",
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
    "CapabilityBoundingSet": "",
    "SystemCallFilter": "@system-service",
    "LoadCredential": "token:/etc/edge-cloud/token",
}


def unit(name: str) -> list[tuple[str, str]]:
    """Keys and values of a unit, in order; a key may be there several times."""
    text = (DEPLOY / name).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and line[0] not in "#["]
    return [(key, value) for key, _, value in (line.partition("=") for line in lines)]


@pytest.mark.parametrize("name", UNITS)
def test_the_command_and_the_settings_of_a_unit_are_the_programs(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for variable in [variable for variable in os.environ if variable.startswith(environment.PREFIX)]:
        monkeypatch.delenv(variable)
    found = unit(name)
    for key, value in found:
        for word in value.split() if key == "Environment" else ():
            variable, _, text = word.partition("=")
            monkeypatch.setenv(variable, text)
    command = dict(found)["ExecStart"].replace("${CREDENTIALS_DIRECTORY}", str(tmp_path)).split()
    script = UNITS[name]
    assert command[:2] == ["/opt/edge-cloud-inference/.venv/bin/python", script]
    options = SCRIPTS[script]().parse_args(command[2:])
    assert capsys.readouterr().err == ""
    assert options.token_file == tmp_path / "token"
    assert str(options.cache_dir) == "/var/cache/edge-cloud"
    assert dict(found)["CacheDirectory"] == "edge-cloud"
    values = dict(found)
    assert {key: values.get(key) for key in HARDENING} == HARDENING
    assert "MemoryDenyWriteExecute" not in values, "torch writes code while it runs"


def test_systemd_waits_for_the_drain_of_the_cloud() -> None:
    found = unit("edge-cloud-cloud.service")
    values = dict(found)
    drain = next(word for key, value in found if key == "Environment" for word in value.split() if "DRAIN" in word)
    assert parse_duration(values["TimeoutStopSec"]) >= parse_duration(drain.partition("=")[2]) + 5
    assert (values["KillSignal"], values["Restart"], values["RestartPreventExitStatus"]) == (
        "SIGTERM",
        "on-failure",
        "2",
    )


def test_systemd_waits_for_a_task_in_flight_and_takes_an_interrupted_run() -> None:
    values = dict(unit("edge-cloud-tasks.service"))
    timeout = parse_duration(str(tasks_edge_api.build_parser().get_default("timeout")))
    assert parse_duration(values["TimeoutStopSec"]) > timeout
    assert (values["KillSignal"], values["SuccessExitStatus"]) == ("SIGINT", "130")


@pytest.mark.parametrize("name", UNITS)
def test_systemd_takes_the_unit(name: str, tmp_path: Path) -> None:
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd-analyze is not installed")
    text = (DEPLOY / name).read_text(encoding="utf-8")
    text = text.replace("/opt/edge-cloud-inference/.venv/bin/python", sys.executable)
    text = text.replace("/opt/edge-cloud-inference", str(ROOT))
    (tmp_path / name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [verify, "verify", "--man=no", str(tmp_path / name)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
