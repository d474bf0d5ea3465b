"""What every test process needs before Ray, torch or a tokenizer is imported: no network, no telemetry, no extra threads."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import HealthCheck, settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
if not Path("/dev/nvidia0").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels run in Triton's interpreter; it reads this when it is imported, with torch

# The same examples in every run, however slow the machine. To search further: pytest --hypothesis-profile=search --timeout=0
settings.register_profile(
    "ci", max_examples=80, deadline=None, derandomize=True, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("search", settings.get_profile("ci"), max_examples=5000, derandomize=False)
settings.load_profile("ci")
