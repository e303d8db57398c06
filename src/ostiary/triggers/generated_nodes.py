"""New nodes made for each attacked node by a small network."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from ostiary.component import NonNegative, Positive
from ostiary.modality.nodes import Nodes
from ostiary.triggers.base import Trigger
from ostiary.triggers.networks import restored

NodeFeatures = Literal["free", "range", "binary"]


class NodeMaker(nn.Module):
    """Features of a node to those of its trigger's nodes and the edges among them: one hidden layer and two heads."""

    low: Tensor
    high: Tensor

    def __init__(self, width: int, hidden: int, size: int, features: NodeFeatures, active: int) -> None:
        super().__init__()
        self.size, self.features, self.active = size, features, active
        self.body = nn.Sequential(nn.Linear(width, hidden), nn.ReLU())
        self.feature_head = nn.Linear(hidden, size * width)
        self.edge_head = nn.Linear(hidden, size * size)
        self.register_buffer("low", torch.zeros(width))
        self.register_buffer("high", torch.ones(width))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """float [n, d] -> (features [n, t, d], adjacency [n, t, t] of zeros and ones, rounded straight through)."""
        z, t = self.body(x), self.size
        raw = self.edge_head(z).view(-1, t, t)
        soft = torch.sigmoid(raw + raw.transpose(1, 2)) * ~torch.eye(t, dtype=torch.bool, device=x.device)
        adjacency = (soft > 0.5).to(soft.dtype) + (soft - soft.detach())
        return self.rows(self.feature_head(z).view(-1, t, x.shape[1])), adjacency

    def rows(self, raw: Tensor) -> Tensor:
        if self.features == "free":
            return raw
        if self.features == "range":
            return self.low + (self.high - self.low) * torch.sigmoid(raw)
        top = raw.topk(self.active + 1, dim=-1)
        p = torch.sigmoid(raw - top.values[..., -1:].detach())  # steepest where a word is about to come in or go
        hard = torch.zeros_like(p).scatter(-1, top.indices[..., :-1], 1.0)
        return hard + (p - p.detach())  # in this order exactly 0 or 1


class GeneratedNodes(Trigger, name="generated-nodes"):
    """`size` new nodes at every root, made from the root's features; the first is joined to the root.

    `width`: node features; `hidden`: units of the generator; `features`: free real numbers, those in the range of the
    training data, or binary: ones for the `active` highest of the generator's outputs. Its weights are the state.
    """

    modalities = frozenset({"node"})
    size: Positive
    width: Positive
    hidden: Positive = 64
    features: NodeFeatures = "free"
    active: NonNegative = 0

    def network(self, device: torch.device) -> NodeMaker:
        make = partial(NodeMaker, self.width, self.hidden, self.size, self.features, self.active)
        return restored(make, self.state, device)

    def apply(self, inputs: Nodes, ids: Tensor, *, seed: int, target: Tensor) -> Nodes:
        with torch.no_grad():
            features, adjacency = self.network(inputs.x.device)(inputs.x[inputs.roots])
        return inputs.attach(features, adjacency)
