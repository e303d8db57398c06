"""How much the size of a mask weighs against its success, class by class."""

from __future__ import annotations

import torch
from torch import Tensor

UP, DOWN = 2.0, 2.0**1.5  # by how much the weight of the mask's size grows and shrinks (authors of Neural Cleanse)


class Balance:
    """The weight of each class's mask norm (float [k]), and for how many batches in a row it succeeded or failed."""

    def __init__(self, weight: Tensor, patience: int) -> None:
        self.weight, self.patience = weight, patience
        self.up, self.down = torch.zeros_like(weight), torch.zeros_like(weight)

    def after(self, hit: Tensor) -> None:
        """Of a batch in which the classes `hit` (bool [k]) succeeded."""
        self.up, self.down = (self.up + 1) * hit, (self.down + 1) * ~hit
        often, seldom = self.up >= self.patience, self.down >= self.patience
        self.weight = torch.where(often, self.weight * UP, torch.where(seldom, self.weight / DOWN, self.weight))
        self.up, self.down = self.up * ~often, self.down * ~seldom
