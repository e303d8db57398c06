"""Inversion of a patch: for every class at once, the smallest mask and the pattern under it that lead images there."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.console import progress
from ostiary.data.dataset import Dataset
from ostiary.models.victim import Victim, evaluating, without_gradients
from ostiary.training.draws import draws

UP, DOWN = 2.0, 2.0**1.5  # by how much the weight of the mask's size grows and shrinks (authors)


@dataclass(frozen=True, eq=False)
class Patches:
    """masks: float [k, 1, h, w]; patterns: float [k, c, h, w]; both in [0, 1]. norms: float64 [k], L1 of the smallest mask
    that led at least the share asked for to its class; infinite, with the last mask tried, where none did."""

    masks: Tensor
    patterns: Tensor
    norms: Tensor

    def stamp(self, images: Tensor, goal: int) -> Tensor:
        """The images with the patch of class `goal`."""
        mask, pattern = self.masks[goal], self.patterns[goal]
        return (1 - mask) * images + mask * pattern


def unit(raw: Tensor) -> Tensor:
    """From any number to [0, 1], as the authors do."""
    return torch.tanh(raw) / (2 + 1e-7) + 0.5


@dataclass(frozen=True)
class MaskInversion:
    """Adam on cross-entropy to the class plus a weight times the mask's L1 norm. The weight starts at `cost`, doubles while
    `patience` batches in a row reach `success`, and shrinks while as many miss it."""

    steps: int
    lr: float
    batch_size: int
    success: float
    cost: float
    patience: int

    def of(self, victim: Victim, clean: Dataset, rng: torch.Generator) -> Patches:
        """Patches of all classes, in one pass per step. Images of a class do not count for it."""
        k, device = clean.n_classes, victim.device
        _, c, h, w = clean.inputs.shape
        raw = [(torch.rand(k, n, h, w, generator=rng) - 0.5).to(device).requires_grad_() for n in (1, c)]
        optimizer = torch.optim.Adam(raw, lr=self.lr, betas=(0.5, 0.9))
        balance = Balance(torch.full((k,), self.cost, device=device), self.patience)
        best = Patches(unit(raw[0]).detach(), unit(raw[1]).detach(), torch.full((k,), math.inf, dtype=torch.float64))
        with evaluating(victim), without_gradients(victim):
            for step, (images, y) in enumerate(draws(clean, self.batch_size, self.steps, device, rng)):
                mask, pattern = unit(raw[0]), unit(raw[1])
                stamped = (1 - mask[:, None]) * images + mask[:, None] * pattern[:, None]
                logits = victim(stamped.flatten(0, 1)).float()
                goals = torch.arange(k, device=device)
                counts = (y != goals[:, None]).float()
                losses = F.cross_entropy(logits, goals.repeat_interleave(len(y)), reduction="none").view(k, -1)
                reached = ((logits.argmax(1).view(k, -1) == goals[:, None]) * counts).sum(1) / counts.sum(1).clamp(min=1)
                norms = mask.sum((1, 2, 3))
                best = better(best, mask, pattern, norms, reached >= self.success)
                loss = ((losses * counts).sum(1) / counts.sum(1).clamp(min=1) + balance.weight * norms).sum()
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                balance.after(reached >= self.success)
                progress("inverting patches", (step + 1) / self.steps)
        return best


class Balance:
    """The weight of each class's mask norm (float [k]), and for how many batches in a row it succeeded or failed."""

    def __init__(self, weight: Tensor, patience: int) -> None:
        self.weight, self.patience = weight, patience
        self.up, self.down = torch.zeros_like(weight), torch.zeros_like(weight)

    def after(self, hit: Tensor) -> None:
        """Of a batch in which the classes `hit` (bool [k]) succeeded."""
        self.up, self.down = (self.up + 1) * hit, (self.down + 1) * ~hit
        often, seldom = self.up >= self.patience, self.down >= self.patience
        self.weight = torch.where(often, self.weight * UP, torch.where(seldom, self.weight / DOWN, self.weight))
        self.up, self.down = self.up * ~often, self.down * ~seldom


@torch.no_grad()
def better(best: Patches, mask: Tensor, pattern: Tensor, norms: Tensor, hit: Tensor) -> Patches:
    """Class by class the smaller mask of those that succeed; the newest while none has."""
    found = torch.where(hit, norms.double(), math.inf).cpu()
    new = ((found < best.norms) | torch.isinf(best.norms)).to(mask.device)[:, None, None, None]
    return Patches(torch.where(new, mask, best.masks), torch.where(new, pattern, best.patterns), found.minimum(best.norms))
