"""Pieces, variances and bends of graphs and curves made by hand."""

from __future__ import annotations

import pytest
import torch

from ostiary.detectors.explanation_metrics import bend, components, degree_variance
from ostiary.modality.graphs import Graphs


def undirected(x: int, pairs: list[tuple[int, int]], n_nodes: list[int]) -> Graphs:
    one_way = torch.tensor(pairs).t()
    return Graphs.build(torch.ones(x, 1), torch.cat([one_way, one_way.flip(0)], 1), torch.tensor(n_nodes))


def test_pieces_are_counted_in_each_graph() -> None:
    # a long path whose middle edge is missing; a triangle; a graph of which nothing is chosen
    path = [(i, i + 1) for i in (4, 3, 0, 1, 5)]
    graphs = undirected(12, [*path, (7, 8), (8, 9), (7, 9), (10, 11)], [7, 3, 2])
    edges = graphs.edge_batch < 2
    assert components(graphs, edges).tolist() == [2, 1, 0]


def test_variance_of_degrees() -> None:
    graphs = undirected(7, [(0, 1), (0, 2), (0, 3), (4, 5)], [4, 3])
    every = torch.ones(8, dtype=torch.bool)
    star, pair = degree_variance(graphs, every, torch.ones(7, dtype=torch.bool)).tolist()
    assert star == pytest.approx(0.75)  # 3, 1, 1, 1
    assert pair == pytest.approx(2 / 9)  # 1, 1, 0
    touched = torch.tensor([True] * 6 + [False])
    assert degree_variance(graphs, every, touched).tolist() == pytest.approx([0.75, 0.0])


def test_elbow_and_curvature_know_where_a_curve_bends() -> None:
    t = torch.linspace(0, 1, 101)[:, None]
    early, late = torch.maximum(1 - 10 * t, 0 * t), torch.maximum(1 - 2 * t, 0 * t)
    elbow, curvature = bend(torch.cat([early, late, 7 * late + 3, 1 - t, 0 * t, 1 - t * t], 1))
    assert elbow.tolist() == pytest.approx([0.1, 0.5, 0.5, 1, 1, 1], abs=1e-6)
    assert curvature.tolist() == pytest.approx([20, 4, 4, 0, 0, 0], abs=1e-3)


def test_a_parabola_has_its_own_curvature() -> None:
    t = torch.linspace(0, 1, 101, dtype=torch.float64)[:, None]
    elbow, curvature = bend((1 - t).square())
    assert float(elbow) == pytest.approx(0.5)
    assert float(curvature) == pytest.approx(2.0)
