"""What goes to KubeRay obeys KubeRay's definitions, made strict: a field they do not name would be dropped by the API server, unseen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.k8s.manifests import KUSTOMIZATIONS, Manifest, build, crd_folder, of_kind, pods, title
from tests.k8s.object_rules import HAVE_A_SCHEMA
from tests.k8s.strict_schema import problems, strict


@pytest.mark.parametrize("kustomization", KUSTOMIZATIONS)
def test_kuberays_objects_are_what_it_defines(kustomization: str) -> None:
    folder = crd_folder()
    found = {title(manifest): list(problems(folder, manifest)) for manifest in of_kind(build(kustomization), *HAVE_A_SCHEMA)}
    assert not any(found.values()), found


@pytest.mark.parametrize("kustomization", KUSTOMIZATIONS)
def test_other_pods_are_what_kubernetes_defines(kustomization: str) -> None:
    """KubeRay's definitions have Kubernetes' pods in them."""
    folder = crd_folder()
    for pod in pods(build(kustomization)):
        job = ray_job({"metadata": dict(pod.metadata), "spec": pod.spec})
        assert list(problems(folder, job)) == [], pod.where


def ray_job(template: Manifest) -> Manifest:
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "any"}, "spec": {"submitterPodTemplate": template}}


def cluster(service: Manifest) -> Manifest:
    return service["spec"]["rayClusterConfig"]


def group(service: Manifest) -> Manifest:
    return cluster(service)["workerGroupSpecs"][0]


def container(service: Manifest) -> Manifest:
    return group(service)["template"]["spec"]["containers"][0]


BROKEN: dict[str, tuple[Callable[[Manifest], Any], str]] = {
    "a worker group without its maximum": (lambda s: group(s).pop("maxReplicas"), "'maxReplicas' is a required property"),
    "a worker group without a template": (lambda s: group(s).pop("template"), "'template' is a required property"),
    "a field at the root": (lambda s: s.update(specs={}), "'specs' was unexpected"),
    "a field of the service": (lambda s: s["spec"].update(serveConfigV3=""), "'serveConfigV3' was unexpected"),
    "the name of a RayJob's field": (lambda s: s["spec"].update(rayClusterSpec=cluster(s)), "'rayClusterSpec' was unexpected"),
    "a field of the cluster": (lambda s: cluster(s).update(enableAutoscaling=True), "'enableAutoscaling' was unexpected"),
    "a field of a container": (lambda s: container(s).update(volumeMount=[]), "'volumeMount' was unexpected"),
    "a field of a probe": (lambda s: container(s).update(readinessProbe={"exec": {"cmd": []}}), "'cmd' was unexpected"),
    "text for a number": (lambda s: group(s).update(minReplicas="1"), "'1' is not of type 'integer'"),
    "a number for text": (lambda s: group(s)["rayStartParams"].update({"num-cpus": 0}), "0 is not of type 'string'"),
    "no quantity": (lambda s: container(s)["resources"]["limits"].update(cpu="two"), "'two' does not match"),
    "neither number nor name of a port": (lambda s: container(s).update(livenessProbe={"tcpSocket": {"port": []}}), "[] is not of type"),
    "an autoscaler there is not": (lambda s: cluster(s)["autoscalerOptions"].update(version="v3"), "'v3' is not one of"),
    "an upgrade without its Gateway": (
        lambda s: s["spec"]["upgradeStrategy"]["clusterUpgradeOptions"].pop("gatewayClassName"), "'gatewayClassName' is a required",
    ),
    "no name": (lambda s: s["metadata"].pop("name"), "'name' is a required property"),
}  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN)
def test_a_mistake_is_found(broken: str) -> None:
    folder = crd_folder()
    (service,) = of_kind(build("overlays/ha"), "RayService")
    change, found = BROKEN[broken]
    change(service)
    assert any(found in problem for problem in problems(folder, service)), list(problems(folder, service))


def test_only_what_is_named_may_stand_but_where_anything_may() -> None:
    named = {"type": "object", "properties": {"a": {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}]}}}
    free = {"type": "object", "properties": {}, "x-kubernetes-preserve-unknown-fields": True}
    lists = {"type": "array", "items": named, "x-kubernetes-list-type": "atomic"}
    closed = {"type": "object", "properties": {"a": {"type": ["integer", "string"]}}, "additionalProperties": False}
    assert strict(named) == closed
    assert strict(free) == {"type": "object", "properties": {}}
    assert strict(lists) == {"type": "array", "items": closed}
    assert strict({"type": "object", "additionalProperties": named}) == {"type": "object", "additionalProperties": closed}
