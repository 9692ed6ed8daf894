"""The files of deploy/scaling: a gateway and its workers are wired to each other, drained, guarded and scaled."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgecloud.cli import config
from edgecloud.cli.cloud_flags import build_parser
from edgecloud.server.placement import DNS
from edgecloud.server.worker_flags import SPARE_CONNECTIONS
from edgecloud.utils import environment
from edgecloud.utils.units import parse_duration
from tests.conftest import ROOT
from tests.deploy.test_manifests import tool
from tests.manifests import DEPLOY, EXAMPLE, USER, Container, compose, from_manifest, manifests, pod_of

SCALING = DEPLOY / "scaling"
NAME = "app.kubernetes.io/name"
SCHEMA = Path(__file__).parent / "scaledobject.schema.json"
METRICS = {"edgecloud_queued_seconds", "edgecloud_work_seconds_total"}
"""What the numbers of workers follow."""


def found(kind: str, name: str) -> dict[str, Any]:
    documents: list[dict[str, Any]] = [
        document
        for path in sorted(SCALING.glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
        if document.get("kind") == kind and document.get("metadata", {}).get("name") == name
    ]
    [document] = documents
    return document


def container(name: str) -> Container:
    return from_manifest(found("Deployment", name))


def options_of(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the program makes of a container's command line and environment."""
    for variable in [variable for variable in os.environ if variable.startswith(environment.PREFIX)]:
        monkeypatch.delenv(variable)
    for variable, text in container(name).settings.items():
        monkeypatch.setenv(variable, text)
    monkeypatch.setenv("EDGE_CLOUD_CONFIG", str(EXAMPLE))
    script, *arguments = container(name).arguments
    assert script == "cloud_api.py"
    return build_parser(script, "", 1).parse_args(arguments)


def test_the_gateway_finds_the_workers_and_knows_their_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway, worker = options_of("gateway", monkeypatch), options_of("worker", monkeypatch)
    service = found("Service", "workers")
    [port] = service["spec"]["ports"]
    assert gateway.workers == (DNS, f"workers:{port['port']}")
    assert (port["targetPort"], worker.port, service["spec"]["clusterIP"]) == ("inference", port["port"], "None")
    assert (gateway.worker, worker.worker, worker.workers) == (False, True, None)
    assert service["spec"]["selector"] == {NAME: "worker"}
    edges = found("Deployment", "gateway")["spec"]["replicas"] * gateway.max_connections
    assert worker.max_connections >= edges + SPARE_CONNECTIONS
    assert gateway.worker_token_file == worker.token_file
    assert gateway.token_file != worker.token_file, "edges do not have the secret of workers"
    secrets = {
        name: {
            volume["secret"]["secretName"]
            for volume in pod_of(found("Deployment", name))["volumes"]
            if "secret" in volume
        }
        for name in ("gateway", "worker")
    }
    assert secrets == {
        "gateway": {"edge-cloud-token", "edge-cloud-worker-token"},
        "worker": {"edge-cloud-worker-token"},
    }
    for name, options in (("gateway", gateway), ("worker", worker)):
        for path in (options.token_file, options.worker_token_file, options.config):
            assert (
                path is None or any(str(path).startswith(mount) for mount in container(name).files) or path == EXAMPLE
            )
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["gateway", "worker"])
def test_a_pod_that_is_to_go_has_time_to_drain(name: str) -> None:
    pod = pod_of(found("Deployment", name))
    [given] = pod["containers"]
    program, seconds = given["lifecycle"]["preStop"]["exec"]["command"]
    drain_s = parse_duration(config.read(EXAMPLE)["cloud_api"]["drain-timeout"])
    assert program == "sleep"
    assert pod["terminationGracePeriodSeconds"] >= float(seconds) + drain_s + 5
    if name == "worker":  # what DNS keeps, and the second between two look-ups
        assert float(seconds) > 5 + 1
        assert found("Service", "workers")["spec"]["publishNotReadyAddresses"] is False


@pytest.mark.parametrize("name", ["gateway", "worker"])
def test_rights_are_those_of_the_cloud(name: str) -> None:
    mine, cloud = pod_of(found("Deployment", name)), pod_of(manifests()["Deployment"])
    for key in ("securityContext", "automountServiceAccountToken", "enableServiceLinks"):
        assert mine[key] == cloud[key]
    assert mine["securityContext"]["runAsUser"] == USER
    [ours], [clouds] = mine["containers"], cloud["containers"]
    assert ours["image"] == clouds["image"]
    assert ours["securityContext"] == clouds["securityContext"]
    for probe in ("startupProbe", "livenessProbe"):
        assert ours[probe] == clouds[probe]
    replicas = found("Deployment", name)["spec"].get("replicas")
    assert (replicas is None) == (name == "worker"), "the number of workers is the autoscaler's"


def test_only_gateways_reach_workers_and_only_prometheus_their_metrics() -> None:
    policy = found("NetworkPolicy", "worker")["spec"]
    assert policy["podSelector"]["matchLabels"] == {NAME: "worker"}
    [rule] = policy["ingress"]
    assert rule == {
        "from": [{"podSelector": {"matchLabels": {NAME: "gateway"}}}],
        "ports": [{"protocol": "TCP", "port": 9999}],
    }
    assert (sorted(policy["policyTypes"]), policy["egress"]) == (["Egress", "Ingress"], [])
    everybody, prometheus = found("NetworkPolicy", "gateway")["spec"]["ingress"]
    assert ("from" in everybody, [port["port"] for port in everybody["ports"]]) == (False, [9999])
    assert ("from" in prometheus, [port["port"] for port in prometheus["ports"]]) == (True, [9100])


def test_workers_follow_figures_that_a_gateway_has() -> None:
    prometheus = pytest.importorskip("edgecloud.server.prometheus", reason="without prometheus_client")
    from prometheus_client import generate_latest

    from edgecloud.net.metrics import FleetLoad, Gauges

    shown, zero = prometheus.PrometheusMetrics(), lambda: 0.0
    load = FleetLoad(0, 0, 1.0, 1.0, 0, 0.0, 1.5, 0, 0)
    shown.watch(Gauges(zero, zero, zero, zero, fleet=lambda: load))
    page = generate_latest(shown.registry).decode()
    assert "\nedgecloud_queued_seconds 1.5\n" in page
    assert "\nedgecloud_work_seconds_total 0.0\n" in page, "there from the beginning: nothing is not an error"

    rules = yaml.safe_load((SCALING / "prometheus-adapter.yaml").read_text())["rules"]["external"]
    assert {rule["seriesQuery"].partition("{")[0] for rule in rules} == METRICS
    metrics = found("HorizontalPodAutoscaler", "worker")["spec"]["metrics"]
    names = {metric["external"]["metric"]["name"] for metric in metrics}
    assert names == {rule["name"]["as"] for rule in rules}
    queries = " ".join(trigger["metadata"]["query"] for trigger in found("ScaledObject", "worker")["spec"]["triggers"])
    assert all(f"{name}{{" in queries for name in METRICS)


def test_both_autoscalers_want_the_same() -> None:
    hpa, keda = found("HorizontalPodAutoscaler", "worker")["spec"], found("ScaledObject", "worker")["spec"]
    assert hpa["scaleTargetRef"] == keda["scaleTargetRef"]
    assert hpa["maxReplicas"] == keda["maxReplicaCount"]
    assert hpa["behavior"] == keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    targets = [metric["external"]["target"] for metric in hpa["metrics"]]
    assert [float(target["averageValue"].removesuffix("m")) / 1000 for target in targets] == [
        float(trigger["metadata"]["threshold"]) for trigger in keda["triggers"]
    ]
    assert {target["type"] for target in targets} == {trigger["metricType"] for trigger in keda["triggers"]}
    assert hpa["behavior"]["scaleDown"]["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 60}]


def test_an_empty_answer_of_prometheus_ends_no_worker() -> None:
    keda = found("ScaledObject", "worker")["spec"]
    assert {trigger["metadata"]["ignoreNullValues"] for trigger in keda["triggers"]} == {"false"}
    assert keda["fallback"]["behavior"] == "currentReplicasIfHigher"
    assert keda["fallback"]["replicas"] >= 1
    assert (keda["minReplicaCount"], found("HorizontalPodAutoscaler", "worker")["spec"]["minReplicas"]) == (0, 1)


def test_compose_puts_workers_where_edges_are_not() -> None:
    over = yaml.safe_load((DEPLOY / "compose.scaling.yaml").read_text())
    gateway, worker, base = over["services"]["cloud"], over["services"]["worker"], compose()["services"]
    assert worker["networks"] == ["compute"]
    assert over["networks"] == {"compute": {"internal": True}}
    assert "compute" in gateway["networks"]
    assert "compute" not in base["edge"]["networks"]
    parsed = build_parser("cloud_api.py", "", 1).parse_args(gateway["command"][1:])
    assert parsed.workers == (DNS, "worker:9999")
    assert (
        str(parsed.worker_token_file) == "/run/secrets/worker-token" == worker["environment"]["EDGE_CLOUD_TOKEN_FILE"]
    )
    taken = build_parser("cloud_api.py", "", 1).parse_args(worker["command"][1:])
    assert taken.worker
    assert taken.max_connections >= parsed.max_connections + SPARE_CONNECTIONS
    for key in ("image", "read_only", "cap_drop", "security_opt", "stop_grace_period"):
        assert worker[key] == base["cloud"][key]


# What tools say


def test_manifests_fit_the_schemas() -> None:
    own = {"kustomization", "keda", "prometheus-adapter"}
    tool("kubernetes-validate", "--strict", *(path for path in SCALING.glob("*.yaml") if path.stem not in own))


def test_keda_takes_the_scaled_object(tmp_path: Path) -> None:
    tool("check-jsonschema", "--schemafile", SCHEMA, SCALING / "keda.yaml")
    wrong = (
        tmp_path / "keda.yaml"
    )  # a number where KEDA takes text: a check that lets it through would be worth nothing
    wrong.write_text((SCALING / "keda.yaml").read_text().replace('threshold: "0.25"', "threshold: 0.25"))
    with pytest.raises(AssertionError, match="threshold"):
        tool("check-jsonschema", "--schemafile", SCHEMA, wrong)


def test_kustomize_puts_them_together() -> None:
    tool("kubectl", "kustomize", SCALING)


def test_compose_fits_its_schema() -> None:
    tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.scaling.yaml")


def test_files_are_named_in_the_docs() -> None:
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    for path in (*SCALING.glob("*.yaml"), DEPLOY / "compose.scaling.yaml"):
        assert path.name in text, path
