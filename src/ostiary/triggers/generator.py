"""The small network that makes a subgraph for each graph, and what helps to start it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ostiary.modality.graphs import Graphs, are_degrees
from ostiary.models.graph_layers import GCNConv

Features = Literal["one-hot", "range", "degree"]


class Generator(nn.Module):
    """A two-layer graph encoder and two heads: features and edges of the nodes a trigger is mounted on."""

    low: Tensor
    high: Tensor

    def __init__(self, width: int, hidden: int, features: Features) -> None:
        super().__init__()
        self.features = features
        self.encoder = nn.ModuleList([GCNConv(width, hidden), GCNConv(hidden, hidden)])
        self.feature_head = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.edge_head = nn.Linear(hidden, hidden)
        self.register_buffer("low", torch.zeros(width))
        self.register_buffer("high", torch.ones(width))

    def forward(self, graphs: Graphs, chosen: Tensor) -> tuple[Tensor, Tensor | None]:
        """(adjacency [G, t, t] of zeros and ones, features [G, t, d]); gradients pass straight through the rounding."""
        z = graphs.x
        for layer in self.encoder:
            z = torch.tanh(layer(z, graphs))
        z = z[chosen.clamp(min=0)]
        e = self.edge_head(z)
        soft = torch.sigmoid(e @ e.transpose(1, 2) / e.shape[2] ** 0.5)
        soft = soft * ~torch.eye(soft.shape[1], dtype=torch.bool, device=soft.device)
        adjacency = (soft > 0.5).to(soft.dtype) + soft - soft.detach()
        return adjacency, None if self.features == "degree" else self.rows(self.feature_head(z))

    def rows(self, raw: Tensor) -> Tensor:
        """Feature rows no clean node could not have: one-hot, or within the range of the training data."""
        if self.features == "range":
            return self.low + (self.high - self.low) * torch.sigmoid(raw)
        soft = raw.softmax(-1)
        hard = F.one_hot(raw.argmax(-1), raw.shape[-1]).to(soft.dtype)
        return hard + soft - soft.detach()


def feature_kind(graphs: Graphs) -> Features:
    """What node features are: a one-hot of the degree, another one-hot, or numbers."""
    if are_degrees(graphs):
        return "degree"
    binary = bool(((graphs.x == 0) | (graphs.x == 1)).all()) and bool((graphs.x.sum(1) == 1).all())
    return "one-hot" if binary else "range"


@torch.no_grad()
def bias_to_best(bias: Tensor, loss: Callable[[], Tensor], push: float = 2.0) -> float:
    """Push, in place, the one entry of `bias` (float [d], one per kind of node) that lowers `loss` most; its loss.

    Gradients through a rounded one-hot rarely cross from one kind to a far one; trying all costs d forward passes.
    """
    losses = []
    for kind in range(len(bias)):
        bias[kind] += push
        losses.append(float(loss()))
        bias[kind] -= push
    bias[losses.index(min(losses))] += push
    return min(losses)
