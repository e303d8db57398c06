"""Shared perturbations: where they lead first, in which shape, and how far they then go."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch
from planted import TRAP, images, victim

from ostiary.models.polarized import polarized, polarizer
from ostiary.perturbation import stride
from ostiary.purifiers.npd import NPD
from ostiary.purifiers.together import LONGEST, STRIDE, Goal, Together
from ostiary.testing import toys
from ostiary.training.trainer import Trainer


def test_a_step_moves_the_steepest_entries_by_a_length_over_all() -> None:
    slope = torch.tensor([[3.0, -4.0, 1.0, 0.5]])
    found = stride(slope, 0.5, 0.1)
    assert found[0, 2:].tolist() == [0, 0] and float(found[0, 0]) > 0 > float(found[0, 1])
    assert float(found.norm()) == pytest.approx(0.1 * 2)
    assert float(stride(slope, 1.0, 0.1).norm()) == pytest.approx(0.2) and bool((stride(slope, 1.0, 0.1) != 0).all())
    assert int((stride(slope, 0.01, 0.1) != 0).sum()) == 1
    assert not stride(torch.zeros(1, 4), 0.5, 0.1).any()


def test_the_class_of_the_backdoor_is_reached_first_through_its_pixel() -> None:
    model, data = polarized(victim(), "1"), images(20, third=0.55)
    hook = Together(NPD(), "input")
    hook.on_start(Trainer().start(model, data, 0))
    assert {goal.label for goal in hook.goals} == {0} and all(goal.lead > 0.5 for goal in hook.goals)
    assert all(1 <= goal.steps < LONGEST for goal in hook.goals)
    hook.goal = next(goal for goal in hook.goals if goal.share < 1)
    plain = model.predict(data.inputs)
    aimed = hook.aimed(plain, data.y)
    assert aimed.tolist() == (data.y == 0).long().tolist()
    by = hook.find(model, data.inputs, torch.zeros_like(data.inputs), aimed)
    assert by.shape == (1, 1, 2, 2) and by.flatten().nonzero().flatten().tolist() == [TRAP]
    marked = model.predict((data.inputs + by).clamp(0, 1)).argmax(1)
    assert not marked[data.y == 1].any()


def test_a_batch_goes_no_further_than_six_times_the_search() -> None:
    model, data = polarized(victim(), "1"), images(20)
    hook = Together(NPD(enough=1.0), "input")
    hook.lens = polarizer(model)
    hook.goal = Goal(1, 1.0, 0.0, 2)
    start = torch.zeros_like(data.inputs)
    by = hook.find(model, data.inputs, start, torch.ones(20, dtype=torch.int64))
    assert float(by.square().mean().sqrt()) <= 2 * 2 * 3 * STRIDE + 1e-6 and by.any()
    assert not hook.find(model, data.inputs, start, torch.zeros(20, dtype=torch.int64)).any()  # all are of the class


def test_the_class_is_searched_for_once_whatever_number_of_rates_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[float] = []
    first = Together.first

    def counting(self: Together, *given: Any) -> Goal:
        searched.append(given[-1])
        return first(self, *given)

    monkeypatch.setattr(Together, "first", counting)
    monkeypatch.setattr("ostiary.purifiers.npd.accuracy", lambda victim, data: float("nan"))  # no rate is good enough
    found = NPD(shared=True, epochs=1, lr=0.03).purify(toys.evidence("image"), toys.context("image"))
    assert found.notes["lr"] == pytest.approx(0.001) and len(searched) == 2  # the fourth rate; a search for each shape


@pytest.mark.parametrize(("modality", "space"), [("image", "features"), ("graph", "input"), ("graph", "features")])
def test_it_serves_other_inputs_and_what_enters_the_layer(modality: str, space: str) -> None:
    found = NPD(shared=True, space=space, epochs=1).purify(toys.evidence(modality), toys.context(modality))
    assert found.notes["aimed at"] in toys.splits(modality).clean.classes and 0 <= found.notes["lead"] <= 1


def test_after_training_shared_perturbations_no_longer_lead_where_they_led() -> None:
    held, clean = toys.evidence("image"), toys.splits("image").clean
    new, old = NPD.preset("auto").purify(held, toys.context("image")), polarized(held.victim)
    goal, share, rates = clean.classes.index(new.notes["aimed at"]), new.notes["entries"], []
    start = torch.zeros_like(clean.inputs)
    for model in (old.eval(), new):
        hook = Together(NPD(), "input")
        hook.lens = polarizer(model)
        way = hook.climb(model, clean.inputs, start, clean.y != goal, Goal(goal, share), STRIDE)
        rates.append(max(rate for _, rate in islice(way, 12)))
    assert rates[0] >= 0.6 and rates[1] <= rates[0] - 0.3
