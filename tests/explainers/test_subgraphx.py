"""SubgraphX against exact Shapley values and exhaustive search on graphs small enough for both."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from ostiary.context import Context
from ostiary.explainers.subgraphs import Search, bits
from ostiary.explainers.subgraphx import SubgraphX
from ostiary.modality.graphs import Graphs, join
from ostiary.models.victim import Victim
from ostiary.testing import toys

WEIGHTS = torch.tensor([0.05, 0.3, 0.1, 0.12, 0.02, 0.01])


def sets(nodes: int) -> list[tuple[int, ...]]:
    found = tuple(bits(nodes))
    return [c for k in range(len(found) + 1) for c in itertools.combinations(found, k)]


def mask(nodes: tuple[int, ...]) -> int:
    return sum(1 << v for v in nodes)


def tiny(links: list[tuple[int, int]], n: int, seed: int = 0) -> Graphs:
    width = toys.splits("graph").train.inputs.x.shape[1]
    x = torch.rand(n, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    ends = torch.tensor(links).view(-1, 2).t()
    return Graphs.build(x, torch.cat([ends, ends.flip(0)], 1), torch.tensor([n]))


def probability(victim: Victim, graph: Graphs, nodes: int) -> float:
    """Of class 0 when the other nodes' features are zero."""
    shown = torch.tensor([nodes >> v & 1 for v in range(len(graph.x))])
    return float(victim.predict(graph.with_(x=graph.x * shown[:, None])).softmax(1)[0, 0])


def exact_shapley(victim: Victim, graph: Graphs, subgraph: int, players: int, far: int) -> float:
    """Of the subgraph as one player among the others."""
    m, total = players.bit_count(), 0.0
    for chosen in sets(players):
        weight = math.factorial(len(chosen)) * math.factorial(m - len(chosen)) / math.factorial(m + 1)
        rest = mask(chosen) | far
        total += weight * (probability(victim, graph, rest | subgraph) - probability(victim, graph, rest))
    return total


def searched(victim: Victim, graph: Graphs, seed: int = 0, **options: int) -> Search:
    explainer, zero = SubgraphX(**options), torch.zeros(1, dtype=torch.int64)
    return explainer.searches(victim, graph, zero, zero, seed)[0]


class Additive(nn.Module):
    """The probability of class 0 is 0.1 plus the first features of the nodes."""

    def forward(self, x: Tensor, batch: Tensor) -> Tensor:
        p = 0.1 + x.new_zeros(int(batch.max()) + 1).index_add(0, batch, x[:, 0])
        return torch.stack([p, 1 - p], 1).log()


def path(*values: float) -> Graphs:
    n = len(values)
    ends = torch.stack([torch.arange(n - 1), torch.arange(1, n)])
    return Graphs.build(torch.tensor(values)[:, None], torch.cat([ends, ends.flip(0)], 1), torch.tensor([n]))


CYCLE = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (0, 5), (1, 4)]
TREE = [(0, 1), (1, 2), (1, 3), (3, 4), (3, 5)]


@pytest.mark.parametrize("links", [CYCLE, TREE])
def test_shapley_scores_converge_to_the_exact_ones(links: list[tuple[int, int]]) -> None:
    victim, graph, whole = toys.victim("graph").double(), tiny(links, 6), 63
    search = searched(victim, graph, samples=3000, rollouts=5, hops=5)
    truth = {s: exact_shapley(victim, graph, s, whole & ~s, 0) for s in search.shapley}
    assert len(truth) > 8
    assert max(truth.values()) - min(truth.values()) > 0.1
    for subgraph, score in search.shapley.items():
        assert score == pytest.approx(truth[subgraph], abs=0.01)


def test_few_samples_are_unbiased() -> None:
    victim, graph, subgraph = toys.victim("graph").double(), tiny(TREE, 6), 0b001010
    truth = exact_shapley(victim, graph, subgraph, 63 & ~subgraph, 0)
    found = []
    for seed in range(200):
        explainer, classes = SubgraphX(samples=3, hops=5), torch.zeros(1, dtype=torch.int64)
        search = explainer.search(graph, 0, 0, seed)
        asked = {nodes: None for pair in search.coalitions(subgraph) for nodes in pair}
        shown = dict(zip(asked, explainer.shown(victim, graph, classes, [(0, m) for m in asked]), strict=True))
        found.append(sum(shown[a] - shown[b] for a, b in search.coalitions(subgraph)) / 3)
    values = torch.tensor(found)
    assert float(values.mean()) == pytest.approx(truth, abs=4 * float(values.std()) / math.sqrt(len(values)) + 1e-9)


@pytest.mark.parametrize("hops", [0, 1])
def test_only_nodes_within_the_hops_are_hidden(hops: int) -> None:
    victim, graph = toys.victim("graph").double(), tiny(TREE, 6)
    search = searched(victim, graph, samples=3000, rollouts=3, hops=hops)
    near = {s: search.reach(s) & ~s if hops else 0 for s in search.shapley}
    for s, score in search.shapley.items():
        truth = exact_shapley(victim, graph, s, near[s], 63 & ~s & ~near[s])
        assert score == pytest.approx(truth, abs=0.01 if hops else 1e-9)


def test_it_finds_what_exhaustive_search_finds() -> None:
    """Every connected subgraph of the least size or more can be reached, and with many rollouts is."""
    graph = Graphs.build(WEIGHTS[:, None], tiny(CYCLE, 6).edge_index, torch.tensor([6]))
    search = searched(Victim(Additive(), "graph"), graph, rollouts=400, least=2, samples=1)
    connected = {s for s in range(1, 64) if s.bit_count() >= 2 and len(search.parts(s)) == 1}
    assert set(search.shapley) == connected
    best = max((s for s in search.shapley if s.bit_count() == 2), key=search.shapley.__getitem__)
    assert set(bits(best)) == {1, 2}


def test_of_additive_gains_any_sample_is_exact() -> None:
    graph = path(*WEIGHTS.tolist())
    search = searched(Victim(Additive(), "graph"), graph, samples=2, rollouts=20, least=2)
    for subgraph, score in search.shapley.items():
        assert score == pytest.approx(float(WEIGHTS[list(bits(subgraph))].sum()), abs=1e-6)


def test_scores_are_the_best_value_per_node() -> None:
    """On a path, brute force over its connected parts of two nodes or more."""
    graph, n = path(*WEIGHTS.tolist()), len(WEIGHTS)
    found = SubgraphX(rollouts=100, least=2, samples=1).explain(
        Victim(Additive(), "graph"), graph, Context(), torch.zeros(1, dtype=torch.int64)
    )
    spans = [(a, b) for a in range(n) for b in range(a + 2, n + 1)]
    expected = torch.stack([max(WEIGHTS[a:b].mean() for a, b in spans if a <= v < b) for v in range(n)])
    torch.testing.assert_close(found.nodes, expected)
    torch.testing.assert_close(found.edges, expected[graph.edge_index].amin(0))
    assert found.nodes.argmax() == 1


def test_twins_score_alike_with_many_samples() -> None:
    graph = tiny([(0, 1), (0, 2), (0, 3), (3, 4)], 5)
    graph.x[2] = graph.x[1]
    found = SubgraphX(samples=2000, rollouts=60, least=1).explain(
        toys.victim("graph").double(), graph, Context(), torch.zeros(1, dtype=torch.int64)
    )
    assert abs(float(found.nodes[1] - found.nodes[2])) < 0.01
    assert float(found.nodes.max() - found.nodes.min()) > 0.03


def test_pruning_by_hand() -> None:
    star = Search([0b1110, 1, 1, 1], [0], least=2, expand=2, hops=1, explore=1.0)
    assert star.pruned(0b1111) == [0b1101, 0b1011]  # two leaves of three; the hub has most neighbours
    assert star.pruned(0b1110) == [0b0010, 0b0100, 0b1000]  # not connected: its parts, however small
    wide = Search([0b1110, 1, 1, 1], [0], least=2, expand=9, hops=1, explore=1.0)
    assert wide.pruned(0b1111) == [0b1101, 0b1011, 0b0111]  # without the hub nothing of two nodes is left
    assert star.coalitions(0b0010) == [(0b1110, 0b1100)]  # the hub is near and hidden, the leaves far and shown


def test_more_nodes_than_a_word_has_bits() -> None:
    n, options = 70, {"rollouts": 1, "least": 68, "samples": 2, "hops": 1}
    graph = path(*[0.001] * 67, 0.2, 0.3, 0.1)
    search = searched(Victim(Additive(), "graph"), graph, **options)
    assert search.shapley[(1 << n) - 1] == pytest.approx(0.667, abs=1e-5)
    one = 1 << 68
    shown = SubgraphX().shown(Victim(Additive(), "graph"), graph, torch.zeros(1, dtype=torch.int64), [(0, one), (0, 0)])
    assert shown == pytest.approx([0.4, 0.1], abs=1e-6)


def test_graphs_of_other_sizes_share_a_batch() -> None:
    victim, graphs = Victim(Additive(), "graph"), join([path(0.1, 0.2), path(*[0.01] * 9, 0.3), path(0.5)])
    asked = [(0, 0b10), (1, 1 << 9 | 1), (2, 1), (1, 0), (2, 0)]
    found = SubgraphX(chunk=2).shown(victim, graphs, torch.zeros(3, dtype=torch.int64), asked)
    assert found == pytest.approx([0.3, 0.41, 0.6, 0.1, 0.1], abs=1e-6)
