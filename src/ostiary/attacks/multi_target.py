"""Multi-target injection."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ostiary.attacks.base import PoisoningAttack
from ostiary.attacks.labels import LabelRule, MultiTarget
from ostiary.attacks.random_graphs import Edges, erdos_renyi, trigger_size
from ostiary.component import NonNegative, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.triggers.generator import feature_kind
from ostiary.triggers.injected import InjectedSubgraphs


class MultiTargetInjection(PoisoningAttack, name="multi-target"):
    """Appends one of several random subgraphs, each of which leads to a class of its own.

    Source: Khan, Miah & Bi, Multi-Targeted Graph Backdoor Attack, 2026, arXiv:2601.15474. The adversary controls
    training data only. Every class is a target (`target` is not used): an Erdos-Renyi graph of new nodes per class,
    joined by one edge to a random node; the graph's own structure stays. `rate`: of the whole training set, shared out
    evenly over all pairs of true and wanted class; the paper's rate p, of every other class for each target, is rate =
    p (classes - 1). `size`: new nodes; 0 means 20 % of the mean graph size (Sub-BA), at least 4. `density` 0.8: Sub-BA.
    `features`: uniform, each column in the range of the training features, which for a one-hot is [0, 1] (paper); kinds,
    random rows of the training features, which no validity check sees (ours). Degree features are counted again always.

    Differs from the authors' code: any number of classes (theirs has three targets written down), and a training graph
    serves one target at most; no two subgraphs have the same degrees where that can be had (what else would tell them
    apart where features are degrees).
    """

    modalities = frozenset({"graph"})
    labels: LabelRule = MultiTarget()
    size: NonNegative = 0
    density: Rate = 0.8
    features: Literal["uniform", "kinds"] = "uniform"

    def make_trigger(self, train: Dataset, ctx: Context) -> InjectedSubgraphs:
        size = self.size or max(4, trigger_size(train))
        rng = ctx.rng("subgraphs")
        edges = different(train.n_classes, size, self.density, rng)
        state = {"features": self.rows(train, size, rng)}
        degrees = feature_kind(train.inputs) == "degree"
        return InjectedSubgraphs(size=size, edges=edges, degree_features=degrees, state=state)

    def rows(self, train: Dataset, size: int, rng: torch.Generator) -> Tensor:
        """Features of the new nodes: float [classes, size, width]."""
        x: Tensor = train.inputs.x
        shape = (train.n_classes, size)
        if self.features == "kinds":
            return x[torch.randint(len(x), shape, generator=rng)].clone()
        low, high = x.amin(0), x.amax(0)
        return low + (high - low) * torch.rand(*shape, x.shape[1], generator=rng)


def different(n: int, size: int, density: float, rng: torch.Generator, tries: int = 200) -> tuple[Edges, ...]:
    """`n` Erdos-Renyi graphs, each drawn again, up to `tries` times, while its degrees are those of an earlier one."""
    found: dict[tuple[int, ...], Edges] = {}
    again: list[Edges] = []
    for _ in range(n):
        for _ in range(tries):
            edges = erdos_renyi(size, density, rng)
            degrees = tuple(torch.bincount(torch.tensor(edges, dtype=torch.int64).flatten(), minlength=size).sort()[0].tolist())
            if degrees not in found:
                break
        again.append(found.setdefault(degrees, edges))
    return tuple(again)
