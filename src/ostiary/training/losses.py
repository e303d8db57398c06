"""Losses that several methods train by."""

from __future__ import annotations

import torch
from torch import Tensor


def unlikely(logits: Tensor, y: Tensor) -> Tensor:
    """-log(1 - p) of every row, p being how probable its class `y` is: float [n]. From the logits themselves, for where p is 1
    to rounding the logarithm of 1 - p has no slope, just where it is needed most."""
    others = logits.scatter(1, y[:, None], -torch.inf)
    return logits.logsumexp(1) - others.logsumexp(1)
