"""Nodes of a shared graph: triggers come, are told apart, and go again without a trace."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ostiary.component import build
from ostiary.errors import InvalidInput
from ostiary.modality.graphs import Graphs
from ostiary.modality.node import NodeModality
from ostiary.modality.nodes import Nodes, egos, induced, join, original
from ostiary.models.victim import Victim
from ostiary.testing.promises import equal
from ostiary.training.trainer import Trainer

NODE = NodeModality()
PAIRS = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])  # a path of five nodes, and node 5 alone
HERE = torch.tensor([4, 1])


def path(roots: list[int] | None = None, d: int = 3) -> Nodes:
    x = torch.arange(6.0)[:, None] + torch.arange(d) / 10
    graph = Graphs.build(x, torch.cat([PAIRS, PAIRS.flip(0)], 1), torch.tensor([6]))
    return Nodes.of(graph, None if roots is None else torch.tensor(roots))


def marked(nodes: Nodes) -> Nodes:
    """Two joined new nodes per root, whose features name the root."""
    features = 100 + nodes.roots[:, None, None] + torch.zeros(len(nodes), 2, nodes.x.shape[1])
    return nodes.attach(features, (1 - torch.eye(2)).expand(len(nodes), 2, 2))


def pairs(nodes: Nodes) -> set[tuple[int, int]]:
    return {(a, b) for a, b in nodes.edge_index.t().tolist() if a < b}


def random_nodes(n: int = 40) -> Nodes:
    rng = torch.Generator().manual_seed(3)
    pairs = torch.combinations(torch.arange(n))[torch.rand(n * (n - 1) // 2, generator=rng) < 0.1].t()
    x = (torch.rand(n, 12, generator=rng) < 0.1).float()
    return Nodes.of(Graphs.build(x, torch.cat([pairs, pairs.flip(0)], 1), torch.tensor([n])))


def net(layers: int = 2) -> Victim:
    data = {"width": 12, "classes": 3, "level": "node"}
    return build("victim", {"name": "gcn", "hidden": 8, "layers": layers}).rebuild(data, NODE, 0).eval()


def test_attached_nodes_hang_on_their_root_and_name_it() -> None:
    found = marked(path([4, 1]))
    assert pairs(found) == {(0, 1), (1, 2), (2, 3), (3, 4), (1, 6), (6, 7), (4, 8), (8, 9)}
    assert found.owner.tolist() == [-1] * 6 + [1, 1, 4, 4]
    assert found.roots.tolist() == [4, 1]
    assert found.x[6:, 0].tolist() == [101, 101, 104, 104]
    NODE.validate(found, "marked")


def test_what_is_attached_does_not_depend_on_the_order_of_the_roots() -> None:
    assert equal(NODE.pack(marked(path([4, 1]))), NODE.pack(NODE.take(marked(path([1, 4])), torch.tensor([1, 0]))))


def test_take_leaves_only_the_triggers_of_its_roots() -> None:
    whole = marked(path([4, 1, 2]))
    assert equal(NODE.pack(whole.take(torch.tensor([1]))), NODE.pack(marked(path([1]))))
    assert equal(NODE.pack(whole.take(torch.tensor([], dtype=torch.int64))), NODE.pack(path([])))


def test_take_shares_the_store_while_nothing_is_dropped() -> None:
    """So that full-batch training, which takes all roots in another order at each step, sorts no edge twice."""
    for nodes in (path(), marked(path([4, 1]))):
        assert nodes.take(torch.randperm(len(nodes))).graphs is nodes.graphs


def test_training_on_the_whole_graph_builds_its_structure_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data = build("dataset", {"name": "sbm", "nodes": 60, "sizes": [1, 1], "edges": 90, "words": 20}).load(0).train
    made = []
    whole = Graphs.__dict__["by_source"].func
    monkeypatch.setattr(Graphs.__dict__["by_source"], "func", lambda self: made.append(1) or whole(self))
    Trainer(epochs=5, batch_size=1000).fit(build("victim", "gcn").make(data, 0), data, 0)
    assert len(made) == 1


def test_put_stamps_rows_and_leaves_the_rest() -> None:
    nodes = path()
    once = NODE.put(nodes, HERE, marked(nodes.take(HERE)))
    assert once.roots.tolist() == list(range(6))
    assert equal(NODE.pack(once.take(HERE)), NODE.pack(marked(path([4, 1]))))
    rest = torch.tensor([0, 2, 3, 5])
    assert equal(NODE.pack(once.take(rest)), NODE.pack(nodes.take(rest)))
    other = torch.tensor([2])
    twice = NODE.put(once, other, marked(once.take(other)))
    assert equal(NODE.pack(twice.take(torch.tensor([4, 1, 2]))), NODE.pack(marked(path([4, 1, 2]))))
    again = NODE.put(twice, HERE, nodes.take(HERE))  # replaced by rows without a trigger
    assert equal(NODE.pack(again), NODE.pack(NODE.put(nodes, other, marked(nodes.take(other)))))


def test_join_shares_one_graph_or_keeps_two_where_a_root_is_both_stamped_and_not() -> None:
    shared = join([marked(path([4])), marked(path([1]))])
    assert equal(NODE.pack(shared), NODE.pack(marked(path([4, 1]))))
    assert join([path([0, 1]), path([1, 2])]).graphs.num_graphs == 1
    apart = join([path([1, 2]), marked(path([1]))])
    assert apart.graphs.num_graphs == 2
    assert apart.roots.tolist() == [1, 2, 7]
    assert apart.owner.tolist() == [-1] * 12 + [7, 7]
    assert equal(NODE.pack(original(apart)), NODE.pack(join_stores(path([1, 2]), path([1]))))
    other = replace(path([3]), graphs=path([3]).graphs.with_(x=path([3]).x + 1))
    assert join([path([1]), other]).graphs.num_graphs == 2


def join_stores(a: Nodes, b: Nodes) -> Nodes:
    from ostiary.modality.graphs import join as join_graphs

    return Nodes.of(join_graphs([a.graphs, b.graphs]), torch.cat([a.roots, b.roots + len(a.x)]))


def test_triggers_in_two_graphs_stay_in_their_graph() -> None:
    two = join_stores(path([1]), path([4]))
    found = marked(two)
    NODE.validate(found, "marked")
    assert found.graphs.n_nodes.tolist() == [8, 8]
    assert found.owner.tolist() == [-1] * 6 + [1, 1] + [-1] * 6 + [12, 12]
    assert found.roots.tolist() == [1, 12]
    assert equal(NODE.pack(found.take(torch.tensor([], dtype=torch.int64))), NODE.pack(two.take(torch.tensor([]).long())))


def test_joined_graphs_do_not_see_each_other() -> None:
    nodes, victim = random_nodes(), net()
    stamped = nodes.attach(torch.ones(40, 2, 12), torch.ones(40, 2, 2))
    both = join([nodes, stamped])
    expected = torch.cat([victim.predict(nodes), victim.predict(stamped)])
    assert torch.allclose(victim.predict(both), expected, atol=1e-6)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(victim.predict(both.take(order)), expected[order], atol=1e-6)


def test_changed_features_go_back_with_their_root() -> None:
    nodes = path([4, 1])
    found = nodes.alter(torch.full((2, 3), 9.0))
    assert found.changed.tolist() == [1, 4]
    assert found.x[[1, 4]].eq(9).all() and equal({"x": found.x[[0, 2, 3, 5]]}, {"x": nodes.x[[0, 2, 3, 5]]})
    one = found.take(torch.tensor([0]))
    assert one.changed.tolist() == [4] and torch.equal(one.x[1], nodes.x[1])
    assert equal(NODE.pack(original(found)), NODE.pack(nodes))
    twice = found.alter(torch.full((2, 3), 5.0))
    assert twice.x[[1, 4]].eq(5).all() and equal(NODE.pack(original(twice)), NODE.pack(nodes))
    put = NODE.put(path(), HERE, found)
    assert equal(NODE.pack(put.take(HERE)), NODE.pack(found))


@pytest.mark.parametrize("nodes", [path(), marked(path([4, 1])), path([2]).alter(torch.ones(1, 3)), random_nodes()])
def test_packed_nodes_are_the_same_after_unpacking(nodes: Nodes) -> None:
    again = NODE.unpack(NODE.pack(nodes))
    assert torch.equal(again.x, nodes.x) and torch.equal(again.edge_index, nodes.edge_index)
    assert equal(NODE.pack(again), NODE.pack(nodes))


def test_mostly_empty_features_are_packed_by_their_entries() -> None:
    nodes = random_nodes()
    assert len(NODE.pack(nodes)["x.at"]) == int(nodes.x.sum())
    assert "x" in NODE.pack(path())


def test_logits_and_features_are_those_of_the_roots() -> None:
    nodes, victim = random_nodes(), net()
    logits, features = victim.embed(nodes)
    at = torch.tensor([7, 30, 7])
    few, less = victim.embed(nodes.take(at))
    assert torch.equal(few, logits[at]) and torch.equal(less, features[at])
    assert torch.allclose(victim.module.head(features), logits, atol=1e-6)
    turned = torch.arange(39, -1, -1)  # as many roots as nodes, in another order
    assert torch.equal(victim.predict(nodes.take(turned)), logits[turned])


def test_modules_of_pyg_are_called_by_argument_name() -> None:
    from torch_geometric.nn import GCN

    nodes, module = random_nodes(), GCN(12, 8, 2, 3).eval()
    expected = module(nodes.x, nodes.edge_index)[[5, 2]]
    victim = Victim(module, "node")
    assert torch.allclose(victim.predict(nodes.take(torch.tensor([5, 2]))), expected, atol=1e-6)
    weights = torch.zeros(nodes.edge_index.shape[1])
    alone = module(nodes.x, torch.zeros(2, 0, dtype=torch.int64))
    assert torch.allclose(victim(nodes.with_(edge_weight=weights)), alone, atol=1e-5)


def test_soft_triggers_say_what_hard_ones_say_and_have_gradients() -> None:
    nodes, victim = random_nodes().take(torch.tensor([3, 17])), net()
    adjacency = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]]).expand(2, 3, 3).clone().requires_grad_()
    features = torch.rand(2, 3, 12).requires_grad_()
    soft = victim(nodes.attach(features, adjacency, soft=True))
    assert torch.allclose(soft, victim(nodes.attach(features.detach(), adjacency.detach())), atol=1e-6)
    soft[:, 0].sum().backward()
    assert features.grad is not None and bool((features.grad[:, 0] != 0).any())
    assert adjacency.grad is not None and bool((adjacency.grad[:, 2, 0] != 0).any())  # an edge that is not there


def test_difference_counts_what_a_trigger_brought() -> None:
    nodes = path([4, 1, 0])
    after = marked(nodes.take(torch.tensor([0, 1]))).alter(torch.tensor([[4, 4.1, 4.2], [9, 9, 1.2]]))
    found = NODE.difference(nodes, NODE.put(nodes, torch.tensor([0, 1]), after))
    assert found["nodes_added"].tolist() == [2, 2, 0]
    assert found["edges_added"].tolist() == [2, 2, 0]
    assert found["features_changed"].tolist() == [0, 2, 0]
    assert found["changed"].tolist() == [1, 1, 0]


def test_neighbourhoods_by_hand() -> None:
    graphs, number, steps = egos(path([1, 5, 4]), hops=2)
    assert number.tolist() == [0, 1, 2, 3, 5, 2, 3, 4]
    assert steps.tolist() == [1, 0, 1, 2, 0, 2, 1, 0]
    assert graphs.n_nodes.tolist() == [4, 1, 3] and graphs.n_edges.tolist() == [6, 0, 4]
    assert graphs.x.shape == (8, 0)


def test_sketches_show_the_way_to_the_trigger() -> None:
    before = path([4, 1])
    first, second = NODE.sketch(before, marked(before))
    assert first["nodes"] == [2, 1, 0, 1, 2] and first["old_nodes"] == [2, 1, 0]  # nodes 2, 3, 4 and the trigger's
    assert first["edges"] == [(0, 1), (1, 2), (2, 3), (3, 4)] and first["added"] == [(2, 3), (3, 4)]
    assert first["touched"] == [2, 3, 4] and first["removed"] == []
    assert second["kind"] == "node" and second["old_nodes"] == [1, 0, 1, 2]
    changed = NODE.sketch(path([1]), path([1]).alter(torch.ones(1, 3)))[0]
    assert changed["touched"] == [1] and changed["added"] == []


def test_induced_keeps_the_roots_and_their_edges() -> None:
    found = induced(path([3, 0, 4]))
    assert found.roots.tolist() == [1, 0, 2] and pairs(found) == {(1, 2)}
    assert found.x[:, 0].tolist() == [0, 3, 4]


def test_varied_nodes_keep_their_place() -> None:
    nodes = marked(path([4, 1]))
    found = NODE.vary(nodes, torch.Generator().manual_seed(0))
    NODE.validate(found, "varied")
    assert torch.equal(found.roots, nodes.roots) and found.edge_index.shape[1] < nodes.edge_index.shape[1]


def test_what_no_model_should_see_is_refused_in_one_sentence() -> None:
    nodes = path([1])
    with pytest.raises(InvalidInput, match="roots must be numbers of nodes, 0 to 5"):
        NODE.validate(replace(nodes, roots=torch.tensor([6])), "x")
    with pytest.raises(InvalidInput, match="a node that a trigger brought cannot be an input"):
        NODE.validate(replace(marked(nodes), roots=torch.tensor([6])), "x")
    with pytest.raises(InvalidInput, match="owners for 2"):
        NODE.validate(replace(nodes, owner=torch.tensor([-1, -1])), "x")
    with pytest.raises(InvalidInput, match="NaN"):
        NODE.validate(nodes.with_(x=nodes.x * float("nan")), "x")


def test_as_held_no_trigger_can_be_told_and_none_goes_with_its_root() -> None:
    whole = marked(path([4, 1])).alter(torch.ones(2, 3))
    held = NODE.as_held(whole)
    assert torch.equal(held.x, whole.x) and torch.equal(held.edge_index, whole.edge_index) and held.pristine
    left = held.take(torch.tensor([1]))
    assert torch.equal(left.x, whole.x) and left.roots.tolist() == whole.roots[1:].tolist()
