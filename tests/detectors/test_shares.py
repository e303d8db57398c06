"""Excess and surplus: what stands out is a label that reaches high scores oftener than the others do."""

from __future__ import annotations

import pytest
import torch

from ostiary.detectors.shares import excess, split, surplus

Y = torch.arange(1000) % 10


def _hard_everywhere_and_poison_in(target: int, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(scores, which are poison): a tenth of every label is hard and scores with the poison."""
    rng = torch.Generator().manual_seed(0)
    scores = torch.rand(1000, generator=rng)
    poison = (target == Y) & (torch.rand(1000, generator=rng) < share)
    hard = torch.rand(1000, generator=rng) < 0.1
    return torch.where(poison | hard, 0.9 + 0.1 * torch.rand(1000, generator=rng), 0.9 * scores), poison


def test_poison_of_one_label_is_told_from_what_is_hard_in_all() -> None:
    scores, poison = _hard_everywhere_and_poison_in(3, 0.5)
    n = 0.04
    plain, by_excess = split(scores, 0.2, n, Y), split(scores, 0.2, n, Y, excess(scores, Y))
    assert poison[plain.poisoned].double().mean() < 0.5
    assert poison[by_excess.poisoned].double().mean() > 0.8
    assert len(by_excess.poisoned) == 40 and not set(by_excess.poisoned.tolist()) & set(by_excess.clean.tolist())
    assert len(by_excess.clean) + len(by_excess.poisoned) + len(by_excess.uncertain) == 1000


def test_where_no_label_stands_out_none_has_an_excess() -> None:
    scores = torch.arange(1000).double() // 10
    assert excess(scores, Y).allclose(torch.ones(1000, dtype=torch.float64))


@pytest.mark.parametrize("labels", [[0, 1], [2, 7]])
def test_of_two_labels_each_is_set_against_the_other(labels: list[int]) -> None:
    y = torch.tensor(labels).repeat(100)
    scores = torch.where(y == labels[1], 1.0, 0.0) + torch.linspace(0, 1, 200)
    assert set(y[excess(scores, y).topk(20).indices].tolist()) == {labels[1]}


def test_of_one_label_the_scores_decide() -> None:
    scores = torch.rand(50, generator=torch.Generator().manual_seed(1))
    assert torch.equal(excess(scores, torch.zeros(50, dtype=torch.int64)).argsort(), scores.argsort())


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_the_surplus_is_how_much_of_a_label_was_mixed_in(share: float) -> None:
    scores, poison = _hard_everywhere_and_poison_in(3, share)
    found = surplus(scores, Y)
    assert (found[Y == 3] == found[3]).all()
    # of a tenth that is hard anyway nothing is told, and a tenth of 100 samples varies by 3
    assert float(found[3]) == pytest.approx(0.9 * float(poison[Y == 3].double().mean()), abs=0.08)
    assert float(found[Y != 3].max()) < 0.15


def test_labels_alike_have_no_surplus_and_a_single_one_neither() -> None:
    assert not surplus(torch.arange(1000).double() // 10, Y).any()
    assert not surplus(torch.rand(50), torch.zeros(50, dtype=torch.int64)).any()


def test_of_a_label_with_a_surplus_less_counts_as_clean() -> None:
    scores, poison = _hard_everywhere_and_poison_in(3, 0.5)
    plain, less = (split(scores, 0.7, 0.02, Y, excess(scores, Y), extra) for extra in (None, surplus(scores, Y)))
    assert poison[plain.clean].sum() >= 10 and not poison[less.clean].any()
    for label in range(10):
        before, after = (int((Y[parts.clean] == label).sum()) for parts in (plain, less))
        assert after < 0.7 * before if label == 3 else after >= 0.85 * before


def test_a_label_of_few_samples_has_one_in_the_clean_share() -> None:
    y = torch.tensor([0] * 50 + [1] * 50 + [2] * 2)
    parts = split(torch.arange(102).double(), 0.2, 0.0, y)
    assert torch.bincount(y[parts.clean]).tolist() == [10, 10, 1]
    assert len(split(torch.arange(102).double(), 0.0, 0.1, y).clean) == 0
