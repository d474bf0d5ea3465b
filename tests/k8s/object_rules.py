"""Rules for the objects around the pods: their fields, whom they select, whom they let in. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.k8s.manifests import Manifest, Pod, of_kind, pods, ray_nodes, selects, title

OPERATOR = {"app.kubernetes.io/name": "kuberay-operator"}
OPEN_PORTS = {8000, 8080}
"""Requests, which need a key, and metrics. The others run whatever they are sent."""
HAVE_A_SCHEMA = ("RayService", "RayJob", "RayCluster")
FIELDS = {
    "Namespace": ("v1", ""),
    "ConfigMap": ("v1", ""),
    "Service": ("v1", "selector.app.kubernetes.io/part-of ports.name ports.port ports.targetPort"),
    "PersistentVolumeClaim": ("v1", "accessModes resources.requests storageClassName"),
    "StatefulSet": (
        "apps/v1",
        "serviceName replicas selector.matchLabels template volumeClaimTemplates.metadata.name volumeClaimTemplates.spec.accessModes"
        " volumeClaimTemplates.spec.resources.requests",
    ),
    "Job": ("batch/v1", "backoffLimit template"),
    "PodDisruptionBudget": ("policy/v1", "minAvailable unhealthyPodEvictionPolicy selector.matchLabels"),
    "NetworkPolicy": (
        "networking.k8s.io/v1",
        "podSelector.matchLabels policyTypes ingress.ports.port ingress.ports.protocol ingress.from.podSelector.matchLabels"
        " ingress.from.podSelector.matchExpressions.key ingress.from.podSelector.matchExpressions.operator"
        " ingress.from.namespaceSelector ingress.from.namespaceSelector.matchLabels",
    ),
    "PodMonitor": (
        "monitoring.coreos.com/v1",
        "selector.matchLabels podTargetLabels podMetricsEndpoints.port podMetricsEndpoints.interval",
    ),
    "PrometheusRule": (
        "monitoring.coreos.com/v1",
        "groups.name groups.rules.record groups.rules.alert groups.rules.expr groups.rules.for groups.rules.labels"
        " groups.rules.annotations",
    ),
    "ScrapeConfig": (
        "monitoring.coreos.com/v1alpha1",
        "jobName metricsPath scrapeInterval authorization.type authorization.credentials.name authorization.credentials.key"
        " staticConfigs.targets",
    ),
}
"""By kind: version, and the fields of its spec that we use."""
NOT_FIELDS = ("matchLabels", "requests", "labels", "annotations", "template")
"""Below these are names of the user's, or what has a schema."""


def fields_are_known(manifests: Sequence[Manifest]) -> Iterator[str]:
    """Of Kubernetes' own kinds and the Prometheus operator's. KubeRay's, and all pods, have their schema (strict_schema.py)."""
    for manifest in manifests:
        kind, version = manifest["kind"], manifest["apiVersion"]
        if kind in HAVE_A_SCHEMA:
            continue
        if kind not in FIELDS or version != FIELDS[kind][0]:
            yield f"{title(manifest)}: {version} {kind} is not known here"
            continue
        for path in sorted(set(_paths(manifest.get("spec", {}))) - set(FIELDS[kind][1].split())):
            yield f"{title(manifest)}: unknown field {path}"


def selectors_find_their_pods(manifests: Sequence[Manifest]) -> Iterator[str]:
    known = pods(manifests)
    for workload in of_kind(manifests, "Deployment", "StatefulSet"):
        if not selects(workload["spec"]["selector"], workload["spec"]["template"]["metadata"]["labels"]):
            yield f"{title(workload)}: its selector does not match its pods"
    for service in of_kind(manifests, "Service"):
        ports = {port["name"] for pod in _selected({"matchLabels": service["spec"]["selector"]}, known) for port in _ports(pod)}
        for port in service["spec"]["ports"]:
            if port["targetPort"] not in ports:
                yield f"{title(service)}: no pod has a port {port['targetPort']}"
    for budget in of_kind(manifests, "PodDisruptionBudget"):
        if len(_selected(budget["spec"]["selector"], known)) != 1:
            yield f"{title(budget)}: selects not exactly one kind of pod"
    for pod in known:
        for constraint in pod.spec.get("topologySpreadConstraints", []):
            if not selects(constraint["labelSelector"], pod.labels):
                yield f"{pod.where}: is spread among others, not among its like"


def drains_can_go_on(manifests: Sequence[Manifest]) -> Iterator[str]:
    """A disruption budget leaves a pod of its group to spare. The head's is one that is to be moved by hand."""
    known = pods(manifests)
    for budget in of_kind(manifests, "PodDisruptionBudget"):
        least = budget["spec"].get("minAvailable")
        if not isinstance(least, int):
            yield f"{title(budget)}: of pods that a custom resource owns Kubernetes takes minAvailable, a number, alone"
            continue
        selected = {pod.where for pod in _selected(budget["spec"]["selector"], known)}
        for service in of_kind(manifests, "RayService"):
            for node in ray_nodes(service):
                if f"{title(service)}, {node.group}" in selected and least >= node.num_pods:
                    yield f"{title(budget)}: {least} of {node.num_pods} pods must stay, none may go"


def ray_is_closed(manifests: Sequence[Manifest]) -> Iterator[str]:
    """A network policy holds for every pod with Ray in it; only the cluster's own pods and the operator get beyond requests and metrics."""
    policies = of_kind(manifests, "NetworkPolicy")
    for pod in [pod for pod in pods(manifests) if pod.where.startswith("Ray")]:
        holding = [policy["spec"] for policy in policies if selects(policy["spec"]["podSelector"], pod.labels)]
        if not any("Ingress" in policy["policyTypes"] for policy in holding):
            yield f"{pod.where}: open to everyone"
        rules = [rule for policy in holding for rule in policy.get("ingress", [])]
        for rule in rules:
            ports = {port["port"] for port in rule.get("ports", [])}
            if not rule.get("from"):
                yield f"{pod.where}: a rule without `from` lets everyone in"
            elif not (ports and ports <= OPEN_PORTS) and any(_is_stranger(peer, pod) for peer in rule["from"]):
                yield f"{pod.where}: strangers reach {sorted(ports) or 'every port'}"
        if not any("ports" not in rule and all(_is_like(peer, pod) for peer in rule.get("from", [])) for rule in rules):
            yield f"{pod.where}: the cluster's pods do not reach each other"


def _is_like(peer: Mapping[str, Any], pod: Pod) -> bool:
    """Whether a network policy's peer is the cluster's own pods."""
    return peer.keys() == {"podSelector"} and bool(peer["podSelector"]) and selects(peer["podSelector"], pod.labels)


def _is_stranger(peer: Mapping[str, Any], pod: Pod) -> bool:
    return not _is_like(peer, pod) and peer.get("podSelector") != {"matchLabels": OPERATOR}


def _selected(selector: Mapping[str, Any], known: Sequence[Pod]) -> list[Pod]:
    return [pod for pod in known if selects(selector, pod.labels)]


def _ports(pod: Pod) -> list[Manifest]:
    return [port for container in pod.containers for port in container.get("ports", [])]


def _paths(value: Any, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Where a manifest's values stand, by fields; lists count for nothing."""
    if isinstance(value, list):
        for item in value:
            yield from _paths(item, above)
    elif isinstance(value, dict) and value and (not above or above[-1] not in NOT_FIELDS):
        for key, inner in value.items():
            yield from _paths(inner, (*above, key))
    elif above:
        yield ".".join(above)
