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
    scores: Tensor,
    clean: float,
    poisoned: float,
    groups: Tensor | None = None,
    suspicion: Tensor | None = None,
    extra: Tensor | None = None,
) -> Split:
    """The share `poisoned` of highest `suspicion` (default: the scores), the share `clean` of lowest scores, and the rest.
    groups: int64 [n]; where given, the clean share is taken of each group, a sample at least. extra: of each sample, the share
    of its group that does not belong there (`surplus`; default: none); the clean share is taken of the others."""
    n, order = len(scores), scores.argsort(stable=True)
    groups = torch.zeros(n, dtype=torch.int64) if groups is None else groups
    sure = torch.ones(n, dtype=torch.float64) if extra is None else 1 - extra
    high = (order if suspicion is None else suspicion.argsort(stable=True))[n - round(poisoned * n) :]
    ranked = [order[groups[order] == g] for g in range(int(groups.max()) + 1)]
    counts = [clean * float(sure[rows].sum()) for rows in ranked]
    low = torch.cat([rows[: max(1, round(n)) if n > 0 else 0] for rows, n in zip(ranked, counts, strict=True)])
    low = low[~torch.isin(low, high)]
    rest = order[~torch.isin(order, torch.cat([low, high]))]
    return Split(*(rows.sort()[0] for rows in (low, high, rest)))


def excess(scores: Tensor, groups: Tensor) -> Tensor:
    """How many times as many of a sample's group score as high as it does as of the median other group: float64 [n].

    1 where no group stands out. To both shares EVEN is added, for of a handful of samples a ratio says nothing. groups: int64
    [n]; of a single group there is nothing to compare, and the scores' ranks are returned.
    """
    if not (groups != groups[0]).any():
        return ranks(scores).double()
    mine, others = above(scores, groups)
    return (mine + EVEN) / (others + EVEN)


def surplus(scores: Tensor, groups: Tensor) -> Tensor:
    """The share of a sample's group that scores higher than samples of the median other group do: float64 [n].

    One figure for a group: the largest difference of the shares above one score (a one-sided Kolmogorov-Smirnov distance). What
    is mixed into one group and scores high makes a surplus of that size; where the two overlap, a smaller one. 0 for a single
    group.
    """
    if not (groups != groups[0]).any():
        return torch.zeros(len(scores), dtype=torch.float64)
    mine, others = above(scores, groups)
    most = torch.zeros(int(groups.max()) + 1, dtype=torch.float64).scatter_reduce(0, groups, mine - others, "amax")
    return most[groups]


def above(scores: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """The share of a sample's own group that scores as high as it or higher, and of the median other group: float64 [n]."""
    held, place = groups.unique(return_inverse=True)
    own = [scores[place == g].sort()[0] for g in range(len(held))]
    shares = torch.stack([1 - torch.searchsorted(s, scores).double() / len(s) for s in own])
    return shares.gather(0, place[None])[0], shares.scatter(0, place[None], torch.nan).nanmedian(0)[0]


def ranks(scores: Tensor) -> Tensor:
    """0 for the lowest score to n - 1 for the highest: int64 [n]."""
    return scores.argsort(stable=True).argsort()


def overlap(clean: float, poisoned: float) -> str:
    """Why such shares cannot be split off, or nothing."""
    return "" if clean + poisoned <= 1 else f"the shares clean {clean} and poisoned {poisoned} exceed the whole; lower one"
