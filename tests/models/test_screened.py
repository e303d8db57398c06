"""Victims behind a screen."""

from __future__ import annotations

import pytest
import torch

from ostiary.modality.base import Inputs
from ostiary.modality.graphs import Graphs
from ostiary.models.screened import Screen, screened
from ostiary.models.victim import Victim
from ostiary.testing import toys


class Without(Screen):
    """No edges at all, and features times a learnt number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.register_buffer("factor", torch.tensor(factor))

    def forward(self, batch: Inputs, victim: Victim) -> Inputs:
        return Graphs.build(batch.x * self.factor, batch.edge_index[:, :0], batch.n_nodes)


@pytest.mark.parametrize("odd", [False, True])
def test_a_screened_victim_sees_what_the_screen_lets_through(odd: bool) -> None:
    victim, inputs = toys.victim("graph", odd=odd), toys.splits("graph").clean.inputs
    bare = Graphs.build(inputs.x * 2.0, inputs.edge_index[:, :0], inputs.n_nodes)
    found = screened(victim, Without(2.0))
    logits, features = found.embed(inputs)
    expected, expected_features = victim.embed(bare)
    assert torch.equal(logits, expected)
    assert torch.equal(features, expected_features)
    assert not torch.equal(logits, victim.predict(inputs))
    assert len(found.layers(inputs)[1]) == len(victim.layers(inputs)[1])


def test_weights_and_screen_are_saved_together_and_clones_share_nothing() -> None:
    victim, inputs = toys.victim("graph"), toys.splits("graph").clean.inputs
    found, other = (
        screened(victim, Without(2.0)),
        screened(toys.context("graph").fresh(toys.splits("graph").train), Without(1.0)),
    )
    other.module.load_state_dict(found.module.state_dict())
    assert torch.equal(other.predict(inputs), found.predict(inputs))
    clone, before = found.clone(), found.predict(inputs)
    with torch.no_grad():
        for p in clone.parameters():
            p.zero_()
    assert torch.equal(found.predict(inputs), before)
    assert not clone.predict(inputs).any()
