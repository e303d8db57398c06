"""Which of the eligible inputs are poisoned."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor

from ostiary.component import Component
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.models.victim import Victim


class Selector(Component):
    """Draws without replacement."""

    kind = "selector"

    @abstractmethod
    def choose(self, train: Dataset, eligible: Tensor, n: int, ctx: Context) -> Tensor:
        """At most `n` of the rows where `eligible` (bool [len(train)]) holds, sorted: int64 [<= n]."""


class Random(Selector, name="random"):
    """Uniformly at random."""

    def choose(self, train: Dataset, eligible: Tensor, n: int, ctx: Context) -> Tensor:
        rows = eligible.nonzero().flatten()
        return rows[torch.randperm(len(rows), generator=ctx.rng("select"))[:n]].sort()[0]


class Correct(Selector, name="correct"):
    """Only rows that the attacker's model, trained on the clean data, calls by their label.

    Without this rule a clean-label attack poisons inputs that look like another class, which is label flipping in
    disguise (Meguro et al., ICISSP 2024). `order`: random ones, or those of highest (lowest) probability of the label.
    """

    order: Literal["random", "highest", "lowest"] = "random"

    def choose(self, train: Dataset, eligible: Tensor, n: int, ctx: Context) -> Tensor:
        rows = self.rank(train, eligible, ctx.surrogate(train))
        if self.order == "random":
            rows = rows[torch.randperm(len(rows), generator=ctx.rng("select"))]
        return rows[:n].sort()[0]

    def rank(self, data: Dataset, eligible: Tensor, model: Victim) -> Tensor:
        """The eligible rows that `model` calls rightly, the wanted end first: int64 [m]."""
        p = model.predict(data.inputs)[0].softmax(1)
        rows = (eligible & (p.argmax(1) == data.y)).nonzero().flatten()
        return rows[p[rows, data.y[rows]].argsort(descending=self.order != "lowest", stable=True)]
