"""Positions: which nodes, distinct, keyed by the graph alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ostiary.component import build
from ostiary.errors import BadSpec
from ostiary.modality.graphs import Graphs, with_degrees
from ostiary.models.victim import Victim
from ostiary.testing import toys
from ostiary.triggers.positions.asked import Impact
from ostiary.triggers.positions.base import Ranked

NAMES = ["random", "degree", "dense", "explained", "impact"]


def chosen(name: str, graphs: Graphs, ids: Tensor, size: int = 4, **options: Any) -> Tensor:
    position = build("position", {"name": name, **options})
    found: Tensor = position.choose(graphs, size, ids, 7, toys.victim("graph") if position.asks else None)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_nodes_are_distinct_and_of_their_graph_and_do_not_depend_on_the_batch(name: str) -> None:
    part = toys.splits("graph").test
    graphs = part.inputs
    found = chosen(name, graphs, part.ids)
    assert tuple(found.shape) == (len(graphs), 4)
    assert bool((graphs.batch[found] == torch.arange(len(graphs))[:, None]).all())
    assert all(len(set(row)) == 4 for row in found.tolist())
    for at in (torch.arange(len(part)).flip(0), torch.tensor([3, 5])):
        some = part.take(at)
        apart = chosen(name, some.inputs, some.ids) - some.inputs.node_ptr[:-1, None]
        assert torch.equal(apart, (found - graphs.node_ptr[:-1, None])[at])


@pytest.mark.parametrize("name", NAMES)
def test_small_graphs_give_all_their_nodes(name: str) -> None:
    x = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 3, 0]), 4).float()
    edges = torch.tensor([[0, 1, 2, 3, 3, 4], [1, 0, 3, 2, 4, 3]])
    found = chosen(name, Graphs.build(x, edges, torch.tensor([2, 3])), torch.arange(2))
    assert sorted(found[0].tolist()) == [-1, -1, 0, 1]
    assert sorted(found[1].tolist()) == [-1, 2, 3, 4]


class Given(Ranked):
    """Scores of one's own."""

    def __init__(self, scores: Tensor) -> None:
        object.__setattr__(self, "scores", scores)

    def score(self, graphs: Graphs, ids: Tensor, seed: int, model: Victim | None) -> Tensor:
        return self.scores


@pytest.mark.parametrize("start", [0.545204417, 1.0, 300.0])
def test_scores_that_differ_by_rounding_share_a_level(start: float) -> None:
    graphs = star_and_triangle()
    scores = start * torch.tensor([1.0, 1 - 2e-6, 0.5, 0.5 + 2e-6, 0.1, 0.1, 1 - 4e-6, 0.0])
    level = Given(scores).level(graphs, torch.zeros(1, dtype=torch.int64), 0, None)
    assert level.tolist() == [0, 0, -1, -1, -2, -2, 0, -3]


def star_and_triangle() -> Graphs:
    """Node 0 has three leaves, one of which (1) reaches the triangle 4-5-6 through 4; 7 stands alone."""
    pairs = torch.tensor([[0, 1], [0, 2], [0, 3], [1, 4], [4, 5], [5, 6], [4, 6]]).t()
    return Graphs.build(torch.eye(8, 4), torch.cat([pairs, pairs.flip(0)], 1), torch.tensor([8]))


def test_degree_takes_either_end() -> None:
    graphs, ids = star_and_triangle(), torch.zeros(1, dtype=torch.int64)
    assert set(chosen("degree", graphs, ids, 2)[0].tolist()) == {0, 4}
    assert chosen("degree", graphs, ids, 1, end="lowest").tolist() == [[7]]


def test_dense_grows_where_the_links_are() -> None:
    graphs = star_and_triangle()
    keyed = [chosen("dense", graphs, torch.tensor([i]), 3)[0].tolist() for i in range(20)]
    assert {row[0] for row in keyed} == {0, 4}, "ties are broken by the graph's id"
    assert all(set(row) == {4, 5, 6} for row in keyed if row[0] == 4 and row[1] in (5, 6))
    assert all(7 not in row for row in keyed)


def test_explained_ends_are_opposite() -> None:
    part = toys.splits("graph").clean
    most, least = (chosen("explained", part.inputs, part.ids, 3, end=end) for end in ("most", "least"))
    shared = [len(set(a) & set(b)) for a, b in zip(most.tolist(), least.tolist(), strict=True)]
    assert sum(shared) == 0


def test_impact_equals_a_loop_over_nodes() -> None:
    part, victim = toys.splits("graph").clean, toys.victim("graph")
    graphs = part.inputs
    found = chosen("impact", graphs, part.ids, 3, candidates=40)
    before = victim.predict(graphs)
    for g in range(5):
        nodes = (graphs.batch == g).nonzero().flatten().tolist()
        scores = {}
        for node in nodes:
            keep = (graphs.edge_index != node).all(0)
            cut = Graphs.build(graphs.x, graphs.edge_index[:, keep], graphs.n_nodes)
            scores[node] = float((victim.predict(cut) - before)[g].square().mean())
        best = sorted(scores.values(), reverse=True)[:3]
        assert [scores[n] for n in found[g].tolist()] == pytest.approx(best, rel=1e-3)


def test_impact_counts_degrees_anew_and_no_other_features() -> None:
    part, victim = toys.splits("graph").clean, toys.victim("graph")
    graphs = with_degrees(part.inputs)
    mixed = torch.where(graphs.batch[:, None] < 5, graphs.x, part.inputs.x)
    graphs, before = graphs.with_(x=mixed), victim.predict(graphs.with_(x=mixed))
    found = Impact(candidates=40).score(graphs, part.ids, 7, victim)
    for g in range(10):
        nodes = (graphs.batch == g).nonzero().flatten()
        scores = []
        for node in nodes.tolist():
            cut = graphs.with_edges((graphs.edge_index != node).all(0))
            cut = with_degrees(cut).take(torch.tensor([g])) if g < 5 else cut.take(torch.tensor([g]))
            scores.append(float((victim.predict(cut)[0] - before[g]).square().mean()))
        wanted = torch.tensor(scores, dtype=torch.float64)
        assert torch.allclose(found[nodes].double(), wanted / wanted.max(), atol=1e-3)


class Extreme(Ranked):
    """Not registered: small differences in the first graph, huge ones in the last."""

    def score(self, graphs: Graphs, ids: Tensor, seed: int, model: Victim | None) -> Tensor:
        place = torch.arange(len(graphs.x)) - graphs.node_ptr[graphs.batch]
        return place * torch.where(ids == 0, 1e-6, 1e6)[graphs.batch]


def test_a_graph_of_extreme_scores_does_not_blur_the_others() -> None:
    graphs = toys.splits("graph").test.inputs.take(torch.tensor([0, 1]))
    found = Extreme().choose(graphs, 3, torch.arange(2), 7)
    assert torch.equal(found, graphs.node_ptr[1:, None] - 1 - torch.arange(3))


class Level(Ranked, name="level-of-a-test"):
    """Every node scores its first feature."""

    asks = True

    def score(self, graphs: Graphs, ids: Tensor, seed: int, model: Victim | None) -> Tensor:
        return graphs.x[:, 0]


def test_where_no_node_stands_out_the_attack_says_that_chance_decides() -> None:
    splits, ctx = toys.splits("graph"), toys.context("graph")
    graphs, ids = splits.train.inputs, splits.train.ids
    alike = graphs.with_(x=torch.ones_like(graphs.x))
    assert bool(Level().undecided(alike, 3, ids, 0)[graphs.n_nodes > 3].all())
    apart = graphs.with_(x=torch.arange(len(graphs.x))[:, None].expand_as(graphs.x).float())
    assert not bool(Level().undecided(apart, 1, ids, 0).any())

    made = build("attack", {"name": "exp-ba", "rate": 0.1, "size": 3}).poison(splits, ctx)
    assert not any("positions are random" in d for d in made.doubts)
    blind = made.trigger.replace(state={k: torch.zeros_like(v) for k, v in made.trigger.state.items()})
    said = blind.doubts(splits.train.take(made.index).inputs, made.index, seed=0)
    n = len(made.index)
    assert len(said) == 1 and said[0].startswith(f"in {n} of {n} graphs to poison") and "positions are random" in said[0]


class OfAttributes(nn.Module):
    """What it says depends on the edges' attributes alone, without which it cannot be called."""

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor, batch: Tensor) -> Tensor:
        per_node = x.new_zeros(len(x), 2).index_add(0, edge_index[1], edge_attr.expand(-1, 2))
        return x.new_zeros(int(batch.max()) + 1, 2).index_add(0, batch, per_node)


def test_impact_leaves_the_attributes_of_the_other_edges() -> None:
    graphs = toys.splits("graph").test.take(torch.arange(3)).inputs
    graphs = replace(graphs, edge_attr=torch.zeros(graphs.edge_index.shape[1], 1))
    found = build("position", "impact").score(graphs, torch.arange(3), 0, Victim(OfAttributes(), "graph"))
    assert float(found.max()) == 0.0  # attributes of nought are missed nowhere


def test_an_explainer_that_judges_by_the_batch_gives_no_positions() -> None:
    with pytest.raises(BadSpec, match="explainer 'pg-explainer' judges a graph by what comes with it"):
        build("position", {"name": "explained", "explainer": "pg-explainer"})
