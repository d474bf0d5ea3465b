"""The pair in plain transformers: what a peer runs, in a process of its own."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from cluster.bench.peer import Drafting, Fork, PeerAnswer, PeerRequest
from ssd_core.config import EngineConfig
from ssd_core.engine.loader import load_tokenizer
from ssd_core.engine.weights import load_model
from ssd_core.text import prompt_ids


class RoundTimes(BaseStreamer):
    """When `generate` handed on tokens: first the prompt, then what each pass of the target gave."""

    def __init__(self) -> None:
        self.times_s: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        self.times_s.append(time.perf_counter())

    def end(self) -> None: ...


class PeerModels:
    """Target and draft as transformers loads and runs them. Used by one thread at a time."""

    def __init__(self, target: EngineConfig, draft: EngineConfig) -> None:
        self._target = load_model(target)
        self._draft = load_model(draft)
        self._tokenizer = load_tokenizer(target.model).tokenizer
        for model in (self._target, self._draft):
            # Nothing of a model's own habits: no end of text, since lengths are fixed, no penalties, no truncated sampling.
            model.generation_config = GenerationConfig()

    def generate(self, request: PeerRequest) -> PeerAnswer:
        torch.set_num_threads(request.setting.num_threads)
        torch.manual_seed(request.seed)
        began = time.perf_counter()
        prompt = self._encode(request.prompt)
        rounds = RoundTimes()
        with torch.inference_mode():
            output = self._target.generate(  # type: ignore[operator]  # a mixin's, which the class hides behind `__getattr__`
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=request.max_tokens,
                use_cache=True,
                streamer=rounds,
                **_sampling(request.temperature),
                **self._assistance(request.setting.drafting),
            )
        tokens = output[0, prompt.shape[1] :].tolist()
        assert len(tokens) == request.max_tokens, (len(tokens), request.max_tokens)
        return PeerAnswer(self._tokenizer.decode(tokens), tuple(tokens), rounds.times_s[1] - began, len(rounds.times_s) - 1)

    def gap_roundings(self, fork: Fork) -> float:
        prefix = torch.tensor([fork.prefix], dtype=torch.long, device=self._target.device)
        with torch.inference_mode():
            logits = self._target(torch.cat([self._encode(fork.prompt), prefix], dim=1)).logits[0, -1]  # [V]
        own = logits[list(fork.tokens)].float()
        rounding = torch.finfo(logits.dtype).eps * logits.float().abs().max()
        return float((own.max() - own.min()) / rounding)

    def _encode(self, text: str) -> torch.Tensor:
        """[1, L]"""
        return torch.tensor([prompt_ids(self._tokenizer, text)], device=self._target.device)

    def _assistance(self, drafting: Drafting | None) -> dict[str, Any]:
        if drafting is None:
            return {}
        config = self._draft.generation_config  # where transformers reads these from
        config.num_assistant_tokens = drafting.num_tokens
        config.num_assistant_tokens_schedule = drafting.schedule
        config.assistant_confidence_threshold = drafting.confidence_threshold
        return {"assistant_model": self._draft}


def _sampling(temperature: float) -> dict[str, Any]:
    """`top_k`: transformers' own default would cut the distribution at 50 tokens."""
    return {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {"do_sample": False}
