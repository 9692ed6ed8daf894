"""The files of deploy/ as data: containers of compose.yaml and of the Kubernetes manifests."""

import math
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from edgecloud.utils import environment
from tests.conftest import ROOT

DEPLOY = ROOT / "deploy"
EXAMPLE = DEPLOY / "examples" / "deploy.toml"
USER = 10001


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
        return of_image | {name: text for name, text in self.environment.items() if name.startswith(environment.PREFIX)}


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
