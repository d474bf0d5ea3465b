"""The root of the YAML: one service, its HTTP front, and the Ray it runs in. Imports neither torch nor Ray."""

from __future__ import annotations

from math import ceil
from pathlib import Path

from pydantic import Field

from cluster.yaml_errors import read_yaml, validated
from deployments.config import ServiceConfig
from ssd_core.config import Config

CONFIGS = Path(__file__).parent / "configs"
"""The shipped examples."""


class HttpConfig(Config):
    """Where the service listens."""

    host: str = Field(default="127.0.0.1", min_length=1)
    """`0.0.0.0` opens the service to other machines: set `service.api_keys` then."""
    port: int = Field(default=8000, ge=0, le=65535)
    """0 takes any free port."""


class RayConfig(Config):
    """The Ray cluster: one of our own, for as long as the service runs, or one that is there already."""

    address: str | None = None
    """None starts a local Ray. `auto` or `HOST:PORT` joins a running one and leaves it running at the end."""
    num_cpus: int | None = Field(default=None, ge=1)
    """CPUs the local Ray may hand out; logical, so it may exceed the machine's. None: what the service asks for."""
    temp_dir: Path | None = None
    """Folder for the local Ray's sockets and logs. None: a fresh one, removed at the end. A short path: sockets live in it."""


class RootConfig(Config):
    """One YAML file."""

    service: ServiceConfig = ServiceConfig()
    http: HttpConfig = HttpConfig()
    ray: RayConfig = RayConfig()

    @property
    def num_logical_cpus(self) -> int:
        """CPUs of a local Ray: as configured, or what the parts may ask for and one to spare for small helper actors."""
        if self.ray.num_cpus is not None:
            return self.ray.num_cpus
        target, draft = self.service.target, self.service.draft
        models = target.most_replicas * target.num_cpus + draft.most_actors * draft.num_cpus
        return ceil(models + self.service.num_ingress_replicas * self.service.ingress_num_cpus) + 1


def load_config(path: Path | str) -> RootConfig:
    """The configuration in a file. Raises ConfigError: a line `FILE: FIELD = VALUE: what is wrong` for each mistake."""
    return validated(RootConfig, read_yaml(Path(path)), str(path))
