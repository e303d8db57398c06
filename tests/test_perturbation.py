"""Perturbations: how far they may go, and how answers are told apart."""

from __future__ import annotations

import math

import pytest
import torch

from ostiary.errors import Unsupported
from ostiary.perturbation import Ball, apart, owners
from ostiary.testing import toys


def test_a_ball_keeps_what_is_inside_and_shortens_the_rest_input_by_input() -> None:
    by = torch.tensor([[3.0, 0.0], [0.0, 4.0], [0.3, 0.4]])
    found = Ball(1.0, "l2", torch.tensor([0, 0, 1]))(by)
    assert torch.allclose(found, torch.tensor([[0.6, 0.0], [0.0, 0.8], [0.3, 0.4]]))
    assert torch.equal(Ball(1.0, "linf", torch.tensor([0, 0, 1]))(-by), by.clamp(max=1.0).neg())


def test_divergence_is_zero_for_equal_answers_symmetric_and_bounded() -> None:
    a, b = torch.tensor([[20.0, -20.0], [1.0, 0.0]]), torch.tensor([[-20.0, 20.0], [1.0, 0.0]])
    assert torch.allclose(apart(a, b), torch.tensor([math.log(2), 0.0]), atol=1e-5)
    assert torch.allclose(apart(a, b), apart(b, a))


def test_rows_that_are_neither_inputs_nor_nodes_cannot_be_perturbed() -> None:
    graphs = toys.splits("graph").test.inputs
    assert torch.equal(owners(graphs, torch.zeros(len(graphs.x), 1), len(graphs)), graphs.batch)
    with pytest.raises(Unsupported, match=r"rows of .* inputs cannot be perturbed, one neither per input nor per node"):
        owners(graphs, torch.zeros(len(graphs.x) - 1, 1), len(graphs))
