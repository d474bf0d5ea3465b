"""Rules for the Ray cluster and the application in it: Serve, our configuration and the groups of pods must fit each other. Pure."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

from pydantic import ValidationError
from ray.serve.schema import HTTPOptionsSchema, ServeApplicationSchema, ServeDeploySchema

from deployments.config import OnDevices
from tests.k8s.manifests import ROOT, Manifest, RayNode, applications, of_kind, pods, ray_clusters, ray_nodes, ray_pods, serve_config, title

RAY_VERSION = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE).group(1)  # type: ignore[union-attr]
PROJECT_VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
OWN_IMAGE = "ssd-serve"
SERVE_PORT = 8000
DRAIN_S = 30
"""Serve's own pause before an ingress replica goes (RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S)."""


def serve_configs_are_known_to_serve(manifests: Sequence[Manifest]) -> Iterator[str]:
    for service in of_kind(manifests, "RayService"):
        config = serve_config(service)
        try:
            ServeDeploySchema.model_validate(config)
        except ValidationError as error:
            yield f"{title(service)}: {error}"
            return
        # Serve lets unknown keys pass, for versions to come.
        yield from _unknown(title(service), config, ServeDeploySchema)
        yield from _unknown(f"{title(service)}, http_options", config["http_options"], HTTPOptionsSchema)
        if (config["http_options"]["host"], config["http_options"]["port"]) != ("0.0.0.0", SERVE_PORT):
            yield f"{title(service)}: KubeRay looks for Serve at 0.0.0.0:{SERVE_PORT}"
        for application in config["applications"]:
            yield from _unknown(f"{title(service)}, {application['name']}", application, ServeApplicationSchema)


def applications_can_be_built(manifests: Sequence[Manifest]) -> Iterator[str]:
    """Their arguments are a ServiceConfig, and what they import is there."""
    for service in of_kind(manifests, "RayService"):
        for application in serve_config(service)["applications"]:
            module, _, name = application["import_path"].partition(":")
            try:
                getattr(import_module(module), name)
            except (ImportError, AttributeError) as error:
                yield f"{title(service)}: import_path: {error}"
            deployments = {import_module("deployments.ingress").Ingress.name, import_module("deployments.target").Target.name}
            for changed in application.get("deployments", []):
                if changed["name"] not in deployments:
                    yield f"{title(service)}: there is no deployment {changed['name']}"
        try:
            list(applications(service))
        except ValidationError as error:
            yield f"{title(service)}: {error}"


def versions_agree(manifests: Sequence[Manifest]) -> Iterator[str]:
    for where, cluster in ray_clusters(manifests):
        if cluster["rayVersion"] != RAY_VERSION:
            yield f"{where}: rayVersion {cluster['rayVersion']}, in constraints.txt {RAY_VERSION}"
    for pod in pods(manifests):
        for container in pod.containers:
            name, _, tag = container["image"].rpartition("/")[2].partition(":")
            if name == OWN_IMAGE and tag not in (PROJECT_VERSION, f"{PROJECT_VERSION}-gpu"):
                yield f"{pod.where}: image {container['image']}, the project is at {PROJECT_VERSION}"
            if not tag or tag == "latest":
                yield f"{pod.where}: image {container['image']} has no version"


def groups_hold_what_is_asked(manifests: Sequence[Manifest]) -> Iterator[str]:
    """Targets and drafts find their nodes, room on each and enough of them, wherever the ingress replicas have gone before."""
    for service in of_kind(manifests, "RayService"):
        nodes = ray_nodes(service)
        for _, config in applications(service):
            ingress_cpus = config.num_ingress_replicas * config.ingress_num_cpus
            if not config.ingress_num_cpus:
                yield f"{title(service)}: ingress replicas that ask for no CPU may land on the head"
            for name, part, number in (
                ("target", config.target, config.target.most_replicas),
                ("draft", config.draft, config.draft.most_actors),
            ):
                for problem in _part_problems(part, number, nodes, ingress_cpus):
                    yield f"{title(service)}, {name}: {problem}"
                kv = part.engine.kv_budget_bytes
                if part.engine.device == "cpu" and any(kv >= node.memory_bytes for node in _offering(part, nodes)):
                    yield f"{title(service)}, {name}: kv_budget_bytes exceeds the pod's memory"
                if (part.engine.device == "cuda") != bool(part.num_gpus):
                    yield f"{title(service)}, {name}: on {part.engine.device} with {part.num_gpus} GPUs"


def the_operator_takes_it(manifests: Sequence[Manifest]) -> Iterator[str]:
    """What KubeRay's operator checks beyond its schema, of what is used here."""
    for service in of_kind(manifests, "RayService"):
        spec, cluster = service["spec"], service["spec"]["rayClusterConfig"]
        is_scaled = cluster.get("enableInTreeAutoscaling", False)
        upgrade = spec.get("upgradeStrategy", {})
        options = upgrade.get("clusterUpgradeOptions")
        if (upgrade.get("type") == "NewClusterWithIncrementalUpgrade") != (options is not None):
            yield f"{title(service)}: clusterUpgradeOptions and incremental upgrades go together"
        elif options and not is_scaled:
            yield f"{title(service)}: incremental upgrades want the autoscaler"
        elif options and not 0 < options["stepSizePercent"] <= options["maxSurgePercent"] <= 100:
            yield f"{title(service)}: steps of an upgrade are within its surge, and that within 100 %"
        for pod in ray_pods([service]):
            if is_scaled and pod.spec.get("restartPolicy") != "Never":
                yield f"{pod.where}: autoscaler v2 wants restartPolicy Never"


def pods_outlive_their_replicas(manifests: Sequence[Manifest]) -> Iterator[str]:
    """A pod's grace is longer than what a replica takes for its last streams, a replaced cluster's than a request."""
    for service in of_kind(manifests, "RayService"):
        needed = max(config.target.shutdown_timeout_s for _, config in applications(service)) + DRAIN_S
        for pod in ray_pods([service]):
            grace = pod.spec.get("terminationGracePeriodSeconds", 30)
            if not pod.where.endswith("head") and grace <= needed:
                yield f"{pod.where}: terminationGracePeriodSeconds {grace}, replicas may take {needed:g}"
        longest = max(config.request_timeout_s for _, config in applications(service))
        if service["spec"].get("rayClusterDeletionDelaySeconds", 60) <= longest:
            yield f"{title(service)}: a replaced cluster goes before its requests, which may take {longest:g} s"


def _part_problems(part: OnDevices, number: int, nodes: Sequence[RayNode], ingress_cpus: float) -> Iterator[str]:
    offering = _offering(part, nodes)
    if not part.labels or len(offering) != 1:
        yield f"its labels {part.labels} are those of {[node.group for node in offering]}, not of one group"
        return
    (node,) = offering
    places = node.num_places(part, ingress_cpus)
    if places < 1:
        yield f"does not fit a pod of {node.group} beside the ingress: {node.num_cpus} CPUs, {node.num_gpus} GPUs"
    elif places * node.num_pods < number:
        yield f"{number} of it want {number / places:g} pods, {node.group} has {node.num_pods} at most"


def _offering(part: OnDevices, nodes: Sequence[RayNode]) -> list[RayNode]:
    return [node for node in nodes if part.labels.items() <= node.labels.items()]


def _unknown(where: str, config: Mapping[str, Any], model: Any) -> Iterator[str]:
    for key in config.keys() - model.model_fields.keys():
        yield f"{where}: unknown key {key}"
