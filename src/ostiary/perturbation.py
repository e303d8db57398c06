"""Perturbations within a budget, by projected steps along the sign of the gradient, its largest entries or itself.

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

Norm = Literal["linf", "l2", "l1"]
STEEPEST = 0.01  # of an input's entries that an L1 step moves: as Tramèr & Boneh, NeurIPS 2019, arXiv:1904.13000


def room(radius: float, low: Tensor | float = -torch.inf, high: Tensor | float = torch.inf) -> Callable[[Tensor], Tensor]:
    """Brings every entry of a perturbation within +-`radius` (L-infinity) and within [low, high], the room that the inputs
    leave, so that a search moves along their bounds and not past them."""

    def within(by: Tensor) -> Tensor:
        edges = (torch.as_tensor(end, dtype=by.dtype, device=by.device).clamp(-radius, radius) for end in (low, high))
        return by.clamp(*edges)

    return within


@dataclass(frozen=True, eq=False)
class Ball:
    """Perturbations of at most `eps`: in every entry (linf), or in the L2 or L1 norm over all rows of one input.

    owner: int64 [rows], the input that each row belongs to.
    """

    eps: float
    norm: Norm
    owner: Tensor

    def __call__(self, by: Tensor) -> Tensor:
        """The nearest one: every entry cut (linf), the input's rows shortened together (l2), or all of their entries brought
        nearer to zero by the same, and no farther (l1; by sorting, Duchi et al., ICML 2008)."""
        if self.norm == "linf":
            return by.clamp(-self.eps, self.eps)
        n = int(self.owner.max()) + 1
        if self.norm == "l2":
            squares = by.flatten(1).square().sum(1)
            norms = squares.new_zeros(n).index_add(0, self.owner, squares).sqrt()
            return times(by, (self.eps / norms.clamp(min=1e-12)).clamp(max=1.0)[self.owner])
        order, whose, place = _largest_first(by, self.owner)
        size = by.abs().flatten()[order].double()
        before = size.cumsum(0) - size
        first = torch.arange(len(order), device=by.device) - place + 1
        excess = (before - before[first] + size - self.eps) / place  # over the budget, shared by this and all larger entries
        less = excess.new_zeros(n).scatter_reduce(0, whose, excess, "amax")[self.owner].to(by.dtype)
        less = less.view(-1, *(1,) * (by.ndim - 1))
        return by - by.clamp(-less, less)

    def along(self, slope: Tensor) -> Tensor:
        """The signs by which a step goes up a slope; with l1 only where it is steepest, in the share STEEPEST of the entries of
        an input (at least one), scaled to an L1 norm of 1 (the sparse descent of Tramèr & Boneh)."""
        if self.norm != "l1":
            return slope.sign()
        order, whose, place = _largest_first(slope, self.owner)
        count = (STEEPEST * torch.bincount(whose)).round().clamp(min=1.0)[whose]
        found = torch.zeros_like(slope).flatten()
        found[order] = torch.where(place <= count, slope.flatten()[order].sign() / count, 0.0).to(slope.dtype)
        return found.view_as(slope)


def _largest_first(by: Tensor, owner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All entries input by input and, of each, from the largest: where an entry is in the flat perturbation, whose it is, and
    its place among that input's, from 1. int64 [entries] each."""
    whose = owner.repeat_interleave(by.flatten(1).shape[1])
    order = by.abs().flatten().argsort(descending=True, stable=True)
    order = order[whose[order].argsort(stable=True)]
    whose = whose[order]
    counts = torch.bincount(whose)
    first = (counts.cumsum(0) - counts)[whose]
    return order, whose, torch.arange(1, len(order) + 1, device=by.device) - first


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
    """The perturbation after `steps` steps from `start` down the loss, each `step` times what `along` makes of the slope and
    brought back `within`; to climb, negate.

    loss: a scalar of the perturbation, summed (not averaged) over inputs where each has its own; None ends the search early.
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
