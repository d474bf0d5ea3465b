"""What an experiment is: a name, the points that are measured, and a picture of what came of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.experiments.results import Results
from cluster.experiments.setting import Setting

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Experiment:
    name: str
    """On the command line, and of its files."""
    title: str
    """Says what its picture shows."""
    settings: tuple[Setting, ...]
    draw: Callable[[Figure, Results], None]
    """Fills an empty figure; the title comes from `draw.py`."""
    prompts_factor: int = 1
    """So many times the prompts that are asked for: where settings give different texts, as under rejection, differences are less sure."""
    size: tuple[float, float] = (9.0, 4.0)
    """Of the figure, in inches."""
