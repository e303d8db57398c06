"""Mounting subgraphs on chosen nodes of many graphs at once: inner edges are replaced, outer ones kept."""

from __future__ import annotations

import torch
from torch import Tensor

from ostiary.modality.graphs import Graphs
from ostiary.seeds import uniform


def random_score(graphs: Graphs, ids: Tensor, seed: int) -> Tensor:
    """A uniform number per node, keyed by the graph's id and the node's place in its graph: float64 [N]."""
    local = torch.arange(len(graphs.x), device=graphs.x.device) - graphs.node_ptr[graphs.batch]
    return uniform(seed, ids[graphs.batch], local)


def top_nodes(graphs: Graphs, score: Tensor, size: int) -> Tensor:
    """The `size` highest-scoring nodes of each graph, best first: int64 [G, size], -1 where a graph is smaller."""
    by_score = score.argsort(descending=True, stable=True)
    order = by_score[graphs.batch[by_score].argsort(stable=True)]
    rank = torch.arange(len(order), device=order.device) - graphs.node_ptr[graphs.batch[order]]
    chosen = torch.full((len(graphs), size), -1, dtype=torch.int64, device=order.device)
    keep = rank < size
    chosen[graphs.batch[order[keep]], rank[keep]] = order[keep]
    return chosen


def mount(graphs: Graphs, chosen: Tensor, adjacency: Tensor, features: Tensor | None = None, *, soft: bool = False) -> Graphs:
    """Replace the edges among `chosen` (int64 [G, t], -1 for none) by those of `adjacency` ([t, t] or [G, t, t]).

    features: float [G, t, d], the chosen nodes' new features. With `soft`, every pair gets an edge whose
    `edge_weight` is its entry of `adjacency`, so that gradients reach absent edges too. New edges get zero edge_attr.
    """
    t, edges = chosen.shape[1], graphs.edge_index
    inside = torch.zeros(len(graphs.x), dtype=torch.bool, device=edges.device)
    inside[chosen[chosen >= 0]] = True
    keep = ~(inside[edges[0]] & inside[edges[1]])
    matrix = adjacency.expand(len(graphs), t, t)
    off = ~torch.eye(t, dtype=torch.bool, device=edges.device)
    valid = (chosen >= 0)[:, :, None] & (chosen >= 0)[:, None, :] & off
    wanted = valid if soft else valid & (matrix > 0.5)
    g, i, j = wanted.nonzero(as_tuple=True)
    new = torch.stack([chosen[g, i], chosen[g, j]])
    weight = None
    if soft:
        old = graphs.edge_weight if graphs.edge_weight is not None else matrix.new_ones(edges.shape[1])
        weight = torch.cat([old[keep], matrix[g, i, j]])
    attr = graphs.edge_attr
    if attr is not None:
        attr = torch.cat([attr[keep], attr.new_zeros(new.shape[1], attr.shape[1])])
    x = graphs.x
    if features is not None:
        real = chosen >= 0
        x = x.index_put((chosen[real],), features[real].to(x.dtype))
    return Graphs.build(x, torch.cat([edges[:, keep], new], 1), graphs.n_nodes, edge_attr=attr, edge_weight=weight)
