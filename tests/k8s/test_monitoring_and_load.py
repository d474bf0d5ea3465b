"""What stands beside the service finds it: monitors, rules, dashboards, the load test; and the README tells of every secret they want."""

from __future__ import annotations

import re
import shlex
from pathlib import PurePosixPath
from typing import Any

import pytest
import yaml

from cluster.cli import main
from cluster.monitoring.prometheus import JOB, rules
from cluster.monitoring.render import files
from tests.k8s.manifests import K8S, KUSTOMIZATIONS, SERVICES, Manifest, Pod, build, of_kind, ray_pods, selects, title
from tests.k8s.service_rules import SERVE_PORT

GENERATED = K8S / "overlays/monitoring/generated"
RENEW = "ssd-serve dashboards render --out build/monitoring && cp build/monitoring/kubernetes/*.yaml k8s/overlays/monitoring/generated/"
README = (K8S / "README.md").read_text()


def one(kustomization: str, kind: str) -> Manifest:
    (found,) = of_kind(build(kustomization), kind)
    return found


def service_host() -> str:
    """The Service that KubeRay makes."""
    return one("base", "RayService")["metadata"]["name"] + "-serve-svc"


def lets_in(policies: list[Manifest], pod: Pod, peer: dict[str, Any], port: int) -> bool:
    """Whether a peer, as a policy names it, reaches a port."""
    holding = [policy for policy in policies if selects(policy["spec"]["podSelector"], pod.labels)]
    rules = [rule for policy in holding for rule in policy["spec"]["ingress"]]
    return any(peer in rule["from"] and port in [open["port"] for open in rule.get("ports", [])] for rule in rules)


# ---------------------------------------------------------------- monitoring


def test_what_is_generated_is_what_would_be_generated_now() -> None:
    rendered = {path.removeprefix("kubernetes/"): text for path, text in files([], "").items() if path.startswith("kubernetes/")}
    assert {path.name: path.read_text() for path in GENERATED.iterdir()} == rendered, f"renew it: {RENEW}"
    assert RENEW in README


def test_the_rules_are_those_of_prometheus() -> None:
    assert one("overlays/monitoring", "PrometheusRule")["spec"] == rules()


def test_a_dashboard_fits_into_its_config_map() -> None:
    maps = of_kind(build("overlays/monitoring"), "ConfigMap")
    assert maps and all(len(yaml.safe_dump(map)) < 2**20 for map in maps)


@pytest.mark.parametrize("kustomization", SERVICES)
def test_rays_metrics_are_found_on_every_pod(kustomization: str) -> None:
    monitor = one("overlays/monitoring", "PodMonitor")["spec"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    for pod in ray_pods(build(kustomization)):
        ports = {port["name"]: port["containerPort"] for port in pod.containers[0]["ports"]}
        assert selects(monitor["selector"], pod.labels) and ports[endpoint["port"]] == 8080, pod.where


@pytest.mark.parametrize("kustomization", SERVICES)
def test_prometheus_is_let_in(kustomization: str) -> None:
    policies = of_kind([*build(kustomization), *build("overlays/monitoring")], "NetworkPolicy")
    namespace = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    prometheus = {**namespace, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}}}
    for pod in ray_pods(build(kustomization)):
        assert lets_in(policies, pod, namespace, 8080) and lets_in(policies, pod, prometheus, SERVE_PORT)


def test_the_services_own_metrics_are_scraped_once_with_a_key() -> None:
    scrape = one("overlays/monitoring", "ScrapeConfig")["spec"]
    assert scrape["jobName"] == JOB and scrape["metricsPath"] == "/metrics"
    assert scrape["staticConfigs"] == [{"targets": [f"{service_host()}.ssd.svc:{SERVE_PORT}"]}]
    assert scrape["authorization"]["credentials"] == load_test_key()


# ---------------------------------------------------------------- load test


def load_test_head() -> Pod:
    (head,) = ray_pods(build("loadtest"))
    return head


def load_test_key() -> dict[str, str]:
    (reference,) = (v["valueFrom"]["secretKeyRef"] for v in load_test_head().containers[0]["env"] if v["name"] == "SSD_API_KEY")
    return reference


def test_the_load_tests_command_is_understood(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    name, *words = shlex.split(one("loadtest", "RayJob")["spec"]["entrypoint"])
    seen = []
    monkeypatch.setattr("cluster.commands.loadtest.run", lambda args: seen.append(args) or 0)
    assert name == "ssd-serve" and main(words) == 0, capsys.readouterr().err
    (args,) = seen
    assert args.url == f"http://{service_host()}:{SERVE_PORT}"
    (mount,) = (mount for mount in load_test_head().containers[0]["volumeMounts"] if mount["name"] == "reports")
    assert PurePosixPath(args.out).is_relative_to(mount["mountPath"]) and not mount.get("readOnly")
    assert one("loadtest", "RayJob")["spec"]["activeDeadlineSeconds"] > 20 * args.seconds


@pytest.mark.parametrize("kustomization", SERVICES)
def test_the_load_test_is_let_in_to_the_service_and_not_to_its_ray(kustomization: str) -> None:
    peer = {"podSelector": {"matchLabels": {"ssd-client": "true"}}}
    assert selects(peer["podSelector"], load_test_head().labels)
    manifests = build(kustomization)
    policies = of_kind(manifests, "NetworkPolicy")
    for pod in ray_pods(manifests):
        assert lets_in(policies, pod, peer, SERVE_PORT) and not lets_in(policies, pod, peer, 8265)
        assert not selects({"matchLabels": {"app.kubernetes.io/part-of": "ssd-serve"}}, load_test_head().labels)


# ---------------------------------------------------------------- README


def secrets(value: Any, key: str = "") -> set[tuple[str, str]]:
    """Name and key of each Secret that is referred to; a whole one that is mounted has no key."""
    if isinstance(value, list):
        return set().union(*(secrets(item) for item in value))
    if not isinstance(value, dict):
        return set()
    own = {(value["name"], value["key"])} if key in ("secretKeyRef", "credentials") else set()
    mounted = {(value["secretName"], "")} if "secretName" in value else set()
    return own.union(mounted, *(secrets(inner, name) for name, inner in value.items()))


def test_the_readme_has_a_command_for_every_secret_and_every_kustomization() -> None:
    created = {(name, key) for name, key in re.findall(r"create secret generic (\S+) --from-(?:literal|file)=(\w+)=", README)}
    wanted = set().union(*(secrets(build(kustomization)) for kustomization in KUSTOMIZATIONS))
    assert {name for name, _ in wanted} == {name for name, _ in created}
    assert {(name, key) for name, key in wanted if key} <= created
    for kustomization in set(KUSTOMIZATIONS) - {"base"}:
        assert f"k8s/{kustomization}" in README, kustomization


def test_the_mounted_keys_are_the_file_that_the_service_reads() -> None:
    assert "create secret generic ssd-api-keys --from-file=keys=" in README
    for kustomization in SERVICES:
        assert "api_keys_file: /etc/ssd/api-keys/keys\n" in one(kustomization, "RayService")["spec"]["serveConfigV2"], title(
            one(kustomization, "RayService")
        )
