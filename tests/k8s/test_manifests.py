"""Each kustomization builds and keeps to every rule; and every rule can tell when it is broken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from tests.k8s.manifests import KUSTOMIZATIONS, SERVICES, Manifest, build, of_kind, pods, title
from tests.k8s.object_rules import drains_can_go_on, fields_are_known, ray_is_closed, selectors_find_their_pods
from tests.k8s.pod_rules import files_are_mounted, pods_are_restricted, requests_are_within_limits, secrets_are_references
from tests.k8s.service_rules import (
    applications_can_be_built,
    groups_hold_what_is_asked,
    pods_outlive_their_replicas,
    serve_configs_are_known_to_serve,
    the_operator_takes_it,
    versions_agree,
)

Rule = Callable[[Sequence[Manifest]], Iterator[str]]
"""From what kustomize built to the problems it finds there."""
Change = Callable[[list[Manifest]], Any]
RULES: tuple[Rule, ...] = (
    serve_configs_are_known_to_serve,
    applications_can_be_built,
    versions_agree,
    groups_hold_what_is_asked,
    the_operator_takes_it,
    pods_outlive_their_replicas,
    requests_are_within_limits,
    files_are_mounted,
    secrets_are_references,
    pods_are_restricted,
    fields_are_known,
    selectors_find_their_pods,
    drains_can_go_on,
    ray_is_closed,
)


@pytest.mark.parametrize("kustomization", KUSTOMIZATIONS)
def test_a_kustomization_builds_into_objects_of_one_namespace(kustomization: str) -> None:
    manifests = build(kustomization)
    assert manifests and len({title(manifest) for manifest in manifests}) == len(manifests)
    namespaces = {manifest["metadata"].get("namespace") for manifest in manifests if manifest["kind"] != "Namespace"}
    assert namespaces == {"ssd"}


def test_the_services_are_those_listed() -> None:
    assert tuple(name for name in KUSTOMIZATIONS if of_kind(build(name), "RayService")) == SERVICES


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("kustomization", KUSTOMIZATIONS)
def test_it_keeps_to_the_rule(kustomization: str, rule: Rule) -> None:
    assert list(rule(build(kustomization))) == []


# ---------------------------------------------------------------- rules that are broken


def service(manifests: list[Manifest]) -> Manifest:
    (found,) = of_kind(manifests, "RayService")
    return found["spec"]


def cluster(manifests: list[Manifest]) -> Manifest:
    return service(manifests)["rayClusterConfig"]


def group(manifests: list[Manifest], number: int) -> Manifest:
    return cluster(manifests)["workerGroupSpecs"][number]


def pod(manifests: list[Manifest], number: int = 0) -> Manifest:
    return group(manifests, number)["template"]["spec"]


def container(manifests: list[Manifest], number: int = 0) -> Manifest:
    return pod(manifests, number)["containers"][0]


def named(manifests: list[Manifest], name: str) -> Manifest:
    (found,) = (manifest for manifest in manifests if title(manifest) == name)
    return found["spec"]


def redis(manifests: list[Manifest]) -> Manifest:
    return named(manifests, "StatefulSet ssd-redis")


def budget(manifests: list[Manifest]) -> Manifest:
    return named(manifests, "PodDisruptionBudget ssd-head")


def upgrade(manifests: list[Manifest]) -> Manifest:
    return service(manifests)["upgradeStrategy"]


def policy(manifests: list[Manifest]) -> Manifest:
    return named(manifests, "NetworkPolicy ssd-ray")


def rewritten(old: str, new: str) -> Change:
    """In the Serve configuration."""

    def change(manifests: list[Manifest]) -> None:
        spec = service(manifests)
        assert old in spec["serveConfigV2"]
        spec["serveConfigV2"] = spec["serveConfigV2"].replace(old, new)

    return change


SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hidden"}, "stringData": {"key": "x"}}
NOBODY = {"matchLabels": {"app.kubernetes.io/part-of": "nothing"}}
BROKEN: list[tuple[Rule, Change, str]] = [
    (fields_are_known, lambda m: budget(m).update(minAvailible=1), "unknown field minAvailible"),
    (fields_are_known, lambda m: policy(m)["ingress"][2].update(port=1), "unknown field ingress.port"),
    (fields_are_known, lambda m: m.append({**SECRET, "kind": "Ingress"}), "v1 Ingress is not known here"),
    (serve_configs_are_known_to_serve, rewritten("route_prefix", "route_prefx"), "unknown key route_prefx"),
    (serve_configs_are_known_to_serve, rewritten("host: 0.0.0.0", "host: 127.0.0.1"), "0.0.0.0:8000"),
    (serve_configs_are_known_to_serve, rewritten("port: 8000", "port: many"), "port"),
    (serve_configs_are_known_to_serve, rewritten("import_path: deployments.app:build_app", "import_path: app"), "import_path"),
    (applications_can_be_built, rewritten("app:build_app", "app:build_ap"), "build_ap"),
    (applications_can_be_built, rewritten("num_replicas", "num_replica"), "num_replica"),
    (applications_can_be_built, rewritten("name: Ingress", "name: Entry"), "no deployment Entry"),
    (versions_agree, lambda m: cluster(m).update(rayVersion="2.59.0"), "rayVersion 2.59.0"),
    (versions_agree, lambda m: container(m).update(image="ssd-serve:0.0.9"), "0.0.9"),
    (versions_agree, lambda m: container(m).update(image="elsewhere/ssd-serve:0.0.9"), "0.0.9"),
    (versions_agree, lambda m: container(m).update(image="redis"), "no version"),
    (requests_are_within_limits, lambda m: container(m)["resources"]["requests"].update(memory="1Ti"), "1Ti of memory"),
    (requests_are_within_limits, lambda m: container(m)["resources"]["limits"].pop("cpu"), "no limit of cpu"),
    (requests_are_within_limits, lambda m: container(m)["resources"]["limits"].update({"nvidia.com/gpu": "2"}), "alike"),
    (groups_hold_what_is_asked, lambda m: group(m, 0).update(maxReplicas=2), "targets has 2 at most"),
    (groups_hold_what_is_asked, lambda m: cluster(m).update(enableInTreeAutoscaling=False), "targets has 1 at most"),
    (groups_hold_what_is_asked, lambda m: container(m, 1)["resources"]["limits"].update(cpu="3"), "draft: does not fit"),
    (groups_hold_what_is_asked, lambda m: container(m)["resources"]["limits"].pop("nvidia.com/gpu") and
        container(m)["resources"]["requests"].pop("nvidia.com/gpu"), "target: does not fit"),
    (groups_hold_what_is_asked, lambda m: group(m, 1).update(labels={"ssd/role": "target"}), "['targets', 'drafts'], not of one"),
    (groups_hold_what_is_asked, lambda m: group(m, 1).pop("labels"), "draft: its labels"),
    (groups_hold_what_is_asked, rewritten("ingress_num_cpus: 0.5", "ingress_num_cpus: 0"), "may land on the head"),
    (groups_hold_what_is_asked, rewritten("device: cuda", "device: cpu"), "kv_budget_bytes exceeds"),
    (groups_hold_what_is_asked, rewritten("num_actors: 2", "autoscaling: {guard: {max_size: 9}}"), "9 of it want 9 pods"),
    (the_operator_takes_it, lambda m: upgrade(m).update(type="NewCluster"), "go together"),
    (the_operator_takes_it, lambda m: cluster(m).pop("enableInTreeAutoscaling"), "want the autoscaler"),
    (the_operator_takes_it, lambda m: upgrade(m)["clusterUpgradeOptions"].update(stepSizePercent=50), "surge"),
    (the_operator_takes_it, lambda m: pod(m).update(restartPolicy="Always"), "restartPolicy Never"),
    (pods_outlive_their_replicas, lambda m: service(m).pop("rayClusterDeletionDelaySeconds"), "goes before its requests"),
    (pods_outlive_their_replicas, lambda m: pod(m).pop("terminationGracePeriodSeconds"), "PeriodSeconds 30"),
    (secrets_are_references, lambda m: m.append(SECRET), "Secret hidden"),
    (secrets_are_references, lambda m: container(m)["env"].append({"name": "HF_TOKEN", "value": "hf_x"}), "HF_TOKEN"),
    (secrets_are_references, lambda m: cluster(m)["gcsFaultToleranceOptions"].update(redisPassword={"value": "x"}), "Redis"),
    (secrets_are_references, rewritten("api_keys_file: /etc/ssd/api-keys/keys", "api_keys: [x]"), "api_keys_file"),
    (files_are_mounted, lambda m: pod(m)["volumes"].pop(0), "no volume api-keys"),
    (files_are_mounted, rewritten("/etc/ssd/api-keys/keys", "/etc/keys"), "/etc/keys is not mounted"),
    (files_are_mounted, rewritten("/models/Qwen3-32B", "/model/Qwen3-32B"), "/model/Qwen3-32B is not mounted"),
    (pods_are_restricted, lambda m: pod(m)["securityContext"].pop("runAsNonRoot"), "root"),
    (pods_are_restricted, lambda m: pod(m)["securityContext"].pop("seccompProfile"), "seccomp"),
    (pods_are_restricted, lambda m: container(m).pop("securityContext"), "privileges"),
    (pods_are_restricted, lambda m: pod(m).pop("automountServiceAccountToken"), "lies about"),
    (pods_are_restricted, lambda m: cluster(m).pop("authOptions"), "no token"),
    (selectors_find_their_pods, lambda m: redis(m)["selector"].update(NOBODY), "StatefulSet"),
    (selectors_find_their_pods, lambda m: named(m, "Service ssd-redis")["ports"][0].update(targetPort="rediss"), "no pod has a port"),
    (selectors_find_their_pods, lambda m: budget(m)["selector"].update(NOBODY), "ssd-head"),
    (drains_can_go_on, lambda m: budget(m).update(minAvailable="50%"), "a number"),
    (selectors_find_their_pods, lambda m: pod(m)["topologySpreadConstraints"][0].update(labelSelector=NOBODY), "like"),
    (drains_can_go_on, lambda m: named(m, "PodDisruptionBudget ssd-targets").update(minAvailable=3), "3 of 3 pods must stay"),
    (ray_is_closed, lambda m: policy(m).update(podSelector=NOBODY), "do not reach each other"),
    (ray_is_closed, lambda m: group(m, 0)["template"]["metadata"].pop("labels"), "open to everyone"),
    (ray_is_closed, lambda m: policy(m)["ingress"].append({"ports": [{"port": 8000}]}), "without `from`"),
    (ray_is_closed, lambda m: policy(m)["ingress"][2].update(ports=[{"port": 8265}]), "strangers reach [8265]"),
    (ray_is_closed, lambda m: policy(m)["ingress"][3].pop("ports"), "strangers reach every port"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "change", "found"), BROKEN, ids=[f"{rule.__name__}-{found}" for rule, _, found in BROKEN])
def test_a_rule_tells_when_it_is_broken(rule: Rule, change: Change, found: str) -> None:
    manifests = build("overlays/ha")
    change(manifests)
    assert any(found in problem for problem in rule(manifests)), list(rule(manifests))


def test_every_rule_is_broken_at_least_once() -> None:
    assert {rule for rule, _, _ in BROKEN} == set(RULES)


def test_the_demo_asks_for_no_gpu_and_little_else() -> None:
    requests = [container["resources"]["requests"] for pod in pods(build("overlays/cpu-demo")) for container in pod.containers]
    assert all(not any("gpu" in name for name in request) for request in requests)
