"""A fixed subgraph of new nodes, joined to the nodes attacked."""

from __future__ import annotations

import torch
from torch import Tensor

from ostiary.component import Positive
from ostiary.modality.nodes import Nodes
from ostiary.triggers.base import Trigger


class AttachedSubgraph(Trigger, name="attached-subgraph"):
    """`size` new nodes at every root, `edges` among them (undirected pairs), the first joined to the root.

    Their features are the state: float [size, d].
    """

    modalities = frozenset({"node"})
    size: Positive
    edges: tuple[tuple[int, int], ...]

    def apply(self, inputs: Nodes, ids: Tensor, *, seed: int, target: Tensor) -> Nodes:
        adjacency = torch.zeros(self.size, self.size, device=inputs.x.device)
        for i, j in self.edges:
            adjacency[i, j] = adjacency[j, i] = 1.0
        features = self.state["features"].to(inputs.x.device)
        return inputs.attach(features.expand(len(inputs), -1, -1), adjacency.expand(len(inputs), -1, -1))
