"""A pass through the transformers model itself, its attention replaced by ours.

Shapes: N new nodes of a pass, R rows of logits, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from ssd_core.engine.attention import AttentionPass


class PlainForward:
    """See Forward."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters

    @torch.inference_mode()
    def __call__(self, inputs: torch.Tensor, kept: Sequence[int], ssd_pass: AttentionPass) -> torch.Tensor:
        rows = None if len(kept) == inputs.shape[1] else torch.tensor(kept or [0], device=inputs.device)
        selection = {"logits_to_keep": rows} if rows is not None and self._keeps_logits else {}
        logits: torch.Tensor = self._model(
            input_ids=inputs[:1], position_ids=inputs[1:], use_cache=False, ssd_pass=ssd_pass, **selection
        ).logits[0]
        wanted = logits if rows is None or selection else logits[rows]
        return wanted[: len(kept)].float()  # a model always gives at least one row
