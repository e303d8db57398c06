"""Perturbations within a budget, by projected steps, as a rule along the sign of the gradient.

Shared by attacks that look for a trigger and defences that look for what a trigger might be. What is perturbed, and how, is
the modality's (`Modality.unperturbed`, `Modality.perturb`); the loss closes over inputs, model and labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.errors import Unsupported
from ostiary.modality.base import Inputs
from ostiary.models.edit import times

Norm = Literal["linf", "l2"]


def room(radius: float, low: Tensor | float = -torch.inf, high: Tensor | float = torch.inf) -> Callable[[Tensor], Tensor]:
    """Brings every entry of a perturbation within +-`radius` (L-infinity) and within [low, high], the room that the inputs
    leave, so that a search moves along their bounds and not past them."""

    def within(by: Tensor) -> Tensor:
        edges = (torch.as_tensor(end, dtype=by.dtype, device=by.device).clamp(-radius, radius) for end in (low, high))
        return by.clamp(*edges)

    return within


@dataclass(frozen=True, eq=False)
class Ball:
    """Perturbations of at most `eps`: in every entry (linf), or in the L2 norm over all rows of one input (l2).

    owner: int64 [rows], the input that each row belongs to.
    """

    eps: float
    norm: Norm
    owner: Tensor

    def __call__(self, by: Tensor) -> Tensor:
        """The nearest one (l2: along the same direction)."""
        if self.norm == "linf":
            return by.clamp(-self.eps, self.eps)
        squares = by.flatten(1).square().sum(1)
        norms = squares.new_zeros(int(self.owner.max()) + 1).index_add(0, self.owner, squares).sqrt()
        return times(by, (self.eps / norms.clamp(min=1e-12)).clamp(max=1.0)[self.owner])


def owners(batch: Inputs, by: Tensor, n: int) -> Tensor:
    """Which of the batch's n inputs each row of a perturbation belongs to: int64 [rows]."""
    if len(by) == n:
        return torch.arange(n, device=by.device)
    if len(by) != len(getattr(batch, "batch", ())):
        raise Unsupported(
            f"{len(by)} rows of {n} inputs cannot be perturbed, one neither per input nor per node; perturb another layer"
        )
    return batch.batch  # type: ignore[no-any-return]


def descend(
    loss: Callable[[Tensor], Tensor | None],
    start: Tensor,
    within: Callable[[Tensor], Tensor],
    *,
    step: float,
    steps: int,
    along: Callable[[Tensor], Tensor] = torch.sign,
) -> Tensor:
    """The perturbation after `steps` steps from `start` down the loss, each brought back `within`; to climb, negate.

    loss: a scalar of the perturbation, summed (not averaged) over inputs where each has its own; None ends the search early.
    along: the direction that a gradient gives, where it is not its sign; `step` scales it.
    Models and random numbers are the loss's business: evaluation mode is the caller's to set, and of the parameters no
    gradient is asked.
    """
    by = within(start.detach())
    for _ in range(steps):
        with torch.enable_grad():
            value = loss(by.requires_grad_())
            if value is None:
                break
            (slope,) = torch.autograd.grad(value, by)
        by = within(by.detach() - step * along(slope))
    return by.detach()


def row_by_row(slope: Tensor) -> Tensor:
    """The slope of every row scaled to length 1 (L2), the steepest direction within an l2 ball."""
    return F.normalize(slope.flatten(1), dim=1).view_as(slope)


def stride(slope: Tensor, share: float, size: float) -> Tensor:
    """The slope where it is steepest, in this share of its entries, scaled to a root mean square of `size` over all."""
    flat = slope.flatten()
    least = flat.abs().topk(max(1, round(share * len(flat)))).values[-1]
    kept = torch.where(slope.abs() >= least, slope, 0.0)
    scale: Tensor = size * len(flat) ** 0.5 / kept.norm().clamp(min=1e-12)
    return kept * scale


def apart(a: Tensor, b: Tensor) -> Tensor:
    """Jensen-Shannon divergence of the answers of two models, row by row."""
    p, q = a.softmax(1).clamp(min=1e-8), b.softmax(1).clamp(min=1e-8)
    mean = (p + q) / 2
    return ((p * (p / mean).log()).sum(1) + (q * (q / mean).log()).sum(1)) / 2
