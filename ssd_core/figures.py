"""What the planner must know of a pair of models on a machine. Frozen, strict, and importable without torch or Ray.

Figures describe one target replica and the drafts it uses. A session's round is one target pass in which it takes part.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import ConfigDict, Field, field_validator, model_validator

from ssd_core.config import Config, FiniteFloat
from ssd_core.theory import accepted_tokens, chain_tokens
from ssd_core.types import StepTimes

Seconds = Annotated[FiniteFloat, Field(ge=0)]
Positive = Annotated[FiniteFloat, Field(gt=0)]
Amount = Annotated[FiniteFloat, Field(ge=0)]
Share = Annotated[FiniteFloat, Field(ge=0, le=1)]
AtLeastOne = Annotated[FiniteFloat, Field(ge=1)]


class DevicesFigures(Config):
    """A model and what one process of it holds."""

    flops_per_node: Amount = 0.0
    """Floating-point operations to evaluate one token."""
    devices: Positive = 1.0
    """GPUs, or cores, of one process."""
    cost_per_device_hour: Amount = 1.0
    """In any currency; 1 counts device-hours."""


class TargetFigures(DevicesFigures):
    pass_nodes: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    """Sizes of a pass whose time is known, ascending."""
    pass_s: tuple[Positive, ...] = Field(min_length=1)
    """Seconds of a pass of each of these sizes."""

    @field_validator("pass_nodes")
    @classmethod
    def _is_ascending(cls, nodes: tuple[int, ...]) -> tuple[int, ...]:
        if any(after <= before for before, after in pairwise(nodes)):
            raise ValueError("sizes must ascend")
        return nodes

    @model_validator(mode="after")
    def _has_a_time_for_each_size(self) -> TargetFigures:
        if len(self.pass_s) != len(self.pass_nodes):
            raise ValueError(f"pass_s has {len(self.pass_s)} times for the {len(self.pass_nodes)} sizes of pass_nodes")
        return self

    @property
    def step_times(self) -> StepTimes:
        return StepTimes(self.pass_nodes, self.pass_s)


class PlainFigures(Config):
    """A round of any preset; of `ar` there is nothing else to know."""

    nodes: AtLeastOne = 1.0
    """Verified of a session in its round, the root included. Mean."""
    pass_stretch: Positive = 1.0
    """How much longer a pass takes than the target needs by itself: cores and caches shared with a draft."""
    own_work_s: Seconds = 0.0
    """The target's loop between two passes, for each session."""


class DraftedFigures(PlainFigures):
    """The draft's work for one round of one session."""

    draft_steps: Amount = 0.0
    """Growth steps."""
    draft_nodes: Amount = 0.0
    """Nodes evaluated in them."""
    draft_step_s: Seconds = 0.0
    """Of one of its steps."""


class TurnFigures(DraftedFigures):
    """`sd` and `tree`: target and draft take turns. Give `accepted_per_position`, or `acceptance` and `lookahead`."""

    accepted_per_position: tuple[Share, ...] | None = None
    """[i]: share of rounds that accept at least i + 1 speculated tokens."""
    acceptance: Share | None = None
    """Of a token whose predecessors were accepted."""
    lookahead: int | None = Field(default=None, ge=1)
    """K."""
    message_s: Seconds = 0.0
    """What each growth step that is waited for takes beyond the draft's own time."""

    @model_validator(mode="after")
    def _says_what_is_accepted(self) -> TurnFigures:
        by_token = self.acceptance is not None and self.lookahead is not None
        if by_token == (self.accepted_per_position is not None):
            raise ValueError("either accepted_per_position is needed, or acceptance and lookahead")
        return self

    @property
    def tokens_per_round(self) -> float:
        if self.accepted_per_position is not None:
            return accepted_tokens(self.accepted_per_position)
        assert self.acceptance is not None and self.lookahead is not None
        return chain_tokens(self.acceptance, self.lookahead)

    @property
    def turn_s(self) -> float:
        """The target waits so long for the draft, each round."""
        return self.draft_steps * (self.draft_step_s + self.message_s)


class OverlapFigures(DraftedFigures):
    """`ssd`, `saguaro` and `ssd-tree`: the draft grows while the target verifies."""

    hit_rate: Share
    tokens_after_hit: AtLeastOne
    """Of a round whose speculation came from a hit, the bonus token included."""
    tokens_after_miss: AtLeastOne = 1.0
    nodes_after_hit: AtLeastOne
    """Verified in such a round, the root included."""
    backup_s: Seconds = 0.0
    """What the backup takes on a miss before the pass can begin, misses that need not wait for one included. Mean."""


class PresetsFigures(Config):
    """What is known of each preset. Those left out are not planned for."""

    model_config = ConfigDict(populate_by_name=True)

    ar: PlainFigures = PlainFigures()
    sd: TurnFigures | None = None
    tree: TurnFigures | None = None
    ssd: OverlapFigures | None = None
    saguaro: OverlapFigures | None = None
    ssd_tree: OverlapFigures | None = Field(default=None, alias="ssd-tree")


class Figures(Config):
    target: TargetFigures
    draft: DevicesFigures = DevicesFigures()
    presets: PresetsFigures
    prompt_tokens: AtLeastOne = 1.0
    """Of a request. Mean."""
    prompt_s: Seconds = 0.0
    """The target reads it in so long, and gives the first token."""
    output_tokens: AtLeastOne = 128.0
    """Of a request. Mean."""
    request_s: Seconds = 0.0
    """What a request takes besides the target's work: the way to the service and back."""
    concurrency: int = Field(default=1, ge=1)
    """Sessions that run at a time."""
