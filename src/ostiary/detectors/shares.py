"""A training set split in three by scores: what counts as clean, as poisoned, and neither."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ostiary.data.dataset import Dataset


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of a training set, int64, ascending: scored lowest, scored highest, and the others."""

    clean: Tensor
    poisoned: Tensor
    uncertain: Tensor

    def facts(self, train: Dataset) -> dict[str, Any]:
        """How many of each class are in each part."""
        parts = {"clean": self.clean, "poisoned": self.poisoned, "uncertain": self.uncertain}
        counts = {name: torch.bincount(train.y[rows], minlength=train.n_classes).tolist() for name, rows in parts.items()}
        return {name: dict(zip(train.classes, each, strict=True)) for name, each in counts.items()}


def split(scores: Tensor, clean: float, poisoned: float, groups: Tensor | None = None) -> Split:
    """The share `poisoned` of highest scores, the share `clean` of lowest, and the rest. groups: int64 [n]; where given, the
    clean share is taken of each group."""
    n, order = len(scores), scores.argsort(stable=True)
    groups = torch.zeros(n, dtype=torch.int64) if groups is None else groups
    high = order[n - round(poisoned * n) :]
    ranked = [order[groups[order] == g] for g in range(int(groups.max()) + 1)]
    low = torch.cat([rows[: round(clean * len(rows))] for rows in ranked])
    low = low[~torch.isin(low, high)]
    rest = order[~torch.isin(order, torch.cat([low, high]))]
    return Split(*(rows.sort()[0] for rows in (low, high, rest)))


def overlap(clean: float, poisoned: float) -> str:
    """Why such shares cannot be split off, or nothing."""
    return "" if clean + poisoned <= 1 else f"the shares clean {clean} and poisoned {poisoned} exceed the whole; lower one"
