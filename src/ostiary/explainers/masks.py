"""Soft masks over the edges and node features of many graphs, as one flat vector."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.modality.graphs import Graphs
from ostiary.models.victim import Victim
from ostiary.seeds import uniform


class Masks:
    """Where each of the P mask entries of some graphs acts: the edges' entries first, then the nodes'.

    A feature that is zero gets none: no gradient could reach it, so PyG's hard mask drops it.
    """

    def __init__(self, graphs: Graphs, node_mask: str, edge_mask: bool) -> None:
        self.graphs, self.node_mask, self.edge_mask = graphs, node_mask, edge_mask
        (n, width), self.n_edges = graphs.x.shape, graphs.edge_index.shape[1] * edge_mask
        numbers = torch.arange(max(n * width, n, self.n_edges), device=graphs.x.device)
        self.spots = graphs.x.flatten().nonzero().flatten()[: 0 if node_mask == "none" else None]
        self.values, objects = graphs.x.flatten()[self.spots], node_mask == "object"
        cells, step = (numbers[:n], 1) if objects else (self.spots, width)
        self.owner = self.spots // width if objects else numbers[: len(cells)]  # the entry that scales each feature
        edge, node = graphs.edge_batch[: self.n_edges], graphs.batch[cells // step]
        self.group = torch.cat([edge, len(graphs) + node])  # a mean is over one group
        self.place = torch.cat([numbers[: self.n_edges] - graphs.edge_ptr[edge], cells - graphs.node_ptr[node] * step])
        _ = graphs.adjacency, graphs.membership  # made once here; `with_` carries them along

    def initial(self, keys: Tensor, seed: int) -> Tensor:
        """Normal numbers with PyG's deviations, a function of the graph's key (int64 [G]) and the place in it: float [P]."""
        graph, node = self.group % len(self.graphs), self.group >= len(self.graphs)
        draw = 4 * self.place + 2 * node
        radius = (-2 * torch.log1p(-uniform(seed, keys[graph], draw))).sqrt()  # Box & Muller, 1958
        normal = radius * (2 * math.pi * uniform(seed, keys[graph], draw + 1)).cos()
        return (normal * torch.where(node, 0.1, (2 / self.graphs.n_nodes[graph]).sqrt())).to(self.graphs.x.dtype)

    def masked(self, m: Tensor) -> Graphs:
        """The graphs under the mask entries `m`, float [P]."""
        x = self.graphs.x.detach()
        if len(self.spots):
            kept = self.values * m[self.n_edges :].index_select(0, self.owner)
            x = torch.zeros_like(x).flatten().index_copy_(0, self.spots, kept).view_as(x)
        return self.graphs.with_(x=x, edge_mask=m[: self.n_edges].detach() if self.edge_mask else None)

    def gradient(self, victim: Victim, m: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """(the graphs' cross-entropies, float [G]; the gradient of their sum in each mask entry, float [P])."""
        graphs = self.masked(m)
        leaves = [t.requires_grad_() for t in (graphs.x, graphs.edge_mask) if t is not None]
        with torch.enable_grad():
            losses = F.cross_entropy(victim(graphs), classes, reduction="none")
            gx, *edges = torch.autograd.grad(losses.sum(), leaves, allow_unused=True, materialize_grads=True)
        nodes = gx.flatten().index_select(0, self.spots) * self.values
        nodes = nodes.new_zeros(len(m) - self.n_edges).index_add_(0, self.owner, nodes)
        return losses.detach(), torch.cat([*edges, nodes])

    def scores(self, m: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(nodes, edges, features) of the attribution."""
        edges, nodes = m[: self.n_edges] if self.edge_mask else None, m[self.n_edges :]
        if self.node_mask == "attributes":
            x = torch.zeros_like(self.graphs.x).flatten().index_copy_(0, self.spots, nodes).view_as(self.graphs.x)
            return x.mean(1), edges, x
        return nodes if self.node_mask == "object" else by_degree(self.graphs, m), edges, None


def by_degree(graphs: Graphs, edges: Tensor) -> Tensor:
    """The scores of a node's edges (float [E]; mean of the two directions), summed and divided by ln(1 + degree): float [N].

    XGBD's rule (Guan, Du & Liu, ECAI 2023). The plain sum, by which nodes of many edges come first, is `node_scores` of
    `fidelity`.
    """
    total, degree = edges.new_zeros(2, len(graphs.x))
    for ends in graphs.edge_index:
        total.index_add_(0, ends, edges / 2)
        degree.index_add_(0, ends, torch.full_like(edges, 0.5))
    return torch.div(total, degree.clamp(min=1).log1p())
