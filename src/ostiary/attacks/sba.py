"""SBA on nodes."""

from __future__ import annotations

from typing import Literal

import torch

from ostiary.attacks.base import PoisoningAttack
from ostiary.attacks.random_graphs import erdos_renyi
from ostiary.component import Positive, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.triggers.attached import AttachedSubgraph


class SBA(PoisoningAttack, name="sba"):
    """Joins one random (Erdos-Renyi) subgraph of new nodes to relabelled training nodes.

    Source: Zhang, Jia, Wang & Gong, SACMAT 2021, arXiv:2006.11165, on nodes as in Dai, Lin, Zhang & Wang, Unnoticeable
    Backdoor Attacks on Graph Neural Networks, WWW 2023, arXiv:2303.01263, where it is a baseline. The adversary controls
    training data only. `features` of the new nodes: samp, those of random training nodes (SBA-Samp); gen, drawn from a
    Gaussian with the mean and spread of each feature (SBA-Gen). `size` 3 nodes; rate 0.5 %, which on Cora's size is the 10
    nodes of UGBA. `density` 0.8: the first paper.

    Differs from the papers: none known; where they leave it open, one trigger is drawn and shared by all nodes.
    """

    modalities = frozenset({"node"})
    rate: Rate = 0.005
    features: Literal["samp", "gen"] = "samp"
    size: Positive = 3
    density: Rate = 0.8

    def make_trigger(self, train: Dataset, ctx: Context) -> AttachedSubgraph:
        edges = erdos_renyi(self.size, self.density, ctx.rng("subgraph"))
        x, rng = train.inputs.x, ctx.rng("features")
        if self.features == "samp":
            made = x[torch.randint(len(x), (self.size,), generator=rng)]
        else:
            made = x.mean(0) + x.std(0, unbiased=False) * torch.randn(self.size, x.shape[1], generator=rng)
        return AttachedSubgraph(size=self.size, edges=edges, state={"features": made})
