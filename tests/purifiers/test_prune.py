"""Edges between unlike nodes go; what may go is counted on graphs made by hand."""

from __future__ import annotations

import pytest
import torch

from ostiary.component import build
from ostiary.data.dataset import Dataset
from ostiary.errors import InvalidInput, Unsupported
from ostiary.modality.graphs import Graphs, are_degrees, degree_features, join
from ostiary.modality.nodes import Nodes
from ostiary.models.screened import Screened
from ostiary.purifiers.prune import Prune, Pruning
from ostiary.testing import toys


def path(x: list[list[float]]) -> Graphs:
    """Nodes in a row."""
    ends = torch.arange(len(x) - 1)
    edges = torch.stack([ends, ends + 1])
    return Graphs.build(torch.tensor(x), torch.cat([edges, edges.flip(0)], 1), torch.tensor([len(x)]))


# cosines along the path: 1, 0.6, 0, -1
MIXED = path([[1.0, 0.0], [2.0, 0.0], [0.6, 0.8], [-0.8, 0.6], [0.8, -0.6]])


@pytest.mark.parametrize(("threshold", "left"), [(-1.1, 4), (-1.0, 3), (0.0, 2), (0.59, 2), (0.61, 1), (1.1, 0)])
def test_edges_up_to_the_threshold_go_in_both_directions(threshold: float, left: int) -> None:
    found = Pruning(toys.victim("graph"), threshold, embedded=False)(MIXED, toys.victim("graph"))
    assert found.edge_index.shape[1] == 2 * left
    assert found.symmetric
    assert torch.equal(found.x, MIXED.x)
    assert set(found.edge_index[0].tolist()) == set(range(left + 1 if left else 0))


def test_one_hot_features_are_compared_after_the_first_layer() -> None:
    """By features every edge of a one-hot either stays or goes; the embedding tells more."""
    held = toys.evidence("graph")
    inputs = held.clean.inputs
    first = held.victim.layers(inputs)[1][0].detach()
    a, b = inputs.edge_index
    alike = torch.cosine_similarity(first[a], first[b], dim=1)
    level = float(alike.median())
    module = Prune(threshold=level).purify(held, toys.context("graph")).module
    assert isinstance(module, Screened)
    found = module.screen(inputs, held.victim)
    assert found.edge_index.shape[1] == int((alike > level).sum())
    plain = Pruning(held.victim, 0.1, embedded=False)(inputs, held.victim)
    assert torch.equal(plain.edge_index, inputs.edge_index[:, (inputs.x[a] * inputs.x[b]).sum(1) == 1])


def test_degrees_are_counted_again() -> None:
    x = degree_features(MIXED.edge_index, 5, 4)
    found = Pruning(toys.victim("graph"), 0.1, embedded=False, degrees=True)(MIXED.with_(x=x), toys.victim("graph"))
    assert 0 < found.edge_index.shape[1] < 8
    assert are_degrees(found)


def labelled(graphs: list[Graphs]) -> Dataset:
    return Dataset.of(join(graphs), torch.arange(len(graphs)) % 2, build("modality", "graph"))


def test_graphs_that_lost_too_much_lose_their_label() -> None:
    same, other = path([[1.0, 0.0]] * 5), path([[1.0, 0.0]] * 4 + [[0.0, 2.0]])  # none and a quarter of the edges
    train = labelled([same, other, MIXED, same])
    screen = Pruning(toys.victim("graph"), 0.1, embedded=False)
    assert Prune(when="train").pruned(train, screen).inputs.n_edges.tolist() == [8, 6, 4, 8]
    strict, mild = (Prune(when="train", drop_labels=True, share=s).pruned(train, screen) for s in (0.0, 0.25))
    assert strict.ids.tolist() == [0, 3]
    assert mild.ids.tolist() == [0, 1, 3]
    with pytest.raises(InvalidInput, match="all of class 0, 1 lose their label"):
        Prune(when="train", drop_labels=True).pruned(labelled([MIXED, MIXED]), screen)
    with pytest.raises(InvalidInput, match="all of class 1 lose their label"):
        Prune(when="train", drop_labels=True).pruned(labelled([same, MIXED, same]), screen)


def test_nodes_that_lost_an_edge_lose_their_label() -> None:
    train = Dataset.of(Nodes.of(MIXED), torch.tensor([0, 1, 0, 1, 0]), build("modality", "node"))
    screen = Pruning(toys.victim("node"), 0.1, embedded=False)
    assert Prune(when="train", drop_labels=True).pruned(train, screen).ids.tolist() == [0, 1]
    assert Prune(when="train").pruned(train, screen).inputs.edge_index.shape[1] == 4


def test_when_decides_what_is_needed_and_what_comes_out() -> None:
    held, ctx = toys.evidence("graph"), toys.context("graph")
    assert Prune().needed() == {"victim", "clean"}
    assert Prune(when="both").needed() == {"train"}
    before = Prune(by="features", when="train").purify(held, ctx)
    assert not isinstance(before.module, Screened)
    both = Prune(by="features", when="both").purify(held.but(victim=None), ctx)
    assert isinstance(both.module, Screened)
    with pytest.raises(Unsupported, match="drop_labels"):
        Prune(drop_labels=True).purify(held, ctx)
