"""Where a patch goes: the pixels that it covers, and places that are drawn by the success had there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ostiary.errors import InvalidInput

WARMTH = 0.1  # of the draw of places: a tenth more success, e times as often


@dataclass(frozen=True, eq=False)
class Footprint:
    """The pixels that a patch covers: bool [rows, columns]."""

    covered: Tensor

    @classmethod
    def square(cls, side: int) -> Footprint:
        return cls(torch.ones(side, side, dtype=torch.bool))

    @classmethod
    def drawn(cls, rows: Sequence[str]) -> Footprint:
        """From rows of one length in which x stands for a pixel that is covered."""
        return cls(torch.tensor([[pixel == "x" for pixel in row] for row in rows]))

    @property
    def pixels(self) -> int:
        return int(self.covered.sum())

    def room(self, images: Tensor) -> tuple[int, int]:
        """At how many heights and widths it lies whole in images [n, c, h, w]. Raises InvalidInput where it does not fit."""
        (h, w), (rows, columns) = images.shape[2:], self.covered.shape
        if rows > h or columns > w:
            raise InvalidInput(f"a patch of {rows} x {columns} pixels does not fit images of {h} x {w}; give a smaller one")
        return h - rows + 1, w - columns + 1

    def paste(self, images: Tensor, patches: Tensor, at: Tensor) -> Tensor:
        """Each patch (float [n, c, pixels]) on its image, at place `at` (int64 [n], row by row); passes gradients to the
        patches."""
        across = self.room(images)[1]
        down, right = (v.to(images.device) for v in self.covered.nonzero(as_tuple=True))
        row = torch.arange(len(patches), device=images.device)[:, None, None]
        channel = torch.arange(images.shape[1], device=images.device)[None, :, None]
        return images.index_put(
            (row, channel, (at // across)[:, None, None] + down, (at % across)[:, None, None] + right), patches
        )


@dataclass(eq=False)
class Places:
    """Where each of several generators puts its patches. success: float [g, places], a running mean; `learnt`: places are drawn
    by it, one in five anywhere; else all alike. fixed: the one place of all, where it is known."""

    success: Tensor
    learnt: bool
    fixed: int | None = None

    def draw(self, n: int, rng: torch.Generator) -> Tensor:
        """int64 [g, n]."""
        if self.fixed is not None:
            return torch.full((len(self.success), n), self.fixed)
        weight = (self.success * self.learnt / WARMTH).softmax(1)
        return torch.multinomial(0.8 * weight + 0.2 / weight.shape[1], n, replacement=True, generator=rng)

    def learn(self, at: Tensor, chance: Tensor) -> None:
        """From the chances (float [g, n]) at the places drawn."""
        known = self.success.scatter_reduce(1, at, chance, "mean", include_self=False)
        self.success += 0.3 * (known - self.success)
