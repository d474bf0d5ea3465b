"""The application: `serve run deployments.app:build_app`, or `import_path: deployments.app:build_app` with `args:` in a Serve YAML."""

from typing import Any

import ray
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, DeploymentActorConfig, RequestRouterConfig

from deployments.config import ServiceConfig, TargetConfig
from deployments.ingress import Ingress
from deployments.pool import SpeculatorPool
from deployments.preflight import check_service
from deployments.serve_environment import REPLICA_ENVIRONMENT
from deployments.target import POOL_NAME, Target

ROUTING_STATS_PERIOD_S = 1.0
LOOK_BACK = 1.2
"""Policy periods for which Serve keeps what replicas tell. It wants more than one."""
INGRESS_ONGOING_REQUESTS = 1000
"""A request at the ingress is a few coroutines; the limit that matters is the target's queue."""


def build_app(args: ServiceConfig) -> Application:
    """Raises ConfigError for what cannot work, before any weights are loaded."""
    check_service(args)
    target, draft = args.target, args.draft
    capacity = target.max_sessions + target.max_queued_sessions
    pool = DeploymentActorConfig(
        name=POOL_NAME,
        actor_class=ray.remote(SpeculatorPool),
        init_args=(draft,),
        actor_options={"num_cpus": 0, "max_concurrency": 1000, "label_selector": target.labels or None},  # not lost with a draft's node
    )
    targets = Target.options(  # type: ignore[attr-defined]
        **_size(target),
        ray_actor_options={"num_cpus": target.num_cpus, "num_gpus": target.num_gpus, "runtime_env": {"env_vars": REPLICA_ENVIRONMENT}},
        placement_group_bundles=[{"CPU": target.num_cpus, **({"GPU": target.num_gpus} if target.num_gpus else {})}],
        placement_group_bundle_label_selector=[target.labels] if target.labels else None,
        max_ongoing_requests=capacity + 1,  # one more than fits: the replica itself says that it is full
        max_queued_requests=capacity,
        graceful_shutdown_timeout_s=target.shutdown_timeout_s,
        request_router_config=RequestRouterConfig(
            request_router_class="deployments.router:SessionRouter",
            request_routing_stats_period_s=ROUTING_STATS_PERIOD_S,
        ),
        deployment_actors=[pool] if draft.has_pool else None,
    )
    ingress = Ingress.options(  # type: ignore[attr-defined]
        num_replicas=args.num_ingress_replicas,
        ray_actor_options={
            "num_cpus": args.ingress_num_cpus,
            "label_selector": args.ingress_labels or None,
            "runtime_env": {"env_vars": REPLICA_ENVIRONMENT},
        },
        max_ongoing_requests=INGRESS_ONGOING_REQUESTS,
        graceful_shutdown_timeout_s=target.shutdown_timeout_s,
    )
    return ingress.bind(args, targets.bind(args))


def _size(target: TargetConfig) -> dict[str, Any]:
    """Serve's own delays are 0: the policy's guard says when it is time."""
    policy = target.autoscaling
    if policy is None:
        return {"num_replicas": target.num_replicas}
    scaling = AutoscalingConfig(
        min_replicas=policy.guard.min_size,
        initial_replicas=target.num_replicas,
        max_replicas=policy.guard.max_size,
        metrics_interval_s=policy.period_s,
        look_back_period_s=LOOK_BACK * policy.period_s,
        upscale_delay_s=0,
        downscale_delay_s=0,
        policy=AutoscalingPolicy(
            policy_function="autoscale.target_scaler:TargetScaler", policy_kwargs={"config": policy.model_dump(mode="json")}
        ),
    )
    return {"autoscaling_config": scaling}
