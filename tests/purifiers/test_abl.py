"""ABL: what its hooks minimise, what it isolates, and that it trains on the rest."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from planted import images, victim

from ostiary.data.dataset import Dataset
from ostiary.errors import Unsupported
from ostiary.evidence import Evidence
from ostiary.models.victim import Victim
from ostiary.purifiers.abl import ABL, Trap
from ostiary.purifiers.holdout import accuracy
from ostiary.testing import toys
from ostiary.training.ascent import Unlearn
from ostiary.training.flooding import Flooding
from ostiary.training.trainer import Trainer

SHORT = ABL(isolation_epochs=3, epochs=3, ascent_epochs=2, isolate=0.1)


def losses(data: Dataset) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(victim().predict(data.inputs)[0], data.y, reduction="none")


def test_the_trap_pushes_losses_below_gamma_up_again() -> None:
    data = images(6).relabel(torch.tensor([0]), torch.tensor([1]))
    each, state = losses(data), Trainer().start(victim(), data, 0)
    ascent, flooding = (
        float(trap.loss(state, data.inputs, data.y, torch.arange(6)).detach()) for trap in (Trap(0.5), Flooding(0.5))
    )
    assert ascent == pytest.approx(sum(math.copysign(x, x - 0.5) for x in each.tolist()) / 6, abs=1e-5)
    assert flooding == pytest.approx(abs(float(each.mean()) - 0.5) + 0.5, abs=1e-5)


def test_unlearning_adds_what_the_isolated_lack_of_the_ceiling() -> None:
    data = images(6)
    apart = data.take(torch.tensor([0, 1]))
    state, rng = Trainer().start(victim(), data, 0), torch.Generator()

    def loss(ceiling: float) -> float:
        return float(Unlearn(apart, ceiling, 8, rng).loss(state, data.inputs, data.y, torch.arange(6)).detach())

    plain, own = float(losses(data).mean()), float(losses(apart).mean())
    assert loss(1e-6) == pytest.approx(plain, abs=1e-4)
    assert loss(5.0) == pytest.approx(plain + 5.0 - own, abs=1e-4)


@pytest.mark.parametrize("modality", toys.MODALITIES)
def test_the_samples_of_lowest_loss_are_set_apart_and_not_trained_on(modality: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Dataset, int]] = []
    easy: list[set[int]] = []
    fit = Trainer.fit

    def spy(self: Trainer, model: Victim, data: Dataset, *args: Any, **options: Any) -> Victim:
        seen.append((data, self.epochs))
        found = fit(self, model, data, *args, **options)
        loss = torch.nn.functional.cross_entropy(found.predict(data.inputs)[0], data.y, reduction="none")
        easy.append(set(data.ids[loss.argsort(stable=True)[: round(0.1 * len(data))]].tolist()))
        return found

    monkeypatch.setattr(Trainer, "fit", spy)
    train = toys.poisoned(modality).splits.train
    found = SHORT.purify(Evidence(train=train), toys.context(modality))
    assert [epochs for _, epochs in seen] == [3, 3, 2]
    left = set(seen[1][0].ids.tolist())
    assert set(train.ids.tolist()) - left == easy[0] and left == set(seen[2][0].ids.tolist())
    assert found.notes["isolated"] == len(easy[0]) == sum(found.notes["by class"].values())


def test_on_images_it_isolates_the_target_class_and_never_learns_the_backdoor() -> None:
    made, ctx = toys.poisoned("image"), replace(toys.context("image"), seed=2)  # 5 of 64 images: not every seed isolates them
    defended = ABL(isolate=0.05).purify(Evidence(train=made.splits.train), ctx)
    assert defended.notes["by class"]["0"] >= defended.notes["isolated"] - 1 > 0
    before, after = (accuracy(m, made.triggered) for m in (toys.victim("image"), defended))
    assert before >= 0.8 and after <= before - 0.5
    assert accuracy(defended, made.splits.test) >= 0.85


def test_isolating_everything_is_refused() -> None:
    with pytest.raises(Unsupported, match="lower isolate"):
        ABL(isolate=1.0).purify(Evidence(train=images()), toys.context("image"))
