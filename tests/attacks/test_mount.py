"""Mounting subgraphs: inner edges replaced, outer ones kept, small graphs truncated, every graph on its own."""

from __future__ import annotations

import networkx as nx
import pytest
import torch
from torch import Tensor

from ostiary.modality.graph import GraphModality
from ostiary.modality.graphs import Graphs, are_degrees, with_degrees
from ostiary.seeds import generator
from ostiary.triggers.mount import SoftMount, mount, random_score, top_nodes
from ostiary.triggers.subgraph import Subgraph

Pairs = list[tuple[int, int]]


def both_ways(pairs: Pairs) -> Tensor:
    edges = torch.tensor(pairs).view(-1, 2).t()
    return torch.cat([edges, edges.flip(0)], 1)


def literal() -> Graphs:
    """Graph 0: the square 0-1-2-3 with diagonal 0-2. Graph 1: the pair 4-5. Attributes number the pairs."""
    pairs = [(0, 1), (1, 2), (2, 3), (3, 0), (0, 2), (4, 5)]
    attr = torch.arange(1.0, 7.0).view(-1, 1).repeat(2, 1)
    return Graphs.build(torch.arange(6.0).view(6, 1), both_ways(pairs), torch.tensor([4, 2]), edge_attr=attr)


def directed(graphs: Graphs) -> Pairs:
    return sorted(zip(*graphs.edge_index.tolist(), strict=True))


def symmetric(pairs: Pairs) -> Pairs:
    return sorted([*pairs, *((b, a) for a, b in pairs)])


PATH3 = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])


def test_inner_edges_are_replaced_and_outer_kept() -> None:
    """On 0, 1, 2 the edges 01, 12, 02 go, the path 2-0-1 comes; 23 and 30 lead outside and stay."""
    chosen = torch.tensor([[2, 0, 1], [-1, -1, -1]])
    after = mount(literal(), chosen, PATH3)
    assert directed(after) == symmetric([(2, 0), (0, 1), (2, 3), (3, 0), (4, 5)])
    assert after.n_nodes.tolist() == [4, 2]
    kept = {tuple(e): a for e, a in zip(after.edge_index.t().tolist(), after.edge_attr.flatten().tolist(), strict=True)}
    assert kept[(2, 3)] == kept[(3, 2)] == 3.0, "edges that stay keep their attributes"
    assert kept[(0, 1)] == kept[(2, 0)] == 0.0, "new edges have none, also where an edge was before"


def test_small_graphs_take_the_induced_part() -> None:
    """Only the first two nodes of the trigger fit on the pair: their edge, and nothing twice."""
    after = mount(literal(), torch.tensor([[-1, -1, -1], [5, 4, -1]]), PATH3)
    assert directed(after) == directed(literal())
    gap = torch.tensor([[0.0, 0, 1], [0, 0, 1], [1, 1, 0]])  # no edge among the first two
    after = mount(literal(), torch.tensor([[-1, -1, -1], [5, 4, -1]]), gap)
    assert (4, 5) not in directed(after)
    assert (0, 1) in directed(after)


def test_every_graph_may_have_its_own_subgraph_and_features() -> None:
    adjacency = torch.stack([torch.zeros(2, 2), torch.tensor([[0.0, 1], [1, 0]])])
    features = torch.tensor([[[10.0], [11.0]], [[12.0], [13.0]]])
    after = mount(literal(), torch.tensor([[0, 2], [4, 5]]), adjacency, features)
    assert directed(after) == symmetric([(0, 1), (1, 2), (2, 3), (3, 0), (4, 5)])
    assert after.x.flatten().tolist() == [10.0, 1.0, 11.0, 3.0, 12.0, 13.0]


def test_soft_mount_reaches_absent_edges() -> None:
    entries = torch.tensor([[0.0, 0.7, 0.0], [0.7, 0.0, 0.2], [0.0, 0.2, 0.0]], requires_grad=True)
    after = mount(literal(), torch.tensor([[0, 1, 2], [-1, -1, -1]]), entries, soft=True)
    weights = {tuple(e): w for e, w in zip(after.edge_index.t().tolist(), after.edge_weight.tolist(), strict=True)}
    assert weights == pytest.approx(
        {
            (0, 1): 0.7,
            (1, 0): 0.7,
            (1, 2): 0.2,
            (2, 1): 0.2,
            (0, 2): 0,
            (2, 0): 0,
            (2, 3): 1,
            (3, 2): 1,
            (0, 3): 1,
            (3, 0): 1,
            (4, 5): 1,
            (5, 4): 1,
        }
    )
    after.edge_weight.sum().backward()
    assert entries.grad.tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]


def test_hard_mount_and_soft_mount_of_ones_agree() -> None:
    chosen = torch.tensor([[3, 1, 0], [4, 5, -1]])
    hard, soft = mount(literal(), chosen, PATH3), mount(literal(), chosen, PATH3, soft=True)
    real = soft.edge_weight > 0.5
    assert directed(hard) == sorted(zip(*soft.edge_index[:, real].tolist(), strict=True))


def test_top_nodes_are_the_best_of_each_graph() -> None:
    score = torch.tensor([0.1, 0.9, 0.5, 0.7, 0.2, 0.3])
    assert top_nodes(literal(), score, 3).tolist() == [[1, 3, 2], [5, 4, -1]]


def test_degree_features_are_made_again_from_the_final_edges() -> None:
    pairs = [(0, 1), (1, 2), (2, 3), (3, 4)]
    path = Graphs.build(torch.zeros(5, 4), both_ways(pairs), torch.tensor([5]))
    path = with_degrees(path)
    assert are_degrees(path)
    assert path.x.argmax(1).tolist() == [1, 2, 2, 2, 1]
    clique = Subgraph(size=4, edges=((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)), degree_features=True)
    after = clique.apply(path, torch.tensor([0]), seed=1, target=torch.tensor([0]))
    assert are_degrees(after)
    assert torch.equal(after.x.argmax(1), after.in_degree.clamp(max=3)), "degrees beyond the width share its last column"
    assert int(after.in_degree.max()) >= 3
    kept = clique.replace(degree_features=False).apply(path, torch.tensor([0]), seed=1, target=torch.tensor([0]))
    assert torch.equal(kept.x, path.x)


def many(n: int) -> Graphs:
    """Random trees of 1 to 12 nodes."""
    rng = generator(0, "trees")
    sizes = torch.randint(1, 13, (n,), generator=rng)
    edges, start = [], 0
    for size in sizes.tolist():
        parents = (torch.rand(size - 1, generator=rng) * torch.arange(1, size)).long()
        edges.append(torch.stack([parents, torch.arange(1, size)]) + start)
        start += size
    pairs = torch.cat(edges, 1)
    return Graphs.build(torch.ones(start, 1), torch.cat([pairs, pairs.flip(0)], 1), sizes)


def test_stamping_two_thousand_graphs_is_well_defined() -> None:
    """Each gets the clique on its own nodes, symmetric, without loops or doubled edges; equal graphs get other nodes."""
    graphs, trigger = many(2000), Subgraph(size=4, edges=((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)))
    ids = torch.arange(2000)
    after = trigger.apply(graphs, ids, seed=3, target=torch.zeros(2000, dtype=torch.int64))
    GraphModality().validate(after, "stamped")
    assert torch.equal(after.n_nodes, graphs.n_nodes)
    pairs = directed(after)
    assert len(pairs) == len(set(pairs))
    assert all(a != b for a, b in pairs)
    assert set(pairs) == {(b, a) for a, b in pairs}
    chosen = top_nodes(graphs, random_score(graphs, ids, 3), 4)
    own = chosen[chosen >= 0]
    assert len(own) == len(own.unique()) == int(graphs.n_nodes.clamp(max=4).sum())
    present = set(pairs)
    for row in chosen.tolist():
        real = [n for n in row if n >= 0]
        assert all((a, b) in present for a in real for b in real if a != b)
    outside = ~torch.isin(graphs.edge_index, own).all(0)
    assert set(zip(*graphs.edge_index[:, outside].tolist(), strict=True)) <= present
    big = (graphs.n_nodes == 12).nonzero().flatten()
    places = (chosen[big] - graphs.node_ptr[big][:, None]).sort(1)[0].tolist()
    assert len({tuple(p) for p in places}) > len(places) / 3, "positions are drawn anew for every graph"


@pytest.mark.parametrize("size", [3, 7])
def test_positions_are_uniform(size: int) -> None:
    """Every node of equal graphs is chosen about equally often."""
    n, t = 3000, size
    path = both_ways([(i, i + 1) for i in range(9)])
    shift = (10 * torch.arange(n)).repeat_interleave(path.shape[1])
    graphs = Graphs.build(torch.ones(10 * n, 1), path.repeat(1, n) + shift, torch.full((n,), 10))
    chosen = top_nodes(graphs, random_score(graphs, torch.arange(n), 5), t) - graphs.node_ptr[:-1, None]
    share = torch.bincount(chosen.flatten(), minlength=10) / n
    assert (share - t / 10).abs().max() < 0.05


def test_against_networkx_on_one_graph() -> None:
    """The same by hand: remove inner edges, add the trigger's."""
    base = nx.gnp_random_graph(12, 0.3, seed=4)
    graphs = Graphs.build(torch.ones(12, 1), both_ways(list(base.edges)), torch.tensor([12]))
    trigger = Subgraph(size=5, edges=((0, 1), (1, 2), (2, 3), (3, 4)))
    chosen = top_nodes(graphs, random_score(graphs, torch.tensor([77]), 2), 5)[0].tolist()
    base.remove_edges_from([(a, b) for a, b in list(base.edges) if a in chosen and b in chosen])
    base.add_edges_from((chosen[i], chosen[j]) for i, j in trigger.edges)
    after = trigger.apply(graphs, torch.tensor([77]), seed=2, target=torch.tensor([0]))
    assert directed(after) == symmetric([tuple(e) for e in base.edges])


def test_one_soft_mount_serves_many_adjacencies_and_features() -> None:
    chosen = torch.tensor([[2, 0, 1], [5, -1, -1]])
    onto, graphs = SoftMount(literal(), chosen), literal()
    for seed in range(3):
        rng = generator(seed, "entries")
        entries, features = torch.rand(2, 3, 3, generator=rng), torch.rand(2, 3, 1, generator=rng)
        once, anew = onto(entries, features), mount(graphs, chosen, entries, features, soft=True)
        for name in ("x", "edge_index", "edge_weight", "edge_attr", "edge_ptr", "in_degree"):
            assert torch.equal(getattr(once, name), getattr(anew, name)), name
        weights = dict(zip(directed(once), once.edge_weight[once.by_source].tolist(), strict=True))
        for i, j in ((0, 1), (1, 2), (2, 0)):
            assert weights[(int(chosen[0, i]), int(chosen[0, j]))] == pytest.approx(float(entries[0, i, j]))
        assert weights[(2, 3)] == weights[(3, 0)] == weights[(4, 5)] == 1.0
    assert torch.equal(graphs.x, literal().x)
