"""Victims behind a screen."""

from __future__ import annotations

import pytest
import torch

from ostiary.modality.base import Inputs
from ostiary.modality.graphs import Graphs
from ostiary.models.screened import Screen, screened
from ostiary.testing import toys


class Without(Screen):
    """No edges at all, and features times a learnt number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.register_buffer("factor", torch.tensor(factor))

    def forward(self, batch: Inputs) -> Inputs:
        return Graphs.build(batch.x * self.factor, batch.edge_index[:, :0], batch.n_nodes)


@pytest.mark.parametrize("odd", [False, True])
def test_a_screened_victim_sees_what_the_screen_lets_through(odd: bool) -> None:
    victim, inputs = toys.victim("graph", odd=odd), toys.splits("graph").clean.inputs
    bare = Graphs.build(inputs.x * 2.0, inputs.edge_index[:, :0], inputs.n_nodes)
    found = screened(victim, Without(2.0))
    logits, features = found.predict(inputs, features=True)
    expected, expected_features = victim.predict(bare, features=True)
    assert torch.equal(logits, expected)
    assert features is not None and expected_features is not None and torch.equal(features, expected_features)
    assert not torch.equal(logits, victim.predict(inputs)[0])
    assert len(found.layers(inputs)[1]) == len(victim.layers(inputs)[1])


def test_weights_and_screen_are_saved_together_and_clones_share_nothing() -> None:
    victim, inputs = toys.victim("graph"), toys.splits("graph").clean.inputs
    found, other = (
        screened(victim, Without(2.0)),
        screened(toys.context("graph").fresh(toys.splits("graph").train), Without(1.0)),
    )
    other.module.load_state_dict(found.module.state_dict())
    assert torch.equal(other.predict(inputs)[0], found.predict(inputs)[0])
    clone, before = found.clone(), found.predict(inputs)[0]
    with torch.no_grad():
        for p in clone.parameters():
            p.zero_()
    assert torch.equal(found.predict(inputs)[0], before)
    assert not clone.predict(inputs)[0].any()
