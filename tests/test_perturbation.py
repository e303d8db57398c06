"""Perturbations: how far they may go, and how answers are told apart."""

from __future__ import annotations

import math

import pytest
import torch

from ostiary.errors import Unsupported
from ostiary.perturbation import Ball, apart, descend, owners
from ostiary.testing import toys


def test_a_ball_keeps_what_is_inside_and_shortens_the_rest_input_by_input() -> None:
    by = torch.tensor([[3.0, 0.0], [0.0, 4.0], [0.3, 0.4]])
    found = Ball(1.0, "l2", torch.tensor([0, 0, 1]))(by)
    assert torch.allclose(found, torch.tensor([[0.6, 0.0], [0.0, 0.8], [0.3, 0.4]]))
    assert torch.equal(Ball(1.0, "linf", torch.tensor([0, 0, 1]))(-by), by.clamp(max=1.0).neg())


def ragged(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of four inputs, of which the first has one and the third none, in any order; small, large and equal entries."""
    rng = torch.Generator().manual_seed(seed)
    owner = torch.tensor([0, 1, 1, 1, 3, 3, 4, 4, 4, 4])[torch.randperm(10, generator=rng)]
    by = torch.randn(10, 3, generator=rng) * torch.tensor([0.01, 1.0, 100.0, 1.0, 5.0])[owner][:, None]
    by[owner == 4] = by[owner == 4].round()
    return by, owner


def l1(by: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
    return torch.stack([by[owner == i].abs().sum() for i in range(int(owner.max()) + 1)])


def nearest(point: torch.Tensor, eps: float) -> torch.Tensor:
    """The point of the L1 ball nearest to another, by bisection for how far all entries go towards zero."""
    low, high = 0.0, float(point.abs().max())
    if float(point.abs().sum()) <= eps:
        return point
    for _ in range(100):
        middle = (low + high) / 2
        over = float((point.abs() - middle).clamp(min=0).sum()) > eps
        low, high = (middle, high) if over else (low, middle)
    return point.sign() * (point.abs() - high).clamp(min=0)


@pytest.mark.parametrize("seed", range(5))
def test_an_l1_ball_gives_the_nearest_of_its_points_input_by_input(seed: int) -> None:
    (by, owner), eps = ragged(seed), 2.0
    ball = Ball(eps, "l1", owner)
    found = ball(by)
    before, after = l1(by, owner), l1(found, owner)
    inside = before <= eps
    assert bool(inside.any()) and not bool(inside.all())
    assert torch.allclose(after[~inside], torch.tensor(eps)) and torch.equal(found[inside[owner]], by[inside[owner]])
    assert torch.allclose(ball(found), found, atol=1e-5)
    assert bool((found * by >= 0).all())
    for i in owner.unique():
        mine = owner == i
        assert torch.allclose(found[mine], nearest(by[mine].double(), eps).float(), atol=1e-4)


def test_no_other_point_of_an_l1_ball_is_nearer() -> None:
    rng = torch.Generator().manual_seed(0)
    by, ball = torch.randn(6, 2, 2, generator=rng), Ball(1.5, "l1", torch.arange(6))
    found = ball(by)
    others = torch.randn(4000, 6, 2, 2, generator=rng) * torch.rand(4000, 1, 1, 1, generator=rng)
    others = torch.cat([others, found + 0.01 * others])
    others = 1.5 * others / others.flatten(2).abs().sum(2).clamp(min=1.5)[:, :, None, None]
    best = (others - by).flatten(2).norm(dim=2).amin(0)
    own = (found - by).flatten(1).norm(dim=1)
    assert bool((own <= best + 1e-5).all()) and bool((own >= best - 0.05).all())
    cut = by * (1.5 / by.flatten(1).abs().sum(1)).clamp(max=1)[:, None, None]  # as by shortening
    assert float((cut - by).norm()) > float((found - by).norm()) + 0.1


def test_an_l1_ball_treats_every_input_as_if_it_were_alone() -> None:
    by, owner = ragged(1)
    found, steps = Ball(2.0, "l1", owner)(by), Ball(2.0, "l1", owner).along(by)
    for i in owner.unique():
        alone, mine = Ball(2.0, "l1", torch.zeros(int((owner == i).sum()), dtype=torch.int64)), owner == i
        assert torch.allclose(alone(by[mine]), found[mine], atol=1e-5)
        assert torch.equal(alone.along(by[mine]), steps[mine])


def test_steps_go_by_signs_and_in_an_l1_ball_where_an_input_is_steepest() -> None:
    slope = torch.linspace(-1.0, 0.9, 400).view(2, 200)
    for norm in ("linf", "l2"):
        assert torch.equal(Ball(1.0, norm, torch.tensor([0, 1])).along(slope), slope.sign())
    found = Ball(1.0, "l1", torch.tensor([0, 1])).along(slope)
    assert found.nonzero().tolist() == [[0, 0], [0, 1], [1, 198], [1, 199]]
    assert found[0, 0] == -0.5 and found[1, 199] == 0.5
    few = Ball(1.0, "l1", torch.tensor([0, 0, 1])).along(torch.tensor([[1.0, 3.0], [-4.0, 2.0], [0.0, -0.1]]))
    assert few.tolist() == [[0.0, 0.0], [-1.0, 0.0], [0.0, -1.0]]  # one entry of each, however few it has


def test_l1_steps_reach_the_corner_of_the_ball_that_a_loss_wants() -> None:
    weight, owner = torch.tensor([[0.5, -2.0, 1.0], [1.0, 0.2, 0.1]]), torch.tensor([0, 1])
    ball = Ball(1.0, "l1", owner)
    found = descend(lambda by: (by * weight).sum(), torch.ones(2, 3), ball, step=0.5, steps=10, along=ball.along)
    assert torch.allclose(found, torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]), atol=1e-5)


def test_a_step_is_as_long_as_the_slope_where_it_goes_by_the_gradient_itself() -> None:
    start, weight = torch.zeros(2), torch.tensor([3.0, -0.5])

    def free(by: torch.Tensor) -> torch.Tensor:
        return by

    plain = descend(lambda by: (by * weight).sum(), start, free, step=0.1, steps=2, along=torch.positive)
    assert torch.allclose(plain, -0.2 * weight)
    assert torch.allclose(descend(lambda by: (by * weight).sum(), start, free, step=0.1, steps=2), torch.tensor([-0.2, 0.2]))


def test_divergence_is_zero_for_equal_answers_symmetric_and_bounded() -> None:
    a, b = torch.tensor([[20.0, -20.0], [1.0, 0.0]]), torch.tensor([[-20.0, 20.0], [1.0, 0.0]])
    assert torch.allclose(apart(a, b), torch.tensor([math.log(2), 0.0]), atol=1e-5)
    assert torch.allclose(apart(a, b), apart(b, a))


def test_rows_that_are_neither_inputs_nor_nodes_cannot_be_perturbed() -> None:
    graphs = toys.splits("graph").test.inputs
    assert torch.equal(owners(graphs, torch.zeros(len(graphs.x), 1), len(graphs)), graphs.batch)
    with pytest.raises(Unsupported, match=r"rows of .* inputs cannot be perturbed, one neither per input nor per node"):
        owners(graphs, torch.zeros(len(graphs.x) - 1, 1), len(graphs))
