"""Rules for what a pod may use and do: resources, files, secrets, privileges. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from deployments.config import ServiceConfig
from tests.k8s.manifests import Manifest, applications, of_kind, pods, quantity, ray_clusters, ray_pods, title

SECRET_NAME = re.compile(r"key|token|password|secret", re.IGNORECASE)


def requests_are_within_limits(manifests: Sequence[Manifest]) -> Iterator[str]:
    for pod in pods(manifests):
        for container in pod.containers:
            resources = container.get("resources", {})
            requests, limits = resources.get("requests", {}), resources.get("limits", {})
            for name in ("cpu", "memory"):
                if name not in requests or name not in limits:
                    yield f"{pod.where}: {container['name']} has no request or no limit of {name}"
            for name in requests.keys() & limits.keys():
                if quantity(requests[name]) > quantity(limits[name]):
                    yield f"{pod.where}: {container['name']} requests {requests[name]} of {name}, and is limited to {limits[name]}"
            for name in (name for name in {*requests, *limits} if "/" in name):
                if requests.get(name) != limits.get(name):
                    yield f"{pod.where}: {container['name']}: of {name} Kubernetes wants request and limit alike"


def files_are_mounted(manifests: Sequence[Manifest]) -> Iterator[str]:
    """Mounts have their volume; the key file and models that are folders lie in one, in every pod of the service."""
    for pod in pods(manifests):
        claims = [
            claim["metadata"]["name"] for m in of_kind(manifests, "StatefulSet") for claim in m["spec"].get("volumeClaimTemplates", [])
        ]
        volumes = {volume["name"] for volume in pod.spec.get("volumes", [])}
        for container in pod.containers:
            for mount in container.get("volumeMounts", []):
                if mount["name"] not in volumes | set(claims):
                    yield f"{pod.where}: there is no volume {mount['name']}"
    for service in of_kind(manifests, "RayService"):
        paths = {str(path) for _, config in applications(service) for path in (config.api_keys_file, *_model_folders(config)) if path}
        for pod in ray_pods([service]):
            mounts = [mount for mount in pod.spec["containers"][0]["volumeMounts"] if mount.get("readOnly")]
            for path in sorted(paths):
                if not any(path.startswith(mount["mountPath"] + "/") for mount in mounts):
                    yield f"{pod.where}: {path} is not mounted read-only"


def secrets_are_references(manifests: Sequence[Manifest]) -> Iterator[str]:
    for secret in of_kind(manifests, "Secret"):
        yield f"{title(secret)} stands in the manifests"
    for where, key, value in (found for manifest in manifests for found in _leaves(manifest, title(manifest))):
        if key in ("password", "api_keys", "credentials") and isinstance(value, str):
            yield f"{where} is written out"
    for pod in pods(manifests):
        for container in pod.containers:
            for variable in container.get("env", []):
                if SECRET_NAME.search(variable["name"]) and "secretKeyRef" not in variable.get("valueFrom", {}):
                    yield f"{pod.where}: {variable['name']} is no reference to a Secret"
    for where, cluster in ray_clusters(manifests):
        if "value" in cluster.get("gcsFaultToleranceOptions", {}).get("redisPassword", {}):
            yield f"{where}: the password of Redis is written out"
    for service in of_kind(manifests, "RayService"):
        for _, config in applications(service):
            if config.api_keys or not config.api_keys_file:
                yield f"{title(service)}: API keys come from api_keys_file, which is mounted"


def pods_are_restricted(manifests: Sequence[Manifest]) -> Iterator[str]:
    """To Kubernetes' Pod Security Standard `restricted`, and without a token for its API unless an autoscaler needs one."""
    scaled = [where for where, cluster in ray_clusters(manifests) if cluster.get("enableInTreeAutoscaling")]
    for pod in pods(manifests):
        security = pod.spec.get("securityContext", {})
        if not security.get("runAsNonRoot") or not security.get("runAsUser"):
            yield f"{pod.where}: may run as root"
        if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{pod.where}: has no seccomp profile"
        for container in pod.containers:
            own = container.get("securityContext", {})
            if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities") != {"drop": ["ALL"]} or own.get("privileged"):
                yield f"{pod.where}: {container['name']} may gain privileges"
        needs_token = any(pod.where == f"{where}, head" for where in scaled)
        if pod.spec.get("automountServiceAccountToken", True) != needs_token:
            yield f"{pod.where}: a token for Kubernetes' API {'is missing' if needs_token else 'lies about'}"
    for where, cluster in ray_clusters(manifests):
        if cluster.get("authOptions") != {"mode": "token"}:
            yield f"{where}: Ray asks for no token"


def _model_folders(config: ServiceConfig) -> list[str]:
    return [part.engine.model for part in (config.target, config.draft) if part.engine.model.startswith("/")]


def _leaves(value: Any, where: str) -> Iterator[tuple[str, str, Any]]:
    """All of a manifest's values: path, last key, value."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(inner, dict | list):
            yield from _leaves(inner, f"{where}.{key}")
        else:
            yield f"{where}.{key}", str(key), inner
