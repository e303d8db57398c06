"""Edge partition (GNNCert, AGNNCert)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ostiary.component import Positive
from ostiary.modality.base import Inputs
from ostiary.modality.graphs import Graphs, with_degrees
from ostiary.models.votes import View
from ostiary.purifiers.certificate import Certificate, margins
from ostiary.purifiers.certified import Certified
from ostiary.seeds import uniform

By = Literal["edge", "node"]


class EdgePartition(Certified, name="edge-partition"):
    """Shares each graph's edges out to subgraphs by a hash and lets a model trained on subgraphs vote on them.

    Source: Xia, Yang, Wang & Jia, GNNCert, ICLR 2024; `by` node: Li & Wang, AGNNCert, 2025, arXiv:2502.00765. The defender
    holds the suspicious training set. `groups` 30: GNNCert's range is 10 to 60. Each undirected edge falls into a group by a
    keyed hash of the places of its nodes in their graph; a subgraph has all nodes and one group's edges. A flipped edge
    changes one vote, so that a lead of 2r votes outlasts r flips: a proof for the model as trained, not for the training
    set. With `by` node the two directions of an edge go with their source, and a subgraph blanks the features of nodes
    outside its group: overwriting t nodes, features and edges among them, changes t votes; flipping any edge two.

    Differs from the papers: training draws one subgraph per graph and batch, not all of them; nodes that an attacker
    adds are not covered, and AGNNCert's are not blanked.
    """

    groups: Positive = 30
    by: By = "edge"

    def view(self, key: int = 0, degrees: bool = False) -> View:
        return EdgeGroups(self.groups, self.by, key, degrees)

    def certify(self, votes: Tensor, inputs: Inputs) -> Certificate:
        return Certificate(votes, *margins(votes), costs={"edges": 1} if self.by == "edge" else {"edges": 2, "nodes": 1})


class EdgeGroups(View):
    """View g: every node, and the edges of group g. With `by` node the features of the nodes of group g only."""

    key: Tensor

    def __init__(self, groups: int, by: By, key: int, degrees: bool) -> None:
        super().__init__()
        self.count = self.among = groups
        self.by = by
        self.register_buffer("key", torch.tensor(key))
        self.register_buffer("degrees", torch.tensor(degrees))

    def forward(self, batch: Graphs, which: Tensor) -> Graphs:
        ends = batch.edge_index - batch.node_ptr[batch.edge_batch]
        held = self.group(torch.minimum(*ends), torch.maximum(*ends)) if self.by == "edge" else self.group(ends[0])
        found = batch.with_edges(held == which[batch.edge_batch])
        if bool(self.degrees):
            return with_degrees(found)
        if self.by == "edge":
            return found
        own = self.group(torch.arange(len(batch.x), device=which.device) - batch.node_ptr[batch.batch]) == which[batch.batch]
        return found.with_(x=batch.x * own[:, None])

    def group(self, low: Tensor, high: Tensor | int = 0) -> Tensor:
        """The group of an edge, or of a node, by place in its graph."""
        return (uniform(int(self.key), low, high) * self.count).long()
