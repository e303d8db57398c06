"""Edge-drop smoothing of a node classifier: the copies, what they depend on, votes and certificates."""

from __future__ import annotations

import torch

from ostiary.evidence import Evidence
from ostiary.modality.graphs import Graphs
from ostiary.modality.nodes import Nodes, names
from ostiary.models.votes import ballots
from ostiary.purifiers.edge_drop import Dropped, EdgeDrop
from ostiary.testing import toys


def ring(n: int = 8) -> Nodes:
    ends = torch.stack([torch.arange(n), (torch.arange(n) + 1) % n])
    return Nodes.of(Graphs.build(torch.eye(n), torch.cat([ends, ends.flip(0)], 1), torch.tensor([n])))


def triangles(nodes: Nodes) -> Nodes:
    """Three new nodes at every root, joined to one another."""
    matrix = 1 - torch.eye(3)
    return nodes.attach(torch.full((len(nodes), 3, nodes.x.shape[1]), 0.5), matrix.expand(len(nodes), 3, 3))


def named(shown: Nodes, of: Nodes) -> set[tuple[int, int]]:
    """The edges of one copy of `of`, by the names of their ends."""
    each = names(of)
    return {(int(each[a]), int(each[b])) for a, b in shown.edge_index.T.tolist()}


def test_names_stay_when_other_triggers_go() -> None:
    nodes = triangles(ring().take(torch.tensor([1, 4, 6])))
    part = nodes.take(torch.tensor([2]))
    whole = dict(zip(names(nodes).tolist(), nodes.x.sum(1).tolist(), strict=True))
    assert len(whole) == 8 + 9
    assert names(part).tolist() == [*range(8), *(2**30 + 64 * 6 + i for i in range(3))]
    assert set(names(part).tolist()) <= set(whole)


def test_a_copy_for_every_view_and_the_same_for_whoever_is_asked() -> None:
    nodes, view = triangles(ring().take(torch.tensor([1, 4, 6]))), Dropped(0.5, 9, key=3, degrees=False)
    seen = view(nodes.take(torch.tensor([0, 1, 2, 0])), torch.tensor([5, 5, 2, 2]))
    assert len(seen.graphs) == 2  # views 2 and 5
    assert (seen.roots % len(nodes.x)).tolist() == [1, 4, 6, 1]
    assert (seen.roots // len(nodes.x)).tolist() == [1, 1, 0, 0]
    lone = nodes.take(torch.tensor([1]))
    alone = named(view(lone, torch.tensor([5])), lone)
    together = named(view(nodes, torch.full((3,), 5)), nodes)
    mine = set(names(lone).tolist())
    assert 0 < len(alone) < lone.edge_index.shape[1]
    assert alone == {e for e in together if mine.issuperset(e)}
    assert alone == {(b, a) for a, b in alone}


def test_edges_are_kept_at_the_rate() -> None:
    nodes, view = ring(200), Dropped(0.3, 100, key=1, degrees=False)
    seen = view(nodes.take(torch.zeros(100, dtype=torch.int64)), torch.arange(100))
    assert abs(seen.edge_index.shape[1] / (100 * nodes.edge_index.shape[1]) - 0.7) < 0.01


def test_a_vote_is_that_of_its_copies_and_its_certificate_counts_pairs_of_the_graph() -> None:
    data, victim, ctx = toys.splits("node"), toys.victim("node"), toys.context("node")
    how = EdgeDrop(beta=0.9, samples=60)
    voting = how.purify(Evidence(victim=victim, clean=data.clean), ctx)
    inputs = data.test.inputs
    votes = ballots(voting.predict(inputs))
    view = voting.view  # type: ignore[attr-defined]
    said = torch.stack([victim.predict(view(inputs, torch.full((len(inputs),), i))).argmax(1) for i in range(60)])
    assert torch.equal(votes, torch.nn.functional.one_hot(said, votes.shape[1]).sum(0))
    assert not bool((said == said[0]).all())
    some = torch.tensor([3, 0])
    assert torch.equal(ballots(voting.predict(inputs.take(some))), votes[some])
    found = how.radius(voting, inputs)
    assert found.edges is not None
    assert 1 <= int(found.edges.max()) <= 6
    few = how.certify(torch.tensor([[60, 0, 0], [60, 0, 0]]), ring(3).take(torch.tensor([0, 2])))
    assert few.margin.tolist() == [3, 3]  # three nodes have three pairs


def test_training_shows_a_batch_one_copy() -> None:
    data, ctx = toys.splits("node"), toys.context("node")
    voting = EdgeDrop(samples=5, retrain=True).purify(Evidence(train=data.train), ctx)
    predicted = voting.predict(data.test.inputs).argmax(1)
    assert float((predicted == data.test.y).float().mean()) > 0.6
