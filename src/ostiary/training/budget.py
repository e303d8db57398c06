"""Budgets in updates, of which an epoch of a small data set has few, and rates that turn out too high."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def at_least(epochs: int, steps: int, n: int, size: int) -> int:
    """Epochs over n samples in batches of `size`: `epochs`, or as many as it takes for `steps` updates."""
    batches = max(1, n // size + (n % size > 1))  # a last one of one sample is joined to the one before
    return max(epochs, math.ceil(steps / batches))


def lowered(make: Callable[[float], T], usable: Callable[[T], bool]) -> tuple[T, float]:
    """What `make` gives at the whole rate (1.0) or, as long as that is not usable, at a third of the rate before, up to three
    times; and the share of the rate that it was."""
    share = 1.0
    found = make(share)
    while not usable(found) and share > 0.1:
        share /= 3
        found = make(share)
    return found, share
