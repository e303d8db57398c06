"""Pairs that no edge joins, drawn without looking at each."""

from __future__ import annotations

import itertools

import pytest
import torch

from ostiary.modality.graphs import Graphs
from ostiary.modality.pairs import AT_ONCE, absent, pair
from ostiary.testing import toys


@pytest.mark.parametrize("n", [2, 3, 7, 40])
def test_every_place_is_one_pair_in_order(n: int) -> None:
    pairs = list(itertools.combinations(range(n), 2))
    low, high = pair(torch.arange(len(pairs)), torch.tensor(n))
    assert list(zip(low.tolist(), high.tolist(), strict=True)) == pairs


def test_places_of_large_graphs_are_exact() -> None:
    n = 3_000_000
    for low in (0, 1, 12_345, n // 2, n - 2):
        at = low * (2 * n - low - 1) // 2
        found = pair(torch.tensor([at, at + n - low - 2]), torch.tensor([n, n]))
        assert torch.stack(found).T.tolist() == [[low, low + 1], [low, n - 1]]


def test_pairs_come_with_their_chance_and_never_where_an_edge_is() -> None:
    n, many, p = 12, 20000, 0.15
    ring = torch.tensor([[i, (i + 1) % n] for i in range(n)]).T
    one = Graphs.build(torch.zeros(n, 1), torch.cat([ring, ring.flip(0)], 1), torch.tensor([n]))
    graphs = one.take(torch.zeros(many, dtype=torch.int64))
    new = absent(graphs, p, 3, torch.arange(many))
    a, b = new - graphs.node_ptr[graphs.batch[new[0]]]
    assert torch.equal(graphs.batch[new[0]], graphs.batch[new[1]])
    count = torch.zeros(n, n).index_put((a, b), torch.ones(()), accumulate=True)
    assert torch.equal(count, count.T) and float(count.diagonal().sum()) == 0
    assert float(count[ring[0], ring[1]].sum()) == 0
    free = torch.ones(n, n, dtype=torch.bool).triu(1)
    free[torch.minimum(*ring), torch.maximum(*ring)] = False
    assert float((count[free] / many - p).abs().max()) < 5 * (p * (1 - p) / many) ** 0.5
    held = torch.bincount(graphs.batch[new[0]], minlength=many).double() / 2
    assert float(held.var()) == pytest.approx(int(free.sum()) * p * (1 - p), rel=0.05)  # as of independent pairs


def test_dense_draws_and_graphs_without_pairs() -> None:
    inputs = Graphs.build(torch.zeros(81, 1), torch.zeros(2, 0, dtype=torch.int64), torch.tensor([0, 1, 80]))
    new = absent(inputs, 0.9, 0, torch.arange(3))
    assert new.shape[1] / 2 > 5 * AT_ONCE and int(new.min()) >= 1
    assert new.shape[1] / (80 * 79) == pytest.approx(0.9, abs=0.02)
    assert absent(inputs.take(torch.tensor([0, 1])), 0.9, 0, torch.arange(2)).shape == (2, 0)
    assert absent(inputs.take(torch.zeros(0, dtype=torch.int64)), 0.9, 0, torch.arange(0)).shape == (2, 0)


def test_a_draw_depends_on_the_graph_and_its_id_alone() -> None:
    inputs = toys.splits("graph").clean.inputs
    ids = torch.arange(len(inputs)) * 7
    whole = absent(inputs, 0.1, 5, ids)
    for g in (0, 3, len(inputs) - 1):
        alone = absent(inputs.take(torch.tensor([g])), 0.1, 5, ids[g : g + 1])
        mine = whole[:, inputs.batch[whole[0]] == g] - inputs.node_ptr[g]
        assert sorted(mine.T.tolist()) == sorted(alone.T.tolist())


def test_edges_are_added_as_if_the_graphs_had_been_built_with_them() -> None:
    inputs = toys.splits("graph").clean.inputs
    width = torch.rand(inputs.edge_index.shape[1], 2)
    held = Graphs.build(inputs.x, inputs.edge_index, inputs.n_nodes, edge_attr=width, edge_weight=width[:, 0])
    new = absent(held, 0.1, 5, torch.arange(len(held)))
    found = held.with_added(new)
    attr, weight = torch.cat([width, torch.zeros(new.shape[1], 2)]), torch.cat([width[:, 0], torch.ones(new.shape[1])])
    built = Graphs.build(inputs.x, torch.cat([held.edge_index, new], 1), inputs.n_nodes, edge_attr=attr, edge_weight=weight)
    for name in ("x", "edge_index", "node_ptr", "edge_ptr", "edge_attr", "edge_weight"):
        assert torch.equal(getattr(found, name), getattr(built, name)), name
    assert torch.equal(found.n_edges, built.n_edges) and found.symmetric
