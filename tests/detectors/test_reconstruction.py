"""The autoencoder of nodes: what a node's error is, and how rows come to theirs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ostiary.detectors.reconstruction import Autoencoder, Reconstruction, around, of_rows
from ostiary.metrics.detection import detection
from ostiary.modality.graphs import Graphs
from ostiary.purifiers.retrain_without import RetrainWithout
from ostiary.testing import toys


def two_paths() -> Graphs:
    """A path of four nodes and one of three."""
    pairs = torch.tensor([[0, 1], [1, 2], [2, 3], [4, 5], [5, 6]]).T
    x = torch.rand(7, 5, generator=torch.Generator().manual_seed(0))
    return Graphs.build(x, torch.cat([pairs, pairs.flip(0)], 1), torch.tensor([4, 3]))


def test_errors_of_structure_are_distances_within_each_graph() -> None:
    graphs, code = two_paths(), torch.rand(7, 3, generator=torch.Generator().manual_seed(1))
    adjacency = torch.eye(7)
    adjacency[graphs.edge_index[1], graphs.edge_index[0]] = 1.0
    inside = graphs.batch[:, None] == graphs.batch
    expected = ((adjacency - code @ code.T).square() * inside).sum(1)
    assert torch.allclose(of_rows(code, graphs), expected, atol=1e-5)


def test_the_highest_value_around_a_node_comes_over_edges_only() -> None:
    values = torch.tensor([9.0, 1.0, 2.0, 3.0, 0.0, 1.0, 5.0])
    assert around(values, two_paths(), 0).tolist() == values.tolist()
    assert around(values, two_paths(), 1).tolist() == [9, 9, 3, 3, 1, 5, 5]
    assert around(values, two_paths(), 2).tolist() == [9, 9, 9, 3, 5, 5, 5]


@pytest.mark.parametrize("structure", [0.0, 0.3])
def test_an_error_is_the_weighted_sum_of_both_distances(structure: float) -> None:
    graphs, ctx, nets = two_paths(), toys.context("graph"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Autoencoder, "to", lambda net, device: nets.append(net) or net)
        errors = Reconstruction(structure=structure, hidden=2, epochs=3).errors(graphs, ctx)
    features, rows = nets[0](graphs).detach()
    assert torch.allclose(errors, (1 - structure) * features.sqrt() + structure * rows.sqrt())
    assert bool((rows > 0).all()) == (structure > 0)


def test_without_structure_edges_say_nothing() -> None:
    graphs, ctx = two_paths(), toys.context("graph")
    bare = graphs.with_edges(torch.zeros(graphs.edge_index.shape[1], dtype=torch.bool))
    for how, alike in ((Reconstruction(epochs=3), True), (Reconstruction.preset("dominant").replace(epochs=3), False)):
        assert torch.equal(how.errors(graphs, ctx), how.errors(bare, ctx)) == alike


def test_training_brings_errors_down() -> None:
    graphs, ctx = toys.splits("graph").train.inputs, toys.context("graph")
    for preset in ("paper", "dominant"):
        how = Reconstruction.preset(preset)
        assert float(how.errors(graphs, ctx).mean()) < 0.9 * float(how.replace(epochs=1).errors(graphs, ctx).mean())


def test_graphs_score_as_their_worst_node_and_nodes_as_the_worst_around() -> None:
    for modality in ("graph", "node"):
        held, ctx, how = toys.evidence(modality), toys.context(modality), Reconstruction(epochs=3, share=0.1)
        found, inputs = how.inspect(held, ctx), held.train.inputs
        errors = how.errors(inputs if modality == "graph" else inputs.graphs, ctx)
        if modality == "graph":
            expected = torch.stack([part.max() for part in errors.split(inputs.n_nodes.tolist())])
        else:
            expected = around(errors, inputs.graphs, 1)[inputs.roots]
        assert torch.allclose(found.scores, expected)
        assert found.flagged is not None
        assert int(found.flagged.sum()) == round(0.1 * len(held.train))
        assert float(found.scores[found.flagged].min()) >= float(found.scores[~found.flagged].max())


def test_odd_features_are_found_on_graphs_as_on_nodes() -> None:
    for modality in ("graph", "node"):
        held = toys.evidence(modality)
        train, odd = held.train, torch.arange(len(held.train)) < 5
        inputs = train.inputs
        at = inputs.node_ptr[:5] if modality == "graph" else inputs.roots[:5]
        store = inputs if modality == "graph" else inputs.graphs
        x = store.x.index_fill(0, at, 0.0)
        x[at] = 3 * torch.rand(5, x.shape[1], generator=torch.Generator().manual_seed(2))
        held = held.but(train=replace(train, inputs=inputs.with_(x=x)))
        found = Reconstruction.preset("paper").replace(hops=0).inspect(held, toys.context(modality))
        assert detection(found.scores, None, odd)["auroc"] > 0.95


def test_a_defender_without_a_model_retrains_without_what_is_flagged() -> None:
    held, ctx = toys.evidence("node").but(victim=None), toys.context("node")
    how = RetrainWithout(detector=Reconstruction(epochs=2, share=0.1))
    assert how.needed() == {"train"}
    assert sum(how.purify(held, ctx).notes["dropped"].values()) == round(0.1 * len(held.train))
