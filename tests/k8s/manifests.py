"""The manifests as kustomize builds them, and their parts by name."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from deployments.config import OnDevices, ServiceConfig

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
KUSTOMIZATIONS = tuple(sorted(path.parent.relative_to(K8S).as_posix() for path in K8S.rglob("kustomization.yaml")))
SERVICES = ("base", "overlays/cpu-demo", "overlays/gpu", "overlays/ha")
"""Those with a RayService."""

Manifest = dict[str, Any]
UNITS = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


class Pod(NamedTuple):
    """A pod template, and what it stands in."""

    where: str
    metadata: Mapping[str, Any]
    spec: Manifest

    @property
    def labels(self) -> Mapping[str, str]:
        return self.metadata.get("labels", {})

    @property
    def containers(self) -> list[Manifest]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


class RayNode(NamedTuple):
    """What one pod of a group is to Ray, as KubeRay and Ray's autoscaler take it from the manifest."""

    group: str
    num_cpus: int
    num_gpus: int
    memory_bytes: float
    labels: Mapping[str, str]
    num_pods: int
    """That may be: with an autoscaler as many as the group allows, without one as many as it is told."""

    def num_places(self, part: OnDevices, other_cpus: float) -> int:
        """How many processes of a part fit on one pod on which others hold some CPUs already."""
        fits = [have // want for have, want in ((self.num_cpus - other_cpus, part.num_cpus), (self.num_gpus, part.num_gpus)) if want]
        return int(min(fits, default=0))


@cache
def _built(kustomization: str) -> str:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run(["kubectl", "kustomize", str(K8S / kustomization)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def build(kustomization: str) -> list[Manifest]:
    """What would be applied; the caller's own to change. Skips the test where there is no kubectl."""
    return [copy.deepcopy(manifest) for manifest in _parsed(kustomization)]


@cache
def _parsed(kustomization: str) -> tuple[Manifest, ...]:
    return tuple(yaml.safe_load_all(_built(kustomization)))


def crd_folder() -> Path:
    """Where KubeRay's custom resource definitions lie. Skips the test where nobody says."""
    folder = os.environ.get("SSD_KUBERAY_CRDS")
    if not folder:
        pytest.skip("SSD_KUBERAY_CRDS is not set: a folder with KubeRay's ray.io_*.yaml (ray-operator/config/crd/bases)")
    return Path(folder)


def title(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def of_kind(manifests: Sequence[Manifest], *kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def ray_clusters(manifests: Sequence[Manifest]) -> Iterator[tuple[str, Manifest]]:
    for manifest in of_kind(manifests, "RayService", "RayJob", "RayCluster"):
        spec = manifest["spec"]
        yield title(manifest), spec.get("rayClusterConfig") or spec.get("rayClusterSpec") or spec


def ray_pods(manifests: Sequence[Manifest]) -> list[Pod]:
    """In which Ray runs."""
    found = []
    for where, cluster in ray_clusters(manifests):
        groups = [("head", cluster["headGroupSpec"])]
        groups += [(group["groupName"], group) for group in cluster.get("workerGroupSpecs", [])]
        found += [_pod(f"{where}, {name}", group["template"]) for name, group in groups]
    return found


def pods(manifests: Sequence[Manifest]) -> list[Pod]:
    """All of them."""
    workloads = of_kind(manifests, "Deployment", "StatefulSet", "DaemonSet", "Job")
    found = [_pod(title(manifest), manifest["spec"]["template"]) for manifest in workloads]
    submitters = [(title(job), job["spec"]["submitterPodTemplate"]) for job in of_kind(manifests, "RayJob")]
    return [*ray_pods(manifests), *found, *(_pod(f"{where}, submitter", template) for where, template in submitters)]


def _pod(where: str, template: Manifest) -> Pod:
    return Pod(where, template.get("metadata", {}), template["spec"])


def quantity(written: object) -> float:
    """Kubernetes' numbers: 250m, 4Gi, "1"."""
    text = str(written)
    for unit in sorted(UNITS, key=len, reverse=True):
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * UNITS[unit]
    return float(text)


def serve_config(service: Manifest) -> Manifest:
    return yaml.safe_load(service["spec"]["serveConfigV2"])


def applications(service: Manifest) -> Iterator[tuple[Manifest, ServiceConfig]]:
    for application in serve_config(service)["applications"]:
        yield application, ServiceConfig.model_validate(application["args"])


def ray_nodes(service: Manifest) -> list[RayNode]:
    """Of the worker groups; a head with `num-cpus: "0"` holds nothing."""
    cluster = service["spec"]["rayClusterConfig"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    is_scaled = cluster.get("enableInTreeAutoscaling", False)
    return [_ray_node(group, is_scaled) for group in cluster["workerGroupSpecs"]]


def _ray_node(group: Manifest, is_scaled: bool) -> RayNode:
    own, params = group.get("resources", {}), group.get("rayStartParams", {})
    resources = group["template"]["spec"]["containers"][0]["resources"]
    limits = {**resources.get("requests", {}), **resources.get("limits", {})}
    cpus = own.get("CPU") or params.get("num-cpus") or limits["cpu"]
    gpus = own.get("GPU") or params.get("num-gpus") or limits.get("nvidia.com/gpu", 0)
    told = max(group["minReplicas"], min(group.get("replicas", 0), group["maxReplicas"]))
    num_pods = group["maxReplicas"] if is_scaled else told
    return RayNode(
        group["groupName"], ceil(quantity(cpus)), ceil(quantity(gpus)), quantity(limits["memory"]), group.get("labels", {}), num_pods
    )


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """As Kubernetes' label selectors do; of expressions only the operator that we use."""
    expressions = selector.get("matchExpressions", [])
    assert all(expression["operator"] == "Exists" for expression in expressions), expressions
    wanted = selector.get("matchLabels", {})
    return all(labels.get(key) == value for key, value in wanted.items()) and all(e["key"] in labels for e in expressions)
