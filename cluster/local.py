"""A whole service on this machine for as long as a `with` block lasts: Ray, Serve, the application; all of it gone afterwards.

with LocalService(load_config("demo.yaml"), progress=print) as service:
    httpx.get(service.url + "/v1/models")
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import httpx

from cluster.client import bearer
from cluster.config import RootConfig
from deployments.config import ServiceConfig
from deployments.http_guard import known_keys
from deployments.serve_environment import CLUSTER_ENVIRONMENT
from ssd_core.errors import SSDError

if TYPE_CHECKING:
    from ray.serve import Application

APP_NAME = "ssd"
START_TIMEOUT_S = 600.0
"""Enough to load a large model from a slow disk."""
POLL_S = 0.1
PORTS = range(20000, 32768)
"""Between those that Ray gives its workers and those that the system gives to whoever connects somewhere: a port from there may be taken
again in the seconds until Serve listens."""
OBJECT_STORE_BYTES = 256 * 2**20
"""What crosses between the processes is token ids: Ray's default, a third of the memory, would only be reserved in vain."""
LOCAL_ENVIRONMENT = {"RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0"}
"""Serve's 30 s let load balancers elsewhere notice that an ingress goes; here there are none, and everything ends together."""

Progress = Callable[[str], None]
AppBuilder = Callable[[ServiceConfig], "Application"]


class StartError(SSDError):
    """The service did not come up. The message is that of the part that failed."""


def free_port(host: str) -> int:
    """A TCP port of PORTS that nobody listens on now. Raises OSError."""
    for port in random.SystemRandom().sample(PORTS, 100):
        try:
            with socket.socket() as probe:
                probe.bind((host, port))
                return port
        except OSError as error:
            failure = error
    raise failure


class LocalService:
    """Starts on `__enter__`, stops on `__exit__`; a start that fails or is interrupted gives back what it took."""

    def __init__(self, config: RootConfig, *, build_app: AppBuilder | None = None, progress: Progress = lambda line: None) -> None:
        self._config = config
        self._build_app = build_app
        self._progress = progress
        self._temp_dir: Path | None = None
        self._owns_ray = config.ray.address is None
        self._port = config.http.port or free_port(config.http.host)
        self.api_key = next(iter(known_keys(config.service)), None)
        """One that the service accepts; None where it asks for none."""

    def __repr__(self) -> str:
        return f"LocalService({self.url}, model={self._config.service.model_name})"

    @property
    def url(self) -> str:
        host = "127.0.0.1" if self._config.http.host == "0.0.0.0" else self._config.http.host
        return f"http://{host}:{self._port}"

    def __enter__(self) -> LocalService:
        try:
            self._start_ray()
            self._deploy()
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Give everything back. May be called twice."""
        import ray
        from ray import serve

        try:
            # Ray prints that Serve's controller, which ends itself, "failed"; nobody needs to read that.
            with contextlib.redirect_stdout(io.StringIO()):
                if ray.is_initialized():
                    serve.shutdown() if self._owns_ray else serve.delete(APP_NAME)
        finally:
            with contextlib.redirect_stdout(io.StringIO()):
                ray.shutdown()
            if self._temp_dir is not None and self._config.ray.temp_dir is None:
                shutil.rmtree(self._temp_dir, ignore_errors=True)

    # ---------------------------------------------------------------- the three steps of a start

    def _start_ray(self) -> None:
        _set_ray_environment()
        import ray

        if not self._owns_ray:
            self._progress(f"joining Ray at {self._config.ray.address}")
            with _own_sigterm():
                ray.init(address=self._config.ray.address, logging_level=logging.ERROR, log_to_driver=False)
            return
        self._progress(f"starting a local Ray with {self._config.num_logical_cpus} logical CPUs")
        self._temp_dir = self._config.ray.temp_dir or Path(tempfile.mkdtemp(prefix="ssd-"))
        with _own_sigterm():
            ray.init(
                address="local",
                num_cpus=self._config.num_logical_cpus,
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
                _temp_dir=str(self._temp_dir.absolute()),
            )

    def _deploy(self) -> None:
        from ray import serve

        for name in ("ray", "ray.serve"):
            logging.getLogger(name).setLevel(logging.ERROR)
        build_app = self._build_app or _service_builder()
        application = build_app(self._config.service)
        self._progress(f"deploying {self._config.service.model_name}")
        serve.start(http_options={"host": self._config.http.host, "port": self._port})
        serve.run_many([serve.RunTarget(application, name=APP_NAME)], wait_for_applications_running=False)

    def _wait_until_ready(self) -> None:
        """Until /ready answers 200. Says each change of what is being waited for."""
        started = time.monotonic()
        said = ""
        while True:
            waiting_for = self._waiting_for()
            if not waiting_for:
                self._progress(f"ready at {self.url} after {time.monotonic() - started:.1f} s")
                return
            if waiting_for != said:
                self._progress(f"waiting for {waiting_for}")
                said = waiting_for
            if time.monotonic() - started > START_TIMEOUT_S:
                raise StartError(f"not ready after {START_TIMEOUT_S:.0f} s: still waiting for {waiting_for}")
            time.sleep(POLL_S)

    def _waiting_for(self) -> str:
        """What is missing before requests can be served; empty when nothing is. Raises StartError."""
        from ray import serve

        application = serve.status().applications.get(APP_NAME)
        if application is None:
            return "the application"
        if application.status in ("DEPLOY_FAILED", "UNHEALTHY"):
            details = [f"{name}: {deployment.message}" for name, deployment in application.deployments.items() if deployment.message]
            raise StartError("\n".join([application.message or f"the application is {application.status}", *details]))
        if application.status != "RUNNING":
            waiting = [name for name, deployment in application.deployments.items() if deployment.status != "HEALTHY"]
            return ", ".join(waiting) or "the application"
        try:
            answer = httpx.get(f"{self.url}/ready", headers=bearer(self.api_key), timeout=5.0)
        except httpx.TransportError:
            return "the HTTP front"
        if answer.status_code == 401:
            raise StartError(f"{self.url}/ready refuses the key of this configuration")
        return "" if answer.status_code == 200 else "the models to warm up"


def _service_builder() -> AppBuilder:
    from deployments.app import build_app

    return build_app


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """`ray.init` takes SIGTERM for itself, and would abort where the caller's handler stops the service in order: give it back."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _set_ray_environment() -> None:
    """Before `ray.init`: no telemetry, and a cluster that only we may enter.

    Ray listens on the machine's own address. It asks for a token unless RAY_AUTH_MODE says otherwise; this one lives in the
    environment of our processes only, where Ray by itself would keep one below the home folder.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    if "ray.serve" not in sys.modules:  # who has imported Serve has fixed its mode, and all processes must agree
        for name, value in (CLUSTER_ENVIRONMENT | LOCAL_ENVIRONMENT).items():
            os.environ.setdefault(name, value)
