"""Where kernels of our own may run."""

from __future__ import annotations

from importlib.util import find_spec

import torch

_HAS_TRITON = find_spec("triton") is not None


def has_fast_path(device: torch.device) -> bool:
    """Triton comes with torch's CUDA builds."""
    return device.type == "cuda" and _HAS_TRITON
