"""Perturbations within a budget, by projected steps along the sign of the gradient.

Shared by attacks that look for a trigger and defences that look for what a trigger might be. What is perturbed, and how, is
the modality's (`Modality.unperturbed`, `Modality.perturb`); the loss closes over inputs, model and labels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def descend(
    loss: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    step: float,
    radius: float,
    steps: int,
    low: Tensor | None = None,
    high: Tensor | None = None,
) -> Tensor:
    """The perturbation after `steps` signed steps from `start` down the loss; to climb, negate it.

    loss: a scalar of the perturbation, summed (not averaged) over inputs where each has its own. Every entry stays within
    +-`radius` (L-infinity) and, if given, within [low, high] (shaped as `start`): the room that the inputs leave, so that the
    search moves along their bounds and not past them. Models and random numbers are the loss's business: evaluation mode
    is the caller's to set, and of the parameters no gradient is asked.
    """
    floor = torch.full_like(start, -radius) if low is None else low.clamp(min=-radius, max=radius)
    ceiling = torch.full_like(start, radius) if high is None else high.clamp(min=-radius, max=radius)
    by = start.detach().clamp(floor, ceiling)
    for _ in range(steps):
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(loss(by.requires_grad_()), by)
        by = (by.detach() - step * slope.sign()).clamp(floor, ceiling)
    return by
