"""A library whose products are wrong on this device is told of fewer multiprocessors, or the model is refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ssd_core.engine import library_check
from ssd_core.errors import ConfigError

COUNT = 104


class Library:
    """Right where it is told of at most so many multiprocessors; else one tile of the output is missing."""

    def __init__(self, most: int, missing: float = 0.0) -> None:
        self.told = COUNT
        self._most, self._missing = most, missing

    def multiply(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        product = nn.functional.linear(x, weight)
        if self.told > self._most and len(x) >= 64:
            product[:, :16] = self._missing
        return product


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(multi_processor_count=COUNT))
    return nn.Sequential(nn.Linear(64, 96), nn.Linear(96, 32)).to(torch.bfloat16)


def told(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_check, "use_multiprocessors", lambda count, used: setattr(library, "told", used))


def test_a_right_library_keeps_the_whole_device(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(most=COUNT)
    told(library, monkeypatch)
    library_check.ensure_right_products(model, library.multiply)
    assert library.told == COUNT


@pytest.mark.parametrize(("most", "used"), [(64, 52), (52, 52), (50, 26), (13, 13)])
@pytest.mark.parametrize("missing", [0.0, float("nan"), float("inf")])
def test_a_wrong_one_gets_the_largest_share_that_is_right(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch, most: int, used: int, missing: float
) -> None:
    library = Library(most, missing)
    told(library, monkeypatch)
    library_check.ensure_right_products(model, library.multiply)
    assert library.told == used


def test_what_nothing_makes_right_is_refused(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(most=1)
    told(library, monkeypatch)
    with pytest.raises(ConfigError, match=f"wrong on this device of {COUNT} multiprocessors"):
        library_check.ensure_right_products(model, library.multiply)
