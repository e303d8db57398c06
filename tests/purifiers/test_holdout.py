"""The part of a clean sample that is held out, and the depth of pruning that it allows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from planted import images, victim
from torch import nn

from ostiary.data.dataset import Dataset
from ostiary.models.victim import Victim
from ostiary.purifiers.holdout import accuracy, deepest, hold_out


def sample(*sizes: int) -> Dataset:
    data = images(sum(sizes))
    y = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return data.relabel(torch.arange(len(y)), y)


def test_a_share_of_each_class_is_held_out_apart_from_the_rest() -> None:
    data = sample(40, 20)
    tune, check = hold_out(data, seed=3)
    assert torch.bincount(check.y).tolist() == [8, 4]
    assert sorted([*tune.ids.tolist(), *check.ids.tolist()]) == list(range(60))
    assert torch.equal(hold_out(data, seed=3)[1].ids, check.ids)
    assert not torch.equal(hold_out(data, seed=4)[1].ids, check.ids)


def test_small_classes_get_two_and_tiny_samples_are_not_divided() -> None:
    _, check = hold_out(sample(20, 5), seed=0)
    assert int((check.y == 1).sum()) == 2 and len(check) == 10
    tiny = sample(20, 3)
    assert hold_out(tiny, seed=0) == (tiny, tiny)
    assert hold_out(sample(2, 2), seed=0)[1].y.tolist() == [0, 0, 1, 1]


def test_classes_that_the_sample_lacks_do_not_matter() -> None:
    data = sample(10, 10)
    only = data.take((data.y == 1).nonzero().flatten())
    assert hold_out(only, seed=0)[1].y.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("wrong", "tolerance", "level"),
    [
        ([1, 0, 1, 2, 4], 0.1, 3),
        ([1, 4, 1], 0.1, 0),  # no further than the first that costs too much
        ([1, 1], 0.0, 1),
        ([7], 0.0, 0),
    ],
)
def test_pruning_goes_on_until_accuracy_has_fallen_by_more_than_the_tolerance(
    wrong: list[int], tolerance: float, level: int
) -> None:
    data = images(10)
    rows = [torch.arange(n) for n in wrong]
    answers = [F.one_hot(data.relabel(r, 1 - data.y[r]).y, 2).float() for r in rows]

    def make(at: int) -> Victim:
        return Victim(nn.Flatten(), "image", forward=lambda _m, _b: answers[at])

    best, notes = deepest(range(len(wrong)), make, data, tolerance)
    assert best == level
    assert list(notes.values()) == [10, pytest.approx(1 - wrong[0] / 10), pytest.approx(1 - wrong[level] / 10)]


def test_accuracy_is_the_share_called_right() -> None:
    data = images(10)
    assert accuracy(victim(), data) == 1.0
    assert accuracy(victim(), data.relabel(torch.tensor([0, 1, 2]), torch.tensor([1, 0, 1]))) == pytest.approx(0.7)


def test_an_oracle_chooses_the_level_with_the_largest_difference_and_is_noted() -> None:
    rates = {0: (0.9, 1.0), 1: (0.8, 0.2), 2: (0.5, 0.0), 3: (0.7, 0.1)}
    made: list[int] = []

    def make(level: int) -> Victim:
        made.append(level)
        return victim()

    level, notes = deepest(list(rates), make, sample(5, 5), 0.0, lambda _: rates[made[-1]])
    assert level == 1 and made == [0, 1, 2, 3]
    assert "test set" in notes["chosen by"]
