"""Where a patch goes: pasting, and places that are drawn by the success had there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

WARMTH = 0.1  # of the draw of places: a tenth more success, e times as often


def pasted(images: Tensor, patches: Tensor, at: Tensor) -> Tensor:
    """Each patch (float [n, c, s, s]) on its image, at place `at` (int64 [n], row by row); passes gradients to the patches."""
    n, c, s, _ = patches.shape
    across = images.shape[3] - s + 1
    top, left = (v[:, None, None, None] for v in (at // across, at % across))
    cell, row = torch.arange(s, device=images.device), torch.arange(n, device=images.device)[:, None, None, None]
    channel = torch.arange(c, device=images.device)[None, :, None, None]
    return images.index_put((row, channel, top + cell[:, None], left + cell), patches)


@dataclass(eq=False)
class Places:
    """Where each of several generators puts its patches. success: float [g, places], a running mean; `learnt`: places are drawn
    by it, one in five anywhere; else all alike."""

    success: Tensor
    learnt: bool

    def draw(self, n: int, rng: torch.Generator) -> Tensor:
        """int64 [g, n]."""
        weight = (self.success * self.learnt / WARMTH).softmax(1)
        return torch.multinomial(0.8 * weight + 0.2 / weight.shape[1], n, replacement=True, generator=rng)

    def learn(self, at: Tensor, chance: Tensor) -> None:
        """From the chances (float [g, n]) at the places drawn."""
        known = self.success.scatter_reduce(1, at, chance, "mean", include_self=False)
        self.success += 0.3 * (known - self.success)
