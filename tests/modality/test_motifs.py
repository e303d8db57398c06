"""Motif counts against networkx's subgraph search."""

from __future__ import annotations

import networkx as nx
import pytest
import torch
from networkx.algorithms.isomorphism import GraphMatcher

from ostiary.modality import motifs
from ostiary.modality.graphs import Graphs
from ostiary.modality.motifs import MOTIFS, count_motifs


def store(graphs: list[nx.Graph]) -> Graphs:
    sizes = torch.tensor([len(g) for g in graphs])
    starts = sizes.cumsum(0) - sizes
    pairs = [torch.tensor(list(g.edges), dtype=torch.int64).view(-1, 2).t() + s for g, s in zip(graphs, starts, strict=True)]
    edges = torch.cat(pairs, 1)
    return Graphs.build(torch.ones(int(sizes.sum()), 1), torch.cat([edges, edges.flip(0)], 1), sizes)


def searched(graph: nx.Graph) -> list[float]:
    found = []
    for edges in MOTIFS.values():
        motif = nx.Graph(list(edges))
        same = sum(1 for _ in GraphMatcher(motif, motif).isomorphisms_iter())
        found.append(sum(1 for _ in GraphMatcher(graph, motif).subgraph_monomorphisms_iter()) / same)
    return found


GRAPHS = [nx.gnp_random_graph(1 + s, 0.15 + 0.07 * s, seed=s) for s in range(11)] + [nx.star_graph(5), nx.complete_graph(6)]


@pytest.mark.parametrize("cells", [2**23, 100])
def test_counts_equal_a_search(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(motifs, "CELLS", cells)  # small: one graph, few edges at a time
    expected = torch.tensor([searched(g) for g in GRAPHS], dtype=torch.float64)
    assert torch.equal(count_motifs(store(GRAPHS)), expected)


def test_counts_follow_the_order_of_the_graphs() -> None:
    graphs = store(GRAPHS)
    order = torch.randperm(len(graphs), generator=torch.Generator().manual_seed(0))
    assert torch.equal(count_motifs(graphs.take(order)), count_motifs(graphs)[order])
