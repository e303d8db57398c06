"""Fine-pruning: the planted neuron goes first, stays out while fine-tuning, and nothing useful goes with it."""

from __future__ import annotations

import pytest
import torch
from planted import TRAP, called, evidence, images
from torch import nn

from ostiary.errors import Unsupported
from ostiary.evidence import Evidence
from ostiary.models.victim import Victim
from ostiary.purifiers.fine_pruning import FinePruning
from ostiary.purifiers.holdout import accuracy
from ostiary.testing import toys


@pytest.mark.parametrize("epochs", [0, 5])
@pytest.mark.parametrize("norm", [False, True])
def test_the_neuron_that_sleeps_on_clean_samples_goes_and_does_not_come_back(norm: bool, epochs: int) -> None:
    held, marked = evidence(norm), images(third=1.0)
    assert called(held.victim, marked).unique().tolist() == [0]
    found = FinePruning(epochs=epochs, lr=0.1).purify(held, toys.context("image"))
    head = found.module.get_submodule(found.head).weight
    assert not head[:, TRAP].any() and bool(head[:, :TRAP].any(0).all())
    assert torch.equal(called(found, marked), marked.y)
    assert found.notes["pruned"] == 1 and found.notes["of"] == 3
    assert found.notes["accuracy there pruned"] == 1.0 and found.notes["checked on"] == 4


def test_all_but_one_channel_may_go_where_accuracy_is_no_object() -> None:
    found = FinePruning(epochs=0, tolerance=1.0).purify(evidence(), toys.context("image"))
    assert found.notes["pruned"] == 2


@pytest.mark.parametrize(("share", "gone"), [(0.0, []), (0.34, [TRAP]), (1.0, [0, 1, TRAP])])
def test_a_share_that_is_given_goes_whatever_it_costs(share: float, gone: list[int]) -> None:
    held = evidence()
    found = FinePruning(epochs=0, share=share).purify(held, toys.context("image"))
    head = found.module.get_submodule(found.head).weight
    assert (~head.any(0)).nonzero().flatten().tolist() == gone
    assert found.notes["pruned"] == len(gone) and found.notes["accuracy there before"] == 1.0
    assert (found.notes["accuracy there pruned"] == 1.0) == (share < 1)
    chosen = FinePruning(epochs=0).purify(held, toys.context("image")).module.get_submodule(found.head).weight
    assert torch.equal(head, chosen) == (share == 0.34), "what is chosen by accuracy lies on the curve"


def test_a_share_and_an_oracle_contradict() -> None:
    held = evidence().but(oracle=lambda victim: (1.0, 0.0))
    with pytest.raises(Unsupported, match="leave one of the two out"):
        FinePruning(share=0.5, oracle=True).purify(held, toys.context("image"))


def test_fine_tuning_changes_the_rest() -> None:
    held = evidence()
    tuned, pruned = (FinePruning(epochs=e, lr=0.1).purify(held, toys.context("image")) for e in (3, 0))
    assert not torch.equal(tuned.module.get_submodule("1").weight, pruned.module.get_submodule("1").weight)


def test_on_images_the_backdoor_falls_and_accuracy_stays() -> None:
    made = toys.poisoned("image")
    found = FinePruning().purify(toys.evidence("image"), toys.context("image"))
    before, after = (accuracy(m, made.triggered) for m in (toys.victim("image"), found))
    assert before >= 0.8 and after <= before - 0.5
    assert accuracy(found, made.splits.test) >= 0.85


@pytest.mark.parametrize(
    ("module", "head", "reason"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), None, "only layer"),
        (nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten()), "1", "is not a linear layer"),
        (
            nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten()),
            None,
            "is not a linear layer from 1 features to .* logits; name one as head=",
        ),
    ],
)
def test_models_without_a_channel_to_prune_are_refused(module: nn.Module, head: str | None, reason: str) -> None:
    held = Evidence(victim=Victim(module, "image", head=head), clean=images())
    with pytest.raises(Unsupported, match=reason):
        FinePruning().purify(held, toys.context("image"))
