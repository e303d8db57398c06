"""What an explanation picks out, on graphs made by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ostiary.errors import Unsupported
from ostiary.explainers.base import Attribution
from ostiary.explainers.fidelity import (
    best_edges,
    best_nodes,
    edge_scores,
    fidelity,
    node_scores,
    only,
    touched,
    touching,
    undirected,
)
from ostiary.modality.graphs import Graphs, degree_features
from ostiary.models.victim import Victim


def graphs(*edges: list[tuple[int, int]], n_nodes: list[int]) -> Graphs:
    """Undirected edges of each graph, by the graph's own node numbers; the one feature is 1."""
    start = [sum(n_nodes[:i]) for i in range(len(n_nodes))]
    pairs = [(u + s, v + s) for own, s in zip(edges, start, strict=True) for u, v in own]
    one_way = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).t()
    ends = torch.cat([one_way, one_way.flip(0)[:, one_way[0] != one_way[1]]], 1)
    return Graphs.build(torch.ones(sum(n_nodes), 1), ends, torch.tensor(n_nodes))


def pairs(found: Graphs, edges: Tensor) -> list[tuple[int, int]]:
    return sorted((int(u), int(v)) for u, v in found.edge_index[:, edges].t())


def scored(found: Graphs, values: dict[tuple[int, int], float]) -> Tensor:
    return torch.tensor([values.get((int(u), int(v)), 0.0) for u, v in found.edge_index.t()])


class Counter(nn.Module):
    """Says class 1 as surely as a graph has edges, class 0 as it has nodes."""

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        n = int(batch.max()) + 1
        nodes, edges = torch.bincount(batch, minlength=n), torch.bincount(batch[edge_index[0]], minlength=n) / 2
        return torch.stack([nodes * x.sum() / len(x), edges], 1)


PATH_AND_TRIANGLE = graphs([(0, 1), (1, 2), (2, 3)], [(0, 1), (1, 2), (0, 2)], n_nodes=[4, 3])


def test_both_directions_are_one_edge_and_a_loop_is_one() -> None:
    found = graphs([(0, 1), (1, 1)], [], [(0, 1)], n_nodes=[2, 1, 2])
    of, graph = undirected(found)
    assert graph.tolist() == [0, 0, 2]
    assert torch.bincount(of).tolist() == [2, 1, 2]


def test_the_best_edges_are_chosen_in_each_graph_by_the_mean_of_both_directions() -> None:
    scores = scored(
        PATH_AND_TRIANGLE, {(0, 1): 3.0, (1, 0): -3.0, (2, 3): 1.0, (3, 2): 0.5, (4, 6): 9.0, (5, 6): 8.0, (6, 5): 8.0}
    )
    assert pairs(PATH_AND_TRIANGLE, best_edges(PATH_AND_TRIANGLE, scores, k=1)) == [(2, 3), (3, 2), (5, 6), (6, 5)]
    assert int(best_edges(PATH_AND_TRIANGLE, scores, k=2).sum()) == 8
    assert bool(best_edges(PATH_AND_TRIANGLE, scores, k=9).all())


def test_a_share_of_the_edges_is_at_least_one() -> None:
    chosen = best_edges(PATH_AND_TRIANGLE, torch.zeros(12), share=0.1)
    assert torch.bincount(PATH_AND_TRIANGLE.edge_batch[chosen]).tolist() == [2, 2]
    assert int(best_edges(PATH_AND_TRIANGLE, torch.zeros(12), share=2 / 3).sum()) == 8
    bare = graphs([], [(0, 1)], n_nodes=[3, 2])
    assert best_edges(bare, torch.zeros(2), share=0.1).tolist() == [True, True]


def test_nodes_their_edges_and_the_part_they_make() -> None:
    chosen = best_nodes(PATH_AND_TRIANGLE, torch.tensor([5.0, 1, 2, 3, 0, 0, 1]), 1)
    assert chosen.nonzero()[:, 0].tolist() == [0, 6]
    edges = touching(PATH_AND_TRIANGLE, chosen)
    assert pairs(PATH_AND_TRIANGLE, edges) == [(0, 1), (1, 0), (4, 6), (5, 6), (6, 4), (6, 5)]
    assert touched(PATH_AND_TRIANGLE, edges).tolist() == [True, True, False, False, True, True, True]
    part = only(PATH_AND_TRIANGLE, edges, touched(PATH_AND_TRIANGLE, edges))
    assert part.n_nodes.tolist() == [2, 3]
    assert part.n_edges.tolist() == [2, 4]
    assert pairs(part, torch.ones(6, dtype=torch.bool)) == [(0, 1), (1, 0), (2, 4), (3, 4), (4, 2), (4, 3)]


def test_columns_of_edges_go_with_them_and_a_graph_without_any_keeps_its_nodes() -> None:
    whole = PATH_AND_TRIANGLE.with_(edge_attr=torch.arange(12.0)[:, None], edge_mask=torch.arange(12.0))
    first = whole.edge_batch == 0
    part = only(whole, ~first, touched(whole, ~first))
    assert part.n_nodes.tolist() == [4, 3]
    assert part.n_edges.tolist() == [0, 6]
    assert part.edge_attr is not None and part.edge_attr[:, 0].tolist() == [6, 7, 8, 9, 10, 11]
    assert part.edge_mask is not None and part.edge_mask.tolist() == [6, 7, 8, 9, 10, 11]


def test_fidelity_is_what_the_class_loses() -> None:
    def sure(nodes: float, edges: float) -> float:
        return float(torch.tensor([nodes, edges], dtype=torch.float32).softmax(0)[1])

    edges = best_edges(PATH_AND_TRIANGLE, scored(PATH_AND_TRIANGLE, {(0, 1): 1.0, (4, 5): 1.0}), k=1)
    plus, minus = fidelity(Victim(Counter(), "graph"), PATH_AND_TRIANGLE, edges, torch.tensor([1, 1]), False)
    assert plus.tolist() == pytest.approx([sure(4, 3) - sure(4, 2), sure(3, 3) - sure(3, 2)])
    assert minus.tolist() == pytest.approx([sure(4, 3) - sure(2, 1), sure(3, 3) - sure(2, 1)])


def test_scores_of_one_kind_stand_for_the_other() -> None:
    path = graphs([(0, 1), (1, 2)], n_nodes=[3])
    assert edge_scores(path, Attribution(nodes=torch.tensor([1.0, 3.0, 5.0]))).tolist() == [2, 2, 4, 4]
    assert node_scores(path, Attribution(edges=torch.tensor([1.0, 2.0, 3.0, 4.0]))).tolist() == [3, 10, 7]
    with pytest.raises(Unsupported, match="neither nodes nor edges"):
        edge_scores(path, Attribution())


class ByDegree(nn.Module):
    """Says class 1 as surely as nodes have, by their features, a degree of 2; class 0 at none."""

    def forward(self, x: Tensor, batch: Tensor) -> Tensor:
        two = torch.zeros(int(batch.max()) + 1).index_add(0, batch, x[:, 2])
        return torch.stack([torch.zeros_like(two), two], 1)


@pytest.mark.parametrize("degrees", [True, False])
def test_degrees_are_counted_anew_without_the_edges(degrees: bool) -> None:
    held = PATH_AND_TRIANGLE
    counted = held.with_(x=degree_features(held.edge_index, len(held.x), 4))
    every = torch.ones(held.edge_index.shape[1], dtype=torch.bool)
    plus, minus = fidelity(Victim(ByDegree(), "graph", head=""), counted, every, torch.ones(2, dtype=torch.int64), degrees)
    expected = torch.tensor([2.0, 3.0]).sigmoid() - 0.5 if degrees else torch.zeros(2)
    torch.testing.assert_close(plus, expected)
    torch.testing.assert_close(minus, torch.zeros(2))  # the explanation holds all edges
