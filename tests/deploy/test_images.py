"""The command lines of deploy/, started: what an image would hold is laid out in a folder, and run as processes.

No container engine is needed. What shapes the link runs as root in a network namespace of its own.
"""

import atexit
import fnmatch
import functools
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgecloud.lab.hosts import missing
from edgecloud.server import health
from tests.conftest import LONG_S, ROOT, CloudProcess
from tests.manifests import DEPLOY, EXAMPLE, USER, Container, from_manifest, manifests, pod_of
from tests.pure import PACKAGES

TOKEN = "a good secret"
TOOLS = str(Path(sys.executable).parent)
SYSTEM = "/usr/local/bin:/usr/bin:/bin"


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
        names[:] = [name for name in names if name not in (".git", ".venv", ".venv-edge", "__pycache__")]
        for name in files:
            if goes_into_images((below / name).as_posix(), rules):
                (app / below).mkdir(parents=True, exist_ok=True)
                shutil.copy(Path(folder) / name, app / below / name)
    return app


def test_images_hold_the_programs_and_nothing_private(image: Path) -> None:
    held = {path.relative_to(image).as_posix() for path in image.rglob("*") if path.is_file()}
    assert {
        "cloud_api.py",
        "requirements.txt",
        "requirements-edge.txt",
        "deploy/shape-link.sh",
        "models/zoo/__init__.py",
    } <= held
    assert {f"{package}/__init__.py" for package in (*PACKAGES, "edgecloud")} <= held
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
        process.communicate(timeout=LONG_S)
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
            code = subprocess.run(command, cwd=image, env=environment, capture_output=True, timeout=LONG_S).returncode
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
        done = subprocess.run(command, cwd=image, env=environment, capture_output=True, timeout=LONG_S)
    assert done.returncode == 1
    assert container["livenessProbe"]["timeoutSeconds"] > health.ANSWER_S


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
        ["python", *container.arguments], cwd=image, env=environment, capture_output=True, text=True, timeout=LONG_S
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "verify: matches the full model" in done.stdout
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


@functools.cache
def python_for_anybody() -> str:
    """A folder with a `python` that the user of the container can run; "" where this machine has none.

    That of the tests may lie in a home which only its owner can enter.
    """
    found = [f"{TOOLS}/python", *(shutil.which(name, path=SYSTEM) for name in ("python3", "python"))]
    for program in filter(None, found):
        try:
            done = subprocess.run([program, "-c", ""], cwd="/", user=USER, group=USER, extra_groups=[], check=False)
        except OSError:  # it cannot be entered, or users cannot be changed here
            continue
        if done.returncode == 0:
            folder = Path(tempfile.mkdtemp(prefix="python-for-anybody-"))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            folder.chmod(0o755)
            (folder / "python").symlink_to(program)
            return TOOLS if program == found[0] else str(folder)
    return ""


def entrypoint(rights: str = CONTAINER_RIGHTS, **environment: str) -> Shaped:
    """Run the entrypoint as root of a namespace with a device eth0, with the rights that compose.yaml leaves to it."""
    if shutil.which("setpriv") is None or shutil.which("unshare") is None:
        pytest.skip("setpriv and unshare (util-linux) are not installed")
    if not python_for_anybody():
        pytest.skip(f"user {USER} can run no Python of this machine: {TOOLS} is not for others to enter")
    program = shlex.join(["-c", WHO])
    lines = f"""
        ip link add eth0 type veth peer name far && ip link set eth0 up || exit 99
        setpriv --bounding-set=-all,{rights} test -x {DEPLOY}/edge-entrypoint.sh || exit 98
        setpriv --bounding-set=-all,{rights} --no-new-privs {DEPLOY}/edge-entrypoint.sh {program}
        code=$?
        echo queues:
        tc qdisc show dev eth0
        exit $code
    """
    path = {"PATH": f"{python_for_anybody()}{os.pathsep}{os.environ['PATH']}"}
    command = ["unshare", "--net", "sh", "-c", lines]
    done = subprocess.run(command, env=path | environment, capture_output=True, text=True, timeout=LONG_S)
    if done.returncode == 98:
        pytest.skip(f"root can enter {DEPLOY} only with rights that the container does not have")
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
