"""What a GPU's memory gives: the floor under every time that is measured here stands on it."""

from __future__ import annotations

from statistics import median

import torch


def copy_bandwidth() -> float:
    """Bytes a second, read and written."""
    source = torch.randn(2**29, device="cuda")
    target = torch.empty_like(source)
    times = []
    for _ in range(8):
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        before.record()
        target.copy_(source)
        after.record()
        after.synchronize()
        times.append(before.elapsed_time(after) / 1e3)
    return 2 * source.nbytes / median(times)
