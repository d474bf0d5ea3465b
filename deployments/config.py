"""The service's configuration: what `build_app` takes. Imports neither torch nor Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, model_validator

from autoscale.config import DraftPolicyConfig, TargetPolicyConfig
from ssd_core.config import Config, EngineConfig, SpeculationConfig


class OnDevices(Config):
    """What each process of a part holds for as long as it lives, busy or not."""

    num_cpus: float = Field(default=1.0, ge=0)
    """CPUs of each target replica's placement group, or of each draft actor."""
    num_gpus: float = Field(default=0.0, ge=0)
    labels: dict[str, str] = Field(default_factory=dict)
    """Of the Ray nodes that it may run on, as Ray's label selectors say it: `{"ssd/role": "target"}`."""

    @property
    def device_kind(self) -> Literal["gpu", "cpu"]:
        """What its cost is counted in: GPUs, where it has any."""
        return "gpu" if self.num_gpus else "cpu"

    @property
    def num_devices(self) -> float:
        """GPUs, or CPU cores where there are none."""
        return self.num_gpus or self.num_cpus


class TargetConfig(OnDevices):
    """The deployment that holds the target model."""

    engine: EngineConfig = EngineConfig()
    num_replicas: int = Field(default=1, ge=1)
    """With `autoscaling`: at first."""
    autoscaling: TargetPolicyConfig | None = None
    """None: their number stays."""
    max_sessions: int = Field(default=32, ge=1)
    """Sessions verified together in one pass; more wait in the replica."""
    max_queued_sessions: int = Field(default=128, ge=0)
    """Sessions that may wait in a replica; a request beyond them gets 429."""
    draft_timeout_s: float = Field(default=0.5, gt=0)
    """Longest wait of a session for its draft before it goes on alone (presets that wait)."""
    stream_interval_s: float = Field(default=0.02, ge=0)
    """A stream's tokens leave at most this often, after its first: a message costs about a millisecond of CPU. 0: every round."""
    shutdown_timeout_s: float = Field(default=120.0, ge=0)
    """How long running streams may go on in a replica that is replaced or scaled away."""

    @property
    def most_replicas(self) -> int:
        """That there may be."""
        return self.autoscaling.guard.max_size if self.autoscaling else self.num_replicas


class DraftConfig(OnDevices):
    """The draft actors."""

    engine: EngineConfig = EngineConfig(model="embedded:draft")
    num_actors: int = Field(default=1, ge=0)
    """0 serves without drafts. With `autoscaling`: at first."""
    autoscaling: DraftPolicyConfig | None = None
    """None: their number stays."""
    max_step_nodes: int = Field(default=16, ge=1)
    """Most nodes of all sessions together evaluated in one growth step, those guessed by prompt look-up included."""
    transport: Literal["auto", "ray"] = "auto"
    """How outcomes and growth travel. `ray`: actor calls and streamed Ray objects. `auto`: a socket within one node, else Ray."""

    @property
    def has_pool(self) -> bool:
        """Whether there are drafts, or may be."""
        return self.num_actors > 0 or self.autoscaling is not None

    @property
    def most_actors(self) -> int:
        """That there may be."""
        return self.autoscaling.guard.max_size if self.autoscaling else self.num_actors


class ServiceConfig(Config):
    """One application: a target, its drafts, an HTTP front."""

    model_name: str = Field(default="ssd-embedded", min_length=1)
    """The name clients use."""
    target: TargetConfig = TargetConfig()
    draft: DraftConfig = DraftConfig()
    speculation: SpeculationConfig = SpeculationConfig()
    """Default of every request."""
    num_ingress_replicas: int = Field(default=1, ge=1)
    ingress_num_cpus: float = Field(default=0.0, ge=0)
    """CPUs Ray sets aside for each ingress replica. 0: it shares the machine's, as the proxies do."""
    ingress_labels: dict[str, str] = Field(default_factory=dict)
    """Of the Ray nodes that ingress replicas may run on."""
    request_timeout_s: float = Field(default=300.0, gt=0)
    max_body_bytes: int = Field(default=2**20, ge=1024)
    max_choices: int = Field(default=64, ge=1)
    """Most sequences of one request: prompts times `n`."""
    api_keys: tuple[SecretStr, ...] = ()
    """When not empty, every route but /health wants one of them as a bearer token."""
    api_keys_file: Path | None = None
    """More of them, one a line: a mounted secret. Read when an ingress starts."""

    cors_origins: tuple[str, ...] = ()
    """Origins of web pages that may call the service from a browser, such as `https://chat.example.org`; `*` is any.
    Empty: none may."""

    @model_validator(mode="after")
    def _starts_within_bounds(self) -> ServiceConfig:
        for name, size, policy in (
            ("target.num_replicas", self.target.num_replicas, self.target.autoscaling),
            ("draft.num_actors", self.draft.num_actors, self.draft.autoscaling),
        ):
            if policy is not None and not policy.guard.min_size <= size <= policy.guard.max_size:
                raise ValueError(f"{name} = {size}: not from {policy.guard.min_size} to {policy.guard.max_size}, as its autoscaling asks")
        return self
