"""What an explanation picks out of graphs, and what a model says with and without it; many graphs at once.

An undirected edge, stored in both directions, counts once: it scores the mean of its directions and goes or stays whole.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ostiary.errors import Unsupported
from ostiary.explainers.base import Attribution
from ostiary.modality.graphs import Graphs, with_degrees
from ostiary.modality.sparse import pointer
from ostiary.models.victim import Victim


def edge_scores(graphs: Graphs, found: Attribution) -> Tensor:
    """The edges' scores or, of an explainer that scores nodes only, the mean of their ends': float [E]."""
    if found.edges is not None:
        return found.edges
    if found.nodes is None:
        raise Unsupported("the explainer scored neither nodes nor edges of the graphs; switch one of the two on")
    return found.nodes[graphs.edge_index].mean(0)


def node_scores(graphs: Graphs, found: Attribution) -> Tensor:
    """The nodes' scores or, of an explainer that scores edges only, the sum of their edges': float [N]."""
    if found.nodes is not None:
        return found.nodes
    scores = edge_scores(graphs, found)
    return scores.new_zeros(len(graphs.x)).index_add(0, graphs.edge_index.flatten(), scores.repeat(2))


def undirected(graphs: Graphs) -> tuple[Tensor, Tensor]:
    """(the undirected edge of each directed one, int64 [E]; the graph of each undirected one, int64 [U], ascending)."""
    of = graphs.pairs
    n = int(of.max()) + 1 if len(of) else 0
    return of, of.new_empty(n).scatter_(0, of, graphs.edge_batch)


def best_edges(graphs: Graphs, scores: Tensor, k: int = 0, share: float = 0.0) -> Tensor:
    """The undirected edges of each graph that score highest, in all their directions: bool [E]. As many as `k` or, where it
    is 0, that share of the graph's, but at least one."""
    of, graph = undirected(graphs)
    counts = torch.bincount(graph, minlength=len(graphs))
    wanted = torch.full_like(counts, k) if k else (share * counts).round().long().clamp(min=1)
    mean = scores.new_zeros(len(graph)).index_add(0, of, scores) / torch.bincount(of, minlength=len(graph))
    return (places(mean, graph, pointer(counts)) < wanted[graph])[of]


def best_nodes(graphs: Graphs, scores: Tensor, k: int) -> Tensor:
    """The k nodes of each graph that score highest: bool [N]."""
    return places(scores, graphs.batch, graphs.node_ptr) < k


def places(values: Tensor, group: Tensor, start: Tensor) -> Tensor:
    """Place of each value in its group, 0 for the largest, the first of equals before the others; groups are contiguous."""
    order = values.argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device) - start[group[order]]
    return place


def touching(graphs: Graphs, nodes: Tensor) -> Tensor:
    """The edges with at least one end among the nodes (bool [N]): bool [E]."""
    return nodes[graphs.edge_index].any(0)


def touched(graphs: Graphs, edges: Tensor) -> Tensor:
    """The nodes at the ends of these edges (bool [E]): bool [N]."""
    none = torch.zeros(len(graphs.x), dtype=torch.bool, device=graphs.x.device)
    return none.index_fill(0, graphs.edge_index[:, edges].flatten(), True)


def only(graphs: Graphs, edges: Tensor, nodes: Tensor | None = None) -> Graphs:
    """The graphs with these edges (bool [E]) and, if given, these nodes (bool [N]) alone; one left without any keeps all."""
    part = graphs.with_edges(edges)
    if nodes is None:
        return part
    left = torch.bincount(graphs.batch[nodes], minlength=len(graphs))
    nodes = nodes | (left == 0)[graphs.batch]
    ends, node_ptr = (nodes.cumsum(0) - 1)[part.edge_index], pointer(torch.where(left == 0, graphs.n_nodes, left))
    return Graphs(graphs.x[nodes], ends, node_ptr, part.edge_ptr, part.edge_attr, part.edge_weight, part.edge_mask)


def confidence(victim: Victim, graphs: Graphs, classes: Tensor) -> Tensor:
    """The probability of each graph's class: float [G]."""
    return victim.predict(graphs).softmax(1).gather(1, classes[:, None])[:, 0]


def fidelity(victim: Victim, graphs: Graphs, edges: Tensor, classes: Tensor, degrees: bool) -> tuple[Tensor, Tensor]:
    """(fid+, fid-): how much the probability of the class falls without these edges (bool [E]), and with them and their ends
    alone; float [G] each. degrees: features are degrees, to be counted anew."""
    whole = confidence(victim, graphs, classes)
    without, alone = only(graphs, ~edges), only(graphs, edges, touched(graphs, edges))
    if degrees:
        without, alone = with_degrees(without), with_degrees(alone)
    return whole - confidence(victim, without, classes), whole - confidence(victim, alone, classes)
