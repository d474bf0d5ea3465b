"""Configuration of the algorithm and its engines. Frozen, strict, and importable without torch or Ray."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

PresetName = Literal["ar", "sd", "tree", "ssd", "saguaro", "ssd-tree"]
PRESETS: tuple[PresetName, ...] = ("ar", "sd", "tree", "ssd", "saguaro", "ssd-tree")
TREE_PRESETS: tuple[PresetName, ...] = ("tree", "ssd-tree")
"""Those that submit more than a chain."""

BackupName = Literal["none", "ngram", "wait", "by-batch", "by-gain"]

FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]


LEAST_TEMPERATURE = 1e-5
"""vLLM's. What is less is greedy: divided by it, logits would overflow."""


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class SamplingParams(Config):
    """How a session's next token is chosen. Field names and meanings follow vLLM's and OpenAI's.

    The bounds keep every number that a model's logits become finite, on whatever model: they are for the safety of all
    who share it. Those that only OpenAI has are the HTTP front's."""

    max_tokens: int = Field(default=128, ge=1)
    """Longest output, in tokens."""
    min_tokens: int = Field(default=0, ge=0)
    """Nothing ends the output before this many tokens: no EOS, no stop token and no stop string."""
    temperature: FiniteFloat = Field(default=0.0, ge=0.0, le=100.0)
    """0 is greedy, and so is less than 0.00001. Beyond 2, where vLLM ends, min_p still leaves sensible text; HTTP
    requests end at 2."""
    top_k: int = Field(default=0, ge=-1)
    """Keep the k likeliest tokens; 0 or -1 keeps all."""
    top_p: FiniteFloat = Field(default=1.0, gt=0.0, le=1.0)
    min_p: FiniteFloat = Field(default=0.0, ge=0.0, le=1.0)
    """Keep tokens at least this fraction as likely as the likeliest."""
    repetition_penalty: FiniteFloat = Field(default=1.0, ge=0.01, le=100.0)
    """Divides positive and multiplies negative logits of tokens seen in prompt or output. vLLM takes any number above
    0; one near 0 makes logits overflow, and within these bounds one token is already certain or ruled out."""
    presence_penalty: FiniteFloat = Field(default=0.0, ge=-2.0, le=2.0)
    frequency_penalty: FiniteFloat = Field(default=0.0, ge=-2.0, le=2.0)
    logit_bias: dict[int, Annotated[FiniteFloat, Field(ge=-100.0, le=100.0)]] = Field(default_factory=dict)
    """Added to the logits of tokens, by their ids; -100 rules a token out, 100 makes it certain."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """With the position it determines all noise: the same request and seed give the same tokens in every preset."""
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    stop: tuple[Annotated[str, Field(min_length=1, max_length=1000)], ...] = Field(default=(), max_length=16)
    """Texts before which the output ends. OpenAI takes four; vLLM sets no limit, and evaluations of code give more."""
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    """Leave special tokens, such as an end of text, out of the output's text."""
    logprobs: int | None = Field(default=None, ge=0, le=20)
    """Log probabilities of the emitted and of this many likeliest tokens."""

    @field_validator("temperature")
    @classmethod
    def _least_is_greedy(cls, temperature: float) -> float:
        return temperature if temperature >= LEAST_TEMPERATURE else 0.0


class SpeculationConfig(Config):
    """Which preset, and its sizes. A request may override `preset` and `lookahead`."""

    preset: PresetName = "ssd-tree"
    lookahead: int = Field(default=5, ge=1, le=32)
    """K: length of a chain speculation (`sd`, `ssd`, `saguaro`)."""
    fan_out: int = Field(default=2, ge=1, le=16)
    """F: bonus tokens guessed at a position of the submitted chain, on average (`ssd`, `saguaro`). More than 11 has no effect: a
    draft keeps twelve candidates of a node, and one is the chain's own."""
    tree_nodes: int = Field(default=12, ge=1, le=256)
    """Most nodes submitted with a round (`tree`, `ssd-tree`)."""
    branching: int = Field(default=3, ge=1, le=16)
    """Children proposed below an evaluated node (`tree`, `ssd-tree`)."""
    growth_width: int = Field(default=4, ge=1, le=256)
    """Most nodes of this session evaluated in one growth step."""
    growth_choice: Literal["by-reach", "by-gain"] = "by-reach"
    """`by-reach`: every step evaluates the `growth_width` likeliest nodes. `by-gain`: of these only as many, over all sessions, as make the
    step's gain a second greatest (`ssd-tree`)."""
    lookup_tokens: int = Field(default=3, ge=0, le=16)
    """Most tokens guessed by prompt look-up beyond the best node of a growth step and evaluated with it, where the step has room
    (`tree`, `ssd-tree`)."""
    backup: BackupName | None = None
    """What a session does on a miss, where target and draft work at the same time: `none` (nothing), `ngram` (prompt look-up), `wait`
    (for the draft), `by-batch` (as published: `wait` below the critical batch size, else `ngram`), `by-gain` (whichever gains more tokens a
    second). None: the preset's own, `none` (`ssd`), `by-batch` (`saguaro`) or `by-gain` (`ssd-tree`)."""
    backup_tokens: int = Field(default=6, ge=0, le=32)
    """Tokens guessed by prompt look-up at the target, beyond the likeliest end of what the draft has grown (all but `none` and `wait`)."""
    backup_levels: int = Field(default=2, ge=1, le=32)
    """Levels that a waiting session has its draft grow before it goes on."""
    growth_limit: int = Field(default=96, ge=2, le=4096)
    """Most evaluated nodes held below the root; growth pauses there."""
    fan_out_shape: Literal["uniform", "geometric", "best-first"] | None = None
    """How the guesses are shared among the places where a chain may end (`ssd`, `saguaro`). None: the preset's own, `uniform` or
    `geometric`."""
    verification: Literal["shared-noise", "rejection"] = "shared-noise"
    """How sampled tokens are made exact. `rejection`: the draft draws, the target accepts or replaces; chains only, and the tokens of a
    seed hang on what was drafted, though their distribution does not."""
    saguaro_c: FiniteFloat = Field(default=1.0, ge=0.0, le=1.0)
    """C of Saguaro sampling: the draft draws its `fan_out` likeliest tokens with this fraction of their weight, so that what replaces a
    rejected token is likelier to be prepared for (`rejection`)."""

    self_tuning: bool = True
    """Speculate only where it pays: found out by trials at each level of load (`ssd-tree`; the other presets do as they are told)."""

    @property
    def is_tuned(self) -> bool:
        return self.self_tuning and self.preset == "ssd-tree"

    @model_validator(mode="after")
    def _rejection_takes_chains(self) -> SpeculationConfig:
        if self.verification == "rejection" and self.preset in TREE_PRESETS:
            raise ValueError(f"preset = {self.preset!r} submits trees, and verification = 'rejection' takes chains only")
        return self


class EngineConfig(Config):
    """One model and the memory it may use."""

    model: str = "embedded:target"
    """`embedded:target`, `embedded:draft`, or a Hugging Face model name or folder. `embedded:target@32B`: inflated to that shape, at
    the cost of a model of that size, for load tests (shapes: `ssd-serve inflate --help`)."""
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    num_threads: int = Field(default=1, ge=1)
    """CPU threads of the engine's process."""
    kv_budget_bytes: int = Field(default=256 * 2**20, ge=2**16)
    """Memory of the KV pool, taken at start."""
    max_model_len: int | None = Field(default=None, ge=16)
    """Longest sequence, in tokens; None: what the model was made for."""
    prefill_chunk_tokens: int = Field(default=256, ge=16)
    """Prompt tokens evaluated in one pass."""
    max_batch_nodes: int = Field(default=512, ge=16)
    """Most nodes in one pass, prompt chunks included."""
    step_times_nodes: tuple[int, ...] = (1, 2, 3, 4, 6, 7, 8, 12, 13, 16, 24, 32, 48, 64)
    """Sizes at which the time of a pass is measured at start. FBGEMM's products take six rows at a time: 7 and 13 begin another."""
