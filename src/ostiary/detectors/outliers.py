"""What stands out: a class among those of a model, rows by their scores."""

from __future__ import annotations

import torch
from torch import Tensor

LEAST = 4  # classes from which a deviation from their median says something


def anomaly(scores: Tensor) -> Tensor:
    """Deviations from the median, in units of the median absolute one made comparable to a standard deviation: float [k]."""
    middle = scores.quantile(0.5)  # median() is the lower of the two in the middle
    away = scores - middle
    least = (1e-3 * middle.abs()).clamp(min=1e-12)  # where most are equal, a difference in the last digits is no outlier
    return away / (1.4826 * away.abs().quantile(0.5)).maximum(least)


def too_few(classes: int) -> str:
    """Why the median of so many classes tells no outlier, or nothing."""
    return "" if classes >= LEAST else f"the median of {classes} classes says nothing; it takes at least {LEAST}"


def highest(scores: Tensor, share: float) -> Tensor:
    """Which rows are the share that is scored highest, of equals the first: bool [n], on the CPU."""
    found = torch.zeros(len(scores), dtype=torch.bool)
    found[scores.cpu().argsort(descending=True, stable=True)[: round(share * len(scores))]] = True
    return found
