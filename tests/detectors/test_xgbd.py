"""XGBD: what is explained, what is flagged, and how the helper is trained."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ostiary.detectors.xgbd import XGBD
from ostiary.explainers.gnn_explainer import GNNExplainer
from ostiary.testing import toys
from ostiary.training.flooding import Flooding


def test_the_flagged_share_is_exact_and_the_gap_is_the_widest_of_the_higher_half() -> None:
    scores = torch.tensor([0.1, 5.0, 0.2, 0.0, 4.9, 0.3, -9.0, 0.15])
    assert XGBD(isolate=0.25).suspicious(scores) == 2
    assert XGBD(cut="gap").suspicious(scores) == 2
    assert XGBD(cut="gap").suspicious(torch.tensor([1.0])) == 0


def test_a_trained_helper_is_kept_at_the_flood_level() -> None:
    data, ctx = toys.splits("graph").train, toys.context("graph")
    dry, wet = ctx.fit(data), ctx.fit(data, [Flooding(0.5)])
    low, high = (float(F.cross_entropy(v.predict(data.inputs), data.y)) for v in (dry, wet))
    assert low < 0.3
    assert 0.35 < high < 0.65


def test_the_explained_part_holds_the_chosen_nodes_their_edges_and_these_edges_ends() -> None:
    data, victim = toys.splits("graph").train, toys.victim("graph")
    part = XGBD(nodes=2).explained(victim, data, toys.context("graph"))
    assert len(part) == len(data)
    assert (part.n_nodes >= 2).all()
    assert (part.n_nodes <= data.inputs.n_nodes).all()
    assert (part.n_edges < data.inputs.n_edges).any()
    whole = XGBD(nodes=99).explained(victim, data, toys.context("graph"))
    assert torch.equal(whole.x, data.inputs.x)
    assert torch.equal(whole.edge_index, data.inputs.edge_index)


def test_scores_of_each_label_are_taken_from_their_own_median() -> None:
    held, ctx = toys.evidence("graph"), toys.context("graph")
    quick = GNNExplainer(epochs=5)
    raw, own = (XGBD(per_class=p, explainer=quick, nodes=4).inspect(held, ctx).scores for p in (False, True))
    for c in (0, 1):
        of = held.train.y == c
        assert torch.allclose(own[of], raw[of] - raw[of].median())
