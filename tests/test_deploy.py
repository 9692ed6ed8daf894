"""The files of deploy/: their flags, ports and limits are those of the programs, and their command lines really start.

No container engine is needed: what an image would hold is laid out in a folder, and run as processes.
"""

import fnmatch
import math
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

import deployment
import edge_api
import tasks_edge_api
from lab.hosts import missing
from runtime.cloud_flags import build_parser as cloud_parser
from tests.conftest import ROOT, CloudProcess
from utils import cli, config, settings
from utils.units import parse_duration, parse_size

DEPLOY = ROOT / "deploy"
EXAMPLE = DEPLOY / "examples" / "deploy.toml"
USER = 10001
TOKEN = "a good secret"
SCRIPTS = {
    "cloud_api.py": lambda: cloud_parser("cloud_api.py", "", 1),
    "edge_api.py": edge_api.build_parser,
    "tasks_edge_api.py": tasks_edge_api.build_parser,
    "deployment.py": deployment.build_parser,
}
TOOLS = str(Path(sys.executable).parent)


@dataclass(frozen=True)
class Container:
    """One container of compose.yaml or of a manifest, as far as our programs see it."""

    name: str
    image: str
    arguments: tuple[str, ...]
    environment: dict[str, str]
    files: dict[str, str] = field(default_factory=dict)
    """What is mounted where."""

    @property
    def settings(self) -> dict[str, str]:
        """Also those of the image."""
        dockerfile = f"Dockerfile.{self.image.rpartition('/')[2].partition(':')[0]}"
        of_image = dict(re.findall(r"(EDGE_CLOUD_\w+)=(\S+)", (DEPLOY / dockerfile).read_text()))
        return of_image | {name: text for name, text in self.environment.items() if name.startswith(settings.PREFIX)}


def manifests() -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            found[document["kind"]] = document
    return found


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return document


def pod_of(document: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = document["spec"]["template"]["spec"]
    return pod


def containers_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    pod = pod_of(document)
    return [*pod.get("initContainers", []), *pod["containers"]]


def cores(text: str) -> float:
    return float(text.removesuffix("m")) / (1000 if text.endswith("m") else 1)


def from_manifest(document: dict[str, Any]) -> Container:
    [given] = pod_of(document)["containers"]
    environment = {}
    for entry in given["env"]:
        if "value" in entry:
            environment[entry["name"]] = entry["value"]
        else:  # Kubernetes rounds up to whole multiples of the divisor
            assert entry["valueFrom"] == {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1"}}
            environment[entry["name"]] = str(math.ceil(cores(given["resources"]["limits"]["cpu"])))
    mounts = {mount["mountPath"]: mount["name"] for mount in given["volumeMounts"]}
    return Container(given["name"], given["image"], tuple(given["args"]), environment, mounts)


def from_compose(name: str) -> Container:
    given = compose()["services"][name]
    command = tuple(given.get("command", ["cloud_api.py"]))
    mounts = {entry["target"]: entry["source"] for entry in given["configs"]}
    mounts |= {f"/run/secrets/{secret}": secret for secret in given["secrets"]}
    return Container(name, given["image"], command, given["environment"], mounts)


def all_containers() -> list[Container]:
    found = manifests()
    return [
        from_manifest(found["Deployment"]),
        from_manifest(found["Job"]),
        from_compose("cloud"),
        from_compose("edge"),
    ]


# What is written in the files


@pytest.mark.parametrize("index", range(4))
def test_every_setting_is_one_of_the_programs(
    index: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    container = all_containers()[index]
    for name in [name for name in os.environ if name.startswith(settings.PREFIX)]:
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
    for name in [name for name in os.environ if name.startswith(settings.PREFIX)]:
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


NO_NAMESPACE = ("Namespace", "Kustomization")


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
        assert settings.SECRET not in container.environment


def test_versions_and_requirements_agree() -> None:
    given = {container.image for container in all_containers()}
    assert given == {f"edge-cloud-inference/{side}:{cli.VERSION}" for side in ("cloud", "edge")}
    bases = set()
    for side in ("cloud", "edge"):
        text = (DEPLOY / f"Dockerfile.{side}").read_text()
        assert f"-t edge-cloud-inference/{side}:{cli.VERSION} ." in text
        assert "-r requirements.txt" in text
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
    done = subprocess.run([found, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=60)
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


# What an image would hold, run as processes


def goes_into_images(path: str, rules: Sequence[str]) -> bool:
    """The last rule that fits decides, as in .dockerignore; a rule for a folder is one for all that is in it."""
    taken = True
    parts = path.split("/")
    for rule in rules:
        pattern = rule.removeprefix("!")
        heads = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
        if pattern.startswith("**/"):
            fits = any(fnmatch.fnmatch(part, pattern[3:]) for part in parts)
        else:
            fits = any(head.count("/") == pattern.count("/") and fnmatch.fnmatch(head, pattern) for head in heads)
        if fits:
            taken = rule.startswith("!")
    return taken


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder /app of the images, by .dockerignore."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    app = tmp_path_factory.mktemp("image") / "app"
    for folder, names, files in os.walk(ROOT):
        below = Path(folder).relative_to(ROOT)
        names[:] = [name for name in names if name not in (".git", ".venv", "__pycache__")]
        for name in files:
            if goes_into_images((below / name).as_posix(), rules):
                (app / below).mkdir(parents=True, exist_ok=True)
                shutil.copy(Path(folder) / name, app / below / name)
    return app


def test_images_hold_the_programs_and_nothing_private(image: Path) -> None:
    held = {path.relative_to(image).as_posix() for path in image.rglob("*") if path.is_file()}
    assert {"cloud_api.py", "requirements.txt", "deploy/shape-link.sh", "models/zoo/__init__.py"} <= held
    private = ("tests/", "docs/", ".", "deploy/examples", "predictor/dataset/")
    assert not [name for name in held if name.startswith(private)]
    rules = ["*", "!deploy/*.sh", "!*.py"]
    assert not goes_into_images("deploy/secret.txt", rules)
    assert not goes_into_images("key.pem", rules)
    assert os.access(image / "deploy" / "shape-link.sh", os.X_OK)


def environment_of(container: Container, folder: Path, **instead: str) -> dict[str, str]:
    """As the container has it, with paths and ports of this machine."""
    path = {"PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}", "HOME": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    secret = folder / "secret.txt"
    secret.write_text(TOKEN + "\n")
    here = {"EDGE_CLOUD_CONFIG": str(EXAMPLE), "EDGE_CLOUD_TOKEN_FILE": str(secret)}
    assert set(here) <= set(container.settings)
    return path | container.settings | here | instead


@pytest.fixture(scope="module")
def container_cloud(image: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudProcess]:
    """The command line of the cloud's container, in the image's folder."""
    container = from_manifest(manifests()["Deployment"])
    changed = {"EDGE_CLOUD_IP": "127.0.0.1", "EDGE_CLOUD_PORT": "0", "EDGE_CLOUD_METRICS_PORT": "0"}
    environment = environment_of(
        container, tmp_path_factory.mktemp("cloud"), **changed, EDGE_CLOUD_CACHE_DIR=str(cache), EDGE_CLOUD_THREADS="2"
    )
    entry = re.findall(r"^ENTRYPOINT (.*)$", (DEPLOY / "Dockerfile.cloud").read_text(), re.M)
    assert entry == ['["/usr/bin/tini", "--", "python"]']
    command = ["python", *container.arguments]
    process = subprocess.Popen(command, cwd=image, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on "), line
        yield CloudProcess(process, int(line.rpartition(":")[2]))
    finally:
        process.terminate()
        process.communicate(timeout=40)
    assert process.returncode == 0, "SIGTERM drains"


def test_probes_of_the_manifest_find_the_cloud_healthy(
    container_cloud: CloudProcess, image: Path, tmp_path: Path
) -> None:
    document = manifests()["Deployment"]
    environment = environment_of(from_manifest(document), tmp_path)
    [container] = pod_of(document)["containers"]
    for kind in ("startup", "readiness", "liveness"):
        for port, healthy in ((container_cloud.port, True), (1, False)):
            command = [
                word.replace("127.0.0.1:9999", f"127.0.0.1:{port}")
                for word in container[f"{kind}Probe"]["exec"]["command"]
            ]
            code = subprocess.run(command, cwd=image, env=environment, capture_output=True, timeout=20).returncode
            # a cloud that lets nobody in is alive; that its process is there is not for the probe to say
            assert (code == 0) == (healthy or kind == "liveness"), (kind, port)


def test_liveness_fails_for_what_does_not_answer(image: Path, tmp_path: Path) -> None:
    document = manifests()["Deployment"]
    [container] = pod_of(document)["containers"]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        command = [
            word.replace("127.0.0.1:9999", f"127.0.0.1:{port}")
            for word in container["livenessProbe"]["exec"]["command"]
        ]
        environment = environment_of(from_manifest(document), tmp_path)
        limit_s = container["livenessProbe"]["timeoutSeconds"]
        done = subprocess.run(command, cwd=image, env=environment, capture_output=True, timeout=limit_s)
    assert done.returncode == 1


def test_the_edge_of_the_manifest_runs_with_that_cloud(
    container_cloud: CloudProcess, image: Path, cache: Path, tmp_path: Path
) -> None:
    """Its settings, but with a small network, and as it is after the entrypoint."""
    container = from_manifest(manifests()["Job"])
    changed = {"EDGE_CLOUD_IP": "127.0.0.1", "EDGE_CLOUD_PORT": str(container_cloud.port), "EDGE_CLOUD_TYPE": "le_net"}
    environment = environment_of(
        container, tmp_path, **changed, EDGE_CLOUD_CACHE_DIR=str(cache), EDGE_CLOUD_COMPARE="no", EDGE_CLOUD_REPEAT="1"
    )
    before = set(image.rglob("*"))
    done = subprocess.run(
        ["python", *container.arguments], cwd=image, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "verify equals the whole network" in done.stdout
    assert set(image.rglob("*")) == before, "the root of the container may be read-only"


# The link, shaped for real

WHO = "import os; print('uid', os.getuid()); print(open('/proc/self/status').read())"
CONTAINER_RIGHTS = "+net_admin,+setuid,+setgid"
needs_root = [pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing())]


@dataclass(frozen=True)
class Shaped:
    """How the edge's entrypoint ended in a network namespace of its own."""

    code: int
    stdout: str
    stderr: str
    queues: str
    """What tc says of the device afterwards."""


def entrypoint(rights: str = CONTAINER_RIGHTS, **environment: str) -> Shaped:
    """Run the entrypoint as root of a namespace with a device eth0, with the rights that compose.yaml leaves to it."""
    if shutil.which("setpriv") is None or shutil.which("unshare") is None:
        pytest.skip("setpriv and unshare (util-linux) are not installed")
    program = shlex.join(["-c", WHO])
    lines = f"""
        ip link add eth0 type veth peer name far && ip link set eth0 up || exit 99
        setpriv --bounding-set=-all,{rights} --no-new-privs {DEPLOY}/edge-entrypoint.sh {program}
        code=$?
        echo queues:
        tc qdisc show dev eth0
        exit $code
    """
    path = {"PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}"}
    command = ["unshare", "--net", "sh", "-c", lines]
    done = subprocess.run(command, env=path | environment, capture_output=True, text=True, timeout=30)
    if done.returncode == 99 or "unshare failed" in done.stderr:
        pytest.skip(f"no network namespace here: {done.stderr.strip()}")
    stdout, _, queues = done.stdout.partition("queues:")
    return Shaped(done.returncode, stdout, done.stderr, queues)


class TestLink:
    """As root, with tc."""

    pytestmark = needs_root

    def test_is_shaped_and_the_program_is_nobody(self) -> None:
        done = entrypoint(LINK_RATE="5mbit")
        assert done.code == 0, done.stderr
        assert "qdisc tbf 1: root" in done.queues
        assert "rate 5Mbit" in done.queues
        assert f"uid {USER}" in done.stdout
        assert re.search(r"CapEff:\s+0+$", done.stdout, re.M)
        assert re.search(r"CapPrm:\s+0+$", done.stdout, re.M)
        assert re.search(r"NoNewPrivs:\s+1$", done.stdout, re.M)

    def test_is_left_alone_unless_a_rate_is_wanted(self) -> None:
        done = entrypoint()
        assert (done.code, "tbf" in done.queues) == (0, False)
        assert f"uid {USER}" in done.stdout

    @pytest.mark.parametrize(
        ("environment", "rights", "told"),
        [
            ({"LINK_RATE": "5quux"}, CONTAINER_RIGHTS, "give a number and a unit, such as 5mbit"),
            ({"LINK_RATE": "5"}, CONTAINER_RIGHTS, "give a number and a unit, such as 5mbit"),
            ({"LINK_RATE": "xmbit"}, CONTAINER_RIGHTS, "tc cannot shape eth0 to 'xmbit'"),
            ({"LINK_RATE": "5mbit"}, "+setuid,+setgid", "does this container have NET_ADMIN?"),
            ({"LINK_RATE": "5mbit", "LINK_DEVICE": "eth7"}, CONTAINER_RIGHTS, "there is no network device eth7"),
            ({"LINK_RATE": "5mbit", "LINK_DEVICE": "lo"}, CONTAINER_RIGHTS, "shape the device that leads to the cloud"),
            ({"LINK_RATE": "5mbit", "LINK_DELAY": "soon"}, CONTAINER_RIGHTS, "tc cannot delay eth0"),
            ({"LINK_DELAY": "20ms"}, CONTAINER_RIGHTS, "LINK_DELAY goes with LINK_RATE"),
        ],
    )
    def test_that_cannot_be_shaped_stops_the_container(
        self, environment: dict[str, str], rights: str, told: str
    ) -> None:
        """The published one went on unshaped."""
        done = entrypoint(rights, **environment)
        assert done.code == 1
        assert told in done.stderr
        assert "uid" not in done.stdout, "the program must not have run"

    def test_is_delayed_where_the_kernel_can(self) -> None:
        done = entrypoint(LINK_RATE="5mbit", LINK_DELAY="20ms")
        if done.code:  # no netem: then nothing may have run
            assert "the kernel needs netem" in done.stderr
            assert "uid" not in done.stdout
        else:
            assert "netem" in done.queues
            assert "tbf" in done.queues
