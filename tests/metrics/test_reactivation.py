"""Re-activation: what a few triggered samples bring back."""

from __future__ import annotations

import math

import pytest
import torch

from ostiary.component import build
from ostiary.metrics.reactivation import _taught, reactivated
from ostiary.models.screened import Screen, screened
from ostiary.models.victim import Victim
from ostiary.models.votes import Voting
from ostiary.purifiers.fine_tune import FineTune
from ostiary.testing import toys


def clean_model(modality: str) -> Victim:
    return toys.context(modality).fit(toys.splits(modality).train)


@pytest.mark.parametrize("modality", toys.MODALITIES)
def test_rates_are_over_inputs_that_were_not_trained_on(modality: str) -> None:
    poisoned, victim, ctx = toys.poisoned(modality), toys.victim(modality), toys.context(modality)
    before = {k: v.clone() for k, v in victim.state_dict().items()}
    found = reactivated(victim, poisoned, ctx)
    n = len(poisoned.triggered)
    assert set(found) == {f"reactivated_{k}" for k in (5, 20) if n >= 2 * k} != set()
    for name, figure in found.items():
        assert figure["n"] == n - int(name.split("_")[1])
        assert 0 <= figure["value"] <= 1
    assert found == reactivated(victim, poisoned, ctx), "seeded"
    assert all(torch.equal(v, before[k]) for k, v in victim.state_dict().items()), "the victim stays as it was"


def test_a_model_that_kept_the_backdoor_has_it_back_before_a_clean_one() -> None:
    poisoned, ctx = toys.poisoned("graph"), toys.context("graph")
    kept = reactivated(toys.victim("graph"), poisoned, ctx)["reactivated_5"]["value"]
    clean = reactivated(clean_model("graph"), poisoned, ctx)["reactivated_5"]["value"]
    purified = FineTune().purify(toys.evidence("graph"), ctx)
    assert kept > 0.9 > clean
    assert not math.isnan(reactivated(purified, poisoned, ctx)["reactivated_5"]["value"])


def test_of_a_vote_every_member_is_taught() -> None:
    poisoned, ctx = toys.poisoned("graph"), toys.context("graph")
    vote = build("purifier", {"name": "edge-drop", "samples": 5}).purify(toys.evidence("graph"), ctx)
    before = {k: v.clone() for k, v in vote.state_dict().items()}
    found = reactivated(vote, poisoned, ctx)
    assert found and found == reactivated(vote, poisoned, ctx)
    assert all(torch.equal(v, before[k]) for k, v in vote.state_dict().items())
    again = _taught(vote, poisoned.splits.clean, poisoned.triggered.take(torch.arange(5)), ctx)
    assert isinstance(again, Voting)
    assert any(not torch.equal(v, before[k]) for k, v in again.state_dict().items() if k.startswith("module.members"))


class Blind(Screen):
    """Passes no gradient and no weight on."""

    def forward(self, batch: object, victim: Victim) -> object:
        return batch


def test_a_model_without_gradients_is_left_out() -> None:
    victim = screened(toys.victim("image"), Blind())
    for p in victim.parameters():
        p.requires_grad_(False)
    assert reactivated(victim, toys.poisoned("image"), toys.context("image")) == {}
