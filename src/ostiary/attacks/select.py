"""Which of the eligible inputs are poisoned."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor

from ostiary.component import Component
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.modality.nodes import Nodes
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
        p = model.predict(data.inputs).softmax(1)
        rows = (eligible & (p.argmax(1) == data.y)).nonzero().flatten()
        return rows[p[rows, data.y[rows]].argsort(descending=self.order != "lowest", stable=True)]


class Clustered(Selector, name="clustered"):
    """Typical inputs: near the centre of a cluster of a surrogate's features and, where they are nodes, of small degree.

    As many clusters as classes, drawn on evenly; the score is distance + `degree_weight` * degree, both scaled to [0, 1].
    UGBA (Dai, Lin, Zhang & Wang, WWW 2023, arXiv:2303.01263); weight 1: the authors' code.
    """

    degree_weight: float = 1.0

    def choose(self, train: Dataset, eligible: Tensor, n: int, ctx: Context) -> Tensor:
        from sklearn.cluster import KMeans

        rows = eligible.nonzero().flatten()
        found = ctx.surrogate(train).embed(train.inputs)[1]
        points = found[rows].double().numpy()
        k = min(train.n_classes, len(found[rows].unique(dim=0)))
        groups = KMeans(k, n_init=10, random_state=ctx.key("clusters") % 2**32).fit(points)
        cluster = torch.from_numpy(groups.labels_).long()
        score = _scaled((torch.from_numpy(points - groups.cluster_centers_[groups.labels_])).norm(dim=1))
        if isinstance(train.inputs, Nodes):
            degree = train.inputs.graphs.in_degree[train.inputs.roots[rows]]
            score = score + self.degree_weight * _scaled(degree.double())
        order = score.argsort(stable=True)
        order = order[cluster[order].argsort(stable=True)]  # cluster by cluster, the best first
        start = torch.searchsorted(cluster[order], cluster[order])
        turn = torch.arange(len(order)) - start
        apart = 2 * (1 + score.max())  # further than scores are: the best of every cluster come before the second best
        best = order[(turn * apart + score[order]).argsort(stable=True)][:n]
        return rows[best].sort()[0]


def _scaled(values: Tensor) -> Tensor:
    """To [0, 1]."""
    spread = values.max() - values.min()
    return (values - values.min()) / spread if float(spread) > 0 else torch.zeros_like(values)
