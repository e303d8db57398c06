"""Sub-BA."""

from __future__ import annotations

import math

import torch

from ostiary.attacks.base import PoisoningAttack
from ostiary.component import NonNegative, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.triggers.subgraph import Subgraph, are_degrees


class SubBA(PoisoningAttack, name="sub-ba"):
    """Mounts one random (Erdos-Renyi) subgraph on random nodes of relabelled training graphs.

    Source: Zhang, Jia, Wang & Gong, SACMAT 2021, arXiv:2006.11165. The adversary controls training data only.
    `size`: trigger nodes; 0 means 20 % of the mean graph size, at least 2 (paper). `density`: edge probability
    (paper: 0.8); 1 gives a clique. Rate 5 %: paper.

    Differs from the authors' code as the paper itself does: a trigger is drawn again until it is connected (where
    density > ln size / size), node positions are fresh for every graph, graphs are drawn without replacement, and
    degree features are made again from the final edges.
    """

    modalities = frozenset({"graph"})
    rate: Rate = 0.05
    size: NonNegative = 0
    density: Rate = 0.8

    def make_trigger(self, train: Dataset, ctx: Context) -> Subgraph:
        size = self.size or trigger_size(train)
        edges = random_edges(size, self.density, ctx)
        return Subgraph(size=size, edges=edges, degree_features=are_degrees(train.inputs))


def trigger_size(train: Dataset) -> int:
    """20 % of the mean number of nodes, at least 2 (Sub-BA and GCleaner)."""
    return max(2, int(0.2 * train.inputs.x.shape[0] / len(train)))


def random_edges(size: int, density: float, ctx: Context) -> tuple[tuple[int, int], ...]:
    """Edges of an Erdos-Renyi graph, connected where that is to be expected, else at least not empty."""
    rng, pairs = ctx.rng("subgraph"), torch.combinations(torch.arange(size))
    for _ in range(1000):
        drawn = pairs[torch.rand(len(pairs), generator=rng) < density]
        edges = tuple((i, j) for i, j in drawn.tolist())
        connected = _connected(size, edges)
        if edges and (connected or density <= math.log(size) / size):
            return edges
    return tuple((i, i + 1) for i in range(size - 1))


def _connected(size: int, edges: tuple[tuple[int, int], ...]) -> bool:
    reached, before = {0}, 0
    while len(reached) > before:
        before = len(reached)
        reached |= {n for edge in edges if set(edge) & reached for n in edge}
    return len(reached) == size
