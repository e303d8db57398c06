"""ED removal: which graphs lose which edges, and that nothing but the graph decides it."""

from __future__ import annotations

import pytest
import torch

from ostiary.errors import Unsupported
from ostiary.explainers.gnn_explainer import GNNExplainer
from ostiary.explainers.pg_explainer import PGExplainer
from ostiary.models.screened import Screened
from ostiary.models.victim import Victim
from ostiary.purifiers.ed_removal import EDRemoval, Removal
from ostiary.testing import toys

SMALL = EDRemoval.preset("paper", explainer=GNNExplainer(epochs=10, node_mask="none"), quantile=0.5)


def screen_of(victim: Victim) -> Removal:
    assert isinstance(victim.module, Screened)
    assert isinstance(victim.module.screen, Removal)
    return victim.module.screen


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("method", [EDRemoval(k=6, quantile=0.5), SMALL], ids=["default", "paper"])
def test_flagged_graphs_lose_their_edges_and_the_others_none(method: EDRemoval, odd: bool) -> None:
    held, inputs = toys.evidence("graph", odd=odd), toys.splits("graph").test.inputs
    found = method.purify(held, toys.context("graph", odd=odd))
    screen = screen_of(found)
    scored, seen = screen.scored(held.victim, inputs), screen(inputs, held.victim)
    flagged = scored.scores > float(screen.threshold)
    lost = inputs.n_edges - seen.n_edges
    assert 0 < int(flagged.sum()) < len(inputs)
    assert torch.equal(lost > 0, flagged)
    assert torch.equal(lost[flagged], torch.bincount(inputs.edge_batch[scored.edges], minlength=len(inputs))[flagged])
    assert torch.equal(found.predict(inputs), held.victim.predict(seen))


@pytest.mark.parametrize("method", [EDRemoval(k=6), SMALL], ids=["default", "paper"])
def test_a_graph_is_judged_apart_from_its_batch(method: EDRemoval) -> None:
    held, inputs = toys.evidence("graph"), toys.poisoned("graph").triggered.inputs
    found = method.purify(held, toys.context("graph"))
    some = torch.tensor([7, 2, 11])
    assert torch.allclose(found.predict(inputs.take(some)), found.predict(inputs)[some], atol=1e-4)
    logits, features = found.embed(inputs)
    assert torch.equal(logits, found.predict(inputs))
    assert len(features) == len(inputs)


def test_gradients_reach_the_features_and_modes_stay() -> None:
    found = EDRemoval(k=6).purify(toys.evidence("graph"), toys.context("graph"))
    inputs = toys.splits("graph").clean.inputs
    x = inputs.x.clone().requires_grad_()
    found.train()
    (slope,) = torch.autograd.grad(found(inputs.with_(x=x)).sum(), x)
    assert slope.any()
    assert all(m.training for m in found.modules())
    assert all(p.requires_grad for p in found.parameters())


def test_an_explainer_that_looks_at_all_graphs_is_refused() -> None:
    with pytest.raises(Unsupported, match="judges a graph by what comes with it"):
        EDRemoval(explainer=PGExplainer()).purify(toys.evidence("graph"), toys.context("graph"))
