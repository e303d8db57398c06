"""Excess: what stands out is a label that reaches high scores oftener than the others do."""

from __future__ import annotations

import pytest
import torch

from ostiary.detectors.shares import excess, split

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
