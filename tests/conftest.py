"""What every test process needs before Ray, torch or a tokenizer is imported: no network, no telemetry, no extra threads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
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


@pytest.fixture
def quick_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's interpreter replaces the language's functions at each call from within a kernel: a third of its time. Once will do."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        return
    from triton.runtime.interpreter import InterpretedFunction

    call, called = InterpretedFunction.__call__, set()

    def call_again(self: InterpretedFunction, *args: Any, **kwargs: Any) -> Any:
        if self.fn in called:
            return self.rewrite()(*args, **kwargs)
        called.add(self.fn)
        return call(self, *args, **kwargs)

    monkeypatch.setattr(InterpretedFunction, "__call__", call_again)
