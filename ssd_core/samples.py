"""What an estimator may learn from. What is learned is shared by all requests of a kind, so one sample that is no
number would make it NaN for all that come later: such a sample is left out, wherever one comes in."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

Self = TypeVar("Self")
Samples = ParamSpec("Samples")

LARGEST = 1e9
"""Of a sample: nothing that is measured here, in seconds, tokens, nodes or logits, is greater. Squares of such numbers,
and sums of those, are far from overflow."""


def is_sample(number: float) -> bool:
    """Finite, and of a size that can have been measured."""
    return -LARGEST <= number <= LARGEST  # a NaN is neither


def learns(
    observe: Callable[Concatenate[Self, Samples], None],
) -> Callable[Concatenate[Self, Samples], None]:
    """Of the method by which an estimator takes in one sample, given as numbers: it is called only for what is one."""

    @wraps(observe)
    def guarded(self: Self, /, *numbers: Samples.args, **named: Samples.kwargs) -> None:
        if all(map(is_sample, numbers)) and all(map(is_sample, named.values())):  # type: ignore[arg-type]
            observe(self, *numbers, **named)

    return guarded
