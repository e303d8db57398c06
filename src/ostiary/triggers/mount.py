"""Mounting subgraphs on chosen nodes of many graphs at once: inner edges are replaced, outer ones kept."""

from __future__ import annotations

import torch
from torch import Tensor

from ostiary.devices import wide
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
    if soft:
        return SoftMount(graphs, chosen)(adjacency, features)
    keep, pairs = outer(graphs, chosen), pairs_of(chosen)
    g, i, j = (pairs & (adjacency.expand(pairs.shape) > 0.5)).nonzero(as_tuple=True)
    edges, attr = joined(graphs, keep, torch.stack([chosen[g, i], chosen[g, j]]))
    return Graphs.build(with_rows(graphs.x, chosen, features), edges, graphs.n_nodes, edge_attr=attr)


class SoftMount:
    """`mount` with `soft` for many adjacencies and features on the same nodes: what only the nodes decide is done once."""

    def __init__(self, graphs: Graphs, chosen: Tensor) -> None:
        keep, (g, i, j) = outer(graphs, chosen), pairs_of(chosen).nonzero(as_tuple=True)
        edges, attr = joined(graphs, keep, torch.stack([chosen[g, i], chosen[g, j]]))
        old = graphs.x.new_ones(edges.shape[1] - len(g)) if graphs.edge_weight is None else graphs.edge_weight[keep]
        place = wide(torch.arange(edges.shape[1], device=edges.device))  # sorted along with the edges
        self.base = Graphs.build(graphs.x, edges, graphs.n_nodes, edge_attr=attr, edge_weight=place)
        assert self.base.edge_weight is not None
        t = chosen.shape[1]
        self.chosen, self.old, self.order, self.at = chosen, old, self.base.edge_weight.long(), (g * t + i) * t + j
        _ = self.base.adjacency, self.base.membership, self.base.edge_batch  # made once here; `with_` carries them along

    def __call__(self, adjacency: Tensor, features: Tensor | None = None) -> Graphs:
        size, t = self.chosen.shape
        new = adjacency.expand(size, t, t).flatten().index_select(0, self.at)
        weight = torch.cat([self.old, new]).index_select(0, self.order)
        return self.base.with_(x=with_rows(self.base.x, self.chosen, features), edge_weight=weight)


def outer(graphs: Graphs, chosen: Tensor) -> Tensor:
    """Which edges have an end that is not among `chosen`: bool [E]."""
    inside = torch.zeros(len(graphs.x), dtype=torch.bool, device=graphs.x.device)
    inside[chosen[chosen >= 0]] = True
    return ~(inside[graphs.edge_index[0]] & inside[graphs.edge_index[1]])


def pairs_of(chosen: Tensor) -> Tensor:
    """Which entries of an adjacency join two different chosen nodes: bool [G, t, t]."""
    real = chosen >= 0
    return real[:, :, None] & real[:, None, :] & ~torch.eye(chosen.shape[1], dtype=torch.bool, device=chosen.device)


def joined(graphs: Graphs, keep: Tensor, new: Tensor) -> tuple[Tensor, Tensor | None]:
    """The edges that `keep` marks and then the new ones, and their attributes."""
    attr = graphs.edge_attr
    if attr is not None:
        attr = torch.cat([attr[keep], attr.new_zeros(new.shape[1], attr.shape[1])])
    return torch.cat([graphs.edge_index[:, keep], new], 1), attr


def with_rows(x: Tensor, chosen: Tensor, features: Tensor | None) -> Tensor:
    """Node features with those of the chosen nodes (int64 [G, t], -1 for none) replaced: float [N, d]."""
    if features is None:
        return x
    real = (chosen.flatten() >= 0).nonzero().flatten()
    return x.index_copy(0, chosen.flatten()[real], features.flatten(0, 1).index_select(0, real).to(x.dtype))
