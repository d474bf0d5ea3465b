"""Ports that a service takes on its machine: each its own, so that several services share a host and never meet."""

from __future__ import annotations

import random
import socket
from pathlib import Path

PORTS = range(20000, 30000)
"""Above those of Ray's workers. A port from here may be taken again in the seconds until Serve listens."""
INGRESS_PORTS = range(30000, 32768)
"""Below those that the system gives to whoever connects somewhere."""
INGRESS_BLOCK = 128
"""Consecutive ports for one service's ingress replicas."""
PORT_NAMES = (
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
    "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT",
)


def free_port(host: str) -> int:
    """A TCP port of PORTS that nobody listens on now. Raises OSError."""
    for port in random.SystemRandom().sample(PORTS, 100):
        try:
            check_free(host, port)
            return port
        except OSError as error:
            failure = error
    raise failure


def check_free(host: str, port: int) -> None:
    """Raises OSError where this port cannot be listened on now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        probe.listen()


def serve_environment(folder: Path) -> dict[str, str]:
    """Ports and files of Serve's proxies for one service alone. Read by Serve's processes when they start. Raises OSError."""
    environment = {name: str(free_port("0.0.0.0")) for name in PORT_NAMES}
    first = _free_block()
    environment["RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT"] = str(first)
    environment["RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT"] = str(first + INGRESS_BLOCK - 1)
    environment["RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"] = str(folder / "haproxy.cfg")
    environment["RAY_SERVE_HAPROXY_SOCKET_PATH"] = str(folder / "a.sock")
    environment["RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH"] = str(folder / "m.sock")
    environment["RAY_SERVE_HAPROXY_SERVER_STATE_BASE"] = str(folder)
    environment["RAY_SERVE_HAPROXY_SERVER_STATE_FILE"] = str(folder / "server-state")
    environment["SSD_HAPROXY_INTERNAL_HOST"] = "127.0.0.1"
    # Serve's 30 s let load balancers elsewhere notice that an ingress goes; here there are none, and everything ends together.
    environment["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"] = "0"
    return environment


def _free_block() -> int:
    """The first of INGRESS_BLOCK ports that nobody listens on. Raises OSError."""
    starts = range(INGRESS_PORTS.start, INGRESS_PORTS.stop - INGRESS_BLOCK, INGRESS_BLOCK)
    for start in random.SystemRandom().sample(starts, len(starts)):
        try:
            for port in range(start, start + INGRESS_BLOCK):
                check_free("0.0.0.0", port)
            return start
        except OSError as error:
            failure = error
    raise failure
