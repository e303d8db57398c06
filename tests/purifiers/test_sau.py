"""SAU: perturbations stay in their ball, both models err on them alike, and only the new model is changed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from planted import rates
from torch import Tensor, nn

from ostiary.errors import Unsupported
from ostiary.evidence import Evidence
from ostiary.models.victim import Victim, evaluating
from ostiary.perturbation import owners
from ostiary.purifiers.distillation import softened
from ostiary.purifiers.holdout import accuracy
from ostiary.purifiers.sau import SAU, Unlearn
from ostiary.testing import toys

SIZES = {"linf": 0.5, "l2": 8.0, "l1": 60.0}


@pytest.mark.parametrize("modality", ["image", "graph"])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_perturbations_raise_the_shared_error_and_stay_within_their_ball(modality: str, norm: str) -> None:
    old, clean = toys.victim(modality), toys.splits(modality).clean
    new = toys.context(modality).trainer.replace(epochs=2).fit(old.clone(), clean, 1)
    how = SAU(norm=norm, eps=SIZES[norm], step=0.2 if norm != "l1" else SIZES[norm] / 4, inner=10)
    by = Unlearn(how, old).find(new, clean.inputs, clean.y, old(clean.inputs))
    order = {"linf": torch.inf, "l2": 2.0, "l1": 1.0}[norm]
    size = float(lengths(by, owners(clean.inputs, by, len(clean)), order).max())
    assert 0.5 * how.eps < size <= how.eps * (1 + 1e-4)

    def shared(change: Tensor) -> float:
        with torch.no_grad(), evaluating(new):
            said = [m(old.modality.perturb(clean.inputs, change)).argmax(1) for m in (new, old)]
        return float(((said[0] == said[1]) & (said[0] != clean.y)).double().mean())

    assert shared(by) >= shared(torch.zeros_like(by)) + 0.3


def lengths(by: Tensor, owner: Tensor, order: float) -> Tensor:
    return torch.stack([by[owner == i].norm(order) for i in range(int(owner.max()) + 1)])


@pytest.mark.parametrize("modality", ["image", "graph"])
def test_the_backdoor_falls_and_accuracy_stays(modality: str) -> None:
    before, after, drop, _ = rates(SAU(steps=50), modality)
    assert before >= 0.7 and after <= before - 0.5 and drop <= 0.1


@pytest.mark.parametrize(("share", "kept"), [(0.0, False), (1.0, True)])
def test_the_old_models_answers_hold_accuracy_where_labels_are_wrong(share: float, kept: bool) -> None:
    held, ctx = toys.evidence("image"), toys.context("image")
    wrong = replace(held.clean, y=(held.clean.y + 1) % held.clean.n_classes)
    how = SAU(lr=1e-3, steps=60, shared=0.0, inner=0, answers=share, freeze_norms=True)
    found = how.purify(Evidence(victim=held.victim, clean=wrong), ctx)
    assert (accuracy(found, held.clean) > 0.9 * accuracy(held.victim, held.clean)) == kept


@pytest.mark.parametrize("frozen", [True, False])
def test_statistics_stay_only_where_they_are_frozen(frozen: bool) -> None:
    held = toys.evidence("image")
    found = SAU(steps=1, inner=1, freeze_norms=frozen).purify(held, toys.context("image"))
    was, now = held.victim.state_dict(), found.state_dict()
    kept = [torch.equal(was[k], now[k]) for k in was if "running" in k]
    assert all(kept) if frozen else not any(kept)
    assert not torch.equal(was["module.stem.weight"], now["module.stem.weight"])


def test_the_authors_settings_freeze_statistics_on_images_and_ours_follow_them() -> None:
    clean = toys.splits("image").clean
    assert (
        SAU.preset("paper").trainer(toys.context("image"), clean).freeze_norms
        and not SAU().trainer(toys.context("image"), clean).freeze_norms
    )
    assert SAU().trainer(toys.context("graph"), toys.splits("graph").clean).freeze_norms


@pytest.mark.parametrize("worse", [True, False])
def test_statistics_freeze_only_where_following_costs_accuracy_in_a_trial(worse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ostiary.purifiers.adversary.TOLERANCE", -1.0 if worse else 1.0)
    held = toys.evidence("image")
    found = SAU(steps=1, inner=1).purify(held, toys.context("image"))
    was, now = held.victim.state_dict(), found.state_dict()
    assert all(torch.equal(was[k], now[k]) for k in was if "running" in k) == worse == found.notes["statistics frozen"]
    assert {"accuracy there before", "accuracy there after a trial"} <= found.notes.keys()
    same = SAU(steps=1, inner=1, freeze_norms=worse).purify(held, toys.context("image"))
    assert all(torch.equal(now[k], v) for k, v in same.state_dict().items())  # the trial leaves no trace


def test_a_rate_at_which_the_model_collapses_is_lowered() -> None:
    held = toys.evidence("image")
    steady, wild = (SAU(steps=12, inner=1, lr=lr).purify(held, toys.context("image")) for lr in (1e-3, 3.0))
    assert steady.notes["lr"] == 1e-3 and wild.notes["lr"] < 3.0
    told = SAU(steps=12, inner=1, lr=3.0, freeze_norms=True).purify(held, toys.context("image"))
    assert told.notes["lr"] < 3.0 and told.notes["statistics frozen"]


def test_a_model_without_statistics_needs_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    clean = toys.splits("image").clean
    net = nn.Sequential(nn.Flatten(), nn.Linear(clean.inputs[0].numel(), 8), nn.ReLU(), nn.Linear(8, clean.n_classes))
    monkeypatch.setattr("ostiary.purifiers.adversary.hold_out", lambda *_: pytest.fail("a trial"))
    found = SAU(steps=1, inner=1).purify(Evidence(victim=Victim(net, "image"), clean=clean), toys.context("image"))
    assert {k: found.notes[k] for k in ("statistics frozen", "lr")} == {"statistics frozen": False, "lr": 0.001}


def test_the_budget_is_of_updates_and_the_authors_is_of_epochs() -> None:
    clean = toys.splits("image").clean
    assert len(clean) <= 64 and SAU().trainer(toys.context("image"), clean).epochs == 200
    assert SAU.preset("paper").trainer(toys.context("image"), clean).epochs == 100


class Threshold(nn.Module):
    """No gradient passes the first step."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head((images > 0.5).float().flatten(1))  # type: ignore[no-any-return]


def test_a_model_that_passes_no_gradient_to_its_inputs_is_refused() -> None:
    clean = toys.splits("image").clean
    net = Threshold(clean.inputs[0].numel(), clean.n_classes)
    with pytest.raises(Unsupported, match="no gradient of the model's answers reaches its inputs"):
        SAU().purify(Evidence(victim=Victim(net, "image"), clean=clean), toys.context("image"))


def test_targets_lie_between_labels_and_answers() -> None:
    y, told = torch.tensor([1, 0]), torch.tensor([[0.0, 0.0, 0.0], [5.0, 0.0, 0.0]])
    assert softened(y, told, 0.0) is y
    assert torch.allclose(softened(y, told, 1.0), told.softmax(1))
    half = softened(y, told, 0.5)
    assert torch.allclose(half.sum(1), torch.ones(2)) and torch.allclose(half[0], torch.tensor([1 / 6, 2 / 3, 1 / 6]))
