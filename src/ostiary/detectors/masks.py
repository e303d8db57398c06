"""Inversion of a patch: for every class at once, the smallest mask and the pattern under it that lead images there."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.console import progress
from ostiary.data.dataset import Dataset
from ostiary.detectors.balance import Balance
from ostiary.models.victim import Victim, evaluating, without_gradients
from ostiary.training.draws import draws

AT_ONCE = 512  # images in one pass with gradients: many classes would be too much at once


@dataclass(frozen=True, eq=False)
class Patches:
    """masks: float [k, 1, h, w]; patterns: float [k, c, h, w]; both in [0, 1]. norms: float64 [k], L1 of the smallest mask
    that led at least the share asked for to its class; infinite, with the last mask tried, where none did."""

    masks: Tensor
    patterns: Tensor
    norms: Tensor

    def stamp(self, images: Tensor, goal: int) -> Tensor:
        """The images with the patch of class `goal`."""
        mask, pattern = (part[goal].to(images.device) for part in (self.masks, self.patterns))
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
        c, *sides = clean.inputs.shape[1:]
        raw = [(torch.rand(k, n, *sides, generator=rng) - 0.5).to(device).requires_grad_() for n in (1, c)]
        optimizer = torch.optim.Adam(raw, lr=self.lr, betas=(0.5, 0.9))
        balance = Balance(torch.full((k,), self.cost, device=device), self.patience)
        best = Patches(unit(raw[0]).detach(), unit(raw[1]).detach(), torch.full((k,), math.inf, dtype=torch.float64))
        with evaluating(victim), without_gradients(victim):
            for step, (images, y) in enumerate(draws(clean, self.batch_size, self.steps, device, rng)):
                optimizer.zero_grad()
                few = torch.arange(k, device=device).split(max(1, AT_ONCE // len(y)))
                hit = torch.cat([self.led(victim, images, y, raw, goals, balance.weight[goals]) for goals in few])
                mask, pattern = (unit(r).detach() for r in raw)
                best = better(best, mask, pattern, mask.sum((1, 2, 3)), hit)
                optimizer.step()
                balance.after(hit)
                progress("inverting patches", (step + 1) / self.steps)
        return best

    def led(self, victim: Victim, images: Tensor, y: Tensor, raw: list[Tensor], goals: Tensor, weight: Tensor) -> Tensor:
        """Which of the classes `goals` the patches reach; their slopes are added to `raw`."""
        (mask, pattern), counts = (unit(r[goals])[:, None] for r in raw), (y != goals[:, None]).float()
        logits = victim(((1 - mask) * images + mask * pattern).flatten(0, 1)).float()
        losses = F.cross_entropy(logits, goals.repeat_interleave(len(y)), reduction="none").view(counts.shape)
        hits = (logits.argmax(1).view(counts.shape) == goals[:, None]) * counts
        loss = (losses * counts).sum(1) / counts.sum(1).clamp(min=1) + weight * mask.sum((1, 2, 3, 4))
        loss.sum().backward()
        reached: Tensor = hits.sum(1) / counts.sum(1).clamp(min=1) >= self.success
        return reached


@torch.no_grad()
def better(best: Patches, mask: Tensor, pattern: Tensor, norms: Tensor, hit: Tensor) -> Patches:
    """Class by class the smaller mask of those that succeed; the newest while none has."""
    found = torch.where(hit.cpu(), norms.cpu().double(), math.inf)
    new = ((found < best.norms) | torch.isinf(best.norms)).to(mask.device)[:, None, None, None]
    return Patches(torch.where(new, mask, best.masks), torch.where(new, pattern, best.patterns), found.minimum(best.norms))
