"""A training set split in three by scores: what counts as clean, as poisoned, and neither."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ostiary.data.dataset import Dataset

EVEN = 0.01  # of a group


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


def split(
    scores: Tensor, clean: float, poisoned: float, groups: Tensor | None = None, suspicion: Tensor | None = None
) -> Split:
    """The share `poisoned` of highest `suspicion` (default: the scores), the share `clean` of lowest scores, and the rest.
    groups: int64 [n]; where given, the clean share is taken of each group."""
    n, order = len(scores), scores.argsort(stable=True)
    groups = torch.zeros(n, dtype=torch.int64) if groups is None else groups
    high = (order if suspicion is None else suspicion.argsort(stable=True))[n - round(poisoned * n) :]
    ranked = [order[groups[order] == g] for g in range(int(groups.max()) + 1)]
    low = torch.cat([rows[: round(clean * len(rows))] for rows in ranked])
    low = low[~torch.isin(low, high)]
    rest = order[~torch.isin(order, torch.cat([low, high]))]
    return Split(*(rows.sort()[0] for rows in (low, high, rest)))


def excess(scores: Tensor, groups: Tensor) -> Tensor:
    """How many times as many of a sample's group score as high as it does as of the median other group: float64 [n].

    1 where no group stands out. To both shares EVEN is added, for of a handful of samples a ratio says nothing. groups: int64
    [n]; of a single group there is nothing to compare, and the scores' own ranks are returned.
    """
    held, place = groups.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    if len(held) < 2:
        return scores.argsort(stable=True).argsort().double()
    own = [scores[place == g].sort()[0] for g in range(len(held))]
    above = torch.stack([1 - torch.searchsorted(s, scores).double() / len(s) for s in own])
    mine = above.gather(0, place[None])[0]
    others = above.scatter(0, place[None], torch.nan).nanmedian(0)[0]
    return (mine + EVEN) / (others + EVEN)


def overlap(clean: float, poisoned: float) -> str:
    """Why such shares cannot be split off, or nothing."""
    return "" if clean + poisoned <= 1 else f"the shares clean {clean} and poisoned {poisoned} exceed the whole; lower one"
