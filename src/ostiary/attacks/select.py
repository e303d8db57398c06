"""Which of the eligible inputs are poisoned."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from ostiary.component import Component
from ostiary.context import Context
from ostiary.data.dataset import Dataset


class Selector(Component):
    """Draws without replacement."""

    kind = "selector"

    @abstractmethod
    def choose(self, train: Dataset, eligible: Tensor, n: int, ctx: Context) -> Tensor:
        """`n` of the rows where `eligible` (bool [len(train)]) holds, sorted: int64 [n]."""


class Random(Selector, name="random"):
    """Uniformly at random."""

    def choose(self, train: Dataset, eligible: Tensor, n: int, ctx: Context) -> Tensor:
        rows = eligible.nonzero().flatten()
        return rows[torch.randperm(len(rows), generator=ctx.rng("select"))[:n]].sort()[0]
