"""Budgets in updates: an epoch of a small data set has few of them."""

from __future__ import annotations

import math


def at_least(epochs: int, steps: int, n: int, size: int) -> int:
    """Epochs over n samples in batches of `size`: `epochs`, or as many as it takes for `steps` updates."""
    batches = max(1, n // size + (n % size > 1))  # a last one of one sample is joined to the one before
    return max(epochs, math.ceil(steps / batches))
