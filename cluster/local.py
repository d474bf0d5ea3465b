"""A whole service on this machine for as long as a `with` block lasts: Ray, Serve, the application; all of it gone afterwards.

with LocalService(load_config("demo.yaml"), progress=print) as service:
    httpx.get(service.url + "/v1/models")
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from sysconfig import get_path
from types import TracebackType
from typing import TYPE_CHECKING

import httpx

from cluster.client import bearer
from cluster.config import RootConfig
from cluster.ports import check_free, free_port, serve_environment
from cluster.processes import Marked
from deployments.config import ServiceConfig
from deployments.http_guard import known_keys
from deployments.serve_environment import CLUSTER_ENVIRONMENT
from ssd_core.errors import SSDError

if TYPE_CHECKING:
    from ray.job_config import JobConfig
    from ray.serve import Application

APP_NAME = "ssd"
START_TIMEOUT_S = 600.0
"""Enough to load a large model from a slow disk."""
POLL_S = 0.1
OBJECT_STORE_BYTES = 256 * 2**20
"""What crosses between the processes is token ids: Ray's default, a third of the memory, would only be reserved in vain."""
MARK = "SSD_SERVICE_ID"
"""In the environment of every process of one service."""
GRACE_S = 10.0
"""For Ray's processes to end by themselves."""

Progress = Callable[[str], None]
AppBuilder = Callable[[ServiceConfig], "Application"]


class StartError(SSDError):
    """The service did not come up. The message is that of the part that failed."""


class LocalService:
    """Starts on `__enter__`, stops on `__exit__`; a start that fails or is interrupted gives back what it took."""

    def __init__(self, config: RootConfig, *, build_app: AppBuilder | None = None, progress: Progress = lambda line: None) -> None:
        self._config = config
        self._build_app = build_app
        self._progress = progress
        self._temp_dir: Path | None = None
        self._folder: Path | None = None
        self._replaced: dict[str, str | None] = {}
        """What the environment said before this service set its own."""
        self._processes: Marked | None = None
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
            check_free(self._config.http.host, self._port)
        except OSError as error:
            where = f"http.host = {self._config.http.host!r}, http.port = {self._port}"
            raise StartError(f"{where}: {error.strerror or error}") from None
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

        if self._processes is not None:
            self._processes.find()
        try:
            # Ray prints that Serve's controller, which ends itself, "failed"; nobody needs to read that.
            with contextlib.redirect_stdout(io.StringIO()):
                if ray.is_initialized():
                    serve.shutdown() if self._owns_ray else serve.delete(APP_NAME)
        finally:
            with contextlib.redirect_stdout(io.StringIO()):
                ray.shutdown()
            if self._processes is not None:
                self._processes.end(GRACE_S)
            for name, value in self._replaced.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
            self._replaced = {}
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)
            if self._temp_dir is not None and self._config.ray.temp_dir is None:
                shutil.rmtree(self._temp_dir, ignore_errors=True)

    # ---------------------------------------------------------------- the three steps of a start

    def _start_ray(self) -> None:
        _set_ray_environment()
        import ray

        if not self._owns_ray:
            self._progress(f"joining Ray at {self._config.ray.address}")
            try:
                with _own_sigterm():
                    ray.init(address=self._config.ray.address, logging_level=logging.ERROR, log_to_driver=False, job_config=_job_config())
            except Exception as error:
                raise StartError(f"ray.address = {self._config.ray.address!r}: {_last_line(error)}") from error
            return
        self._progress(f"starting a local Ray with {self._config.num_logical_cpus} logical CPUs")
        self._temp_dir = self._config.ray.temp_dir or Path(tempfile.mkdtemp(prefix="ssd-"))
        self._folder = Path(tempfile.mkdtemp(prefix="ssd-", dir=None if len(tempfile.gettempdir()) <= 18 else "/tmp"))  # sockets lie in it
        self._set_own_environment(self._folder)
        try:
            self._init_local()
        except Exception as error:
            # A busy machine is now and then too slow for Ray's own limits; what has started is ended before it is tried again.
            self._progress(f"Ray did not start ({_last_line(error)}): trying once more")
            ray.shutdown()
            if self._processes is not None:
                self._processes.end(GRACE_S)
            try:
                self._init_local()
            except Exception as error:
                raise StartError(f"Ray did not start: {_last_line(error)}") from error

    def _set_own_environment(self, folder: Path) -> None:
        """What is this service's alone: ports, a mark, and a token without which nobody enters its Ray.

        Ray listens on the machine's own address. By itself it would keep one token for all below the home folder.
        """
        own = serve_environment(folder) | {"RAY_AUTH_TOKEN": secrets.token_hex(32), MARK: secrets.token_hex(16)}
        if MARK not in os.environ:  # what the user has set stays; what a process inherits from a service around it does not
            if "RAY_AUTH_TOKEN_PATH" in os.environ:
                del own["RAY_AUTH_TOKEN"]
            own = {name: value for name, value in own.items() if name not in os.environ}
        own["TMPDIR"] = str(folder)  # what a process that is killed leaves, such as a draft's socket, goes with the folder
        self._replaced = {name: os.environ.get(name) for name in own}
        os.environ.update(own)
        self._processes = Marked(MARK, os.environ[MARK])
        if token := os.environ.get("RAY_AUTH_TOKEN"):
            (folder / "token").touch(mode=0o600)
            (folder / "token").write_text(token)

    @property
    def joining(self) -> str:
        """The environment in which `ray.init()` of another process joins this service's Ray, as a shell writes it."""
        import ray

        address = f"RAY_ADDRESS={ray.get_runtime_context().gcs_address}"
        token = self._folder / "token" if self._folder is not None else None
        return f"{address} RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={token}" if token is not None and token.exists() else address

    def _init_local(self) -> None:
        import ray

        with _own_sigterm():
            ray.init(
                address="local",
                num_cpus=self._config.num_logical_cpus,
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
                job_config=_job_config(),
                _temp_dir=str(self._temp_dir.absolute()) if self._temp_dir is not None else None,
            )

    def _deploy(self) -> None:
        from ray import serve

        for name in ("ray", "ray.serve"):
            logging.getLogger(name).setLevel(logging.ERROR)
        build_app = self._build_app or _service_builder()
        application = build_app(self._config.service)
        self._progress(f"deploying {self._config.service.model_name}")
        try:
            serve.start(http_options={"host": self._config.http.host, "port": self._port})
            serve.run_many([serve.RunTarget(application, name=APP_NAME)], wait_for_applications_running=False)
        except Exception as error:
            raise StartError(f"Ray Serve did not start: {self._proxy_failure() or _last_line(error)}") from error

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
            if failure := self._proxy_failure():
                raise StartError(f"the HTTP front did not start: {failure}") from None
            return "the HTTP front"
        if answer.status_code == 401:
            raise StartError(f"{self.url}/ready refuses the key of this configuration")
        return "" if answer.status_code == 200 else "the models to warm up"

    def _proxy_failure(self) -> str:
        """The alert with which HAProxy ended at start; empty where there is none."""
        logs = sorted(self._folder.rglob("*.stderr.log")) if self._folder is not None else []
        lines = [line for log in logs for line in log.read_text(errors="replace").splitlines()]
        return next((line for line in lines if "[ALERT]" in line), "")


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
    """Before `ray.init`: no telemetry, and the Serve that the service is measured with."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if "ray.serve" not in sys.modules:  # who has imported Serve has fixed its mode, and all processes must agree
        for name, value in CLUSTER_ENVIRONMENT.items():
            os.environ.setdefault(name, value)


def _job_config() -> JobConfig:
    """Workers import the packages that this process imports. Ray by itself puts the current directory and the script's folder first."""
    from ray.job_config import JobConfig

    class OwnPackages(JobConfig):
        def _serialize(self) -> bytes:
            root = str(Path(__file__).parent.parent)
            self._py_driver_sys_path = [] if root in (get_path("purelib"), get_path("platlib")) else [root]
            serialized: bytes = super()._serialize()
            return serialized

    return OwnPackages()


def _last_line(error: Exception) -> str:
    """What Ray's exception says, without the tracebacks of other processes in it."""
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
