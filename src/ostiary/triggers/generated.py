"""A subgraph generated for each graph by a small network."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ostiary.component import Positive
from ostiary.modality.graphs import Graphs
from ostiary.models.graph_layers import GCNConv
from ostiary.seeds import scoped
from ostiary.triggers.base import Trigger
from ostiary.triggers.mount import mount, random_score, top_nodes
from ostiary.triggers.subgraph import are_degrees, with_degrees

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


class GeneratedSubgraph(Trigger, name="generated-subgraph"):
    """`size` random nodes of each graph get the features and inner edges that a generator makes for them.

    `width`: node features; `hidden`: units of the generator; `features`: one-hot, range (of the training data), or
    degree (then only edges are generated and degrees counted again). The generator's weights are the state.
    """

    modalities = frozenset({"graph"})
    size: Positive
    width: Positive
    hidden: Positive = 64
    features: Features = "one-hot"

    def network(self) -> Generator:
        with scoped(0, "init"):  # overwritten at once; leaves torch's global stream alone
            net = Generator(self.width, self.hidden, self.features)
        net.load_state_dict(self.state)
        return net

    def positions(self, graphs: Graphs, ids: Tensor, seed: int) -> Tensor:
        """The nodes mounted on: int64 [G, size], -1 where a graph is smaller."""
        return top_nodes(graphs, random_score(graphs, ids, seed), self.size)

    def soft(self, net: Generator, graphs: Graphs, chosen: Tensor) -> Graphs:
        """The stamped graphs with gradients: every pair of mounted nodes is an edge whose weight is 0 or 1."""
        adjacency, features = net(graphs, chosen)
        return mount(graphs, chosen, adjacency, features, soft=True)

    def apply(self, inputs: Graphs, ids: Tensor, *, seed: int, target: Tensor) -> Graphs:
        chosen = self.positions(inputs, ids, seed)
        with torch.no_grad():
            adjacency, features = self.network().to(inputs.x.device)(inputs, chosen)
            hard = None if features is None else features.round() if self.features == "one-hot" else features
            stamped = mount(inputs, chosen, adjacency.round(), hard)
        return with_degrees(stamped) if self.features == "degree" else stamped


def feature_kind(graphs: Graphs) -> Features:
    """What node features are: a one-hot of the degree, another one-hot, or numbers."""
    if are_degrees(graphs):
        return "degree"
    binary = bool(((graphs.x == 0) | (graphs.x == 1)).all()) and bool((graphs.x.sum(1) == 1).all())
    return "one-hot" if binary else "range"
