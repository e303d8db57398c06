"""Subgraphs of new nodes beside the graph's own, one for each class wanted."""

from __future__ import annotations

import torch
from torch import Tensor

from ostiary.component import Positive
from ostiary.errors import InvalidInput
from ostiary.modality.graphs import Graphs, with_degrees
from ostiary.modality.sparse import pointer
from ostiary.seeds import uniform
from ostiary.triggers.base import Trigger

Edges = tuple[tuple[int, int], ...]


class InjectedSubgraphs(Trigger, name="injected-subgraphs"):
    """Appends `size` new nodes: the subgraph of the wanted class, its first node joined to a random node of the graph.

    `edges`: one list of undirected pairs per class. The graph's own nodes, their order and their edges stay; new edges
    get zero edge_attr. The new nodes' features, float [classes, size, width], are the state. With `degree_features` the
    features, a one-hot of the degree, are made again from the final edges.
    """

    modalities = frozenset({"graph"})
    size: Positive
    edges: tuple[Edges, ...]
    degree_features: bool = False

    def adjacency(self) -> Tensor:
        """Of every class: bool [classes, size, size]."""
        matrix = torch.zeros(len(self.edges), self.size, self.size, dtype=torch.bool)
        for c, pairs in enumerate(self.edges):
            for i, j in pairs:
                matrix[c, i, j] = matrix[c, j, i] = True
        return matrix

    def apply(self, inputs: Graphs, ids: Tensor, *, seed: int, target: Tensor) -> Graphs:
        if len(target) and int(target.max()) >= len(self.edges):
            raise InvalidInput(
                f"class {int(target.max())} is wanted but the trigger has {len(self.edges)} subgraphs; make it anew"
            )
        device, t, n = inputs.x.device, self.size, inputs.n_nodes
        target = target.to(device)
        n_nodes = n + t
        start = pointer(n_nodes)[:-1]
        own = torch.arange(len(inputs.x), device=device) + t * inputs.batch  # where the graph's nodes are now
        new = (start + n)[:, None] + torch.arange(t, device=device)
        g, i, j = self.adjacency().to(device)[target].nonzero(as_tuple=True)
        anchor = start + (uniform(seed, ids) * n).long().to(device)
        link = torch.stack([anchor, new[:, 0]])
        added = torch.cat([torch.stack([new[g, i], new[g, j]]), link, link.flip(0)], 1)
        attr = inputs.edge_attr
        if attr is not None:
            attr = torch.cat([attr, attr.new_zeros(added.shape[1], attr.shape[1])])
        x = inputs.x.new_zeros(int(n_nodes.sum()), inputs.x.shape[1])
        x[own] = inputs.x
        x[new] = self.state["features"].to(inputs.x)[target]
        stamped = Graphs.build(x, torch.cat([own[inputs.edge_index], added], 1), n_nodes, edge_attr=attr)
        return with_degrees(stamped) if self.degree_features else stamped
