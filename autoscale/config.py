"""Configuration of the policies. Frozen, strict, and importable without torch or Ray."""

from __future__ import annotations

from pydantic import Field, model_validator

from ssd_core.config import Config, FiniteFloat
from ssd_core.figures import Positive, Seconds


class GuardConfig(Config):
    """What keeps a size from following every sample."""

    min_size: int = Field(default=0, ge=0)
    max_size: int = Field(default=8, ge=0)
    band: FiniteFloat = Field(default=0.03, ge=0, lt=0.5)
    """Hysteresis: wanted sizes that exceed the present one by no more than this share of it change nothing, nor those that are less by no
    more than twice this share: what is spared is little, and soon wanted again."""
    cooldown_s: Seconds = 60.0
    """The size never shrinks to less than what was wanted twice within so long: once may be chance. It may grow at once. As long as a
    target takes to start: what is kept then costs no more than starting it again."""
    growth_factor: FiniteFloat = Field(default=4.0, gt=1, le=100)
    """A decision multiplies the size by so much at most. 4: ten times the load is met in two decisions."""
    shrink_share: FiniteFloat = Field(default=0.5, gt=0, le=1)
    """A decision takes away this share of the size at most, but one whenever it may shrink at all."""
    max_age_s: Positive = 25.0
    """A sample older than this says nothing. Serve's metrics come every 10 s: one may be lost."""
    min_reported: FiniteFloat = Field(default=0.9, gt=0, le=1)
    """Share of the targets that must be in a sample before it decides anything. Those that are stand for the rest."""

    @model_validator(mode="after")
    def _has_room(self) -> GuardConfig:
        if self.max_size < self.min_size:
            raise ValueError(f"max_size is {self.max_size}, less than min_size, {self.min_size}")
        return self


class DraftPolicyConfig(Config):
    """The draft pool."""

    guard: GuardConfig = GuardConfig()
    period_s: Positive = 10.0
    """Between two decisions."""
    threshold: FiniteFloat = Field(default=0.1, ge=0, lt=1)
    """A share of what is spent now brings that share of the tokens/s. Further drafts must bring this much more than their share, and drafts
    are spared when they bring this much less."""
    draft_cost: Positive = 1.0
    """Of a draft actor by the hour, in any currency: devices, say."""
    target_cost: Positive = 1.0
    """Of a target replica, in the same."""
    retry_s: Seconds = 600.0
    """Speculation that did not pay is tried again after so long."""


class TargetPolicyConfig(Config):
    """The target replicas."""

    guard: GuardConfig = GuardConfig(min_size=1)
    period_s: Positive = 10.0
    """Between two decisions."""
    outstanding_tokens: Positive = 4000.0
    """Tokens still to be emitted by all sessions of a replica that is as busy as it should be."""
    used_share: FiniteFloat = Field(default=0.95, gt=0, le=1)
    """Of the KV cells of a replica, or of its `max_sessions`, in use when it is as full as it should be."""
    queue_patience_s: Positive = 180.0
    """A queue should be worked off in so long: three times what a start takes. With a third of it the hour of a burst costs 5 %
    more, and its answers come after 7.6 s instead of 10.3 on average; 62 s in the queue at p99 either way (simulated)."""
