"""A discriminator of clean and triggered graphs, for attacks that hide from one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ostiary.modality.graphs import Graphs
from ostiary.modality.sparse import bag_sum
from ostiary.models.graph_layers import SAGEConv, pool, weighted_degree


class Critic(nn.Module):
    """Whether a graph is clean, from its nodes' degrees and triangles, with `width` also their features: a logit each."""

    def __init__(self, width: int, hidden: int = 32) -> None:
        super().__init__()
        self.width = width
        self.convs = nn.ModuleList([SAGEConv(width + 2, hidden), SAGEConv(hidden, hidden)])
        self.head = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, graphs: Graphs, at: Tensor) -> Tensor:
        shape = torch.stack([weighted_degree(graphs), triangles(graphs, at)], 1)
        z = torch.cat([graphs.x[:, : self.width], shape], 1)
        for layer in self.convs:
            z = F.relu(layer(z, graphs))
        verdict: Tensor = self.head(torch.cat([pool(z, graphs, "mean"), pool(z, graphs, "max")], 1))
        return verdict[:, 0]


def triangles(graphs: Graphs, at: Tensor) -> Tensor:
    """Closed walks of length three at the nodes `at` (int64 [G, t], -1 for none), 0 elsewhere: float [N]."""
    start = graphs.x.new_zeros(len(graphs.x), at.shape[1])
    row, column = (at >= 0).nonzero(as_tuple=True)
    start[at[row, column], column] = 1.0  # graphs share no edge, so they can share a column
    walks = start
    for _ in range(3):
        walks = bag_sum(walks, graphs.adjacency, graphs.edge_weight)
    return (walks * start).sum(1) / 2
