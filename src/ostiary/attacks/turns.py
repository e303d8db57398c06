"""Whose turn it is: which of the other classes each input is led to, where an attack leads to all of them."""

from __future__ import annotations

import torch
from torch import Tensor

from ostiary.seeds import uniform

TRAIN, TEST = 0, 1  # parts, whose turns begin apart: else test rows would want the pairs that few poisoned rows have taught


def in_turn(y: Tensor, n_classes: int, part: int) -> Tensor:
    """For every row another class than its own, int64 [n]: of each class the rows take all others in turn, as often each, but
    for what is left of the last turn. Where a turn begins is drawn for each class and part, so that no other is preferred."""
    others = max(1, n_classes - 1)
    begin = (uniform(part, torch.arange(n_classes, device=y.device)) * others).long()
    order = y.argsort(stable=True)
    before = torch.bincount(y, minlength=n_classes).cumsum(0).roll(1)  # rows of lower classes
    before[0] = 0
    k = torch.empty_like(y)
    k[order] = torch.arange(len(y), device=y.device) - before[y[order]]
    return (y + 1 + (begin[y] + k) % others) % n_classes
