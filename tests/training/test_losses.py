"""Losses that several methods train by."""

from __future__ import annotations

import math

import pytest
import torch

from ostiary.training.losses import unlikely


def test_how_unlikely_a_class_is_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [math.log(9), 0.0]])
    assert unlikely(logits, torch.tensor([1, 1])).tolist() == pytest.approx([-math.log(0.25), -math.log(0.9)], abs=1e-6)


def test_its_slope_is_p_however_near_to_one() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 300.0]], requires_grad=True)
    unlikely(logits, torch.tensor([1, 1])).sum().backward()
    assert logits.grad is not None
    assert logits.grad[:, 1].tolist() == pytest.approx([0.75, 1.0], abs=1e-6)
